"""One run that is disturbed in every way there is, over and over, until it is done."""

import random
import subprocess

import pytest

STEP = "drgn.training.module:ReconstructionModule.training_step"
OPTIMIZER = "drgn.training.module:ReconstructionModule.on_before_optimizer_step"
VALIDATION = "drgn.training.module:ReconstructionModule.validation_step"
WRITE = "drgn.formats.seal:Sealing.write"
REPLACE = "os:replace"
LONGEST = 12  # steps of a run between two disturbances
# deed: where it may happen, in how many calls at most, how the run may end, and whether it has readers
DISTURBANCES = {
    "kill": ([(STEP, LONGEST), (OPTIMIZER, LONGEST), (VALIDATION, 1), (REPLACE, 40)], -9, False),
    "half": ([(WRITE, 800)], -9, False),
    "int": ([(STEP, LONGEST), (VALIDATION, 1)], 130, False),
    "int twice": ([(STEP, LONGEST), (WRITE, 800)], 130, True),
    "term": ([(STEP, LONGEST), (WRITE, 800)], 143, False),
    "int to all": ([(STEP, LONGEST)], 130, True),
    "term to all": ([(STEP, LONGEST)], 143, True),
    "kill reader": ([(STEP, LONGEST), (WRITE, 800)], 2, True),
    "fill": ([(STEP, LONGEST), (WRITE, 800)], 2, True),
    "read-only": ([(STEP, LONGEST)], 2, False),
    "small file": ([], 2, False),
    "damage": ([(STEP, LONGEST)], -9, False),
}


def damage(folder, draw):
    """Change a bit of the newest checkpoint, where another one is there."""
    last = folder / "checkpoints" / "last.ckpt"
    if last.exists() and last.with_name("previous.ckpt").exists():
        content = bytearray(last.read_bytes())
        content[draw.randrange(len(content))] ^= 1
        last.write_bytes(content)


@pytest.mark.full
def test_a_run_that_is_disturbed_until_it_is_done_ends_with_the_same_numbers(
    launch, changing, differences, disk, tmp_path
):
    draw = random.Random(0)
    options = [option for option in changing if not option.startswith("epochs")] + ["epochs=12"]
    ended = launch(*options, f"output={tmp_path / 'straight'}")
    assert ended.status == 0, ended.said
    run, done, left = disk / "run", [], []
    assert launch(*options, f"output={run}", at=STEP, count=2, deed="kill").status == -9
    while ended.status != 0 or not done:
        left = left or draw.sample(sorted(DISTURBANCES), len(DISTURBANCES))  # each once, then again
        name = left.pop()
        places, status, reading = DISTURBANCES[name]
        how = {"largest_file": 100_000}
        if places:
            at, most = draw.choice(places)
            how = {"at": at, "count": draw.randint(1, most), "deed": "kill" if name == "damage" else name}
        if name in ("fill", "read-only"):
            how["path"] = str(disk if name == "fill" else run / "checkpoints")
        workers = "dataset.workers=2" if reading else "dataset.workers=0"
        ended = launch(*options, workers, f"output={run}", **how)
        done.append((name, how, ended.status))
        assert ended.status in (0, status), f"{done}\n{ended.said[-3000:]}"
        assert "Traceback" not in ended.said, (done, ended.said)
        assert ended.status != 2 or ended.said.splitlines()[-1].startswith("drgn train: "), ended.said
        (disk / "filler").unlink(missing_ok=True)
        subprocess.run(["umount", "--lazy", run / "checkpoints"], capture_output=True, check=False)
        if name == "damage":
            damage(run, draw)
    assert {name for name, _, status in done if status != 0} == set(DISTURBANCES), done
    assert len(done) > 20
    assert differences(run, tmp_path / "straight") == []
