"""Checkpoints that neither a kill, a full disk nor a damaged file takes away, and when they are written.

last.ckpt holds everything that training goes on from: weights, optimizer, schedules, the state of the random
numbers, the place in the epoch. The one before it stays as previous.ckpt. Each carries its own SHA-256
(`formats.seal`) and gets its name only when it is complete and on the disk.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException

from drgn.errors import InputError, say
from drgn.formats.atomic import replacing
from drgn.formats.seal import BEST, LAST, PREVIOUS, Sealing, damage, require_whole
from drgn.training import slurm
from drgn.training.run_files import load

_TOGETHER = 10  # batches after which several processes ask each other whether to write or to stop


def newest(folder: Path) -> Path | None:
    """The checkpoint that training goes on from: the last that is whole; None where there is none.

    What is damaged is set aside as NAME.damaged, and said.

    Raises
    ------
    InputError
        There are checkpoints, but none of them is whole.
    """
    _remove_parts(folder)
    damaged: list[str] = []
    for name in (LAST, PREVIOUS, BEST):
        path = folder / name
        if not path.is_file():
            continue
        wrong = damage(path)
        if wrong is None:
            if damaged:
                state = load(path)
                say(
                    f"{'; '.join(damaged)}: going on from {name}, which was written in epoch"
                    f" {state['epoch'] + 1} after {state['global_step']:,} steps",
                    file=sys.stderr,
                )
            return path
        damaged.append(f"{path} is damaged ({wrong}) and set aside")
        os.replace(path, path.with_name(name + ".damaged"))
    if damaged:
        raise InputError(f"{'; '.join(damaged)}: no other is there to go on from; resume=false starts over")
    return None


def _remove_parts(folder: Path) -> None:
    """Remove what a killed run was writing."""
    for part in folder.glob(".*.part.ckpt"):
        part.unlink()


class SealedCheckpoints(TorchCheckpointIO):
    """How Lightning writes and reads checkpoints: whole, sealed, and with the one before the last kept.

    Parameters
    ----------
    whole
        One that `newest` has just found whole: its sum is not taken again.
    """

    def __init__(self, whole: Path | None = None) -> None:
        super().__init__()
        self._whole = whole

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write one; an InputError where the disk is full or read-only, which leaves the files there."""
        path = Path(path)
        try:
            with replacing(path) as temporary:
                with open(temporary, "wb") as file:
                    seal = Sealing(file)
                    try:
                        torch.save(checkpoint, seal)
                    except RuntimeError as error:  # torch's writer hides what broke it off, as Ctrl-C
                        raise error.__context__ or error from None
                    seal.finish()
                if path.name == LAST and path.is_file():
                    os.replace(path, path.with_name(PREVIOUS))
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            kept = next((name for name in (LAST, PREVIOUS) if (path.parent / name).is_file()), None)
            raise InputError(
                f"{path} cannot be written ({error.strerror or error}): make room there, or make it writable,"
                " and start the same command again,"
                f" which {'begins anew' if kept is None else f'goes on from the {kept} that is there'}"
            ) from None

    def load_checkpoint(
        self, path: Any, map_location: Any = lambda storage, loc: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read one; an InputError where it is damaged."""
        if Path(path) != self._whole:
            require_whole(Path(path), "start the same command again, which goes on from another")
        self._whole = None
        return load(Path(path))


class LastCheckpoint(Checkpoint):
    """Write last.ckpt before the first step, within epochs, after each, and when the run is asked to stop.

    Ctrl-C and SIGTERM stop the run after the step at hand, or after the validation at hand and the end of its
    epoch; so do the signals that tell a job of SLURM that its time is over, after which it is queued again. A
    second Ctrl-C stops at once.

    Parameters
    ----------
    folder
        Of the checkpoints.
    minutes
        Between two of them within an epoch.
    anew
        Whether the run begins; checkpoints of another, earlier one are then removed.

    Attributes
    ----------
    asked
        The signal that asked to stop; None so far.
    """

    def __init__(self, folder: Path, minutes: float, *, anew: bool) -> None:
        self._folder, self._seconds, self._anew = folder, 60 * minutes, anew
        self._written = time.monotonic()
        self.asked: signal.Signals | None = None
        self._queue_again: dict[int, Any] = {}  # what acts upon a signal of SLURM

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        """Keep what the start took, a warm start for instance, and listen to signals."""
        self._written = time.monotonic()
        if self._anew:
            self._save(trainer)
            if trainer.is_global_zero:
                for old in (
                    self._folder / PREVIOUS,
                    self._folder / BEST,
                    self._folder.parent / "latents.npz",
                ):
                    old.unlink(missing_ok=True)  # of another network
        if threading.current_thread() is threading.main_thread():  # Lightning gives the old handlers back
            self._queue_again = {number: signal.getsignal(number) for number in slurm.listened_to()}
            for number in (signal.SIGINT, signal.SIGTERM, *self._queue_again):
                signal.signal(number, self._ask)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write where it is time, and stop where that was asked; the last batch leaves it to the epoch."""
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if trainer.world_size > 1 and (batch_idx + 1) % _TOGETHER:
            return
        stop = self._any(trainer, self.asked is not None)
        if stop or self._any(trainer, time.monotonic() - self._written > self._seconds):
            self._save(trainer)
        if stop:
            self._stop()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Write, and stop where that was asked."""
        self._save(trainer)
        if self._any(trainer, self.asked is not None):
            self._stop()

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self._folder / LAST)
        self._written = time.monotonic()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number)
        if rank_zero_only.rank == 0:
            again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
            say(f"{self.asked.name}: stopping at the next step, with a checkpoint{again}", file=sys.stderr)

    def _stop(self) -> None:
        if self.asked in self._queue_again:
            self._queue_again[self.asked](self.asked, None)
        if self.asked not in (None, signal.SIGINT):
            raise SIGTERMException
        raise KeyboardInterrupt

    @staticmethod
    def _any(trainer: pl.Trainer, wanted: bool) -> bool:
        """Whether one of the processes wants it."""
        if trainer.world_size == 1:
            return wanted
        return bool(trainer.strategy.reduce_boolean_decision(wanted, all=False))
