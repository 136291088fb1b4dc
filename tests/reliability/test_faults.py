"""What a person does to a run, and what the machine does: a sentence, and nothing is lost."""

import ast
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import drgn
from drgn.errors import InputError
from drgn.formats.lock import only_writer
from drgn.run import Run
from drgn.training import slurm

STEP = "drgn.training.module:ReconstructionModule.training_step"
VALIDATION = "drgn.training.module:ReconstructionModule.validation_step"
SAVE = "pytorch_lightning.trainer.trainer:Trainer.save_checkpoint"
WRITE = "drgn.formats.seal:Sealing.write"


@pytest.mark.parametrize(
    ("deed", "status", "at", "count", "workers"),
    [
        ("int", 130, STEP, 20, 0),
        ("term", 143, STEP, 20, 0),
        ("int", 130, VALIDATION, 2, 0),
        ("term to all", 143, STEP, 20, 2),  # as a scheduler sends it
        pytest.param("int to all", 130, VALIDATION, 2, 2, marks=pytest.mark.full),  # as a terminal does
    ],
)
def test_a_run_that_is_asked_to_stop_writes_a_checkpoint_and_goes_on_from_there(
    launch, changing, straight, differences, tmp_path, deed, status, at, count, workers
):
    options = [*changing, f"output={tmp_path / 'run'}", "checkpoint_minutes=100"]
    ended = launch(*options, f"dataset.workers={workers}", at=at, count=count, deed=deed)
    assert ended.status == status, ended.said
    name = deed.split()[0].upper()
    assert f"SIG{name}: stopping at the next step, with a checkpoint" in ended.said
    assert f"interrupted; the same command with output={tmp_path / 'run'} goes on" in ended.said
    assert "Traceback" not in ended.said
    if at == STEP:
        assert steps_of(tmp_path / "run" / "checkpoints" / "last.ckpt") == 20
    ended = launch(*options)
    assert ended.status == 0, ended.said
    assert "warm start" not in ended.said
    assert differences(tmp_path / "run", straight) == []


