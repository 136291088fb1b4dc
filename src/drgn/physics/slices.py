"""Central slices of a voxel grid in Fourier space: extraction (project) and insertion (back-project)."""

import torch
from torch import Tensor

from drgn.physics import fourier


def corners(coordinates: Tensor, box_size: int) -> tuple[Tensor, Tensor]:
    """Flat indices (8, M) and trilinear weights (8, M) of the voxels around frequencies (M, 3) (x, y, z)."""
    position = coordinates * box_size + box_size // 2
    low = position.floor()
    fraction = position - low
    indices, weights = [], []
    for corner in range(8):
        bits = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2], device=coordinates.device)
        voxel = low.to(torch.int64) + bits
        weight = torch.where(bits.bool(), fraction, 1 - fraction).prod(-1)
        inside = ((voxel >= 0) & (voxel < box_size)).all(-1)
        x, y, z = voxel.clamp(0, box_size - 1).unbind(-1)
        indices.append((z * box_size + y) * box_size + x)
        weights.append(weight * inside)
    return torch.stack(indices), torch.stack(weights)


def extract(transform: Tensor, coordinates: Tensor) -> Tensor:
    """Interpolate a centred transform at arbitrary frequencies, trilinearly.

    Parameters
    ----------
    transform
        (D, D, D) complex, as `fourier.fft` gives it.
    coordinates
        (..., 3), cycles per pixel of this transform's box (x, y, z). Zero is returned outside the box.

    Returns
    -------
    Tensor
        (...) complex.
    """
    index, weight = corners(coordinates.reshape(-1, 3), transform.shape[-1])
    values = (transform.flatten()[index] * weight).sum(0)
    return values.reshape(coordinates.shape[:-1])


def insert(values: Tensor, weights: Tensor, coordinates: Tensor, box_size: int) -> tuple[Tensor, Tensor]:
    """Add samples to a grid, the adjoint of `extract`; each sample brings its Friedel mate.

    Parameters
    ----------
    values
        (M,) complex, for back-projection CTF * data.
    weights
        (M,) real, for back-projection CTF^2.
    coordinates
        (M, 3), cycles per pixel (x, y, z).
    box_size
        D of the grid.

    Returns
    -------
    tuple of Tensor
        Sum of values (D, D, D) complex and sum of weights (D, D, D) real. Their ratio is the transform.
    """
    total = values.new_zeros(box_size**3)
    total_weight = weights.new_zeros(box_size**3)
    index, weight = corners(coordinates, box_size)
    for i, w in zip(index, weight, strict=True):
        total.index_add_(0, i, values * w)
        total_weight.index_add_(0, i, weights * w)
    shape = (box_size,) * 3
    grid, grid_weight = total.reshape(shape), total_weight.reshape(shape)
    # the mate of element i lies at 2 (D // 2) - i; the first plane of an even box has none
    mated = (slice(1 - box_size % 2, None),) * 3
    grid[mated] += grid[mated].flip((0, 1, 2)).conj()
    grid_weight[mated] += grid_weight[mated].flip((0, 1, 2))
    return grid, grid_weight


def padded_transform(volume: Tensor, padding: int = 2) -> Tensor:
    """Transform of a volume (D, D, D), oversampled `padding` times and corrected for trilinear interpolation.

    Dividing by sinc^2 in real space undoes the fall-off that interpolating the transform causes. `extract`
    from the result takes frequencies in cycles per pixel divided by nothing: coordinates stay those of the
    original pixel, since padding changes the number of samples and not their spacing in real space.
    """
    return fourier.fft(fourier.pad(_corrected(volume, padding), volume.shape[-1] * padding, 3), 3)


def padded_half(volume: Tensor, padding: int, reach: int) -> Tensor:
    """The voxels with 0 <= z <= reach and |x|, |y| <= reach of `padded_transform`, no others computed.

    Parameters
    ----------
    volume
        (D, D, D), float32.
    padding
        Factor of oversampling.
    reach
        Below padding * D / 2.

    Returns
    -------
    Tensor
        (reach + 1, 2 reach + 1, 2 reach + 1) complex.
    """
    size = volume.shape[-1]
    padded = size * padding
    at = torch.arange(-reach, reach + 1, device=volume.device, dtype=torch.float64)
    centre = torch.exp(2j * torch.pi * (size // 2) / padded * at).to(torch.complex64)  # is at element D // 2
    values = torch.fft.rfft(_corrected(volume, padding), n=padded, dim=0)[: reach + 1]
    values = values * centre[reach:, None, None]
    for axis, factor in ((1, centre[:, None]), (2, centre)):
        values = torch.fft.fft(values, n=padded, dim=axis)
        parts = values.narrow(axis, padded - reach, reach), values.narrow(axis, 0, reach + 1)
        values = torch.cat(parts, dim=axis).mul_(factor)
    return values


def _corrected(volume: Tensor, padding: int) -> Tensor:
    """A volume (D, D, D) over the fall-off that interpolating its oversampled transform will cause."""
    size = volume.shape[-1]
    axis = (torch.arange(size, device=volume.device) - size // 2) / (size * padding)
    window = torch.sinc(axis).to(volume.dtype) ** 2
    return volume / (window[:, None, None] * window[None, :, None] * window[None, None, :])


def project(volume: Tensor, rotation: Tensor, padding: int = 2) -> Tensor:
    """Project a volume (D, D, D) along z after each rotation (B, 3, 3): real images (B, D, D), centred."""
    size = volume.shape[-1]
    axis = (torch.arange(size, device=volume.device, dtype=rotation.dtype) - size // 2) / size
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    plane = torch.stack([x, y], dim=-1).reshape(-1, 2)
    coordinates = plane @ rotation[:, :2, :]  # (kx, ky, 0) @ R
    values = extract(padded_transform(volume, padding), coordinates)
    return fourier.ifft(values.reshape(-1, size, size), 2).real
