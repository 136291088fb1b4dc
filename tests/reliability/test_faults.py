"""What a person does to a run, and what the machine does: a sentence, and nothing is lost."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import drgn
from drgn.errors import InputError
from drgn.formats.lock import only_writer

STEP = "drgn.training.module:ReconstructionModule.training_step"
VALIDATION = "drgn.training.module:ReconstructionModule.validation_step"


@pytest.mark.parametrize(
    ("deed", "status", "at", "count"),
    [("int", 130, STEP, 20), ("term", 143, STEP, 20), ("int", 130, VALIDATION, 2)],
)
def test_a_run_that_is_asked_to_stop_writes_a_checkpoint_and_goes_on_from_there(
    launch, changing, straight, differences, tmp_path, deed, status, at, count
):
    options = [*changing, f"output={tmp_path / 'run'}", "checkpoint_minutes=100"]
    ended = launch(*options, at=at, count=count, deed=deed)
    assert ended.status == status, ended.said
    assert f"SIG{deed.upper()}: stopping at the next step, with a checkpoint" in ended.said
    assert f"interrupted; the same command with output={tmp_path / 'run'} goes on" in ended.said
    assert "Traceback" not in ended.said
    ended = launch(*options)
    assert ended.status == 0, ended.said
    assert "warm start" not in ended.said
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


def test_a_full_disk_is_a_sentence_and_leaves_the_last_checkpoint(
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
