"""The one LightningDataModule: what Lightning asks of a data set, answered by `data.datamodule`."""

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from drgn.data.datamodule import ParticleDataModule
from drgn.physics.imaging import Batch


class Loaders(pl.LightningDataModule):
    """The batches of a data set, as Lightning asks for them."""

    def __init__(self, data: ParticleDataModule) -> None:
        super().__init__()
        self.data = data

    def prepare_data(self) -> None:
        """Make the prepared stack (one process does)."""
        self.data.prepare_data()

    def setup(self, stage: str) -> None:
        """Share the batches among the processes of this trainer."""
        self.data.trainer = self.trainer

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled training batches."""
        return self.data.train_dataloader()

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Held-out batches in order; none where nothing is held out."""
        return self.data.val_dataloader()
