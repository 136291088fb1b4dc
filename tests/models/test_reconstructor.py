"""The model with a decoder that knows the answer: what is left over is an error of the model around it."""

import pytest
import torch
from torch import nn

from drgn.models.latents import NoLatent, VAELatent
from drgn.models.losses import BetaKL
from drgn.models.poses import FixedPose
from drgn.models.reconstructor import Reconstructor
from drgn.physics import imaging
from drgn.physics.fsc import fsc
from drgn.physics.grids import half_lattice
from drgn.physics.phantoms import GaussianPhantom
from drgn.physics.rotations import random_rotations

BOX, PIXEL_A, N = 32, 4.0, 6
# no mirror plane, no axis: a wrong hand, a transposed or a reversed axis is another molecule
PHANTOM = GaussianPhantom(
    centre_A=torch.tensor([[0.0, 0, 0], [24, 4, 0], [-8, 20, 6], [4, -10, -26]], dtype=torch.float64),
    sigma_A=torch.full((4,), 8.0, dtype=torch.float64),
    weight=torch.tensor([4.0, 3.0, 2.0, 1.5], dtype=torch.float64) * 1e4,
)
LATTICE = half_lattice(BOX, 2)
# steep, so that a wrong radius or a factor forgotten is seen
AMPLITUDE = 200 * torch.exp(-6 * LATTICE.frequencies.norm(dim=1)) + 1


class Oracle(nn.Module):
    """V(k) of the phantom over the amplitude that the model multiplies with; z turns the weights up."""

    def __init__(self):
        super().__init__()
        self.model = None

    def forward(self, coordinates, z):
        flat = coordinates.reshape(-1, 3)
        assert (flat[:, 2] >= 0).all(), "a decoder is asked in the half space z >= 0 only"
        values = PHANTOM.fourier(flat.double() / PIXEL_A) / self.model[0]._amplitude_at(flat)
        if z is not None:
            values = (values.reshape(len(z), -1) * (1 + z[:, :1])).flatten()
        return torch.view_as_real(values).float().reshape(*coordinates.shape[:-1], 2)


class Guess(nn.Module):
    def forward(self, seen):
        zeros = torch.zeros(len(seen.row), 1)
        return zeros + 0.5, zeros - 30


def make(latent=None, density_scale=1.0):
    decoder = Oracle()
    latent = latent or NoLatent()
    model = Reconstructor(
        box_size=BOX,
        decoder=decoder,
        latent=latent,
        pose=FixedPose(),
        loss=BetaKL(zdim=latent.zdim),
        amplitude=AMPLITUDE,
        density_scale=density_scale,
    )
    decoder.model = [model]
    return model


@pytest.fixture
def batch():
    """Return noise-free images of the phantom: every second one multiplied by its CTF again."""
    generator = torch.Generator().manual_seed(0)
    rotation = random_rotations(N, generator)
    shift_px = 3 * torch.randn(N, 2, generator=generator, dtype=torch.float64)
    ctf = torch.tensor([15000.0, 13000.0, 30.0, 10.0, 300.0, 2.7, 0.1, 20.0, 0.9], dtype=torch.float64)
    parameters = ctf * torch.linspace(0.8, 1.2, N, dtype=torch.float64)[:, None]
    frequencies = LATTICE.frequencies.double()
    slices = PHANTOM.fourier(imaging.slice_coordinates(frequencies / PIXEL_A, rotation))
    contrast, phase = imaging.transfer(frequencies, torch.full((N,), PIXEL_A).double(), parameters, shift_px)
    premultiplied, phase_flipped = torch.arange(N) % 3 == 1, torch.arange(N) % 3 == 2
    multiplied = imaging.multiplier(
        frequencies, torch.full((N,), PIXEL_A), parameters, premultiplied, phase_flipped
    )
    return imaging.Batch(
        row=torch.arange(N),
        group=torch.arange(N),
        image=imaging.observe(slices, contrast * multiplied, phase).to(torch.complex64),
        rotation=rotation.float(),
        shift_px=shift_px.float(),
        pixel_size_A=torch.full((N,), PIXEL_A),
        ctf_parameters=parameters.float(),
        premultiplied=premultiplied,
        phase_flipped=phase_flipped,
    )


def test_the_truth_leaves_nothing(batch):
    power = batch["image"].abs().square().sum(1)
    loss = make().loss(batch)
    assert (loss.total / power).max() < 1e-7
    prediction = make()(batch)
    assert prediction.posterior is None
    error = (prediction.image - batch["image"]).abs().square().sum(1)
    assert (error / power).max() < 1e-7


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("shift_px", lambda b: -b["shift_px"]),
        ("shift_px", lambda b: b["shift_px"].flip(1)),
        ("rotation", lambda b: b["rotation"].mT),
        ("rotation", lambda b: b["rotation"] * torch.tensor([1.0, 1, -1])),
        ("image", lambda b: -b["image"]),
        ("image", lambda b: b["image"].conj()),
        ("premultiplied", lambda b: ~b["premultiplied"]),
        ("pixel_size_A", lambda b: b["pixel_size_A"] * 1.1),
        ("ctf_parameters", lambda b: b["ctf_parameters"] * torch.tensor([1.2, 1, 1, 1, 1, 1, 1, 1, 1])),
    ],
    ids=["shift sign", "shift axes", "R^T", "hand", "contrast", "inversion", "premult", "pixel", "defocus"],
)
def test_every_other_convention_is_worse(batch, name, wrong):
    right = make().loss(batch).total
    loss = make().loss({**batch, name: wrong(batch)}).total
    assert (loss > 100 * right.max()).all()


