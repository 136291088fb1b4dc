import pickle
import zipfile
from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from drgn.errors import InputError
from drgn.formats.torch_file import look_into


def model():
    parts = {
        "encoder": nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 4)),
        "decoder": nn.Linear(4, 1),
    }
    return nn.ModuleDict(parts)


@pytest.mark.parametrize("prefix", ["", "module."])  # the second: trained on several GPUs
def test_the_layers_of_a_checkpoint(tmp_path, prefix):
    weights = {prefix + name: value for name, value in model().state_dict().items()}
    adam = torch.optim.Adam(model().parameters())
    torch.save(
        {"epoch": 1, "model_state_dict": weights, "optimizer_state_dict": adam.state_dict()}, tmp_path / "w"
    )
    found = look_into(tmp_path / "w")
    assert found.names == tuple(weights)
    assert found.parts == ("encoder", "decoder")
    assert found.bytes == 4 * sum(value.numel() for value in weights.values())


class _Harm:
    def __reduce__(self):
        return (open, ("harm", "w"))


def test_nothing_of_it_is_carried_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("w.pkl", "w") as archive:
        archive.writestr("w/data.pkl", pickle.dumps([_Harm(), "decoder.0.weight"]))
    assert look_into("w.pkl").names == ("decoder.0.weight",)
    assert not (tmp_path / "harm").exists()


def test_other_files_are_a_sentence(tmp_path):
    path = tmp_path / "w.pkl"
    for content in (b"", b"\x80\x04N.", torch.zeros(3).numpy().tobytes()):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"w\.pkl is not a file of weights"):
            look_into(path)
    torch.save(model().state_dict(), path, _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match=r"torch 1\.6 or later"):
        look_into(path)


@settings(max_examples=60, deadline=None)
@given(
    faults=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4),
    cut=st.floats(0, 1),
)
def test_a_damaged_file_gives_names_or_a_sentence(tmp_path_factory, faults, cut):
    path = tmp_path_factory.mktemp("weights") / "w.pkl"
    torch.save(model().state_dict(), path)
    content = bytearray(path.read_bytes())
    for place, value in faults:
        content[int(place * len(content))] = value
    path.write_bytes(content[: max(1, int(cut * len(content)))] if cut < 0.9 else content)
    with suppress(InputError):
        assert all(name.endswith(("weight", "bias")) for name in look_into(path).names)
