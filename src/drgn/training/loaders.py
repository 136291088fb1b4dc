"""The one LightningDataModule: what Lightning asks of a data set, answered by `data.datamodule`."""

import sys
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from drgn.data.datamodule import ParticleDataModule
from drgn.data.dataset import Batches
from drgn.errors import InputError, say
from drgn.physics.imaging import Batch
from drgn.training import memory

_TRIED = 4  # images of the step whose memory is measured
_SHARE = 0.9  # of the memory that there is, for the images of a step
_ADAM = 3  # copies of the weights: gradients and the two moments


class Loaders(pl.LightningDataModule):
    """The batches of a data set, as Lightning asks for them.

    Parameters
    ----------
    data
        The particles.
    fit
        Take a batch in parts where the memory is too short for all of its images at once.
    memory_GB
        That the processes of a machine may take together; None: what there is.
    """

    def __init__(
        self, data: ParticleDataModule, *, fit: bool = False, memory_GB: float | None = None
    ) -> None:
        super().__init__()
        self.data, self._fit, self._memory_GB = data, fit, memory_GB
        self._epoch = self._steps = 0  # where the first epoch of this trainer begins

    def state_dict(self) -> dict[str, Any]:
        """The epoch, and how many of its steps were taken."""
        assert self.trainer is not None
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        epoch = self.trainer.current_epoch
        if progress.is_last_batch:
            return {"epoch": epoch + 1, "steps": 0}
        return {"epoch": epoch, "steps": progress.current.processed // self.trainer.accumulate_grad_batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Begin there."""
        self._epoch, self._steps = state_dict["epoch"], state_dict["steps"]

    def prepare_data(self) -> None:
        """Make the prepared stack (one process does)."""
        self.data.prepare_data()

    def setup(self, stage: str) -> None:
        """Share the batches among the processes of this trainer, and among parts of a step."""
        self.data.trainer = self.trainer
        if self._fit and stage == "fit" and self.data.batch_size > 1:
            self._fit_memory()

    def _fit_memory(self) -> None:
        """Choose the parts that a batch is taken in, the same in all processes.

        Raises
        ------
        InputError
            One image is too large.
        """
        trainer, data = self.trainer, self.data
        assert trainer is not None
        strategy, model = trainer.strategy, trainer.lightning_module.reconstructor
        device = strategy.root_device
        rows = data.rows(heldout=False)
        rows = rows[np.argsort(data.dataset.group.numpy()[rows], kind="stable")][:_TRIED]
        if len(rows) < 2:
            return
        kind = torch.bfloat16 if trainer.precision == "bf16-mixed" else None
        image_B = memory.of_an_image_B(model, data.dataset[rows], device, kind)
        free_B = memory.available_B(device) if self._memory_GB is None else int(self._memory_GB * 1e9)
        if free_B is not None and device.type == "cpu":
            free_B //= trainer.num_devices
        if image_B is None or free_B is None:
            return
        weights_B = sum(p.numel() * p.element_size() for p in model.parameters())
        fits = int((_SHARE * free_B - _ADAM * weights_B) // image_B)
        least = strategy.reduce(torch.tensor(float(-fits), device=device), reduce_op="max")
        fits = -int(least)
        if fits < 1:
            raise InputError(
                f"memory: an image of a step takes {image_B / 1e9:.2g} GB beside"
                f" {_ADAM * weights_B / 1e9:.2g} GB of the optimiser, and {free_B / 1e9:.2g} GB are there:"
                " give a smaller dataset.box_size or model, or a machine with more memory"
            )
        pieces = -(-data.batch_size // fits)
        data.images_at_once = fits
        if pieces > 1:
            trainer.accumulate_grad_batches = pieces
            if trainer.is_global_zero:
                say(
                    f"memory: batches of {data.batch_size} are taken in {pieces} parts:"
                    f" {image_B / 1e9:.2g} GB an image, {free_B / 1e9:.2g} GB are there",
                    file=sys.stderr,
                )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled training batches."""
        loader = self.data.train_dataloader()
        assert isinstance(loader.sampler, Batches)
        assert self.trainer is not None
        pieces = self.trainer.accumulate_grad_batches
        loader.sampler.begin(self._epoch, self._steps * pieces)  # before a worker asks for the first one
        return loader

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Held-out batches in order; none where nothing is held out."""
        return self.data.val_dataloader()
