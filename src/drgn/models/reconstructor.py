"""The model: latent + pose + decoder + forward model -> predicted images and their loss."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from drgn.errors import InputError
from drgn.models.basis import Basis
from drgn.models.encoders import Observation
from drgn.models.latents import Posterior, PosteriorLatent
from drgn.models.losses import Loss
from drgn.models.nuisance import Independence
from drgn.models.poses import RefinedPose, SearchedPose
from drgn.physics import fourier, imaging
from drgn.physics.grids import half_lattice
from drgn.physics.imaging import Batch, Multiplied


class Prediction(NamedTuple):
    """Model of a batch.

    Attributes
    ----------
    image
        (B, P) complex, noise-free transforms as the data would show them; P frequencies were asked for.
    posterior
        Of the latent, or None.
    residual
        (B, P) complex, whitened.
    """

    image: Tensor
    posterior: Posterior | None
    residual: Tensor


class Reconstructor(nn.Module):
    """Heterogeneous reconstruction as one module: latent x pose x decoder.

    Parameters
    ----------
    box_size
        D of training.
    decoder
        (coordinates (B, P, 3), z (B, Z) or None) -> (B, P, 2); None leaves the volumes of the basis alone.
    latent
        Observation -> Posterior or None; has `zdim`.
    pose
        (row, rotation, shift_px) -> (rotation, shift_px).
    loss
        (residual, kl, images_seen) -> Loss.
    amplitude
        (P,) expected root-mean-square of the signal's transform at each frequency of the image lattice, in
        units of the noise: the decoder's output is multiplied by it.
    density_scale
        What turns the decoder's units into the grey values of the particle images (per voxel).
    basis
        Volumes that the decoder adds to, and a first posterior that the encoder adds to; both then start as
        no addition.
    nuisance
        A penalty on a latent that follows how the images were taken.

    Raises
    ------
    InputError
        When decoder or latent need a basis and there is none; a penalty on a latent that is not trained.
    """

    def __init__(
        self,
        *,
        box_size: int,
        decoder: nn.Module | None,
        latent: nn.Module,
        pose: nn.Module,
        loss: nn.Module,
        amplitude: Tensor,
        density_scale: float = 1.0,
        basis: Basis | None = None,
        nuisance: Independence | None = None,
    ) -> None:
        super().__init__()
        self.box_size = box_size
        self.decoder = decoder
        self.latent = latent
        self.pose = pose
        self.loss_function = loss
        self.basis = basis
        self.nuisance = nuisance
        self.lattice = half_lattice(box_size, 2)
        self.register_buffer("frequencies", self.lattice.frequencies)
        self.register_buffer("amplitude", amplitude.to(torch.float32))
        self.register_buffer("density_scale", torch.tensor(float(density_scale)))
        self.place_decoder(None, None)
        if basis is None and (decoder is None or isinstance(latent, PosteriorLatent)):
            raise InputError(
                "model=linear, model=classes and latent=posterior need volumes to start from:"
                " warmstart=linear, warmstart=classes or warmstart=subspace"
            )
        if basis is None and isinstance(pose, RefinedPose):
            raise InputError(
                "pose=refine needs volumes to refine against: warmstart=subspace, linear or classes"
            )
        if nuisance is not None and (not self.zdim or isinstance(latent, PosteriorLatent)):
            raise InputError(
                "nuisance=independent needs a latent that is trained: latent=vae or latent=table, and not"
                " model=linear or model=classes"
            )
        if nuisance is not None and isinstance(pose, SearchedPose) and set(nuisance.variables) != {"defocus"}:
            raise InputError(
                "nuisance=independent needs poses that are known: with pose=search give"
                " nuisance.variables=[defocus], or train again on the poses.star that the search writes"
            )
        if basis is not None:
            self.n_known = basis.n_known(self.lattice.frequencies)
            self.n_reached = basis.n_reached(self.lattice.frequencies)
            for part in (decoder, getattr(latent, "encoder", None)):
                if part is not None:
                    start_at_zero(part)

    frequencies: Tensor
    amplitude: Tensor
    density_scale: Tensor
    turn: Tensor | None
    origin_px: Tensor | None

    @property
    def zdim(self) -> int:
        """Z, 0 for a homogeneous model."""
        return int(self.latent.zdim)  # type: ignore[arg-type]

    @property
    def bases(self) -> list[Basis]:
        """The basis, if any, in a list."""
        return [] if self.basis is None else [self.basis]

    @property
    def nuisances(self) -> list[Independence]:
        """The penalty, if any, in a list."""
        return [] if self.nuisance is None else [self.nuisance]

    def place_decoder(self, turn: Tensor | None, origin_px: Tensor | None) -> None:
        """Give the decoder a frame of its own: turned (3, 3), its origin (3,) off that of the volume.

        The volumes that it can express are the same. What it expresses first is not: a network that has seen
        nothing but noise puts most of it near its origin.
        """
        self.register_buffer("turn", turn, persistent=False)
        self.register_buffer("origin_px", origin_px, persistent=False)

    def _decoded(self, folded: Tensor, sign: Tensor, amplitude: Tensor, z: Tensor | None) -> Tensor:
        """Complex values (B, P) that the decoder gives at folded frequencies (B, P, 3)."""
        if self.decoder is None:
            return torch.zeros(folded.shape[:-1], dtype=torch.complex64, device=folded.device)
        if self.turn is None or self.origin_px is None:
            out = self.decoder(folded, z).float()
            return torch.complex(out[..., 0], out[..., 1] * sign) * amplitude
        with torch.autocast(folded.device.type, enabled=False):
            turned = folded @ self.turn
            phase = 2 * math.pi * (folded @ self.origin_px)
        out = self.decoder(turned, z).float()
        real = out[..., 0] * phase.cos() + out[..., 1] * phase.sin()
        imaginary = out[..., 1] * phase.cos() - out[..., 0] * phase.sin()
        return torch.complex(real, imaginary * sign) * amplitude

    def _transfer(self, batch: Batch, shift_px: Tensor) -> tuple[Tensor, Tensor]:
        return imaging.transfer(self.frequencies, batch["pixel_size_A"], batch["ctf_parameters"], shift_px)

    def _multiplied(self, batch: Batch) -> Multiplied:
        return imaging.multiplied(self.frequencies, batch)

    def _coordinates(self, batch: Batch, rotation: Tensor) -> Tensor:
        """Where the image's frequencies lie in the volume's transform, (B, P, 3)."""
        return imaging.slice_coordinates(self.frequencies, rotation, batch.get("frequency_scale"))

    def _known(self, folded: Tensor, sign: Tensor) -> Tensor | None:
        """Slices (B, n_known, A) of the basis, None without one."""
        if self.basis is None:
            return None
        return self.basis.slices(folded[:, : self.n_known], sign[:, : self.n_known])

    def _start(
        self,
        basis: Basis,
        known: Tensor,
        folded: Tensor,
        sign: Tensor,
        z: Tensor | None,
        pixels: Tensor | None,
    ) -> Tensor:
        """Values (B, P') that the basis gives at z, at those of the frequencies (B, P) that it reaches."""
        with torch.autocast(known.device.type, enabled=False):
            start = basis.at(known, z)
            if not basis.mean.numel():
                return start
            n = self.n_reached if pixels is None else int((pixels < self.n_reached).sum())
            rest = slice(start.shape[1], n)
            beyond = basis.slices_of_mean(folded[:, rest], sign[:, rest])
            return torch.cat([start, beyond], dim=1)

    def _infer(
        self,
        batch: Batch,
        rotation: Tensor,
        contrast: Tensor,
        phase: Tensor,
        multiplied: Multiplied,
        known: Tensor | None,
    ) -> Posterior | None:
        centred = imaging.matched_filter(batch["image"], contrast, phase, multiplied)
        weight, start = imaging.information(contrast, multiplied), None
        if self.basis is not None and known is not None and self.zdim:
            with torch.autocast(weight.device.type, enabled=False):
                n = self.n_known
                start = self.basis.encode(
                    self.basis.statistics(known, centred[:, :n], weight[:, :n], batch["group"])
                )
        return self.latent(
            Observation(
                row=batch["row"],
                group=batch["group"],
                centred=centred,
                weight=weight,
                rotation=rotation,
                frequency_scale=batch.get("frequency_scale"),
                start=start,
            )
        )

    def posterior(self, batch: Batch) -> Posterior | None:
        """Infer the latent of each image."""
        rotation, shift_px = self.pose(batch["row"], batch["rotation"], batch["shift_px"])
        known = None
        if self.basis is not None:
            known = self._known(*imaging.fold(self._coordinates(batch, rotation)))
        return self._infer(batch, rotation, *self._transfer(batch, shift_px), self._multiplied(batch), known)

    def forward(self, batch: Batch, pixels: Tensor | None = None, draw: int | None = None) -> Prediction:
        """Predict the images of a batch, with a drawn latent in training and its mean otherwise.

        Parameters
        ----------
        batch
            B images.
        pixels
            (P',) int64, ascending: which of the lattice's P frequencies are predicted; None predicts all. The
            latent is inferred from the whole image.
        draw
            Numbers the draw of latents; None draws it.
        """
        rotation, shift_px = self.pose(batch["row"], batch["rotation"], batch["shift_px"])
        contrast, phase = self._transfer(batch, shift_px)
        multiplied = self._multiplied(batch)
        folded, sign = imaging.fold(self._coordinates(batch, rotation))
        known = self._known(folded, sign)
        posterior = self._infer(batch, rotation, contrast, phase, multiplied, known)
        z = None
        if posterior is not None:
            z = posterior.sample(_number(draw)) if self.training else posterior.mean
        image, amplitude = batch["image"], self.amplitude
        if pixels is not None:
            image, contrast, phase, folded, sign = (
                part[:, pixels] for part in (image, contrast, phase, folded, sign)
            )
            multiplied = Multiplied(*(part[:, pixels] for part in multiplied))
            amplitude = amplitude[pixels]
            known = None if known is None else known[:, pixels[pixels < self.n_known]]
        if "frequency_scale" in batch:
            amplitude = self._amplitude_at(folded)
        slices = self._decoded(folded, sign, amplitude, z)
        if self.basis is not None and known is not None:
            start = self._start(self.basis, known, folded, sign, z, pixels)
            n = start.shape[1]
            slices = torch.cat([slices[:, :n] + start, slices[:, n:]], dim=1)
        return Prediction(
            image=imaging.observe(slices, contrast * multiplied.factor, phase),
            posterior=posterior,
            residual=imaging.whitened_residual(image, slices, contrast, phase, multiplied),
        )

    def loss(self, batch: Batch, images_seen: int = 0, share: float = 1.0, draw: int | None = None) -> Loss:
        """Objective of each image, (B,) parts.

        Parameters
        ----------
        batch
            B images.
        images_seen
            By the training so far.
        share
            Of the frequencies that are predicted, drawn anew each time; the loss is scaled so that its
            expectation is that of all of them.
        draw
            Numbers what is drawn; None draws it from torch's generator on the CPU.
        """
        n, draw = len(self.frequencies), _number(draw)
        pixels = drawn(n, share, torch.Generator().manual_seed(draw)) if share < 1 else None
        prediction = self(batch, pixels, draw)
        residual = prediction.residual
        if pixels is not None:
            residual = residual * (n / len(pixels)) ** 0.5
        kl = None if prediction.posterior is None else prediction.posterior.kl()
        loss: Loss = self.loss_function(residual, kl, images_seen)
        if isinstance(self.pose, RefinedPose) and (prior := self.pose.penalty()) is not None:
            loss = loss._replace(total=loss.total + prior)
        if self.nuisance is not None and prediction.posterior is not None:
            taken = cast(Mapping[str, Tensor], batch)
            penalty = self.nuisance.penalty(prediction.posterior.mean, self.nuisance.features(taken))
            loss = loss._replace(total=loss.total + penalty)
        return loss

    def volume(self, z: Tensor | None, chunk: int = 1 << 17) -> Tensor:
        """Decode one map (D, D, D) at z (Z,), or the homogeneous one at None; see `volumes`."""
        return next(self.volumes(None if z is None else z[None], chunk))

    @torch.no_grad()
    def volumes(
        self, z: Tensor | None, chunk: int = 1 << 17, box_size: int | None = None
    ) -> Iterator[Tensor]:
        """Decode maps on the whole voxel grid inside Nyquist (P9).

        Parameters
        ----------
        z
            (M, Z), or None for the one map of a homogeneous model. What does not depend on z is computed once
            for all of them; memory holds the half transforms of all.
        chunk
            Frequencies decoded at a time, of all maps together.
        box_size
            D of the maps: smaller than that of training, only the frequencies inside it are decoded.

        Yields
        ------
        Tensor
            (D, D, D) float32 density [z, y, x] in grey values of the particle images. The zero frequency
            carries no information through the CTF; it is set so that the density averages zero outside the
            inscribed sphere.
        """
        if z is not None and not len(z):
            return
        box_size = box_size or self.box_size
        lattice = half_lattice(box_size, 3)
        device = self.frequencies.device
        coordinates = lattice.frequencies.to(device) * (box_size / self.box_size)
        amplitude = self._amplitude_at(coordinates)
        latents = None if z is None else z.to(coordinates)
        n = 1 if latents is None else len(latents)
        parts, size = [], max(1, chunk // n)
        for c, a in zip(coordinates.split(size), amplitude.split(size), strict=True):
            folded, sign = imaging.fold(c)
            parts.append(self._decoded(folded.expand(n, -1, -1), sign, a, latents))
        axis = torch.arange(box_size, device=device) - box_size // 2
        r2 = axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2
        outside = r2 > (box_size / 2) ** 2
        scale = self.density_scale * (box_size / self.box_size) ** 3
        for i in range(n):
            values = torch.cat([part[i] for part in parts])
            if self.basis is not None:
                known = self.basis.transform(None if latents is None else latents[i])
                values = values + lattice.gather(fourier.crop(known, box_size, 3))
            density = lattice.real(values) * scale
            yield density - density[outside].mean()

    def _amplitude_at(self, coordinates: Tensor) -> Tensor:
        """The radial amplitude at frequencies (..., 3), from the nearest radius of the image lattice."""
        known = self.frequencies.norm(dim=1)  # ascending
        wanted = coordinates.norm(dim=-1)
        upper = torch.searchsorted(known, wanted).clamp(1, len(known) - 1)
        nearer = (wanted - known[upper - 1]) < (known[upper] - wanted)
        return self.amplitude[torch.where(nearer, upper - 1, upper)]


def loss_scale(reconstructor: Reconstructor) -> int:
    """What losses are divided by before they are minimised and shown: the frequencies of an image.

    A reconstruction loss of 1 is noise alone.
    """
    return len(reconstructor.frequencies)


def _number(draw: int | None) -> int:
    return int(torch.randint(1 << 62, ())) if draw is None else draw


def drawn(n: int, share: float, generator: torch.Generator | None = None) -> Tensor:
    """Draw a share of the frequencies 0 .. n - 1 of a lattice, ascending, each equally likely.

    One from each of equally long stretches: the lattice ascends in radius, so that every resolution has its
    share in every draw, and the loss varies less than with independent draws.
    """
    count = max(1, round(share * n))
    within = torch.rand(count, dtype=torch.float64, generator=generator)
    edges = (torch.arange(count, dtype=torch.float64) + within) * (n / count)
    return edges.long().clamp(max=n - 1)


def start_at_zero(part: nn.Module) -> None:
    """Make a network give 0 until it is trained: its last linear layer is zeroed."""
    linear = [module for module in part.modules() if isinstance(module, nn.Linear)]
    last = next((m for m in reversed(linear) if m.bias is not None), None)
    if last is not None:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
