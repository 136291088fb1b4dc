"""A run folder of cryoDRGN with the interface of our own runs: its particles, latents and maps."""

import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from drgn.data.datamodule import ParticleDataModule
from drgn.errors import InputError
from drgn.formats.cryodrgn_run import read_run
from drgn.formats.inside import require_inside
from drgn.formats.particles import Particles
from drgn.models.foreign import ForeignDecoder
from drgn.models.reconstructor import Reconstructor
from drgn.run import Run
from drgn.training.encode import Latents
from drgn.training.run_files import load


class ForeignRun(Run):
    """A cryoDRGN run at its newest epoch; what is made of it goes to drgn/ inside its folder."""

    has_images = False

    def __init__(self, path: str | Path, config: None = None, trust: Sequence[str] = ()) -> None:
        self._read = read_run(Path(path))
        super().__init__(path, self._read.config, trust)

    @cached_property
    def _decoder(self) -> ForeignDecoder | str:
        """Its decoder, or why there is none."""
        path = self._read.weights_path
        if path is None:
            return "there are no weights"
        try:
            weights = load(path)
        except InputError:
            return self._read.weights
        try:
            return ForeignDecoder(weights["model_state_dict"], self.config)
        except InputError as error:
            return f"{self._read.weights}; {error}"
        except (RuntimeError, KeyError, TypeError, ValueError, AttributeError, IndexError):
            return self._read.weights

    @property
    def decodes(self) -> bool:  # type: ignore[override]
        """Whether its weights are those of a network that is known here."""
        return isinstance(self._decoder, ForeignDecoder)

    @property
    def name(self) -> str:
        """Name of the particle file."""
        return Path(self._read.particles.source.path).stem

    @property
    def box_size(self) -> int:
        """Box of the images trained on."""
        return self._read.box_size or self._read.particles.box_size

    @property
    def pixel_size_A(self) -> float:
        """Pixel size of these images; NaN where no file says it."""
        sizes = self._read.particles.table["pixel_size_A"].unique()
        return float(sizes[0]) if len(sizes) == 1 else float("nan")

    @property
    def zdim(self) -> int:
        """Dimensions of the latent."""
        return self._read.z.shape[1]

    @property
    def trained(self) -> str:
        """When and by what, for people."""
        epoch = "the last epoch" if self._read.epoch is None else f"epoch {self._read.epoch}"
        day = str(self.config.get("time", ""))[:10]
        return ", ".join(filter(None, [day, epoch, f"cryoDRGN {self._read.version}".strip()]))

    def place(self, *parts: str) -> Path:
        """Where something of ours is, or would be: below drgn/ of the run."""
        return self.path.joinpath("drgn", *parts)

    def folder(self, *parts: str) -> Path:
        """A folder below drgn/ of the run, made where it is missing."""
        path = self.place(*parts)
        try:
            require_inside(path, self.path)
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{path} cannot be made ({error.strerror}); give output=FOLDER") from None
        return path

    def particles(self) -> Particles:
        """The particles trained on."""
        return self._read.particles

    def latents(self) -> Latents:
        """Latents of all particles; without variances and losses (NaN) where cryoDRGN did not keep them."""
        z = self._read.z
        unknown = np.full_like(z, np.nan)
        return Latents(
            key=self._read.particles.table["key"].to_numpy(str),
            z=z,
            logvar=unknown if self._read.logvar is None else self._read.logvar,
            reconstruction_loss=np.full(len(z), np.nan, np.float32),
            heldout=np.zeros(len(z), np.bool_),
        )

    def volumes(
        self, z: NDArray[np.floating[Any]], device: str = "cpu", box_size: int | None = None
    ) -> Iterator[NDArray[np.float32]]:
        """Decode a volume at each row of z (M, Z), as cryoDRGN's eval_vol does; on the CPU."""
        decoder = self._decoder
        if isinstance(decoder, str):
            self._refuse()
        at = torch.from_numpy(np.asarray(z, np.float32))
        for one in track(at, description="decoding volumes", disable=not sys.stderr.isatty()):
            yield decoder.volume(one, box_size).numpy()

    def require_maps(self, halves: bool = False) -> None:
        """Raise an InputError where its weights are not known, or half maps are asked for."""
        if halves:
            raise InputError(f"{self.path} is a run of cryoDRGN, which has no half maps")
        if not self.decodes:
            self._refuse()

    def model(self, device: str | torch.device = "cpu") -> Reconstructor:
        """Refuse: there is no model of ours."""
        self._refuse()

    @property
    def datamodule(self) -> ParticleDataModule:  # type: ignore[override]
        """Refuse: the run was not trained here."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        why = self._decoder if isinstance(self._decoder, str) else "but for its maps"
        raise InputError(
            f"{self.path} is a run of cryoDRGN, whose weights ({why}) are not read here; drgn analyze and"
            " drgn filter use its latents"
        )
