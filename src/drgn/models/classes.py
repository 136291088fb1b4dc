"""Classes of volumes: 3D classification at fixed poses."""

from typing import Self

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from drgn.models.basis import Basis, Packed, Statistics

_LOGVAR = -10.0  # of a latent that has no spread


class Classes(Basis):
    """As many volumes as the latent has dimensions; the latent is the probability of each class.

    Parameters
    ----------
    box_size
        D of training.
    zdim
        Z, the number of classes, at least 2.
    radius_px
        The volumes are known at frequencies below radius_px / D cycles per pixel.
    """

    def __init__(self, *, box_size: int, zdim: int, radius_px: int = 64) -> None:
        super().__init__(box_size=box_size, zdim=zdim, volumes=max(zdim, 1), radius_px=radius_px)
        self.register_buffer("share", torch.full((max(zdim, 1),), 1 / max(zdim, 1)))

    share: Tensor  # of the particles, in each class

    def encode(self, known: Statistics) -> tuple[Tensor, Tensor]:
        """Probability of each class (B, Z), and a log-variance that means none."""
        fit = 2 * known.overlap - known.gram.diagonal(dim1=1, dim2=2)
        probability = torch.softmax(fit + self.share.clamp_min(1e-6).log(), dim=1)
        return probability, torch.full_like(probability, _LOGVAR)

    def weights(self, z: Tensor | None) -> Tensor:
        """The latent itself; the one volume there is without one."""
        return self.density.new_ones(1, 1) if z is None else z

    def expected(self, known: Statistics) -> Tensor:
        """Probability of each class, (B, Z)."""
        return self.encode(known)[0]

    def moments(self, known: Packed) -> tuple[Tensor, Tensor]:
        """Each image belongs to one class: E[w] is its probabilities, E[w w^T] has them on the diagonal."""
        probability, _ = known.each(self.encode)
        self.share.copy_(probability.mean(0))
        second = known.zeros(*known.lower.shape)
        a = torch.arange(len(self.share))
        second[:, a * (a + 3) // 2] = probability
        return probability, second

    def expected_power(self) -> Tensor:
        """Each is as strong as the mean, (Z,)."""
        return torch.ones(len(self.density))

    def mean_share(self) -> Tensor:
        """The sum of all, (Z,)."""
        return torch.ones(len(self.density))

    def start(self, mean: Tensor, noise: Tensor) -> Tensor:
        """The mean with different noise, (M, Z)."""
        return mean[:, None] + noise

    def arrange(self) -> None:
        """The largest class first."""
        order = self.share.argsort(descending=True)
        self.density.copy_(self.density[order])
        self.share.copy_(self.share[order])

    def turn_onto(self, other: Self) -> None:
        """Put the classes in the order in which they resemble those of another best."""
        mine, theirs = (volumes - volumes.mean(0) for volumes in (self.low(), other.low()))
        _, order = linear_sum_assignment((theirs @ mine.T).numpy(), maximize=True)
        self.density.copy_(self.density[order])
        self.share.copy_(self.share[order])
