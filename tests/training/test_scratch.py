"""Arrays that lie in a file hold what arrays in memory hold, and memory does not grow with them."""

import errno
import mmap
import os
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import pytest
import torch

from drgn.models.basis import Packed
from drgn.models.classes import Classes
from drgn.models.modes import Subspace
from drgn.run import Run
from drgn.training import scratch, warmstart
from drgn.training.warmstart import fit, fit_halves


def private_B():
    return int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split(None, 1)[0]) << 10


def test_many_numbers_are_in_a_file_without_a_name(tmp_path):
    before = private_B()
    values = scratch.zeros(1 << 20, 16, tmp_path)
    assert values.aminmax() == (0, 0)  # any() would make a copy of a quarter of the size
    values += 1
    assert values.sum() == 1 << 24
    assert private_B() - before < 1 << 24, "of 64 MB"
    assert list(tmp_path.iterdir()) == []
    assert str(tmp_path) in Path("/proc/self/maps").read_text()
    del values
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_few_numbers_are_in_memory(tmp_path):
    assert scratch.zeros(10, 4, tmp_path / "none").shape == (10, 4)


def test_a_disk_that_is_full_leaves_the_memory(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(mmap, "mmap", None)  # a page of it would end the process
    assert not scratch.zeros(1 << 20, 16, tmp_path).any()
    assert not scratch.zeros(1 << 20, 16, tmp_path / "none").any()


def test_what_is_found_of_each_image_is_not_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "_IN_MEMORY_B", 0)
    n, most, zeros = 1 << 19, 0, partial(scratch.zeros, folder=tmp_path)
    before = private_B()

    def found(some):
        nonlocal most
        most = max(most, private_B())
        return warmstart._mean_and_precision(some)

    mean, precision = Packed(zeros(n, 45), zeros(n, 9), zeros).each(found)
    assert max(most, private_B()) - before < 64 * n, "of the 280 bytes of each"
    assert not mean.any()
    assert (precision == 1).all()


@pytest.mark.parametrize(
    "make", [lambda: Subspace(box_size=16, zdim=2, modes=4), lambda: Classes(box_size=16, zdim=3)]
)
@pytest.mark.parametrize("halves", [1, 2])
def test_a_basis_is_the_same_with_files_and_without(make, halves, trained, monkeypatch):
    data = Run.open(trained).datamodule
    data.prepare_data()
    dataset, rows = data.dataset, np.arange(240)
    monkeypatch.setattr(warmstart, "_TRIAL_STEPS", 20)
    monkeypatch.setattr(warmstart, "_STEPS", 20)
    monkeypatch.setattr(dataset, "half", torch.arange(len(dataset)) % 2)
    found, made = [], []

    def counted(dir):
        made.append(dir)
        return TemporaryFile(dir=dir)

    monkeypatch.setattr(scratch, "TemporaryFile", counted)
    for largest in (1 << 40, 0):
        monkeypatch.setattr(scratch, "_IN_MEMORY_B", largest)
        torch.manual_seed(0)
        bases = [make() for _ in range(halves)]
        if halves == 1:
            fit(bases[0], dataset, rows, beta=1.0, seed=0)
        else:
            fit_halves(bases, dataset, rows, beta=1.0, seed=0)
        assert set(made) == (set() if largest else {dataset.stack.folder})
        found.append([basis.state_dict() for basis in bases])
    for one, other in zip(*found, strict=True):
        assert one["density"].abs().max() > 0
        assert all(torch.equal(value, other[name]) for name, value in one.items())
