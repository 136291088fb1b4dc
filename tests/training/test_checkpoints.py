"""What breaks off the writing of a checkpoint is raised as it is, and a whole one is read once."""

import pytest
import torch

from drgn.formats.seal import Sealing
from drgn.training import checkpoints
from drgn.training.checkpoints import SealedCheckpoints, newest


@pytest.fixture
def last(tmp_path):
    """Return a last.ckpt that is whole."""
    path = tmp_path / "last.ckpt"
    SealedCheckpoints().save_checkpoint({"state_dict": {"w": torch.arange(3000.0)}, "epoch": 1}, path)
    return path


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("DataLoader worker is killed"), EOFError])
@pytest.mark.parametrize("count", [1, 3, 5, 8])
def test_what_breaks_off_the_writing_is_raised_and_not_what_torch_makes_of_it(
    last, monkeypatch, error, count
):
    before, calls, write = last.read_bytes(), iter(range(1, 1000)), Sealing.write

    def broken(self, data):
        if next(calls) == count:
            raise error
        return write(self, data)

    monkeypatch.setattr(Sealing, "write", broken)
    with pytest.raises(error if isinstance(error, type) else RuntimeError) as raised:
        SealedCheckpoints().save_checkpoint({"state_dict": {"w": torch.ones(3000)}, "epoch": 2}, last)
    assert "unexpected pos" not in str(raised.value)
    assert last.read_bytes() == before
    assert [path.name for path in last.parent.iterdir()] == ["last.ckpt"]


def test_the_sum_of_a_checkpoint_that_was_just_found_whole_is_not_taken_again(last, monkeypatch):
    whole = newest(last.parent)
    asked = []
    monkeypatch.setattr(checkpoints, "require_whole", lambda path, instead: asked.append(path))
    reader = SealedCheckpoints(whole)
    assert reader.load_checkpoint(last)["epoch"] == 1
    assert asked == []
    reader.load_checkpoint(last)
    assert asked == [last]
