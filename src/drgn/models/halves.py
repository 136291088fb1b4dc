"""Two reconstructors, each of the images of one half set: at any latent they decode two half maps.

What could bring noise from the images of one half into the maps of the other is not shared: decoders, the
volumes of a basis, and the encoders that look at images. What is shared are numbers too few for that, all of
them of the low-dimensional latent: the networks between the coefficients of the volumes and the latent, and a
turn of one half's volumes onto the other's (`Basis.turn_onto`).

The decoders have frames of their own. A network that has seen nothing but noise puts most of it near its
origin: in one frame two such maps would agree, or be opposite, in all shells, by chance but far beyond what
the number of voxels lets expect.

Without a basis nothing but a common encoder can make the two latents one; it is shared then, and images of
both halves are sorted by the same weights. See docs/evidence.md.
"""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from drgn.errors import InputError
from drgn.models.basis import Basis
from drgn.models.latents import Posterior, TableLatent
from drgn.models.losses import Loss
from drgn.models.nuisance import Independence
from drgn.models.reconstructor import Prediction, Reconstructor
from drgn.physics.grids import HalfLattice
from drgn.physics.imaging import Batch
from drgn.physics.rotations import random_rotations

Half = tuple[Tensor, Reconstructor, Batch]

_APART = 1 / 6  # of the box: between the origins of the decoders


class Halves(nn.Module):
    """Two reconstructors in the place of one; each image goes through that of its half alone.

    Parameters
    ----------
    one, two
        Of one configuration, built one after the other: their first weights must differ. The second takes
        over those parts of the first that both share.

    Raises
    ------
    InputError
        A latent table without a basis: nothing would make the latents of the two halves one.
    """

    def __init__(self, one: Reconstructor, two: Reconstructor) -> None:
        super().__init__()
        self.parts = nn.ModuleList([one, two])
        turns = random_rotations(2, torch.Generator().manual_seed(0)).float()
        for part, turn, side in zip((one, two), turns, (-0.5, 0.5), strict=True):
            part.place_decoder(turn, torch.full((3,), side * _APART * one.box_size / 3**0.5))
        two.pose = one.pose
        if one.basis is None or two.basis is None:
            if isinstance(one.latent, TableLatent):
                raise InputError(
                    "latent=table with half_sets needs volumes to start from, which bring the latents of the"
                    " two halves together: warmstart=subspace"
                )
            two.latent = one.latent
            return
        for name, network in one.basis.named_children():
            setattr(two.basis, name, network)
        if isinstance(one.latent, TableLatent):  # each particle has an entry of its own
            two.latent = one.latent

    @property
    def reconstructors(self) -> tuple[Reconstructor, Reconstructor]:
        """Those of half 1 and of half 2."""
        one, two = self.parts
        return cast(Reconstructor, one), cast(Reconstructor, two)

    @property
    def bases(self) -> list[Basis]:
        """Of both, none without a warm start."""
        return [basis for part in self.reconstructors for basis in part.bases]

    @property
    def nuisances(self) -> list[Independence]:
        """Of both, none without."""
        return [nuisance for part in self.reconstructors for nuisance in part.nuisances]

    @property
    def zdim(self) -> int:
        """Z, 0 for a homogeneous model."""
        return self.reconstructors[0].zdim

    @property
    def latent(self) -> nn.Module:
        """Of half 1."""
        return self.reconstructors[0].latent

    @property
    def pose(self) -> nn.Module:
        """The same for both."""
        return self.reconstructors[0].pose

    @property
    def loss_function(self) -> nn.Module:
        """The same for both."""
        return self.reconstructors[0].loss_function

    @property
    def lattice(self) -> HalfLattice:
        """Of the images."""
        return self.reconstructors[0].lattice

    @property
    def frequencies(self) -> Tensor:
        """(P, 2), as of one reconstructor."""
        return self.reconstructors[0].frequencies

    def _split(self, batch: Batch) -> tuple[list[Half], Tensor]:
        """Each half that the batch has images of, and where each image is in their concatenation, (B,)."""
        found: list[Half] = []
        for number, part in enumerate(self.reconstructors):
            part.training = self.training  # which may be set on the whole alone
            rows = torch.nonzero(batch["half"] == number).squeeze(1)
            if len(rows):
                mine = {name: value[rows] for name, value in batch.items()}  # type: ignore[index]
                found.append((rows, part, cast(Batch, mine)))
        return found, torch.cat([rows for rows, *_ in found]).argsort()

    def posterior(self, batch: Batch) -> Posterior | None:
        """Infer the latent of each image."""
        split, order = self._split(batch)
        return _together([part.posterior(mine) for _, part, mine in split], order)

    def forward(self, batch: Batch, pixels: Tensor | None = None) -> Prediction:
        """Predict the images of a batch, each by its half; arguments as of `Reconstructor.forward`."""
        split, order = self._split(batch)
        found = [part(mine, pixels) for _, part, mine in split]
        return Prediction(
            image=torch.cat([p.image for p in found])[order],
            posterior=_together([p.posterior for p in found], order),
            residual=torch.cat([p.residual for p in found])[order],
        )

    def loss(self, batch: Batch, images_seen: int = 0, share: float = 1.0) -> Loss:
        """Objective of each image under its half, (B,) parts; arguments as of `Reconstructor.loss`."""
        split, order = self._split(batch)
        # each half draws the same whether there are images of the other or not
        draws = dict(zip(self.reconstructors, torch.randint(1 << 62, (2,)).tolist(), strict=True))
        found = [part.loss(mine, images_seen, share, draws[part]) for _, part, mine in split]
        loss = Loss(*(torch.cat(parts)[order] for parts in zip(*found, strict=True)))
        if len(split) == 1 and torch.is_grad_enabled():  # other processes wait for the gradients of all
            nothing = sum((p.sum() * 0 for p in self.parameters()), loss.total.new_zeros(()))
            return loss._replace(total=loss.total + nothing)
        return loss

    def volume(self, z: Tensor | None, chunk: int = 1 << 17) -> Tensor:
        """Mean of the half maps (D, D, D) at z (Z,), or of a homogeneous model at None."""
        return next(self.volumes(None if z is None else z[None], chunk))

    def volumes(self, z: Tensor | None, chunk: int = 1 << 17) -> Iterator[Tensor]:
        """Means of the half maps; arguments as of `Reconstructor.volumes`."""
        for one, two in self.half_volumes(z, chunk):
            yield (one + two) / 2

    def half_volumes(self, z: Tensor | None, chunk: int = 1 << 17) -> Iterator[tuple[Tensor, Tensor]]:
        """Both half maps, (D, D, D) each, at every z; arguments as of `Reconstructor.volumes`."""
        one, two = self.reconstructors
        yield from zip(one.volumes(z, chunk), two.volumes(z, chunk), strict=True)


def _together(found: Sequence[Posterior | None], order: Tensor) -> Posterior | None:
    """The posteriors of the halves as that of the batch; no particle is in two halves."""
    known = [p for p in found if p is not None]
    if not known:
        return None
    offset, particles = 0, []
    for p in known:
        particles.append(p.particle + offset)
        offset += len(p.particle)  # no fewer than its particles: a count of them would wait for the device
    return Posterior(
        torch.cat([p.mean for p in known])[order],
        torch.cat([p.logvar for p in known])[order],
        torch.cat(particles)[order],
        torch.cat([p.group for p in known])[order],
    )