@pytest.mark.parametrize(
    ("deed", "at", "count", "steps"),
    [
        ("usr1", STEP, 20, 20),
        ("usr1 to all", STEP, 20, 20),
        ("usr1", "drgn.training.expectation:Expectation._maximise", 2, None),
        ("usr1", "drgn.run:Run.save_latents", 1, 30),
    ],
)
def test_a_job_of_slurm_whose_time_is_over_is_queued_again_and_goes_on_from_there(
    launch, changing, straight, differences, tmp_path, deed, at, count, steps
):
    asked, program = tmp_path / "asked", tmp_path / "scontrol"
    # SLURM then ends what runs; in the middle of a step nothing does here
    program.write_text(f'#!/bin/sh\necho "$@" >>{asked}\n' + ("" if at == STEP else "kill -KILL $PPID\n"))
    program.chmod(0o755)
    options, checkpoint = [*changing, f"output={tmp_path / 'run'}"], tmp_path / "run/checkpoints/last.ckpt"
    known = {"SLURM_JOB_ID": "7", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    workers = ["dataset.workers=2"] if "all" in deed else []
    how = {"at": at, "count": count, "deed": deed, "environment": known}
    ended = launch(*options, *workers, "checkpoint_minutes=100", **how)
    assert ended.status == (128 + signal.SIGUSR1 if at == STEP else -signal.SIGKILL), ended.said
    assert asked.read_text() == "requeue 7\n"
    assert "Traceback" not in ended.said
    if at == STEP:
        assert "SIGUSR1: stopping at the next step, with a checkpoint" in ended.said
        assert "SIGUSR1: job 7 is queued again" in ended.said
    assert (steps_of(checkpoint) if checkpoint.exists() else None) == steps
    assert launch(*options).status == 0
    assert differences(tmp_path / "run", straight) == []


def test_a_job_of_submitit_whose_time_is_over_writes_a_checkpoint_before_it_is_queued_again(
    launch, changing, straight, differences, tmp_path
):
    options = [*changing, f"output={tmp_path / 'run'}"]
    how = {"at": STEP, "count": 20, "deed": "usr2", "environment": {"SLURM_JOB_ID": "7"}}
    ended = launch(*options, "checkpoint_minutes=100", **how)
    said = ended.said.index("SIGUSR2: stopping at the next step, with a checkpoint")
    assert said < ended.said.index("submitit: queued again")
    assert "Traceback" not in ended.said
    assert steps_of(tmp_path / "run/checkpoints/last.ckpt") == 20
    assert launch(*options).status == 0
    assert differences(tmp_path / "run", straight) == []


def test_a_job_that_cannot_be_queued_again_is_a_sentence(monkeypatch, capsys):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", "")
    slurm.queue_again()
    assert "SIGUSR1: job 7 could not be queued again: [Errno 2]" in capsys.readouterr().err


def steps_of(checkpoint):
    return torch.load(checkpoint, weights_only=True)["global_step"]


@pytest.mark.parametrize(
    "how",
    [
        {"at": STEP, "count": 20, "deed": "int twice"},
        pytest.param(
            {"at": SAVE, "count": 2, "deed": "int", "then": [{"at": WRITE, "count": 400, "deed": "int"}]},
            marks=pytest.mark.full,
        ),
    ],
    ids=["in a step", "in the last checkpoint"],
)
def test_a_second_ctrl_c_stops_at_once_and_leaves_the_last_checkpoint(
    launch, changing, straight, differences, tmp_path, how
):
    options = [*changing, f"output={tmp_path / 'run'}", "checkpoint_minutes=100"]
    ended = launch(*options, **how)
    assert ended.status == 130, ended.said
    assert "Ctrl-C again stops at once" in ended.said
    assert "Traceback" not in ended.said
    checkpoints = tmp_path / "run" / "checkpoints"
    assert steps_of(checkpoints / "last.ckpt") in (0, 15)  # of the start, or of the first epoch's end
    assert not list(checkpoints.glob(".*"))
    ended = launch(*options)
    assert ended.status == 0, ended.said
    assert "damaged" not in ended.said
    assert differences(tmp_path / "run", straight) == []


@pytest.mark.parametrize(
    ("at", "count"),
    [
        (STEP, 20),
        pytest.param(VALIDATION, 2, marks=pytest.mark.full),
        pytest.param(WRITE, 400, marks=pytest.mark.full),
        pytest.param("drgn.run:Run.save_latents", 1, marks=pytest.mark.full),
    ],
)
def test_a_reading_process_that_the_kernel_ends_is_a_sentence(
    launch, changing, straight, differences, tmp_path, at, count
):
    options = [*changing, f"output={tmp_path / 'run'}"]
    ended = launch(*options, "dataset.workers=2", at=at, count=count, deed="kill reader")
    assert ended.status == 2, ended.said
    said = ended.said.strip().splitlines()[-1]
    assert said.startswith("drgn train: a process that reads batches was ended from outside, as the system")
    assert "give a smaller dataset.workers=" in said
    assert f"with output={tmp_path / 'run'} the same command goes on" in said
    assert "Traceback" not in ended.said
    ended = launch(*options)
    assert ended.status == 0, ended.said
    assert "warm start" not in ended.said
    assert differences(tmp_path / "run", straight) == []


def test_a_reading_process_leaves_signals_to_the_one_that_trains(environment):
    code = (
        "import os, signal\n"
        "from drgn.data.readers import leave_signals\n"
        "numbers = signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2  # the last is that of submitit\n"
        "for number in numbers: signal.signal(number, lambda number, _: os._exit(number))\n"
        "leave_signals(0)\n"
        "for number in numbers: os.kill(os.getpid(), number)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def test_what_a_reading_process_finds_wrong_is_a_sentence(launch, tiny, own_toy, tmp_path):
    options = [*tiny, f"dataset.particles={own_toy}", f"dataset.cache={tmp_path / 'prepared'}"]
    options += ["latent=none", "warmstart=none", "dataset.preflight=false", f"output={tmp_path / 'run'}"]
    assert launch(*options).status == 0
    images = next((tmp_path / "prepared").glob("*/images.f16"))
    again = [*options, "dataset.workers=1", "resume=false"]
    ended = launch(*again, at=STEP, count=2, deed="cut", path=str(images))
    assert ended.status == 2, ended.said
    assert ended.said.strip().splitlines()[-1].startswith(f"drgn train: {images} has 1,000 bytes, where ")
    assert "Traceback" not in ended.said


@pytest.fixture
def own_toy(toy, tmp_path):
    """Return a copy of the toy set whose stack may be spoilt."""
    shutil.copytree(toy.parent, tmp_path / "toy")
    return tmp_path / "toy" / toy.name


def test_source_stacks_that_vanish_while_training_do_not_matter(
    launch, changing, straight, differences, own_toy, tmp_path
):
    stack = own_toy.with_suffix(".mrcs")
    options = [*changing, f"dataset.particles={own_toy}", f"dataset.cache={tmp_path / 'prepared'}"]
    options += ["dataset.preflight=false", f"output={tmp_path / 'run'}"]
    ended = launch(*options, at=STEP, count=20, deed="hide", path=str(stack))
    assert ended.status == 0, ended.said
    assert differences(tmp_path / "run", straight) == []
    ended = launch(*options)
    assert ended.status == 2, ended.said
    assert ended.said.strip().splitlines()[-1].startswith("drgn train: ")
    assert stack.name in ended.said.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("deed", "said"), [("hide", "No such file or directory"), ("cut", "ended while it was read")]
)
def test_a_source_stack_that_vanishes_while_it_is_prepared_is_named(
    launch, tiny, own_toy, tmp_path, deed, said
):
    stack = own_toy.with_suffix(".mrcs")
    whole = stack.read_bytes()
    options = [*tiny, f"dataset.particles={own_toy}", f"dataset.cache={tmp_path / 'prepared'}"]
    options += ["latent=none", "warmstart=none", "dataset.preflight=false", f"output={tmp_path / 'run'}"]
    at = "drgn.data.prepared:noise_std" if deed == "hide" else "drgn.data.building:write_images"
    ended = launch(*options, at=at, deed=deed, path=str(stack))
    assert ended.status == 2, ended.said
    last = ended.said.strip().splitlines()[-1]
    assert last.startswith(f"drgn train: {stack} ")
    assert said in last
    assert "Traceback" not in ended.said
    stack.write_bytes(whole)
    ended = launch(*options)
    assert ended.status == 0, ended.said


def test_images_that_are_no_numbers_are_named_and_left_out(launch, tiny, own_toy, tmp_path):
    stack = own_toy.with_suffix(".mrcs")
    header = stack.stat().st_size - 300 * 16 * 16 * 4
    images = np.memmap(stack, np.float32, "r+", header, (300, 16, 16))
    images[3], images[10, 5, 5], images[299] = np.nan, np.nan, np.inf
    images.flush()
    options = [*tiny, f"dataset.particles={own_toy}", f"dataset.cache={tmp_path / 'prepared'}"]
    options += ["latent.zdim=2", f"output={tmp_path / 'run'}"]
    ended = launch(*options)
    assert ended.status == 0, ended.said
    assert "3 images are constant or not finite and are left out: " in ended.said
    run = Run(tmp_path / "run")
    keys = run.particles().table["key"]
    assert run.info["rejected"] == keys.iloc[[3, 10, 299]].tolist()
    assert run.info["skipped_images"] == 0
    assert np.isfinite(run.info["best_loss"])
    assert np.isfinite(run.latents().z).all()


def test_a_clock_that_goes_back_changes_nothing(launch, changing, straight, differences, tmp_path):
    options = [*changing, f"output={tmp_path / 'run'}"]
    back = {"at": STEP, "count": 5, "deed": "turn back"}
    assert launch(*options, **back, then=[{"at": STEP, "count": 20, "deed": "kill"}]).status == -9
    checkpoints = tmp_path / "run" / "checkpoints"
    os.utime(checkpoints / "last.ckpt", (0, 0))  # older than previous.ckpt, by its date
    ended = launch(*options, **back)
    assert ended.status == 0, ended.said
    (line,) = [line for line in ended.said.splitlines() if line.startswith("epoch 2/2")]
    assert line.endswith("0 s left")
    assert "damaged" not in ended.said
    assert differences(tmp_path / "run", straight) == []


def test_a_damaged_checkpoint_is_said_and_the_one_before_it_is_used(
    launch, changing, straight, differences, tmp_path
):
    options = [*changing, f"output={tmp_path / 'run'}"]
    assert launch(*options, at=STEP, count=20).status == -9
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    ended = launch(*options)
    assert ended.status == 0, ended.said
    said = (
        f"{last} is damaged (its SHA-256 is not the one that is written in it) and set aside: going on from"
    )
    assert f"{said} previous.ckpt, which was written in epoch 2 after 18 steps" in ended.said
    assert differences(tmp_path / "run", straight) == []


def test_a_file_that_may_not_grow_is_a_sentence_and_leaves_the_last_checkpoint(
    launch, changing, straight, differences, tmp_path
):
    options = [*changing, f"output={tmp_path / 'run'}"]
    assert launch(*options, at=STEP, count=20).status == -9
    checkpoints = tmp_path / "run" / "checkpoints"
    before = (checkpoints / "last.ckpt").read_bytes()
    ended = launch(*options, largest_file=len(before) // 2)
    assert ended.status == 2, ended.said
    assert (
        ended.said.strip()
        .splitlines()[-1]
        .startswith(f"drgn train: {checkpoints / 'last.ckpt'} cannot be written")
    )
    assert "Traceback" not in ended.said
    assert (checkpoints / "last.ckpt").read_bytes() == before
    assert launch(*options).status == 0
    assert differences(tmp_path / "run", straight) == []


def test_two_runs_in_one_folder_are_refused_until_the_first_is_gone(tmp_path, environment):
    code = (
        "import sys, time; from pathlib import Path; from drgn.formats.lock import only_writer\n"
        "with only_writer(Path(sys.argv[1]), 'output'): print('held', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as holder:
        assert holder.stdout.readline() == "held\n"
        sentence = (
            rf"output=.* is in use by process {holder.pid} on .*: wait for it to end, or give another output="
        )
        with pytest.raises(InputError, match=sentence), only_writer(tmp_path, "output"):
            pass
        holder.kill()
        holder.wait()
    with only_writer(tmp_path, "output"):
        pass


@pytest.mark.parametrize(
    "module", sorted(p for p in Path(drgn.__file__).parent.rglob("*.py")), ids=lambda p: p.stem
)
def test_nothing_is_measured_by_a_clock_that_jumps(module):
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in ("time.time", "time.time_ns")