def test_noise_alone_is_one_per_frequency(batch):
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(batch["image"].shape, dtype=torch.complex64, generator=generator)
    batch["premultiplied"][:] = False
    batch["image"] = make()(batch).image + noise
    loss = make().loss(batch).reconstruction / len(LATTICE)
    torch.testing.assert_close(loss.mean(), torch.tensor(1.0), atol=0.05, rtol=0)


def test_a_latent_is_drawn_in_training_and_its_mean_otherwise(batch):
    model = make(VAELatent(encoder=Guess(), zdim=1)).eval()
    homogeneous = make()(batch).image
    torch.testing.assert_close(model(batch).image, 1.5 * homogeneous)
    assert torch.equal(model(batch).image, model(batch).image)
    model.latent.encoder = Wide()
    torch.testing.assert_close(model(batch).image, 1.5 * homogeneous)
    model.train()
    first, second = model(batch).image, model(batch).image
    assert (first - second).abs().max() > 0.01 * homogeneous.abs().max()


def test_an_encoder_is_told_what_part_of_the_slice_it_sees(batch):
    class Watching(Guess):
        def forward(self, seen):
            self.seen = seen
            return super().forward(seen)

    batch["window_A"] = torch.full((N,), BOX * PIXEL_A)
    encoder = Watching()
    make(VAELatent(encoder=encoder, zdim=1)).posterior(batch)
    slices = PHANTOM.fourier(
        imaging.slice_coordinates(LATTICE.frequencies.double() / PIXEL_A, batch["rotation"].double())
    )
    # the images have no noise: of every kind of them, what is centred is the weight times the slice
    expected = slices.to(torch.complex64) * encoder.seen.weight
    error = (encoder.seen.centred - expected).abs().square().sum(1)
    assert (error / expected.abs().square().sum(1)).max() < 1e-6


class Wide(Guess):
    def forward(self, seen):
        mean, logvar = super().forward(seen)
        return mean, torch.zeros_like(logvar)


@pytest.mark.parametrize("scale", [1.0, 0.02])
def test_the_volume_is_the_density(scale):
    volume = make(density_scale=scale).volume(None)
    truth = scale * PHANTOM.density(BOX, PIXEL_A).float()
    assert (volume - truth).abs().max() < 0.01 * truth.max()
    curve = fsc(volume, truth)
    power = fsc(truth, truth) > 0.5
    signal = torch.arange(len(curve)) / (BOX * PIXEL_A) < 1 / 20  # beyond, the phantom is below rounding
    assert (curve[1:][signal[1:] & power[1:]] > 0.9999).all()


def test_a_volume_in_another_frame_would_be_seen():
    truth = PHANTOM.density(BOX, PIXEL_A).float()
    for other in (truth.flip(0), truth.transpose(0, 2), truth.roll(1, 0), truth.flip((0, 1, 2))):
        assert (other - truth).abs().max() > 0.1 * truth.max()


def test_a_volume_at_z_is_that_of_the_latent():
    model = make(VAELatent(encoder=Guess(), zdim=1))
    torch.testing.assert_close(model.volume(torch.tensor([1.0])), 2 * make().volume(None))


def test_a_volume_is_zero_around_the_sphere():
    volume = make().volume(None)
    axis = torch.arange(BOX) - BOX // 2
    r2 = axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2
    assert volume[r2 > (BOX / 2) ** 2].mean().abs() < 1e-6 * volume.max()


def test_the_amplitude_of_a_slice_is_that_of_its_radius():
    model = make()
    turned = imaging.slice_coordinates(LATTICE.frequencies, random_rotations(1, torch.Generator()).float())
    torch.testing.assert_close(model._amplitude_at(turned[0]), AMPLITUDE)
    radius = half_lattice(BOX, 3).frequencies
    expected = 200 * torch.exp(-6 * radius.norm(dim=1)) + 1
    torch.testing.assert_close(model._amplitude_at(radius), expected, rtol=0.06, atol=0)


def test_what_is_not_modelled_is_not_in_the_volume():
    transform = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(make().volume(None))))
    axis = torch.arange(BOX) - BOX // 2
    r2 = axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2
    assert transform[r2 >= (BOX / 2) ** 2].abs().max() < 1e-6 * transform.abs().max()


def test_geometry_phases_and_ctf_stay_in_float32_under_autocast(batch):
    """Only the decoder's products may be taken in half precision: here there are none, so nothing changes."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = make()(batch)
    torch.testing.assert_close(half.image, make()(batch).image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert imaging.slice_coordinates(LATTICE.frequencies, batch["rotation"]).dtype == torch.float32
        assert (
            imaging.transfer(
                LATTICE.frequencies, batch["pixel_size_A"], batch["ctf_parameters"], batch["shift_px"]
            )[1].dtype
            == torch.complex64
        )
