"""Where a particle's rotation and shift come from."""

import torch
from torch import Tensor, nn

from drgn.errors import InputError
from drgn.physics import rotations

_DECAY, _DECAY_OF_SQUARE, _LEAST = 0.9, 0.999, 1e-12  # of Adam (Kingma and Ba, ICLR 2015)


class FixedPose(nn.Module):
    """The poses of the particle table, as a consensus refinement left them (P1)."""

    def forward(self, row: Tensor, rotation: Tensor, shift_px: Tensor) -> tuple[Tensor, Tensor]:
        """Rotation (B, 3, 3) and shift (B, 2) in pixels of particles `row` (B,), given the table's."""
        return rotation, shift_px


class RefinedPose(nn.Module):
    """The poses of the particle table, each turned and moved by what was found to be wrong with it (P12).

    The rotation is exp(turn) R, the shift is s + move. `training.refinement` finds both; they are buffers, so
    that a checkpoint holds them, all processes start with the same, and no optimiser has a state of them.

    With lr > 0 the training of the network goes on with them: the rotation is exp(t) exp(turn) R with a small
    t, and each image takes a step of Adam when a batch has it, from its own gradient alone. Moments and
    counts of the steps are buffers, too: a resumed run takes the same steps. Images that are held out take
    none.

    Parameters
    ----------
    n_particles
        N, rows of the particle table.
    prior_deg, prior_A
        Root-mean-square length of what is expected to be wrong with a rotation and a shift, at most: a
        Gaussian prior that keeps them near the table's, narrower where the images ask for less.
    lr
        Step of Adam in the training of the network, in standard deviations of the prior; 0: none.
    begin_epoch
        The first with steps, from 0; from there they fall linearly to 0 at the end of the training.

    Raises
    ------
    InputError
        A prior that is not positive, a step or an epoch that is negative.
    """

    def __init__(
        self,
        *,
        n_particles: int,
        prior_deg: float = 5.0,
        prior_A: float = 10.0,
        lr: float = 0.0,
        begin_epoch: int = 1,
    ) -> None:
        super().__init__()
        if not (prior_deg > 0 and prior_A > 0):
            raise InputError(f"pose.prior_deg={prior_deg} prior_A={prior_A}: expected numbers above 0")
        if lr < 0 or begin_epoch < 0:
            raise InputError(f"pose.lr={lr} begin_epoch={begin_epoch}: expected numbers of at least 0")
        self.prior_deg, self.prior_A = prior_deg, prior_A
        self.lr, self.begin_epoch = lr, begin_epoch
        self.register_buffer("turn", torch.zeros(n_particles, 3))
        self.register_buffer("move_px", torch.zeros(n_particles, 2))
        self.trained = (
            ("change", "mean", "square", "steps") if lr else ()
        )  # buffers with a row for each image
        for name in self.trained:
            self.register_buffer(name, torch.zeros(n_particles, 1 if name == "steps" else 5))
        if lr:
            self.register_buffer("sd", torch.ones(5))  # of the prior: radians, pixels
            self.register_buffer("seen", torch.zeros(n_particles, dtype=torch.bool), persistent=False)
        self._pending: list[tuple[Tensor, Tensor]] = []  # rows, and what is to have a gradient
        self._last: tuple[Tensor, Tensor] | None = None
        self.steps_now = False

    turn: Tensor
    move_px: Tensor
    change: Tensor
    mean: Tensor
    square: Tensor
    steps: Tensor
    sd: Tensor
    seen: Tensor

    def keep(self, rotation: Tensor, shift_px: Tensor, given: tuple[Tensor, Tensor]) -> None:
        """Take poses of all particles, (N, 3, 3) and (N, 2), that were found from those of the table."""
        self.turn.copy_(rotations.to_rotvec(rotation @ given[0].mT))
        self.move_px.copy_(shift_px.double() - given[1].double())

    def forward(self, row: Tensor, rotation: Tensor, shift_px: Tensor) -> tuple[Tensor, Tensor]:
        """Rotation (B, 3, 3) and shift (B, 2) in pixels of particles `row` (B,), given the table's."""
        self._last = None
        with torch.autocast(rotation.device.type, enabled=False):
            turned = rotations.from_rotvec(self.turn[row].to(rotation.dtype)) @ rotation
            moved = shift_px + self.move_px[row]
            if not self.lr:
                return turned, moved
            change = self.change[row]
            if self.steps_now and self.training and torch.is_grad_enabled():
                change.requires_grad_()
                self._last = row, change
                self._pending.append(self._last)
            step = change * self.sd
            return rotations.from_rotvec(step[:, :3].to(rotation.dtype)) @ turned, moved + step[:, 3:]

    def penalty(self) -> Tensor | None:
        """Minus logarithm of the prior, (B,), of the last batch where it will take a step; else None."""
        if self._last is None:
            return None
        row, change = self._last
        wrong = torch.cat([self.turn[row], self.move_px[row]], dim=1) / self.sd + change
        return 0.5 * wrong.square().sum(1)

    @torch.no_grad()
    def descend(self, share: float) -> None:
        """Take the steps of the images that were looked at since the last call, `share` of the full ones."""
        for row, change in self._pending:
            gradient = change.grad
            if gradient is None:
                continue
            good = gradient.isfinite().all(1)
            row, gradient = row[good], gradient[good]
            n = self.steps[row] + 1
            mean = _DECAY * self.mean[row] + (1 - _DECAY) * gradient
            square = _DECAY_OF_SQUARE * self.square[row] + (1 - _DECAY_OF_SQUARE) * gradient.square()
            size = (square / (1 - _DECAY_OF_SQUARE**n)).sqrt() + _LEAST
            self.change[row] -= share * self.lr * mean / (1 - _DECAY**n) / size
            self.mean[row], self.square[row], self.steps[row] = mean, square, n
            self.seen[row] = True
        self._pending.clear()

    @torch.no_grad()
    def agree(self) -> None:
        """Give all processes the rows that any has moved since the last call; the mean where several have."""
        if not self.lr:
            return
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            count = self.seen.float()
            torch.distributed.all_reduce(count)
            for name in self.trained:
                own = getattr(self, name)
                total = own * self.seen[:, None]
                torch.distributed.all_reduce(total)
                known = count > 0
                own[known] = total[known] / count[known, None]
        self.seen.zero_()


