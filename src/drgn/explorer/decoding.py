"""Volumes and image panels of a run, with its model kept in memory between requests."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from drgn.analysis.render import isosurface_level
from drgn.errors import InputError
from drgn.evidence.validation import dataset_of
from drgn.formats.particles import read_images
from drgn.physics.fsc import fsc, resolution_A
from drgn.physics.grids import half_lattice
from drgn.physics.imaging import multiplier, transfer
from drgn.physics.local_resolution import local_resolution
from drgn.physics.masks import soft_mask
from drgn.training.decode import decode

if TYPE_CHECKING:
    from drgn.data.dataset import ParticleDataset
    from drgn.physics.imaging import Batch
    from drgn.run import Run

PANELS = ("raw", "CTF-corrected", "low-passed", "reconstruction")
COARSE = 64  # box of the maps that are shown until the whole one is decoded
MOST_IMAGES = 72  # a tilt series has some 40, 60 at most


class Confidence(NamedTuple):
    """Local resolution in A (D, D, D), percentiles 2 and 98 of it within the surface, the window in A."""

    resolution_A: np.ndarray
    low_A: float
    high_A: float
    window_A: float


class Decoder:
    """Decodes volumes one request at a time.

    Parameters
    ----------
    run
        Its best checkpoint is read again when training has written another.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._lock = threading.Lock()
        self._read: tuple[Any, Any] = (None, None)
        self._dataset: ParticleDataset | None = None

    def volume(self, z: np.ndarray, half: int | None = None, coarse: bool = False) -> np.ndarray:
        """Volume (D, D, D) at a latent z (Z,), as drgn generate makes it; half 1 or 2 where there are any.

        A coarse one has the lower frequencies alone, those of a box of `COARSE`: at D = 128 an eighth.

        Raises
        ------
        InputError
            The run cannot decode, or z has another dimension.
        """
        if half is not None and (not self.run.halves or half not in (1, 2)):
            raise InputError(f"half={half}: this run has no such half; train with half_sets=given.")
        parts = self._parts(z, min(COARSE, self.run.box_size) if coarse else self.run.box_size)
        chosen = parts if half is None else (parts[half - 1],)
        return (sum(chosen[1:], chosen[0]) / len(chosen)).numpy()

    def confidence(self, z: np.ndarray, window_A: float | None = None) -> Confidence:
        """How far both half decoders agree around each voxel of the volume at a latent z (Z,).

        Parameters
        ----------
        z
            The latent.
        window_A
            Width of the window, see `physics.local_resolution`; None: five times the resolution to which the
            half maps agree, a third of the box at most.

        Raises
        ------
        InputError
            The run has one decoder, or its pixel size is not known.
        """
        if not self.run.halves or not np.isfinite(self.run.pixel_size_A):
            raise InputError("Local resolution needs two half maps: train with half_sets=given.")
        if window_A is not None and not 0 < window_A < self.run.box_size * self.run.pixel_size_A:
            raise InputError(f"window_A={window_A:g}: expected a length above 0 A, within the box.")
        pixel_size_A = self.run.pixel_size_A
        one, two = self._parts(z, self.run.box_size)
        mean = (one + two) / 2
        mask = soft_mask(mean, pixel_size_A)
        one, two = one * mask, two * mask
        if window_A is None:
            whole_A = resolution_A(fsc(one, two), pixel_size_A, 0.143, box_size=self.run.box_size)
            window_A = min(5 * whole_A, self.run.box_size * pixel_size_A / 3)
        found = local_resolution(one, two, pixel_size_A, window_A).numpy()
        inside = found[mean.numpy() >= isosurface_level([mean.numpy()])]
        low, high = np.percentile(inside, [2, 98])
        return Confidence(found, float(low), float(max(high, low + 0.01)), window_A)

    def _parts(self, z: np.ndarray, box_size: int) -> tuple[Tensor, ...]:
        """The volume (D, D, D) at z in a box of D, or both half maps."""
        z = np.asarray(z, np.float32)
        if z.shape != (self.run.zdim,) or not np.isfinite(z).all():
            raise InputError(f"z={z.tolist()}: expected {self.run.zdim} finite numbers.")
        with self._lock:
            if not self.run.has_images:  # of cryoDRGN
                return (torch.from_numpy(next(iter(self.run.volumes(z[None], box_size=box_size)))),)
            at = torch.from_numpy(z[None]).to(self.device)
            autocast = self.run.autocast_type(self.device)
            parts = next(decode(self._model(), at, box_size=box_size, autocast=autocast))
            return tuple(part.float().cpu() for part in parts)

    def images(self, rows: np.ndarray, lowpass_A: float) -> tuple[np.ndarray, tuple[str, ...]]:
        """Grey panels (M, panels, D, D) uint8 of particles, and the panels' names, see `PANELS`.

        The CTF-corrected image has its phases flipped and is centred; the low-passed one is that without
        frequencies above 1 / lowpass_A; the reconstruction is what the model predicts for this image, treated
        in the same way. A run of cryoDRGN has raw and low-passed images only.

        Parameters
        ----------
        rows
            (M,) rows of the table, M <= `MOST_IMAGES`.
        lowpass_A
            Resolution in Angstrom.
        """
        if not 1 <= len(rows) <= MOST_IMAGES:
            raise InputError(f"{len(rows)} images are asked for: expected 1 to {MOST_IMAGES}.")
        if not lowpass_A > 0:
            raise InputError(f"lowpass_A={lowpass_A:g}: expected a resolution above 0 A.")
        if not self.run.has_images:
            return self._of_file(rows, lowpass_A)
        with self._lock, torch.no_grad():
            if self._dataset is None:
                self._dataset = dataset_of(self.run)[0]
            batch = self._dataset[np.asarray(rows, np.int64)]
            predicted = self._model().to("cpu")(batch).image
            self._model().to(self.device)
        lattice = half_lattice(self.run.box_size, 2)
        correction, keep = _correction(batch, lattice.frequencies, lowpass_A)
        panels = [
            batch["image"],
            batch["image"] * correction,
            batch["image"] * correction * keep,
            predicted * correction * keep,
        ]
        return _grey(torch.stack([lattice.real(values) for values in panels], 1)), PANELS

    def _of_file(self, rows: np.ndarray, lowpass_A: float) -> tuple[np.ndarray, tuple[str, ...]]:
        particles = self.run.particles()
        raw = torch.from_numpy(read_images(particles, rows))
        size = raw.shape[-1]
        pixel_A = float(particles.table["pixel_size_A"].iloc[0])
        radius = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None])
        keep = radius <= pixel_A / lowpass_A if np.isfinite(pixel_A) else radius <= 0.25
        low = torch.fft.irfft2(torch.fft.rfft2(raw) * keep, s=(size, size))
        return _grey(torch.stack([raw, low], 1)), (PANELS[0], PANELS[2])

    def _model(self) -> Any:
        path = self.run.best_checkpoint
        stamp = (path, path.stat().st_mtime_ns)
        if self._read[0] != stamp:
            self._read = (stamp, self.run.model(self.device))
        return self._read[1]


def _correction(batch: Batch, frequencies: Tensor, lowpass_A: float) -> tuple[Tensor, Tensor]:
    """What flips phases and centres each image (B, P), and which frequencies (B, P) a low-pass keeps."""
    known = (frequencies, batch["pixel_size_A"], batch["ctf_parameters"])
    contrast, phase = transfer(*known, batch["shift_px"])
    contrast = contrast * multiplier(*known, batch["premultiplied"], batch["phase_flipped"])
    sign = torch.where(contrast < 0, -1.0, 1.0)
    keep = frequencies.norm(dim=1)[None] <= batch["pixel_size_A"][:, None] / lowpass_A
    return sign * phase.conj(), keep


def _grey(images: Tensor) -> np.ndarray:
    """Images (..., D, D) as grey values, three standard deviations about the mean of each."""
    mean = images.mean((-1, -2), keepdim=True)
    spread = images.std((-1, -2), keepdim=True).clamp_min(1e-12)
    return ((images - mean) / spread * (127.5 / 3) + 127.5).clamp(0, 255).to(torch.uint8).numpy()
