"""CTF-premultiplied and phase-flipped images from a prepared stack: noise, weights and grey values."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from drgn.data.backprojection import reconstruct
from drgn.data.dataset import ParticleDataset
from drgn.data.halves import Reading, Sample, cross_score
from drgn.data.matched import matched
from drgn.data.prepared import prepare
from drgn.formats.mrc import StackWriter
from drgn.physics import fourier, imaging
from drgn.physics.ctf import PARAMETERS
from drgn.physics.fsc import fsc
from drgn.physics.grids import shells
from drgn.physics.phantoms import toy_molecule
from drgn.physics.rotations import random_rotations

N, BOX, PIXEL_A = 240, 32, 6.0
FLAG = {"premultiplied": "ctf_premultiplied", "flipped": "phase_flipped"}


def frequencies_of(size):
    axis = (torch.arange(size) - size // 2) / size
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


@pytest.fixture
def treated(make_particles, tmp_path):
    """(treatment, recorded images (N, S, S)) -> particles: treated in their box S, then cropped to BOX."""

    def make(treatment, images, rotation=None):
        n, size = len(images), images.shape[-1]
        defocus = np.random.default_rng(1).uniform(8000, 25000, n)
        particles = make_particles(np.zeros((n, BOX, BOX)), rlnDefocusU=defocus, rlnDefocusV=defocus)
        particles.table["pixel_size_A"] = PIXEL_A
        values = fourier.fft(images, 2) * factor(particles, size, treatment)
        start = size // 2 - BOX // 2
        cropped = fourier.ifft(values, 2).real[:, start : start + BOX, start : start + BOX]
        with StackWriter(tmp_path / f"{treatment}.mrcs", n, BOX, PIXEL_A) as stack:
            stack.write(cropped.float().numpy())
        columns = {name: treatment == key for key, name in FLAG.items()}
        table = particles.table.assign(image_path=str(tmp_path / f"{treatment}.mrcs"), **columns)
        rotation = particles.rotation if rotation is None else rotation.numpy()
        return replace(particles, table=table, rotation=rotation)

    return make


def factor(particles, size, treatment):
    """What each image is multiplied by, (N, S, S)."""
    n = len(particles)
    parameters = torch.tensor(particles.table[list(PARAMETERS)].to_numpy(), dtype=torch.float32)
    flags = (torch.full((n,), treatment == kind) for kind in ("premultiplied", "flipped"))
    pixel_A = torch.full((n,), PIXEL_A)
    return imaging.multiplier(frequencies_of(size), pixel_A, parameters, *flags).reshape(n, size, size)


def recorded_noise(size, std=5.0):
    return std * torch.randn(N, size, size, generator=torch.Generator().manual_seed(0))


def dataset_of(particles, cache, window=True):
    return ParticleDataset(particles, prepare(particles, box_size=BOX, window=window, cache=cache))


def whitened(dataset):
    """Squares of the residual of nothing (N, P), |CTF| (N, P) and the shell of each frequency (P,)."""
    batch, frequencies = dataset[np.arange(len(dataset))], dataset.stack.lattice.frequencies
    known = frequencies, batch["pixel_size_A"], batch["ctf_parameters"]
    contrast, phase = imaging.transfer(*known, batch["shift_px"])
    nothing = torch.zeros_like(batch["image"])
    multiplied = imaging.multiplied(frequencies, batch)
    residual = imaging.whitened_residual(batch["image"], nothing, contrast, phase, multiplied)
    return residual.abs().square(), contrast.abs(), (frequencies.norm(dim=1) * BOX).round().long()


@pytest.mark.parametrize(
    ("treatment", "size", "window"),
    [
        ("ordinary", BOX, True),
        ("premultiplied", 2 * BOX, True),
        ("premultiplied", BOX, True),
        ("premultiplied", BOX, False),
        ("flipped", BOX, True),
    ],
)
def test_noise_has_variance_one_whatever_was_multiplied_on_it(treated, tmp_path, treatment, size, window):
    particles = treated(treatment, recorded_noise(size))
    dataset = dataset_of(particles, tmp_path / "prepared", window)
    square, contrast, shell = whitened(dataset)
    own_box = treatment == "premultiplied" and size == BOX  # what leaves it comes back on the other side
    assert square.mean().item() == pytest.approx(1, abs=0.06 if own_box else 0.02)
    for low, high in ((0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1)):
        band = square[(contrast >= low) & (contrast < high)].mean().item()
        assert band < 1.15
        assert own_box or band > 0.9
    for number in range(1, BOX // 2):
        assert square[:, shell == number].mean() < 1.35
    amplitude = dataset.signal_amplitude(np.arange(N))
    assert amplitude.median() < 0.3  # of pure noise; in units of the noise after the CTF it was 1.1


def molecule():
    """Transforms of images of the toy molecule (N, 2 BOX, 2 BOX), their rotations, and its map (D, D, D)."""
    phantom, size = toy_molecule(0.5, True), 2 * BOX
    rotation = random_rotations(N, torch.Generator().manual_seed(2))
    frequencies = frequencies_of(size).double() / PIXEL_A
    slices = torch.stack([phantom.fourier(imaging.slice_coordinates(frequencies, one)) for one in rotation])
    return slices.reshape(N, size, size), rotation, phantom.density(BOX, PIXEL_A)


@pytest.fixture
def three(treated, make_particles):
    """Particles of the same images by treatment, their map, at a signal-to-noise ratio."""

    def make(snr):
        slices, rotation, density = molecule()
        found = {}
        for treatment in ("ordinary", "premultiplied", "flipped"):
            blank = treated(treatment, torch.zeros(N, 2 * BOX, 2 * BOX), rotation)
            ctf = factor(blank, 2 * BOX, "premultiplied")
            images = fourier.ifft(slices * ctf, 2).real.float()
            noise = recorded_noise(2 * BOX, float(images.std()) / snr**0.5)
            found[treatment] = treated(treatment, images + noise, rotation)
        return found, density

    return make


def slope(found, density, low, high):
    """How strong a map is, of what the true one has between two shells."""
    shell = shells(BOX, 3)
    inside = (shell >= low) & (shell < high)
    one, true = (fourier.fft(volume.double(), 3)[inside] for volume in (found, density))
    return ((one * true.conj()).real.sum() / true.abs().square().sum()).item()


def test_all_give_the_same_map_in_the_grey_values_of_what_was_recorded(three, tmp_path):
    found, density = three(snr=0.5)
    halves = np.arange(0, N, 2), np.arange(1, N, 2)
    curves, slopes, gains, ours = {}, {}, {}, {}
    for treatment, particles in found.items():
        dataset = dataset_of(particles, tmp_path / "prepared")
        maps = reconstruct(dataset, halves, np.eye(3)[None], 2, lambda said: None)
        curves[treatment] = fsc(maps.density.double(), density.double())[1:12].mean().item()
        slopes[treatment] = slope(maps.halves[0], density, 1, 6)
        sample = Sample(particles, np.arange(N), BOX)
        reading = Reading(torch.from_numpy(particles.rotation).float(), torch.zeros(N, 2), torch.arange(N))
        score, (half, _) = cross_score(sample, reading)
        gains[treatment] = score.mean().item()
        ours[treatment] = slope(half.density, density, 1, 3)
    assert curves["premultiplied"] > curves["ordinary"] - 0.01
    assert curves["flipped"] > curves["ordinary"] - 0.01
    assert slopes == pytest.approx(dict.fromkeys(slopes, slopes["ordinary"]), rel=0.05)
    assert gains == pytest.approx(dict.fromkeys(gains, gains["ordinary"]), rel=0.1)
    assert ours == pytest.approx(dict.fromkeys(ours, ours["ordinary"]), rel=0.1)


@pytest.mark.parametrize("amplitude_contrast", [0.07, 0.1])
@pytest.mark.parametrize("window", [True, False])
def test_the_weight_of_an_image_is_what_its_signal_was_weighted_by(
    treated, tmp_path, amplitude_contrast, window
):
    particles = treated("premultiplied", recorded_noise(BOX))
    table = particles.table.assign(amplitude_contrast=amplitude_contrast, shift_x_A=3.0)
    dataset = dataset_of(replace(particles, table=table), tmp_path / "prepared", window)
    batch, frequencies = dataset[np.arange(N)], dataset.stack.lattice.frequencies
    known = frequencies, batch["pixel_size_A"], batch["ctf_parameters"]
    contrast, phase = imaging.transfer(*known, batch["shift_px"])
    batch["image"] = contrast.square() * phase  # a slice of 1
    centred, weight = matched(batch, frequencies)
    torch.testing.assert_close(centred.real, weight)
    assert (contrast.abs() < 0.1).sum() > 1000  # where plain CTF^2 is far from it


def test_the_noise_that_is_kept_is_that_of_each_optics_group(treated, tmp_path):
    images = recorded_noise(BOX)
    images[::2] *= 3
    particles = treated("premultiplied", images)
    names = np.where(np.arange(N) % 2, "a", "b")
    table = particles.table.assign(optics_group=names)
    table["optics_group"] = table["optics_group"].astype("category")
    dataset = dataset_of(replace(particles, table=table), tmp_path / "prepared")
    square, _, _ = whitened(dataset)
    assert square[::2].mean().item() == pytest.approx(1, abs=0.06)
    assert square[1::2].mean().item() == pytest.approx(1, abs=0.06)
    m2 = factor(particles, BOX, "premultiplied").square().mean().item()
    assert dataset.density_scale == pytest.approx(dataset.stack.meta.density_scale / m2**0.5, rel=0.01)


def test_ordinary_images_are_those_of_the_stack(treated, tmp_path):
    dataset = dataset_of(treated("ordinary", recorded_noise(BOX)), tmp_path / "prepared")
    batch = dataset[np.arange(N)]
    assert torch.equal(batch["image"], dataset.stack.read(dataset.stack_row))
    assert "window_A" not in batch
    assert dataset.density_scale == dataset.stack.meta.density_scale
