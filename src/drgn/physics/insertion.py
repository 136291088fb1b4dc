"""Images inserted into a volume by torch, for a GPU; `voxels.add_images` is the same, compiled for a CPU."""

import torch
from torch import Tensor


def add_images(
    right: Tensor, left: Tensor, rotation: Tensor, coordinates: Tensor, centred: Tensor, weight: Tensor
) -> None:
    """Add images to the sums of one volume, on the device of its tensors.

    Parameters
    ----------
    right, left
        Half grids (z, y, x, 2) and (z, y, x, 1), see `voxels.half_grid`: gain c y and c^2.
    rotation
        (B, 3, 3).
    coordinates
        (P, 2), of the image's frequencies, in voxels.
    centred
        (B, P) complex, c y, from `imaging.matched_filter`.
    weight
        (B, P), c^2.
    """
    depth, side = right.shape[0], right.shape[1]
    place = (coordinates @ rotation[:, :2]).reshape(-1, 3)
    below = place[:, 2] < 0  # the half below z = 0 is that of the Friedel mates
    place = torch.where(below[:, None], -place, place)
    place = place + place.new_tensor([side // 2 - 1, side // 2 - 1, 0])
    low = place.floor()
    beyond = place - low
    x, y, z = low.long().unbind(-1)
    values = torch.view_as_real(torch.where(below, centred.reshape(-1).conj(), centred.reshape(-1)))
    values = torch.cat([values, weight.reshape(-1, 1)], dim=1)
    for corner in range(8):
        bits = corner & 1, corner >> 1 & 1, corner >> 2
        share = torch.ones_like(weight.reshape(-1))
        for axis, bit in enumerate(bits):
            share = share * (beyond[:, axis] if bit else 1 - beyond[:, axis])
        voxel = ((z + bits[2]) * side + y + bits[1]) * side + x + bits[0]
        added = share[:, None] * values
        right.view(depth * side * side, 2).index_add_(0, voxel, added[:, :2])
        left.view(depth * side * side, 1).index_add_(0, voxel, added[:, 2:])
