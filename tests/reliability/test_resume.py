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


@pytest.mark.full
def test_a_run_killed_at_twenty_moments_goes_on_to_the_same_numbers(
    launch, changing, straight, differences, tmp_path
):
    draw = random.Random(0)
    places = [  # a place, in how many calls of it a run can be killed, and how
        ("drgn.training.expectation:Expectation._maximise", 8, "kill"),
        ("drgn.training.refinement:Refinement.step", 6, "kill"),
        (STEP, 12, "kill"),
        ("drgn.training.module:ReconstructionModule.on_before_optimizer_step", 12, "kill"),
        ("drgn.training.module:ReconstructionModule.validation_step", 2, "kill"),
        (WRITE, 300, "half"),
        ("drgn.formats.seal:Sealing.finish", 12, "kill"),
        ("os:replace", 20, "kill"),
        ("drgn.run:Run.save_latents", 1, "kill"),
    ]
    options, killed = [*changing, f"output={tmp_path / 'run'}"], 0
    for number in range(20):
        at, most, deed = places[number] if number < 2 else draw.choice(places[2:])
        count = draw.randint(1, most)
        ended = launch(*options, at=at, count=count, deed=deed)
        assert ended.status in (0, -9), (at, count, ended.said)
        killed += ended.status == -9
        if ended.status == 0 or "save_latents" in at:  # it had come to its end: begin another
            assert launch(*options).status == 0
            assert differences(tmp_path / "run", straight) == [], (at, count)
            options[-1] = f"output={tmp_path / f'run{number}'}"
    assert killed >= 12
    assert launch(*options).status == 0
    assert differences(*(type(tmp_path)(p) for p in (options[-1].removeprefix("output="), straight))) == []
