"""A penalty that keeps the latent from following how the images were taken."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from drgn.errors import InputError

VARIABLES = ("view", "angle", "defocus", "shift")
_HORIZON = 5000  # images that the running means look back on
_LEAST_SPREAD = 0.1  # of a dimension of the latent that is taken for one
_LEAST_VARIANCE = 1e-4  # of a feature's whitened direction, in that of the largest


class Independence(nn.Module):
    """Weight times the share of the latent's variance that nuisance variables explain, over its dimensions.

    The share is the sum of the squared correlations of the posterior's mean with white functions of the
    variables. It does not change when the latent is scaled: a covariance could be evaded by a smaller latent.
    Its gradient needs the correlation over all particles, which a batch tells badly: a running mean takes its
    place.

    Parameters
    ----------
    zdim
        Z.
    variables
        Among view (real spherical harmonics to degree 3 of the viewing direction), angle (the in-plane angle
        and its double), defocus and shift (polynomials to degree 3 and 2).
    weight
        In nats per particle, for a dimension of the latent that the variables explain altogether.

    Raises
    ------
    InputError
        A variable that is not among these, none, or a negative weight.
    """

    def __init__(self, *, zdim: int, variables: Sequence[str], weight: float) -> None:
        super().__init__()
        wrong = [name for name in variables if name not in VARIABLES]
        if wrong or not variables:
            raise InputError(f"nuisance.variables={list(variables)}: expected some of {', '.join(VARIABLES)}")
        if weight < 0:
            raise InputError(f"nuisance.weight={weight}: expected 0 or more")
        self.variables, self.weight = tuple(variables), weight
        n = sum({"view": 15, "angle": 4, "defocus": 3, "shift": 5}[name] for name in self.variables)
        self.register_buffer("scale", torch.ones(2, 2))  # of defocus and shift: mean and spread
        self.register_buffer("feature_mean", torch.zeros(n))
        self.register_buffer("whiten", torch.zeros(n, n))
        self.register_buffer("correlation", torch.zeros(zdim, n))
        self.register_buffer("latent_mean", torch.zeros(zdim))
        self.register_buffer("latent_variance", torch.ones(zdim))
        self.register_buffer("seen", torch.zeros(()))

    scale: Tensor
    feature_mean: Tensor
    whiten: Tensor
    correlation: Tensor
    latent_mean: Tensor
    latent_variance: Tensor
    seen: Tensor

    @torch.no_grad()
    def measure(self, taken: Mapping[str, Tensor]) -> None:
        """Find what makes the functions white over the particles of training, in place.

        Parameters
        ----------
        taken
            rotation (N, 3, 3), shift_px (N, 2) and ctf_parameters (N, 9), as in `Batch`.
        """
        for row, values in enumerate((_defocus_A(taken), taken["shift_px"].float())):
            self.scale[row, 0], self.scale[row, 1] = values.mean(), values.std().clamp_min(1e-3)
        raw = self._functions(taken).double()
        self.feature_mean.copy_(raw.mean(0))
        values, vectors = torch.linalg.eigh((raw - raw.mean(0)).T @ (raw - raw.mean(0)) / len(raw))
        known = values > _LEAST_VARIANCE * values[-1]
        self.whiten.copy_(vectors * torch.where(known, values.clamp_min(1e-12).rsqrt(), 0.0))

    @torch.no_grad()
    def forget(self) -> None:
        """Begin the running means anew: another latent comes."""
        self.seen.zero_()  # the first batch then replaces them

    def features(self, taken: Mapping[str, Tensor]) -> Tensor:
        """White functions (B, F) of the variables; arguments as of `measure`."""
        with torch.autocast(self.whiten.device.type, enabled=False):
            return (self._functions(taken) - self.feature_mean) @ self.whiten

    def penalty(self, mean: Tensor, features: Tensor) -> Tensor:
        """Of each image, (B,), in nats; 0 outside training, where no gradient is wanted.

        Parameters
        ----------
        mean
            (B, Z), of the posteriors.
        features
            (B, F), from `features`.
        """
        if not self.training:
            return mean.new_zeros(len(mean))
        with torch.autocast(self.whiten.device.type, enabled=False):
            mean = mean.float()
            with torch.no_grad():
                self.seen += len(mean)
                share = len(mean) / self.seen.clamp(max=max(_HORIZON, len(mean)))
                self.latent_mean.lerp_(mean.mean(0), share)
                self.latent_variance.lerp_((mean - self.latent_mean).square().mean(0), share)
                spread = self.latent_variance.clamp_min(_LEAST_SPREAD**2).sqrt()
                scaled = (mean - self.latent_mean) / spread
                self.correlation.lerp_(scaled.T @ features / len(mean), share)
                pull = features @ self.correlation.T
                radial = (scaled * pull).mean(0) / scaled.square().mean(0).clamp_min(1e-6)
            # The gradient is that of the share, with the running correlation in place of the batch's own,
            # less what would scale the whole latent: in the share that is 0, but not in its estimate.
            scaled = (mean - self.latent_mean) / spread
            along = (scaled * pull - 0.5 * radial * scaled.square()).sum(1)
            return self.weight * (self.correlation.square().sum() + 2 * (along - along.detach()))

    def _functions(self, taken: Mapping[str, Tensor]) -> Tensor:
        """The functions before they are made white, (B, F)."""
        parts = []
        rotation = taken["rotation"].float()
        for name in self.variables:
            if name == "view":
                parts += _harmonics(rotation[:, 2])
            elif name == "angle":
                axis = rotation[:, :2, 2]
                x, y = (axis / axis.norm(dim=1, keepdim=True).clamp_min(1e-6)).unbind(1)
                parts += [x, y, x * x - y * y, 2 * x * y]
            elif name == "defocus":
                d = (_defocus_A(taken) - self.scale[0, 0]) / self.scale[0, 1]
                parts += [d, d**2, d**3]
            else:
                x, y = ((taken["shift_px"].float() - self.scale[1, 0]) / self.scale[1, 1]).unbind(1)
                parts += [x, y, x * x, x * y, y * y]
        return torch.stack(parts, dim=1)


def _defocus_A(taken: Mapping[str, Tensor]) -> Tensor:
    return taken["ctf_parameters"][:, :2].float().mean(1)


def _harmonics(direction: Tensor) -> list[Tensor]:
    """Real spherical harmonics of degrees 1 to 3 at unit vectors (B, 3), up to their factors."""
    x, y, z = direction.unbind(1)
    second = [x * y, y * z, x * z, x * x - y * y, 3 * z * z - 1]
    third = [
        y * (3 * x * x - y * y),
        x * y * z,
        y * (5 * z * z - 1),
        z * (5 * z * z - 3),
        x * (5 * z * z - 1),
        z * (x * x - y * y),
        x * (x * x - 3 * y * y),
    ]
    return [x, y, z, *second, *third]
