"""The forward model, in one place: central slice -> CTF -> shift -> image with noise.

Simulation, training, pose search and back-projection all use these functions; conventions in `drgn.physics`.
Shapes: B images, P frequencies of a half lattice.
"""

from typing import NamedTuple, NotRequired, TypedDict

import torch
from torch import Tensor

from drgn.physics.ctf import PARAMETERS, ctf, delocalisation_A
from drgn.physics.fourier import shift_phase
from drgn.physics.masks import overlap

_SMALL = 0.1  # of the noise of a premultiplied image: nothing is divided by less


class Batch(TypedDict):
    """B images with what is known of them.

    row: (B,) int64, row of the particle table. group: (B,) int64, the physical particle that the image shows;
    equal numbers share a latent, as the tilt images of one particle do. image: (B, P) complex64, in units of
    the noise as it was recorded. rotation: (B, 3, 3). shift_px: (B, 2), pixels of the training box.
    pixel_size_A: (B,), of the training box. ctf_parameters: (B, 9). premultiplied, phase_flipped: (B,) bool.
    frequency_scale: (B,), the volume's pixel over the image's, where some differ. window_A: (B,), width of
    the round window that the images were multiplied by, where there is one and some are premultiplied. half:
    (B,) int64, the half set, 0 or 1, where the model has halves.
    """

    row: Tensor
    group: Tensor
    image: Tensor
    rotation: Tensor
    shift_px: Tensor
    pixel_size_A: Tensor
    ctf_parameters: Tensor
    premultiplied: Tensor
    phase_flipped: Tensor
    frequency_scale: NotRequired[Tensor]
    window_A: NotRequired[Tensor]
    half: NotRequired[Tensor]


class Multiplied(NamedTuple):
    """What became of B images after they were recorded, (B, P) each.

    Attributes
    ----------
    factor
        m, what they were multiplied by.
    noise
        n, the standard deviation of what was noise of variance 1 before.
    """

    factor: Tensor
    noise: Tensor


def slice_coordinates(frequencies: Tensor, rotation: Tensor, scale: Tensor | None = None) -> Tensor:
    """Where each image's frequencies lie in the volume's transform: (kx, ky, 0) @ R (P2).

    Parameters
    ----------
    frequencies
        (P, 2), any unit.
    rotation
        (B, 3, 3).
    scale
        (B,) the volume's pixel over the image's, where they differ and frequencies are in cycles per pixel.

    Returns
    -------
    Tensor
        (B, P, 3), same unit, of the volume's pixel.
    """
    # no matrix product: autocast would take it in bfloat16, and geometry is float32 everywhere
    axes = rotation[..., :2, :] if scale is None else rotation[..., :2, :] * scale[..., None, None]
    x, y = frequencies[:, :1], frequencies[:, 1:]
    return x * axes[..., :1, :] + y * axes[..., 1:2, :]


def fold(coordinates: Tensor) -> tuple[Tensor, Tensor]:
    """Move frequencies to the half space z >= 0 by Friedel's law, V(-k) = conj V(k).

    Parameters
    ----------
    coordinates
        (..., 3).

    Returns
    -------
    tuple of Tensor
        Folded coordinates (..., 3) and the sign (...) that the imaginary part takes, +1 or -1.
    """
    sign = torch.where(coordinates[..., 2] < 0, -1.0, 1.0).to(coordinates.dtype)
    return coordinates * sign.unsqueeze(-1), sign


def transfer(
    frequencies: Tensor,
    pixel_size_A: Tensor,
    ctf_parameters: Tensor,
    shift_px: Tensor,
) -> tuple[Tensor, Tensor]:
    """CTF and shift phase of each image.

    Parameters
    ----------
    frequencies
        (P, 2), cycles per pixel.
    pixel_size_A
        (B,).
    ctf_parameters
        (B, 9), see `drgn.physics.ctf.PARAMETERS`.
    shift_px
        (B, 2).

    Returns
    -------
    tuple of Tensor
        CTF (B, P) real and phase (B, P) complex: image transform = CTF * phase * slice.
    """
    spatial = frequencies / pixel_size_A[:, None, None]
    return ctf(spatial, ctf_parameters), shift_phase(frequencies, shift_px)


def observe(slices: Tensor, contrast: Tensor, phase: Tensor) -> Tensor:
    """Apply the microscope: transform of the noise-free image (B, P) of slices (B, P)."""
    return slices * contrast * phase


