"""Runs that are killed, stopped and starved, many of them and quickly."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from drgn.run import Run

# of Lightning's own checkpoint callback: paths, and the newest score, which it writes but never reads
NOT_STATE = ("dirpath", "best_k_models", "current_score")


@dataclass
class Ended:
    """How a training ended: exit status (negative for a signal) and all that it printed."""

    status: int
    said: str


class Launcher:
    """Runs drgn train in copies of one process, see launcher.py."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self._log = folder / "log.txt"
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("launcher.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=folder,
        )

    def start(self, *options: str, **how: Any) -> int:
        """Start a training; returns its process."""
        line = json.dumps({"options": options, "log": str(self._log), **how})
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._answer()["pid"]

    def wait(self) -> Ended:
        """Wait for its end."""
        return Ended(self._answer()["status"], self._log.read_text())

    def __call__(self, *options: str, **how: Any) -> Ended:
        """Start a training and wait for its end."""
        self.start(*options, **how)
        return self.wait()

    def _answer(self) -> dict[str, int]:
        line = self._process.stdout.readline()
        assert line, "the launcher died"
        return json.loads(line)

    def close(self) -> None:
        """End it."""
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


@pytest.fixture(scope="session")
def launch(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Ended]]:
    """Yield a function: options of drgn train -> how it ended; `at`, `count`, `deed` as of launcher.py."""
    launcher = Launcher(environment, tmp_path_factory.mktemp("launcher"))
    yield launcher
    launcher.close()


@pytest.fixture(scope="session")
def changing(tiny: list[str]) -> list[str]:
    """Return options of a run in which everything changes all the time, with a checkpoint after each step."""
    return [
        *(option for option in tiny if not option.startswith(("epochs", "schedule", "dataset.batch_size"))),
        "dataset.batch_size=16",
        "epochs=2",
        "latent.zdim=2",
        "pose=refine",
        "pose.lr=0.05",
        "pose.begin_epoch=0",
        "pixels=rising",
        "schedule=cosine",
        "schedule.warmup_steps=3",
        "loss.warmup_images=400",
        "checkpoint_minutes=0.00001",
    ]


@pytest.fixture(scope="session")
def straight(launch: Callable[..., Ended], changing: list[str], tmp_path_factory) -> Path:
    """Return the folder of such a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    ended = launch(*changing, f"output={folder}")
    assert ended.status == 0, ended.said
    return folder


def same(one: Any, other: Any, at: str = "") -> list[str]:
    """Return where two nested values of a checkpoint differ in any bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if torch.equal(one, other) else [at]
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return [f"{at} keys"]
        return [where for key in one for where in same(one[key], other[key], f"{at}.{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            return [f"{at} length"]
        return [w for i, (a, b) in enumerate(zip(one, other, strict=True)) for w in same(a, b, f"{at}.{i}")]
    return [] if one == other else [f"{at}: {one} {other}"]


@pytest.fixture
def differences() -> Callable[[Path, Path], list[str]]:
    """Return a function that lists what two finished runs do not have in common, to the last bit."""

    def compare(one: Path, other: Path) -> list[str]:
        found = []
        for name in ("last.ckpt", "best.ckpt"):
            states = [torch.load(p / "checkpoints" / name, weights_only=True) for p in (one, other)]
            for state in states:
                for callback in state["callbacks"].values():
                    for key in [k for k in callback if "path" in k or k in NOT_STATE]:
                        del callback[key]
            found += same(*states, name)
        runs = [Run(one), Run(other)]
        latents = [run.latents() for run in runs]
        for key in ("z", "logvar", "reconstruction_loss", "heldout"):
            if (getattr(latents[0], key) != getattr(latents[1], key)).any():
                found.append(f"latents {key}")
        if len({_without_comments(path / "poses.star") for path in (one, other)}) == 2:
            found.append("poses.star")
        return found + [k for k in ("best_loss", "epochs") if runs[0].info[k] != runs[1].info[k]]

    return compare


def _without_comments(path: Path) -> str:
    """Text of a star file but for its comments, one of which names the folder of the images."""
    return "\n".join(line for line in path.read_text().split("\n") if not line.startswith("#"))


def mounted(folder: Path, *words: str) -> Path:
    """Mount something on a folder, or skip the test where that is not permitted."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *words, folder], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    return folder


def unmount(folder: Path) -> None:
    """Take away what is mounted on a folder."""
    subprocess.run(["umount", "--lazy", folder], capture_output=True, check=False)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Yield the folder of a small disk of its own."""
    folder = mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=24m", "drgn-test")
    yield folder
    unmount(folder)


@pytest.fixture
def protect(tmp_path: Path) -> Iterator[tuple[Callable[[Path], None], Callable[[Path], None]]]:
    """Yield a function that makes a folder read-only, for root too, and its reverse."""
    mounted(tmp_path / "tried", "--bind", str(tmp_path / "tried"))
    unmount(tmp_path / "tried")
    folders = []

    def bind(folder: Path) -> None:
        folders.append(folder)
        mounted(folder, "--bind", str(folder))
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)

    yield bind, unmount
    for folder in folders:
        unmount(folder)
