"""The model: latent + pose + decoder + forward model -> predicted images and their loss."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from drgn.models.encoders import Observation
from drgn.models.latents import Posterior
from drgn.models.losses import Loss
from drgn.physics import fourier, imaging
from drgn.physics.grids import half_lattice
from drgn.physics.imaging import Batch


class Prediction(NamedTuple):
    """Model of a batch.

    Attributes
    ----------
    image
        (B, P) complex, noise-free transforms as the data would show them.
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
        (coordinates (B, P, 3), z (B, Z) or None) -> (B, P, 2).
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
    """

    def __init__(
        self,
        *,
        box_size: int,
        decoder: nn.Module,
        latent: nn.Module,
        pose: nn.Module,
        loss: nn.Module,
        amplitude: Tensor,
        density_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.box_size = box_size
        self.decoder = decoder
        self.latent = latent
        self.pose = pose
        self.loss_function = loss
        self.lattice = half_lattice(box_size, 2)
        self.register_buffer("frequencies", self.lattice.frequencies)
        self.register_buffer("amplitude", amplitude.to(torch.float32))
        self.register_buffer("density_scale", torch.tensor(float(density_scale)))

    frequencies: Tensor
    amplitude: Tensor
    density_scale: Tensor

    @property
    def zdim(self) -> int:
        """Z, 0 for a homogeneous model."""
        return int(self.latent.zdim)  # type: ignore[arg-type]

    def _slices(self, coordinates: Tensor, amplitude: Tensor, z: Tensor | None) -> Tensor:
        """Complex values (B, P) of the volume's transform."""
        folded, sign = imaging.fold(coordinates)
        out = self.decoder(folded, z).float()
        return torch.complex(out[..., 0], out[..., 1] * sign) * amplitude

    def _transfer(self, batch: Batch, shift_px: Tensor) -> tuple[Tensor, Tensor]:
        return imaging.transfer(self.frequencies, batch["pixel_size_A"], batch["ctf_parameters"], shift_px)

    def _multiplier(self, batch: Batch) -> Tensor:
        return imaging.multiplier(
            self.frequencies,
            batch["pixel_size_A"],
            batch["ctf_parameters"],
            batch["premultiplied"],
            batch["phase_flipped"],
        )

    def _infer(self, batch: Batch, rotation: Tensor, contrast: Tensor, phase: Tensor) -> Posterior | None:
        seen = Observation(
            row=batch["row"],
            group=batch["group"],
            centred=imaging.matched_filter(batch["image"], contrast, phase, self._multiplier(batch)),
            weight=contrast.square(),
            rotation=rotation,
            frequency_scale=batch.get("frequency_scale"),
        )
        return self.latent(seen)

    def posterior(self, batch: Batch) -> Posterior | None:
        """Infer the latent of each image."""
        rotation, shift_px = self.pose(batch["row"], batch["rotation"], batch["shift_px"])
        return self._infer(batch, rotation, *self._transfer(batch, shift_px))

    def forward(self, batch: Batch) -> Prediction:
        """Predict the images of a batch, with a drawn latent in training and its mean otherwise."""
        rotation, shift_px = self.pose(batch["row"], batch["rotation"], batch["shift_px"])
        contrast, phase = self._transfer(batch, shift_px)
        posterior = self._infer(batch, rotation, contrast, phase)
        z = None
        if posterior is not None:
            z = posterior.sample() if self.training else posterior.mean
        scale = batch.get("frequency_scale")
        coordinates = imaging.slice_coordinates(self.frequencies, rotation, scale)
        amplitude = self.amplitude if scale is None else self._amplitude_at(coordinates)
        slices = self._slices(coordinates, amplitude, z)
        multiplied = self._multiplier(batch)
        return Prediction(
            image=imaging.observe(slices, contrast * multiplied, phase),
            posterior=posterior,
            residual=imaging.whitened_residual(batch["image"], slices, contrast, phase, multiplied),
        )

    def loss(self, batch: Batch, images_seen: int = 0) -> Loss:
        """Objective of each image, (B,) parts."""
        prediction = self(batch)
        kl = None if prediction.posterior is None else prediction.posterior.kl()
        return self.loss_function(prediction.residual, kl, images_seen)

    @torch.no_grad()
    def volume(self, z: Tensor | None, chunk: int = 1 << 17) -> Tensor:
        """Decode one map on the whole voxel grid inside Nyquist (P9).

        Parameters
        ----------
        z
            (Z,), or None for a homogeneous model.
        chunk
            Frequencies decoded at a time.

        Returns
        -------
        Tensor
            (D, D, D) float32 density [z, y, x] in grey values of the particle images. The zero frequency
            carries no information through the CTF; it is set so that the density averages zero outside the
            inscribed sphere.
        """
        lattice = half_lattice(self.box_size, 3)
        coordinates = lattice.frequencies.to(self.frequencies.device)
        amplitude = self._amplitude_at(coordinates)
        latent = None if z is None else z[None].to(coordinates)
        values = torch.cat(
            [
                self._slices(c[None], a[None], latent)[0]
                for c, a in zip(coordinates.split(chunk), amplitude.split(chunk), strict=True)
            ]
        )
        density = fourier.ifft(lattice.scatter(values), 3).real * self.density_scale
        axis = torch.arange(self.box_size, device=density.device) - self.box_size // 2
        r2 = axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2
        return density - density[r2 > (self.box_size / 2) ** 2].mean()

    def _amplitude_at(self, coordinates: Tensor) -> Tensor:
        """The radial amplitude at frequencies (..., 3), from the nearest radius of the image lattice."""
        known = self.frequencies.norm(dim=1)  # ascending
        wanted = coordinates.norm(dim=-1)
        upper = torch.searchsorted(known, wanted).clamp(1, len(known) - 1)
        nearer = (wanted - known[upper - 1]) < (known[upper] - wanted)
        return self.amplitude[torch.where(nearer, upper - 1, upper)]
