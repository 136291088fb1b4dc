"""The one LightningDataModule: what Lightning asks of a data set, answered by `data.datamodule`."""

from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from drgn.data.datamodule import ParticleDataModule
from drgn.data.dataset import Batches
from drgn.physics.imaging import Batch


class Loaders(pl.LightningDataModule):
    """The batches of a data set, as Lightning asks for them."""

    def __init__(self, data: ParticleDataModule) -> None:
        super().__init__()
        self.data = data
        self._epoch = self._batches = 0  # where the first epoch of this trainer begins

    def state_dict(self) -> dict[str, Any]:
        """The epoch, and how many of its batches were trained on."""
        assert self.trainer is not None
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        epoch = self.trainer.current_epoch
        if progress.is_last_batch:
            return {"epoch": epoch + 1, "batches": 0}
        return {"epoch": epoch, "batches": progress.current.processed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Begin there."""
        self._epoch, self._batches = state_dict["epoch"], state_dict["batches"]

    def prepare_data(self) -> None:
        """Make the prepared stack (one process does)."""
        self.data.prepare_data()

    def setup(self, stage: str) -> None:
        """Share the batches among the processes of this trainer."""
        self.data.trainer = self.trainer

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled training batches."""
        loader = self.data.train_dataloader()
        assert isinstance(loader.sampler, Batches)
        loader.sampler.begin(self._epoch, self._batches)  # before a worker asks for the first one
        return loader

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Held-out batches in order; none where nothing is held out."""
        return self.data.val_dataloader()
