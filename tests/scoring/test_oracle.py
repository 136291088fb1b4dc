import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from drgn.errors import InputError
from drgn.formats.mrc import StackWriter
from drgn.formats.particles import read_images
from drgn.physics import fourier, imaging
from drgn.physics.ctf import PARAMETERS
from drgn.physics.fsc import fsc
from drgn.physics.grids import half_lattice
from drgn.physics.slices import extract, padded_transform
from drgn.scoring import oracle
from drgn.scoring.truth import Truth


def known(truth, images=None, n=None):
    """Log-likelihoods (N, M), prior and each image's own map."""
    images = images or oracle.Images(truth)
    files = truth.maps["file"].to_list()
    rows = np.arange(len(images) if n is None else n)
    readers = [lambda file=file: truth.read_map(file) for file in files]
    own = np.array([files.index(file) for file in truth.map_of_row[rows]])
    return oracle.log_likelihood(images, rows, readers), np.bincount(own, minlength=len(files)), own


def test_the_likelihood_is_that_of_the_residual(noisy):
    """The definition, without the kernel: squared residual of each image and each map's slice."""
    truth = Truth(noisy)
    likelihood = known(truth, n=12)[0]
    table, lattice = truth.particles.table.iloc[:12], half_lattice(16, 2)
    image = lattice.gather(fourier.fft(torch.from_numpy(read_images(truth.particles, np.arange(12))), 2))
    rotation = torch.tensor(truth.particles.rotation[:12], dtype=torch.float32)
    shift = torch.tensor(table[["shift_x_A", "shift_y_A"]].to_numpy() / 24, dtype=torch.float32)
    parameters = torch.tensor(table[list(PARAMETERS)].to_numpy(), dtype=torch.float32)
    contrast, phase = imaging.transfer(lattice.frequencies, torch.full((12,), 24.0), parameters, shift)
    where = imaging.slice_coordinates(lattice.frequencies, rotation)
    std = truth.facts["noise_standard_deviation"] * 16
    direct = []
    for file in truth.maps["file"]:
        slices = extract(padded_transform(truth.read_map(file)), where)
        direct.append(-(image - imaging.observe(slices, contrast, phase)).abs().square().sum(1) / std**2)
    direct = torch.stack(direct, dim=1).numpy()
    np.testing.assert_allclose(
        likelihood - likelihood.mean(1, keepdims=True), direct - direct.mean(1, keepdims=True), atol=0.02
    )


@pytest.mark.parametrize("noise", ["snr=0.3", "snr=0.3 noise_spectrum=[8,2,1,1]", "snr=0.3 data_sign=-1"])
def test_the_posterior_is_as_often_right_as_it_says(simulated, noise):
    likelihood, prior, own = known(Truth(simulated("n_particles=600", *noise.split())))
    share = oracle.posterior(likelihood, np.arange(600), prior)
    right = share.argmax(1) == own
    assert 0.3 < right.mean() < 0.97  # neither is too easy to tell
    assert share.max(1).mean() == pytest.approx(right.mean(), abs=0.055)  # three standard errors
    assert share[np.arange(600), own].mean() == pytest.approx((share**2).sum(1).mean(), abs=0.05)


def test_clear_images_tell_their_state_and_noise_tells_nothing(simulated):
    motion = np.linspace(0, 1, 5)
    truth = Truth(simulated("snr=1e4"))
    likelihood, prior, own = known(truth)
    mean = oracle.posterior(likelihood, np.arange(200), prior) @ motion
    assert spearmanr(mean, motion[own]).statistic > 0.999
    truth = Truth(simulated("snr=1e-7"))
    likelihood, prior, own = known(truth)
    share = oracle.posterior(likelihood, np.arange(200), prior)
    np.testing.assert_allclose(share, np.tile(prior / prior.sum(), (200, 1)), atol=0.02)
    assert abs(spearmanr(share @ motion, motion[own]).statistic) < 0.25


def test_images_of_one_particle_are_multiplied():
    likelihood = np.log([[0.5, 0.5], [0.2, 0.8], [0.1, 0.9]])
    share = oracle.posterior(likelihood, np.array([0, 1, 1]), np.array([3.0, 1.0]))
    np.testing.assert_allclose(share[0], [0.75, 0.25])
    np.testing.assert_allclose(share[1], np.array([3 * 0.02, 0.72]) / 0.78)


def test_premultiplied_images_tell_the_same(noisy, tmp_path):
    truth = Truth(noisy)
    images = torch.from_numpy(read_images(truth.particles, np.arange(200)))
    axis = (torch.arange(16) - 8) / 16
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    frequencies = torch.stack([x.flatten(), y.flatten()], dim=1)
    parameters = torch.tensor(truth.particles.table[list(PARAMETERS)].to_numpy(), dtype=torch.float32)
    flags = torch.ones(200, dtype=torch.bool), torch.zeros(200, dtype=torch.bool)
    multiplied = imaging.multiplier(frequencies, torch.full((200,), 24.0), parameters, *flags)
    values = fourier.fft(images, 2) * multiplied.reshape(-1, 16, 16)
    with StackWriter(tmp_path / "premultiplied.mrcs", 200, 16, 24.0) as stack:
        stack.write(fourier.ifft(values, 2).real.float().numpy())
    table = truth.particles.table.assign(
        ctf_premultiplied=True, image_path=str(tmp_path / "premultiplied.mrcs")
    )
    particles = dataclasses.replace(truth.particles, table=table)
    share = [
        oracle.posterior(known(truth, images)[0], np.arange(200), np.ones(5))
        for images in (oracle.Images(truth), oracle.Images(truth, particles))
    ]
    np.testing.assert_allclose(*share, atol=0.03)  # what the CTF had nearly lost is not believed


def test_true_poses_back_project_to_the_true_map(simulated):
    truth = Truth(simulated("n_particles=1500", "snr=10", "molecule.n_maps=2"))
    rows = np.flatnonzero(truth.map_of_row == "map1.mrc")
    right = truth.read_map("map1.mrc")
    found = torch.from_numpy(oracle.back_project(oracle.Images(truth), rows, oracle.shell_power(right)))
    assert float(fsc(found, right)[1:8].min()) > 0.95
    inside = right > 0.3 * right.max()
    scale = float((found[inside] * right[inside]).sum() / right[inside].square().sum())
    assert scale == pytest.approx(1, abs=0.15)  # in the grey values of the images


def test_images_of_states_between_the_maps_have_no_ceiling_here(toy):
    with pytest.raises(InputError, match="no map of"):
        oracle.require_maps_of_images(Truth(toy.parent))