def multiplier(
    frequencies: Tensor,
    pixel_size_A: Tensor,
    ctf_parameters: Tensor,
    premultiplied: Tensor,
    phase_flipped: Tensor,
) -> Tensor:
    """What was multiplied on each image after it was recorded, (B, P).

    1; for a CTF-premultiplied image (`premultiplied` (B,) bool) its CTF without envelope and scale: those
    describe what became of the signal, and programs that premultiply leave them out; for a phase-flipped one
    (`phase_flipped` (B,) bool) the sign of that CTF.
    """
    dtype = torch.promote_types(frequencies.dtype, ctf_parameters.dtype)
    # on a GPU the question would wait for all that is under way
    if not premultiplied.is_cuda and not (premultiplied | phase_flipped).any():
        return torch.ones(len(pixel_size_A), len(frequencies), dtype=dtype)
    bare = ctf_parameters.clone()
    bare[..., PARAMETERS.index("b_factor_A2")] = 0
    bare[..., PARAMETERS.index("ctf_scale")] = 1
    applied = ctf(frequencies / pixel_size_A[:, None, None], bare)
    sign = torch.where(applied < 0, -1.0, 1.0).to(applied.dtype)
    one = torch.ones((), dtype=applied.dtype, device=applied.device)
    return torch.where(premultiplied[:, None], applied, torch.where(phase_flipped[:, None], sign, one))


def multiplied(frequencies: Tensor, batch: Batch) -> Multiplied:
    """What was multiplied on the images of a batch, and what that and the window made of their noise."""
    known = batch["pixel_size_A"], batch["ctf_parameters"]
    factor = multiplier(frequencies, *known, batch["premultiplied"], batch["phase_flipped"])
    return with_noise(factor, frequencies, *known, batch["premultiplied"], batch.get("window_A"))


def with_noise(
    factor: Tensor,
    frequencies: Tensor,
    pixel_size_A: Tensor,
    ctf_parameters: Tensor,
    premultiplied: Tensor,
    window_A: Tensor | None,
) -> Multiplied:
    """Add to the factor (B, P) of `multiplier`, of the same arguments, what became of the noise.

    Noise is multiplied as the signal is. A window then spreads it along frequencies, into the zeros of the
    CTF too: its variance is m^2 = (1 - cos 2g) / 2 seen through the transform of the window, which damps the
    cosine by what the window and itself, moved as the square of the CTF moves things, have in common. Noise
    that was multiplied by a sign is as it was.

    Parameters
    ----------
    window_A
        (B,) width of the round window that images were multiplied by afterwards; None: there was none.
    """
    if window_A is None:
        return Multiplied(factor, factor.abs())
    moved_A = 2 * delocalisation_A(frequencies / pixel_size_A[:, None, None], ctf_parameters)
    kept = overlap(moved_A / window_A[:, None])
    spread = (kept * factor.square() + (1 - kept) / 2).sqrt()
    return Multiplied(factor, torch.where(premultiplied[:, None], spread, 1.0))


def whitened_residual(
    image: Tensor, slices: Tensor, contrast: Tensor, phase: Tensor, multiplied: Multiplied
) -> Tensor:
    """Difference of data and model in units of the noise, (B, P) complex.

    The image is m * (contrast * slice + noise): it is divided by what the noise is then, except where that
    vanishes and the image carries nothing.

    Parameters
    ----------
    image
        (B, P) complex transforms of the data, data_sign applied, noise variance 1 before multiplication.
    slices
        (B, P) complex, centred model slices.
    contrast, phase
        From `transfer`.
    multiplied
        From the function of that name.
    """
    factor, noise = multiplied
    return (image - observe(slices, contrast * factor, phase)) / noise.clamp_min(_SMALL)


def matched_filter(image: Tensor, contrast: Tensor, phase: Tensor, multiplied: Multiplied) -> Tensor:
    """Centre the image and multiply it by its CTF, (B, P): what back-projection adds and an encoder sees.

    Arguments as of `whitened_residual`.
    """
    factor, noise = multiplied
    return image * contrast * factor / noise.clamp_min(_SMALL).square() * phase.conj()


def information(contrast: Tensor, multiplied: Multiplied) -> Tensor:
    """What a slice of 1 has become in units of the noise, squared, (B, P): c^2 in an image as recorded.

    The weight of an image in back-projection; `matched_filter` of an image without noise is this times its
    slice.
    """
    factor, noise = multiplied
    return (contrast * (factor / noise.clamp_min(_SMALL))).square()
