"""A disk that is full, and one that is read-only: one sentence, what is there stays, and room is enough."""

import pytest

STEP = "drgn.training.module:ReconstructionModule.training_step"
WRITE = "drgn.formats.seal:Sealing.write"


def refused(ended, *parts):
    """Check that a run ended with one sentence, which has these parts."""
    assert ended.status == 2, ended.said
    for word in ("Traceback", "Exception", "Error"):
        assert word not in ended.said
    said = ended.said.strip().splitlines()[-1]
    assert said.startswith("drgn train: ")
    for part in parts:
        assert part in said


@pytest.mark.parametrize(
    ("at", "count"),
    [(WRITE, 400), pytest.param(STEP, 20, marks=pytest.mark.full)],
    ids=["in a checkpoint", "between two"],
)
def test_a_disk_that_fills_up_while_training(launch, changing, straight, differences, disk, at, count):
    options = [*changing, f"output={disk / 'run'}"]
    refused(launch(*options, at=at, count=count, deed="fill", path=str(disk)), str(disk), "make room there")
    assert (disk / "run" / "checkpoints" / "last.ckpt").is_file()
    refused(launch(*options), str(disk), "make room there")  # nothing was done about it
    (disk / "filler").unlink()
    ended = launch(*options)
    assert ended.status == 0, ended.said
    assert "warm start" not in ended.said
    assert "damaged" not in ended.said
    assert differences(disk / "run", straight) == []


@pytest.mark.parametrize(
    "at",
    [
        "drgn.data.building:_write",
        "drgn.data.identity:write",
        pytest.param("drgn.data.sums:record", marks=pytest.mark.full),
        pytest.param("drgn.data.datamodule:ParticleDataModule.preflight", marks=pytest.mark.full),
        pytest.param("drgn.run:Run.create", marks=pytest.mark.full),
        pytest.param("pytorch_lightning.trainer.trainer:Trainer.fit", marks=pytest.mark.full),
        pytest.param("drgn.run:Run.save_latents", marks=pytest.mark.full),
    ],
)
def test_a_disk_that_fills_up_at_another_moment(launch, tiny, disk, at):
    options = [*tiny, "latent.zdim=2", "warmstart=none", f"output={disk / 'run'}"]
    options += [f"dataset.cache={disk / 'prepared'}"]
    refused(launch(*options, at=at, deed="fill", path=str(disk)), str(disk), "make room")
    refused(launch(*options), str(disk), "make room")
    (disk / "filler").unlink()
    ended = launch(*options)
    assert ended.status == 0, ended.said
    assert "damaged" not in ended.said


def test_a_folder_that_is_read_only(launch, changing, straight, differences, protect, tmp_path):
    bind, release = protect
    closed = tmp_path / "closed"
    bind(closed)
    options = [*changing, f"output={closed / 'run'}"]
    refused(launch(*options), f"{closed / 'run'} is refused (Read-only file system)", "permissions")
    release(closed)
    # the disk has an error, and the kernel lets nothing more be written
    where = str(closed / "run" / "checkpoints")
    ended = launch(*options, at=STEP, count=20, deed="read-only", path=where)
    refused(
        ended, f"{where}/last.ckpt cannot be written (Read-only file system)", "goes on from the last.ckpt"
    )
    release(where)
    bind(closed)
    refused(launch(*options), str(closed / "run"), "Read-only file system")
    release(closed)
    assert launch(*options).status == 0
    assert differences(closed / "run", straight) == []


def test_prepared_images_may_be_read_only(launch, tiny, protect, tmp_path):
    bind, release = protect
    cache = tmp_path / "prepared"
    bind(cache)
    options = [*tiny, "latent=none", "warmstart=none", f"dataset.cache={cache}", "dataset.preflight=false"]
    refused(launch(*options, f"output={tmp_path / 'one'}"), str(cache), "Read-only file system")
    release(cache)
    assert launch(*options, f"output={tmp_path / 'two'}").status == 0
    bind(cache)
    ended = launch(*options, f"output={tmp_path / 'three'}")
    assert ended.status == 0, ended.said
