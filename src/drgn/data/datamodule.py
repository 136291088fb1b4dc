"""A particle file becomes training, held-out and complete batches (`training.loaders`: for Lightning)."""

import json
import sys
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from drgn.data.building import Cost
from drgn.data.dataset import Batches, ParticleDataset, require_poses
from drgn.data.fields import default_box_size, fields_of, require_box_size
from drgn.data.halves import halves_of, require_whole_particles
from drgn.data.preflight import Report, digest, preflight, require_sound
from drgn.data.prepared import PreparedStack, cost, prepare
from drgn.data.progress import CheckProgress, PrepareProgress
from drgn.data.readers import leave_signals
from drgn.errors import InputError, say
from drgn.formats.atomic import replacing
from drgn.formats.memory import give_back
from drgn.formats.mrc import read_cubic
from drgn.formats.particles import Particles
from drgn.formats.table import codes_of
from drgn.physics.imaging import Batch

_EVALUATED_PX = 1 << 18  # of the images of a batch that is not trained on


class ParticleDataModule:
    """Particles with poses, as batches.

    Parameters
    ----------
    name
        Names the data set in the run folder.
    particles
        .star, .cs, .mrcs or .txt.
    poses, ctf, datadir, indices, pixel_size_A, data_sign, ctf_premultiplied, phase_flipped, passthrough,
    transpose_rotations, mirror_images, mirror_map, shift_factor
        As in `formats.particles.Particles.from_file`.
    preflight
        Check poses and conventions against the images before they are first used.
    consensus
        The map of the refinement that gave the poses, which tells the sign and the hand.
    box_size
        Training box in pixels; None keeps the box of the images.
    window
        Soft round window on the images.
    batch_size
        Images per step and process.
    shards
        Stretches of the prepared stack that every batch is drawn from in equal parts; with as many as there
        are processes, each process reads its own alone.
    heldout_fraction
        Share of the particles never trained on. Images of one physical particle stay together.
    seed
        Of the split and of the order.
    cache
        Folder of the prepared stacks.
    workers
        Processes that read batches; 0 reads in the training process, which a memory map makes fast enough.
    download
        What to tell a person whose particle file is not there.
    half_sets
        Say the half set of each image: "given", that of the particle file where it has any, else drawn;
        "random", drawn by physical particle. None: batches have none.
    """

    def __init__(
        self,
        *,
        name: str,
        particles: Path,
        poses: Path | None = None,
        ctf: Path | None = None,
        datadir: Path | None = None,
        indices: Path | None = None,
        pixel_size_A: float | None = None,
        data_sign: float | None = None,
        ctf_premultiplied: bool | None = None,
        phase_flipped: bool | None = None,
        passthrough: Path | None = None,
        transpose_rotations: bool = False,
        mirror_images: bool = False,
        mirror_map: bool = False,
        shift_factor: float = 1.0,
        preflight: bool = True,
        consensus: Path | None = None,
        box_size: int | None = None,
        window: bool = True,
        batch_size: int = 8,
        shards: int = 1,
        heldout_fraction: float = 0.05,
        seed: int = 0,
        cache: Path = Path("outputs/prepared"),
        workers: int = 0,
        download: str | None = None,
        half_sets: Literal["given", "random"] | None = None,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"dataset.batch_size={batch_size}: expected at least 1")
        if shards < 1:
            raise InputError(f"dataset.shards={shards}: expected at least 1")
        if not 0 <= heldout_fraction < 1:
            raise InputError(
                f"dataset.heldout_fraction={heldout_fraction}: expected a share from 0 to below 1"
            )
        self.name, self.batch_size, self.seed, self.workers = name, batch_size, seed, workers
        self.shards = shards
        self.window, self.cache, self.heldout_fraction = window, cache, heldout_fraction
        self._box_size, self._download, self._path = box_size, download, particles
        self.half_sets: Literal["given", "random"] | None = half_sets
        self._options = {
            "poses": poses,
            "ctf": ctf,
            "datadir": datadir,
            "indices": indices,
            "pixel_size_A": pixel_size_A,
            "data_sign": data_sign,
            "ctf_premultiplied": ctf_premultiplied,
            "phase_flipped": phase_flipped,
            "passthrough": passthrough,
            "transpose_rotations": transpose_rotations,
            "mirror_images": mirror_images,
            "mirror_map": mirror_map,
            "shift_factor": shift_factor,
        }
        self._preflight, self._consensus = preflight, consensus
        self.images_at_once = 1 << 30  # that the memory holds in a step
        self.posed = True  # False where poses are searched: then those of the table are not looked at
        self.trainer: Any = None  # Lightning's, while it trains: says how many processes share the batches

    @cached_property
    def particles(self) -> Particles:
        """The particle table; the columns that are not in it are left in the file."""
        if self._download is not None and not self._path.exists():
            raise InputError(f"{self._path} is not there: {self._download}")
        particles = Particles.from_file(self._path, **self._options).leaving_rows()  # type: ignore[arg-type]
        give_back()
        return particles

    @cached_property
    def box_size(self) -> int:
        """Training box in pixels; by default the largest even one that no image has to be enlarged for."""
        fields, _ = fields_of(self.particles)
        box_size = self._box_size if self._box_size is not None else default_box_size(fields)
        require_box_size(box_size, fields)
        return box_size

    @property
    def evaluated_at_once(self) -> int:
        """Images in a batch that is not trained on: without gradients, more of small ones cost nothing."""
        small = min(64, _EVALUATED_PX // self.box_size**2)
        return min(max(self.batch_size, small), self.images_at_once)

    def prepare_data(self) -> None:
        """Make the prepared stack where it is not there yet (one process does)."""
        self.check()
        self.prepare()

    def check(self) -> None:
        """Refuse particles that cannot be trained on, not after an hour of preparing."""
        if self.posed:
            require_poses(self.particles)
        if not self.particles.has_ctf:
            say(
                f"{self._path} gives no defocus: its images are taken as projections without a CTF; where"
                " they have one, add its columns to the file, or give dataset.ctf=FILE",
                file=sys.stderr,
            )
        if self.posed and self._preflight:
            self.preflight()

    def preflight(self, anew: bool = False) -> Report | None:
        """Check poses and conventions against the images, once for the same ones; see `data.preflight`.

        Parameters
        ----------
        anew
            Also where they were found sound before.

        Returns
        -------
        Report or None
            None where these poses and images were found sound before.

        Raises
        ------
        InputError
            Another reading of the file fits the images better.
        """
        self.particles.require_images()
        record = self.cache / "preflight" / f"{digest(self.particles, str(self._consensus))}.json"
        if record.is_file() and not anew:
            return None
        consensus = None
        if self._consensus is not None:
            volume, pixel_A, _ = read_cubic(self._consensus)
            consensus = (torch.from_numpy(volume), pixel_A)
        with CheckProgress("preflight") as shown:
            report = preflight(
                self.particles, consensus=consensus, settings=self._options, progress=shown.update
            )
        for line in report.lines():
            say(line, file=sys.stderr)
        require_sound(report, str(self._path))
        with replacing(record) as temporary:
            temporary.write_text(json.dumps(asdict(report)))
        return report

    def cost(self) -> Cost | None:
        """What making the prepared stack would take; None where it is there."""
        return cost(self.particles, box_size=self.box_size, window=self.window, cache=self.cache)

    def prepare(self) -> PreparedStack:
        """Open the prepared stack, making it where it is not there yet, with or without poses."""
        with PrepareProgress() as shown:
            stack = prepare(
                self.particles,
                box_size=self.box_size,
                window=self.window,
                cache=self.cache,
                say=shown.say,
                progress=shown.update,
            )
        give_back()
        return stack

    @cached_property
    def dataset(self) -> ParticleDataset:
        """The batches of the whole table; the stack must be prepared."""
        dataset = ParticleDataset(self.particles, self.prepare(), self.posed)
        if self.half_sets is not None:
            group, usable = dataset.group.numpy(), ~dataset.rejected
            half = halves_of(self.particles, group, usable, self.half_sets, self.seed)
            require_whole_particles(self.particles, group, half, usable)
            dataset.half = torch.from_numpy(half)
        give_back()
        return dataset

    @cached_property
    def rejected(self) -> list[str]:
        """Keys of the particles whose image is constant or not finite."""
        return self.particles.table["key"][self.dataset.rejected].tolist()

    @cached_property
    def heldout(self) -> NDArray[np.bool_]:
        """Which rows are held out, (N,)."""
        # groups in the order of their names: the same split for every order of the table
        group_of_row, n_groups = codes_of(self.particles.table["group"])
        count = round(self.heldout_fraction * n_groups)
        chosen = np.zeros(n_groups, dtype=bool)
        chosen[np.random.default_rng([self.seed, 1]).permutation(n_groups)[:count]] = True
        heldout: NDArray[np.bool_] = chosen[group_of_row]
        return heldout

    def rows(self, heldout: bool) -> NDArray[np.int64]:
        """Rows of the held-out or of the training particles, rejected ones left out."""
        rows = np.flatnonzero(~self.dataset.rejected & (self.heldout == heldout))
        if not heldout and len(rows) == 0:
            raise InputError(f"{self._path}: no usable image is left for training")
        if not heldout and self.dataset.half is not None:
            n = np.bincount(self.dataset.half.numpy()[rows], minlength=2)
            if n.min() == 0:
                raise InputError(
                    f"{self._path}: no image of half set {n.argmin() + 1} is left for training; take fewer"
                    f" away with dataset.heldout_fraction={self.heldout_fraction:g}"
                )
        return rows

    def _loader(self, rows: NDArray[np.int64], seed: int | None) -> DataLoader[Batch]:
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        size = self.batch_size if seed is not None else self.evaluated_at_once
        group = self.dataset.group.numpy()[rows]
        split_up: dict[str, int] = {}
        if seed is not None and trainer:
            shards = self._require_shards(len(np.unique(group)), world)
            split_up = {"pieces": trainer.accumulate_grad_batches, "shards": shards}
        sampler = Batches(
            rows, group, size * world, seed, rank, world, **split_up, will_need=self.dataset.will_need
        )
        give_back()
        return DataLoader(
            self.dataset,
            batch_size=None,
            sampler=sampler,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            worker_init_fn=leave_signals if self.workers else None,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
        )

    def _require_shards(self, n_particles: int, world_size: int) -> int:
        if self.shards > n_particles or (world_size > 1 and self.shards not in (1, world_size)):
            raise InputError(
                f"dataset.shards={self.shards}: expected 1, or the number of processes, {world_size}, and no"
                f" more than the {n_particles} particles that are trained on"
            )
        return self.shards

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled training batches."""
        return self._loader(self.rows(heldout=False), self.seed)

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Held-out batches in order; none where nothing is held out."""
        rows = self.rows(heldout=True)
        return self._loader(rows, None) if len(rows) else []

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Every usable row of the table in order; of a trainer with several processes, this one's share."""
        return self._loader(np.flatnonzero(~self.dataset.rejected), None)
