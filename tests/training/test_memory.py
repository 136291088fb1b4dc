import platform

import numpy as np
import pytest
import torch

from drgn.errors import InputError
from drgn.run import Run
from drgn.training import memory


def test_only_glibc_is_asked(monkeypatch):
    assert memory.keep_freed() == (platform.libc_ver()[0] == "glibc")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not memory.keep_freed()


def test_memory_that_is_there():
    assert 10e6 < memory.available_B(torch.device("cpu")) < 10e12


def test_an_image_of_a_wider_model_takes_more(train_tiny, trained):
    wide = train_tiny("model.hidden_dim=512")
    found = []
    for path in (trained, wide):
        run = Run.open(path)
        run.datamodule.prepare_data()
        model, batch = run.model(), run.datamodule.dataset[np.arange(64)]
        state = {name: value.clone() for name, value in model.state_dict().items()}
        found.append(memory.of_an_image_B(model, batch, torch.device("cpu"), None))
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    # 97 frequencies, what the backward pass needs of three layers or more, and not a hundred times that
    assert 3 < found[1] / (97 * 512 * 4) < 100
    assert found[1] > 3 * found[0]


def test_a_batch_is_taken_in_parts_where_memory_is_short(train_tiny, monkeypatch, capsys):
    monkeypatch.setattr(memory, "of_an_image_B", lambda *_: 1_000_000)
    run = train_tiny("memory_GB=0.016")  # less 3 times the weights, a tenth spared: 13 images
    assert "batches of 32 are taken in 3 parts" in capsys.readouterr().err
    whole = train_tiny()
    losses = [Run.open(path).info["best_loss"] for path in (run, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_an_image_too_large_for_the_memory_is_said(train_tiny):
    with pytest.raises(InputError, match=r"memory: an image of a step takes .* GB are there: give a smaller"):
        train_tiny("memory_GB=0.00001")
