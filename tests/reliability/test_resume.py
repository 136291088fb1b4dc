"""A run that is killed anywhere and started again ends with the same numbers as one that was not."""

import random

import pytest

STEP = "drgn.training.module:ReconstructionModule.training_step"
WRITE = "drgn.formats.seal:Sealing.write"


def test_a_run_killed_within_an_epoch_and_while_it_writes_goes_on_to_the_same_numbers(
    launch, changing, straight, differences, tmp_path
):
    options = [*changing, f"output={tmp_path / 'run'}"]
    ended = launch(*options, at=STEP, count=20)  # the fifth batch of the second epoch
    assert ended.status == -9, ended.said
    ended = launch(*options, at=WRITE, count=30, deed="half")
    assert ended.status == -9, ended.said
    assert "warm start" not in ended.said  # nor was it made again
    assert len(list((tmp_path / "run" / "checkpoints").glob(".last.*"))) == 1
    ended = launch(*options)
    assert ended.status == 0, ended.said
    assert differences(tmp_path / "run", straight) == []
    names = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["best.ckpt", "last.ckpt", "previous.ckpt"]
