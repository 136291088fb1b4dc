"""A file of weights that carries its own sum, and what damage of it is seen."""

import hashlib
import io
import zipfile

import pytest
import torch

from drgn.errors import InputError
from drgn.formats.seal import Sealing, damage, require_whole
from drgn.formats.torch_file import look_into


@pytest.fixture
def content():
    generator = torch.Generator().manual_seed(0)
    return {"state_dict": {"decoder.weight": torch.randn(100, 7, generator=generator)}, "step": 3}


@pytest.fixture
def sealed(content, tmp_path):
    path = tmp_path / "last.ckpt"
    with open(path, "wb") as file:
        seal = Sealing(file)
        torch.save(content, seal)
        seal.finish()
    return path


def test_a_sealed_file_is_read_as_any_other(sealed, content):
    read = torch.load(sealed, weights_only=True)
    assert read["step"] == 3
    assert torch.equal(read["state_dict"]["decoder.weight"], content["state_dict"]["decoder.weight"])
    assert torch.equal(
        torch.load(sealed, weights_only=True, mmap=True)["state_dict"]["decoder.weight"],
        content["state_dict"]["decoder.weight"],
    )
    assert look_into(sealed).names == ("decoder.weight",)
    assert damage(sealed) is None
    require_whole(sealed, "")


def test_the_seal_is_the_sum_of_what_stands_before_the_comment(sealed):
    whole = sealed.read_bytes()
    with zipfile.ZipFile(sealed) as archive:
        assert archive.testzip() is None
        comment = archive.comment
    assert comment == b"sha256:" + hashlib.sha256(whole[: -len(comment) - 2]).hexdigest().encode()


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_the_sum_does_not_depend_on_the_pieces_it_is_written_in(tmp_path, size):
    data = bytes(range(256)) * 3
    with open(tmp_path / "x", "wb") as file:
        seal = Sealing(file)
        for start in range(0, len(data), size):
            seal.write(data[start : start + size])
        seal.finish()
    written = (tmp_path / "x").read_bytes()
    assert written[:-73] == data[:-2]
    assert written[-64:].decode() == hashlib.sha256(data[:-2]).hexdigest()


def test_every_flipped_bit_is_seen(sealed):
    whole = sealed.read_bytes()
    for i in [*range(0, len(whole), 97), len(whole) - 1, len(whole) - 70, len(whole) - 74]:
        sealed.write_bytes(whole[:i] + bytes([whole[i] ^ 4]) + whole[i + 1 :])
        assert damage(sealed) is not None, i


@pytest.mark.parametrize("left", [0, 1, 100, 1000, -1, -64, -71, -73, -100])
def test_a_file_that_was_cut_off_is_seen(sealed, left):
    sealed.write_bytes(sealed.read_bytes()[:left])
    assert damage(sealed) is not None
    with pytest.raises(InputError, match=r"last\.ckpt is damaged \(.+\): start over"):
        require_whole(sealed, "start over")


def test_a_file_without_a_seal_is_checked_by_the_archives_own_sums(content, tmp_path):
    path = tmp_path / "old.ckpt"
    torch.save(content, path)
    assert damage(path) is None
    whole = path.read_bytes()
    place = whole.index(content["state_dict"]["decoder.weight"].numpy().tobytes()[:16])
    path.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
    assert "is wrong" in damage(path)
    assert damage(tmp_path / "none.ckpt").endswith(f"'{tmp_path / 'none.ckpt'}'")


def test_an_error_of_the_disk_is_told_by_finish(content):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    seal = Sealing(Full())
    torch.save(content, seal)
    with pytest.raises(OSError, match="No space left"):
        seal.finish()
