"""Image encoders: from an image to the mean and log-variance of its latent."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from drgn.errors import InputError
from drgn.models.mlp import ResidualMLP
from drgn.physics import imaging
from drgn.physics.grids import half_lattice
from drgn.physics.slices import corners


class Observation(NamedTuple):
    """What an encoder may know of B images.

    Attributes
    ----------
    row
        (B,) int64, row of the particle table.
    group
        (B,) int64, the physical particle.
    centred
        (B, P) complex, the image centred and multiplied by its CTF, in units of the noise.
    weight
        (B, P), from `imaging.information`, CTF^2: the part of the volume's slice that `centred` holds.
    rotation
        (B, 3, 3).
    frequency_scale
        (B,) the volume's pixel over the image's, or None where they are the same.
    start
        Mean and log-variance of the latent, (B, Z) each, that the basis gives; None without one.
    """

    row: Tensor
    group: Tensor
    centred: Tensor
    weight: Tensor
    rotation: Tensor
    frequency_scale: Tensor | None = None
    start: tuple[Tensor, Tensor] | None = None


def _posterior(out: Tensor) -> tuple[Tensor, Tensor]:
    mean, logvar = out.float().chunk(2, dim=-1)
    # e^-10 .. e^4: a standard deviation of 0.007 to 7 prior widths; beyond that only overflow lies
    return mean, logvar.clamp(-10.0, 4.0)


class MLPEncoder(nn.Module):
    """Fully connected network on the image, q(z | X) with a diagonal Gaussian (P1).

    Parameters
    ----------
    amplitude
        (P,) expected signal at each frequency; the features are scaled to about 1 with it.
    zdim
        Z.
    hidden_dim, layers
        Size of the network.
    """

    def __init__(self, *, amplitude: Tensor, zdim: int, hidden_dim: int, layers: int) -> None:
        super().__init__()
        self.register_buffer("scale", (1 + amplitude.square()).rsqrt())
        self.network = ResidualMLP(
            in_dim=2 * len(amplitude), hidden_dim=hidden_dim, layers=layers, out_dim=2 * zdim
        )

    scale: Tensor

    def forward(self, seen: Observation) -> tuple[Tensor, Tensor]:
        """Mean (B, Z) and log-variance (B, Z)."""
        features = torch.view_as_real(seen.centred * self.scale)
        return _posterior(self.network(features.flatten(-2)))


class BackProjectingEncoder(nn.Module):
    """Fully connected network on the image put back where it lies in the volume.

    The low frequencies of the image and of its CTF^2 are inserted into a small grid in the frame of the
    volume. The network so sees every particle in one orientation, and how well each voxel was observed; it
    need not learn to recognise a state from every side. What it is given are the sufficient statistics of a
    voxel map of this one image.

    Parameters
    ----------
    box_size
        D of the images.
    zdim
        Z.
    hidden_dim, layers
        Size of the network.
    radius_px
        Frequencies below radius_px / D cycles per pixel are used.
    """

    def __init__(
        self, *, box_size: int, zdim: int, hidden_dim: int, layers: int, radius_px: float = 8.0
    ) -> None:
        super().__init__()
        if not radius_px > 1:  # there are no frequencies between 0 and 1
            raise InputError(f"model.encoder.radius_px={radius_px:g}: expected more than 1")
        radius_px = min(radius_px, box_size / 2)
        plane = half_lattice(box_size, 2, radius_px).frequencies
        self.grid_size = 2 * int(radius_px) + 2
        grid = half_lattice(self.grid_size, 3, radius_px)
        slots = torch.full((self.grid_size**3,), len(grid))  # one more slot takes what falls outside
        slots[grid.index] = torch.arange(len(grid))
        # what falls on the other half of the plane z = 0 belongs to its Friedel mate, conjugated
        slots[grid.mirror] = torch.arange(len(grid))
        mate = torch.ones(self.grid_size**3)
        mate[grid.mirror] = -1.0
        self.n_voxels = len(grid)
        self.register_buffer("frequencies", plane * box_size / self.grid_size)
        self.register_buffer("slots", slots)
        self.register_buffer("mate", mate)
        self.network = ResidualMLP(
            in_dim=3 * len(grid), hidden_dim=hidden_dim, layers=layers, out_dim=2 * zdim
        )

    frequencies: Tensor
    slots: Tensor
    mate: Tensor

    def features(self, seen: Observation) -> Tensor:
        """Real part, imaginary part and weight of each voxel, (B, voxels, 3)."""
        n_images, n = len(seen.row), len(self.frequencies)
        coordinates = imaging.slice_coordinates(self.frequencies, seen.rotation, seen.frequency_scale)
        where, sign = imaging.fold(coordinates)
        voxel, share = corners(where.flatten(0, 1), self.grid_size)  # (8, B n)
        values = torch.view_as_real(seen.centred[:, :n])
        samples = torch.stack([values[..., 0], values[..., 1] * sign, seen.weight[:, :n]], dim=-1)
        image = torch.arange(n_images, device=voxel.device).repeat_interleave(n)
        slot = self.slots[voxel] + image * (self.n_voxels + 1)
        volume = samples.new_zeros(n_images * (self.n_voxels + 1), 3)
        parts = share.unsqueeze(-1) * samples.flatten(0, 1)
        parts[..., 1] *= self.mate[voxel]
        volume.index_add_(0, slot.flatten(), parts.flatten(0, 1))
        return volume.unflatten(0, (n_images, -1))[:, : self.n_voxels]

    def forward(self, seen: Observation) -> tuple[Tensor, Tensor]:
        """Mean (B, Z) and log-variance (B, Z)."""
        with torch.autocast(seen.weight.device.type, enabled=False):
            features = self.features(seen)
        # a slice meets about one voxel in eight: this brings the features to about 1
        return _posterior(self.network(8.0 * features.flatten(1)))
