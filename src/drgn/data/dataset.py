"""Batches of prepared images with their poses and CTF, and the order they come in."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from drgn.data.prepared import PreparedStack
from drgn.errors import InputError
from drgn.formats.particles import Particles
from drgn.physics import imaging
from drgn.physics.ctf import PARAMETERS
from drgn.physics.imaging import Batch


class ParticleDataset(Dataset[Batch]):
    """Indexed by an array of rows, not by one: each item is a whole batch (see `models.reconstructor.Batch`).

    Parameters
    ----------
    particles
        The table.
    stack
        Its prepared stack, in the same order.
    """

    def __init__(self, particles: Particles, stack: PreparedStack) -> None:
        if particles.rotation is None:
            raise InputError(
                f"{particles.source.path} has no poses: expected angles in the file, or a cryoDRGN poses.pkl"
                " given as dataset.poses="
            )
        table = particles.table
        self.stack = stack
        self.rotation = torch.from_numpy(particles.rotation.astype(np.float32))
        shift_A = table[["shift_x_A", "shift_y_A"]].to_numpy(np.float64)
        self.shift_px = torch.from_numpy(np.nan_to_num(shift_A) / stack.meta.pixel_size_A).float()
        if particles.has_ctf:
            parameters = table[list(PARAMETERS)].to_numpy(np.float64)
        else:  # images without CTF are images with CTF 1: amplitude contrast alone, at no defocus
            parameters = np.tile([0.0, 0.0, 0.0, 0.0, 300.0, 0.0, 1.0, 0.0, 1.0], (len(table), 1))
        self.ctf_parameters = torch.tensor(parameters, dtype=torch.float32)
        self.premultiplied = torch.from_numpy(table["ctf_premultiplied"].to_numpy(bool).copy())

    def __len__(self) -> int:
        return self.stack.meta.n

    def __getitem__(self, rows: NDArray[np.int64]) -> Batch:
        index = torch.from_numpy(rows)
        return Batch(
            row=index,
            image=self.stack.read(rows),
            rotation=self.rotation[index],
            shift_px=self.shift_px[index],
            pixel_size_A=torch.full((len(rows),), self.stack.meta.pixel_size_A),
            ctf_parameters=self.ctf_parameters[index],
            premultiplied=self.premultiplied[index],
        )

    def signal_amplitude(self, rows: NDArray[np.int64], limit: int = 2000) -> Tensor:
        """Expected root-mean-square of the volume's transform at each frequency of the image lattice, (P,).

        From the power of up to `limit` images by shells, less the noise (1), divided by the mean CTF^2.
        """
        chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), limit)).astype(np.int64))]
        frequencies = self.stack.lattice.frequencies
        shell = (frequencies.norm(dim=1) * self.stack.meta.box_size).round().long()
        power, transfer = torch.zeros(2, len(frequencies), dtype=torch.float64)
        for part in np.array_split(chosen, max(1, len(chosen) // 256)):
            batch = self[part]
            contrast, _ = imaging.transfer(
                frequencies, batch["pixel_size_A"], batch["ctf_parameters"], batch["shift_px"]
            )
            image = batch["image"].abs().square()
            c2 = contrast.square()
            # a premultiplied image has the noise CTF^2 and the signal CTF^2 CTF^2: divide both by CTF^2
            image = torch.where(batch["premultiplied"][:, None], image / (c2 + 0.01), image)
            power += image.double().sum(0)
            transfer += c2.double().sum(0)

        def shell_mean(values: Tensor) -> Tensor:
            total = torch.zeros(int(shell.max()) + 1, dtype=torch.float64).index_add_(0, shell, values)
            return (total / torch.bincount(shell).clamp(min=1))[shell] / len(chosen)

        signal = (shell_mean(power) - 1).clamp(min=1e-3) / shell_mean(transfer).clamp(min=1e-3)
        return signal.sqrt().float()


class Batches(Sampler[NDArray[np.int64]]):
    """Shuffled batches, the same for the same seed and epoch; each process of a run takes its share.

    Parameters
    ----------
    rows
        What to draw from.
    batch_size
        Rows per batch; the last batch is smaller.
    seed
        Of the order; None keeps the order of `rows`.
    rank, world_size
        This process, and how many there are. All get equally many batches.
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        batch_size: int,
        seed: int | None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        share = -(-len(self.rows) // self.world_size)
        return -(-share // self.batch_size)

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        rows = self.rows
        if self.seed is not None:
            rows = np.random.default_rng([self.seed, self.epoch]).permutation(rows)
        share = -(-len(rows) // self.world_size)
        mine = np.resize(rows, share * self.world_size)[self.rank :: self.world_size]
        for start in range(0, len(mine), self.batch_size):
            yield mine[start : start + self.batch_size]
