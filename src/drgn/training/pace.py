"""How fast training goes: the time of steps, of the evaluation, and of what is done once an epoch."""

from typing import Any

import numpy as np
import pytorch_lightning as pl

from drgn.training.stages import Seconds, now

_WARM_UP = 3  # steps that are slower than the others


class Pace(pl.Callback):
    """Measure, and stop after a time.

    Parameters
    ----------
    seconds
        After which training stops, at the end of a step.

    Attributes
    ----------
    whole
        From the first step to the end.
    per_image, per_heldout_image
        A training step and the evaluation, by the image; zeros where there was none.
    per_epoch
        The rest of an epoch: checkpoint, pictures, log.
    """

    def __init__(self, seconds: float) -> None:
        self._limit_s = seconds
        self.whole = np.zeros(2)
        self._begun, self._validated = now(), now()
        self._last: tuple[Seconds, int] | None = None  # when the step at hand began, and its images
        self._end: Seconds | None = None  # of the last step
        self._steps: list[tuple[Seconds, int]] = []
        self._validation: list[tuple[Seconds, int]] = []
        self._rests: list[Seconds] = []
        self._heldout = 0

    def _per_image(self, measured: list[tuple[Seconds, int]]) -> Seconds:
        if not measured:
            return np.zeros(2)
        return np.sum([s for s, _ in measured], axis=0) / sum(n for _, n in measured)

    @property
    def per_image(self) -> Seconds:  # noqa: D102
        return self._per_image(self._steps[min(_WARM_UP, len(self._steps) // 2) :])

    @property
    def per_heldout_image(self) -> Seconds:  # noqa: D102
        return self._per_image(self._validation)

    @property
    def per_epoch(self) -> Seconds:  # noqa: D102
        return self._rests[-1] if self._rests else np.zeros(2)

    @property
    def epochs(self) -> int:
        """How many there were."""
        return len(self._rests)

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        """Start the clock."""
        self._begun = now()

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        """Close the step before: a step lasts until the next one begins, the wait for images included."""
        moment = now()
        if batch_idx and self._last is not None:
            self._steps.append((moment - self._last[0], self._last[1]))
        elif self._end is not None:
            self._close_epoch(moment)
        self._last = moment, len(batch["row"])

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop where it is time."""
        self._end = now()
        if self._last is not None and len(self._steps) == 0:  # of an epoch of one step
            self._first = self._end - self._last[0], self._last[1]
        if self._end[0] - self._begun[0] > self._limit_s:
            trainer.should_stop = True

    def on_validation_start(self, trainer: pl.Trainer, module: Any) -> None:
        """Start the clock of an evaluation."""
        self._validated, self._heldout = now(), 0

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the images."""
        self._heldout += len(batch["row"])

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Stop its clock."""
        if not trainer.sanity_checking and self._heldout:
            self._validation.append((now() - self._validated, self._heldout))

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Close the last epoch."""
        moment = now()
        if self._end is not None:
            self._close_epoch(moment)
        if not self._steps and self._end is not None:
            self._steps.append(self._first)
        self.whole = moment - self._begun

    def _close_epoch(self, moment: Seconds) -> None:
        assert self._end is not None
        evaluated = self._validation[-1][0] if self._validation else np.zeros(2)
        self._rests.append(np.maximum(moment - self._end - evaluated, 0))