class SearchedPose(RefinedPose):
    """Poses found from the images alone; those of the particle table are not looked at.

    `training.search` finds them, `training.refinement` refines them.

    Parameters
    ----------
    n_particles
        N, rows of the particle table.
    extent
        Largest shift along x and y, in sides of the box.
    maps
        How many different things the images show: maps that are found together.
    restarts
        Times that they are begun, from other random ones; those that held-out images fit best are kept.

    Raises
    ------
    InputError
        An extent that is not from 0 to below a half, fewer than one map or start.
    """

    def __init__(self, *, n_particles: int, extent: float = 0.1, maps: int = 1, restarts: int = 2) -> None:
        super().__init__(n_particles=n_particles)
        if not 0 <= extent < 0.5:
            raise InputError(f"pose.extent={extent}: expected a share of the box, from 0 to below 0.5")
        if maps < 1 or restarts < 1:
            raise InputError(f"pose.maps={maps} restarts={restarts}: expected at least 1 of each")
        self.extent, self.maps, self.restarts = extent, maps, restarts

    def keep(self, rotation: Tensor, shift_px: Tensor, given: tuple[Tensor, Tensor]) -> None:
        """Take poses of all particles, (N, 3, 3) and (N, 2)."""
        self.turn.copy_(rotations.to_rotvec(rotation))
        self.move_px.copy_(shift_px)

    def forward(self, row: Tensor, rotation: Tensor, shift_px: Tensor) -> tuple[Tensor, Tensor]:
        """Rotation (B, 3, 3) and shift (B, 2) in pixels of particles `row` (B,)."""
        with torch.autocast(rotation.device.type, enabled=False):
            return rotations.from_rotvec(self.turn[row].to(rotation.dtype)), self.move_px[row]
