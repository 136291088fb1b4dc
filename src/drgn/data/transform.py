"""From images to the half lattice of the training box: background, window, crop and centre.

Only what is kept is computed: the rows of an image are transformed as real numbers, and of the result only
the columns inside Nyquist of the training box are transformed along y.
"""

import threading

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drgn.physics import masks
from drgn.physics.grids import half_lattice

_BLOCK_BYTES = 1 << 20  # images transformed at a time, so that they stay in the processor's cache
_LARGEST_HALF = 65504.0  # float16
_BACKGROUND = 0.9  # the background ring starts here, in half boxes


class FieldTransform:
    """Transforms of images of one box, seen through one field of view.

    Calls from several threads are safe; each thread keeps buffers of its own.

    Parameters
    ----------
    original
        Box S of the images in pixels, even or odd.
    field_px
        L: the images are cropped to it about their centre, or padded with zeros.
    box_size
        Training box D, even, at most L.
    window
        Whether to multiply by a soft round window, as wide as the smaller of S and L.

    Attributes
    ----------
    energy
        Sum of the squared window over the pixels: the variance that white noise of variance 1 has in every
        coefficient.
    """

    def __init__(self, original: int, field_px: int, box_size: int, window: bool) -> None:
        if box_size % 2 or box_size > field_px:
            raise ValueError(f"a field of {field_px} pixels cannot be cropped to {box_size}")
        self.original, self.field_px, self.box_size = original, field_px, box_size
        inside = min(original, field_px)
        taper = masks.window(inside) if window else torch.ones(inside, inside)
        self.energy = float(taper.double().square().sum())
        ring = _background_ring(original).flatten()
        self._mean = ring.float() / ring.sum()
        self._taper = taper
        self._source, self._target = _centred(original, inside), _centred(field_px, inside)
        k = (half_lattice(box_size, 2).frequencies * box_size).round().long()
        mirrored = k[:, 0] < 0  # a real image's transform is kept at x >= 0
        k = torch.where(mirrored[:, None], -k, k)
        self._index = (k[:, 0] * field_px + k[:, 1] % field_px).numpy()
        self._phase = _phase(k.sum(1), field_px // 2 / field_px).numpy()
        self._conjugate = torch.where(mirrored[:, None], torch.tensor([1.0, -1.0]), 1.0).flatten().numpy()
        self._local = threading.local()

    def prepared(
        self, images: Tensor, scale: NDArray[np.float32]
    ) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
        """Values of the half lattice, background taken away.

        Parameters
        ----------
        images
            (n, S, S) float32; what cannot be used is overwritten with zeros.
        scale
            (n,) float32 factors.

        Returns
        -------
        tuple of arrays
            (n, P, 2) float16 real and imaginary parts, and (n,) bool: False, and zeros, for an image that is
            constant, not finite, or beyond half precision.
        """
        values = torch.empty(len(images), len(self._index), 2, dtype=torch.float16)
        good = np.empty(len(images), dtype=bool)
        for part in self._blocks(len(images)):
            block = images[part]
            good[part] = usable(block)
            if not good[part].all():
                block[torch.from_numpy(~good[part])] = 0
            background = (block.flatten(1) @ self._mean)[:, None, None]
            columns = self._columns(block, background).flatten(1).numpy()
            # complex numbers are moved as units of 8 bytes
            kept = np.take(columns.view(np.float64), self._index, axis=1).view(np.complex64)
            kept *= self._phase
            kept = kept.view(np.float32)
            kept *= self._conjugate
            kept *= scale[part, None]
            good[part] &= np.maximum(kept.max(axis=1), -kept.min(axis=1)) < _LARGEST_HALF
            if not good[part].all():
                kept[~good[part]] = 0
            values[part] = torch.from_numpy(kept).unflatten(1, (-1, 2))  # numpy is slow at halving
        return values.numpy(), good

    def variances(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Variance over the background ring and over all pixels of each of (n, S, S) images, (n,) each."""
        background, everything = torch.empty(2, len(images))
        for part in self._blocks(len(images)):
            flat = images[part].flatten(1)
            difference = flat - (flat @ self._mean)[:, None]
            square = difference.square()
            background[part] = square @ self._mean
            everything[part] = square.mean(1) - difference.mean(1).square()
        return background, everything

    def downsampled(self, images: Tensor) -> Tensor:
        """Images (n, D, D) float32 of the training box, grey values kept, as `physics.fourier.downsample`."""
        size, field, half = self.box_size, self.field_px, self.box_size // 2
        nothing = torch.zeros(())
        if size == field:
            return self._placed(images, nothing).clone()
        # the origin is pixel L//2 before and D/2 after
        k = torch.arange(half)[:, None] + torch.fft.fftfreq(size, 1 / size).round()
        phase = _phase(k, field // 2 / field - 0.5) * (size / field) ** 2
        phase[:, half] = 0  # Nyquist has no partner
        out = torch.empty(len(images), size, size)
        for part in self._blocks(len(images)):
            columns = self._columns(images[part], nothing)
            kept = torch.cat([columns[..., :half], columns[..., -half:]], dim=-1) * phase
            rows = torch.fft.ifft(kept, dim=-1).transpose(1, 2)
            out[part] = torch.fft.irfft(rows, n=size, dim=-1)
        return out

    def _blocks(self, n: int) -> list[slice]:
        step = max(1, _BLOCK_BYTES // (4 * self.field_px**2))
        return [slice(start, min(start + step, n)) for start in range(0, n, step)]

    def _placed(self, block: Tensor, background: Tensor) -> Tensor:
        """Windowed images in the field (n, L, L); a buffer of this thread."""
        kept: Tensor | None = getattr(self._local, "field", None)
        if kept is None or len(kept) < len(block):  # what lies outside an image's place is 0 and stays so
            kept = self._local.field = torch.zeros(len(block), self.field_px, self.field_px)
        field = kept[: len(block)]
        inside = field[:, self._target, self._target]
        torch.sub(block[:, self._source, self._source], background, out=inside)
        inside *= self._taper
        return field

    def _columns(self, block: Tensor, background: Tensor) -> Tensor:
        """Transform (n, D/2, L) complex64 at kx = 0..D/2-1 and every ky, x first."""
        field = self._placed(block, background)
        rows = torch.fft.rfft(field, dim=-1)[..., : self.box_size // 2]
        return torch.fft.fft(rows.transpose(1, 2).contiguous(), dim=-1)


def _background_ring(box_size: int) -> Tensor:
    """Pixels (S, S) bool of the background: outside the largest circle but a tenth."""
    axis = torch.arange(box_size) - box_size // 2
    return (axis[:, None] ** 2 + axis[None, :] ** 2) > (_BACKGROUND * box_size / 2) ** 2


def usable(images: Tensor) -> NDArray[np.bool_]:
    """Which of (n, S, S) are finite and not constant, (n,) bool."""
    flat = images.flatten(1).numpy()
    low, high = flat.min(axis=1), flat.max(axis=1)  # NaN where there is one
    good: NDArray[np.bool_] = np.isfinite(low) & np.isfinite(high) & (high > low)
    return good


def _centred(size: int, inside: int) -> slice:
    """The middle `inside` of `size` pixels, origin on origin."""
    start = size // 2 - inside // 2
    return slice(start, start + inside)


def _phase(k: Tensor, turn: float) -> Tensor:
    """Factors exp(2 pi i k turn), complex64, that move the origin; k integers."""
    angle = 2 * torch.pi * turn * k.double()
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)
