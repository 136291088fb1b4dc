"""Files under temporary names."""

import pytest

from drgn.formats.atomic import replacing


def test_two_writes_of_one_name_at_a_time_do_not_meet(tmp_path):
    path = tmp_path / "rows.txt"
    with replacing(path) as late:
        late.write_text("late")
        with replacing(path) as early:
            assert early != late
            early.write_text("early")
        assert path.read_text() == "early"
    assert path.read_text() == "late"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "rows.npy"
    path.write_text("before")

    def half_written():
        with replacing(path) as temporary:
            temporary.write_text("ha")
            assert temporary.match(".*.part.npy")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        half_written()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
