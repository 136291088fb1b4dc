"""RELION itself: its projections of our phantom are our images, and our images give it our phantom back.

RELION 3.1's relion_project and relion_reconstruct must be on PATH. Without them these tests are skipped;
with DRGN_REQUIRE_RELION=1 that is a failure.
"""

import numpy as np
import pytest
import torch

from drgn.formats.mrc import StackReader, StackWriter, read_volume, write_volume
from drgn.formats.particles import Particles
from drgn.formats.table import Source, build_table
from drgn.physics import fourier
from drgn.physics.ctf import PARAMETERS
from drgn.physics.fsc import fsc, resolution_A
from drgn.physics.grids import half_lattice
from drgn.physics.imaging import observe, slice_coordinates, transfer
from drgn.physics.phantoms import GaussianPhantom
from drgn.physics.rotations import random_rotations

CASES = {"box 64": (64, 3.0, 0.0), "box 48": (48, 4.0, 20.0), "box 32, phase plate": (32, 6.0, 90.0)}


def _scaled(molecule, pixel_A):
    """The molecule with blobs of 0.8 pixels: 4 % of its height is left at Nyquist."""
    return GaussianPhantom(
        molecule.centre_A, torch.full_like(molecule.sigma_A, 0.8 * pixel_A), molecule.weight
    )


def _particles(folder, n, size, pixel_A, phase_shift_deg, seed=1):
    """Return n particles of random pose, shift and astigmatic CTF, whose stack is x.mrcs."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low, high):
        return (low + (high - low) * torch.rand(n, generator=generator, dtype=torch.float64)).numpy()

    rotation = random_rotations(n, generator)
    defocus_u_A = uniform(10000, 22000)
    columns = {
        "key": [f"{i + 1:06d}@x.mrcs" for i in range(n)],
        "source_row": np.arange(n),
        "image_path": "x.mrcs",
        "image_index": np.arange(n),
        "box_size_px": size,
        "pixel_size_A": pixel_A,
        "voltage_kV": 300.0,
        "spherical_aberration_mm": 2.7,
        "amplitude_contrast": 0.1,
        "defocus_u_A": defocus_u_A,
        "defocus_v_A": defocus_u_A - uniform(1000, 4000),
        "defocus_angle_deg": uniform(-90, 90),
        "phase_shift_deg": phase_shift_deg,
        "b_factor_A2": uniform(0, 20 * pixel_A**2),
        "ctf_scale": uniform(0.6, 1),
        "shift_x_A": uniform(-15, 15),
        "shift_y_A": uniform(-15, 15),
    }
    columns["group"] = columns["key"]
    source = Source(path=str(folder / "x.mrcs"), kind="mrcs")
    return Particles(build_table(n, columns), rotation.numpy(), source)


def _model(phantom, particles, *, turn=False, shift=1.0, sign=1.0, **changes):
    """Return the half lattice and the exact transforms of the images; wrong ones with changed arguments."""
    table = particles.table.assign(**changes)
    lattice = half_lattice(particles.box_size, 2)
    rotation = torch.from_numpy(particles.rotation)
    rotation = rotation.mT if turn else rotation
    pixel_A = torch.tensor(table["pixel_size_A"].to_numpy())
    shift_px = shift * torch.tensor(table[["shift_x_A", "shift_y_A"]].to_numpy()) / pixel_A[:, None]
    parameters = torch.tensor(table[list(PARAMETERS)].to_numpy())
    contrast, phase = transfer(lattice.frequencies.double(), pixel_A, parameters, shift_px)
    # single precision for speed: an error of 1e-6 of the height
    single = GaussianPhantom(*(x.float() for x in (phantom.centre_A, phantom.sigma_A, phantom.weight)))
    spatial = lattice.frequencies / particles.pixel_size_A
    slices = torch.cat([single.fourier(slice_coordinates(spatial, r.float())) for r in rotation.split(50)])
    return lattice, observe(slices.to(torch.complex128), sign * contrast, phase)


def _correlation(a, b):
    return (a * b.conj()).real.sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))


def _shell_by_shell(a, b, lattice):
    """Mean over all shells of the correlation of all images within a shell: fine detail counts as coarse."""
    shell = (lattice.frequencies.norm(dim=1) * lattice.box_size).round().to(torch.int64)

    def total(values):
        return torch.zeros(int(shell.max()) + 1).double().index_add_(0, shell, values.sum(0))[1:]

    power = total(a.abs().square()) * total(b.abs().square())
    return (total((a * b.conj()).real) / power.sqrt()).mean().item()


@pytest.fixture(scope="module", params=list(CASES))
def projected(request, relion, molecule, tmp_path_factory):
    """Return 20 particles of a phantom, and the transforms of RELION's projections of it."""
    size, pixel_A, phase_shift_deg = CASES[request.param]
    folder = tmp_path_factory.mktemp("project")
    phantom = _scaled(molecule, pixel_A)
    particles = _particles(folder, 20, size, pixel_A, phase_shift_deg)
    particles.save(folder / "x.star")
    write_volume(folder / "map.mrc", phantom.density(size, pixel_A).numpy(), pixel_A)
    command = ["relion_project", "--i", "map.mrc", "--ang", "x.star", "--ctf", "--angpix", str(pixel_A)]
    relion(folder, *command, "--o", "proj")
    images = torch.from_numpy(StackReader(folder / "proj.mrcs").read(np.arange(20))).double()
    return phantom, particles, half_lattice(size, 2).gather(fourier.fft(images, 2))


def test_relion_projects_our_images(projected):
    phantom, particles, theirs = projected
    lattice, ours = _model(phantom, particles)
    assert _correlation(theirs, ours).min() > 0.999  # sign included; the least is 0.9997
    assert _shell_by_shell(theirs, ours, lattice) > 0.995


def test_relions_grey_values_are_ours(projected):
    # not only the pattern: B-factor, scale and the unnormalised transform agree
    phantom, particles, theirs = projected
    _, ours = _model(phantom, particles)
    _, no_envelope = _model(phantom, particles, b_factor_A2=0.0)
    _, no_scale = _model(phantom, particles, ctf_scale=1.0)
    error, without_envelope, without_scale = (
        ((theirs - model).norm() / ours.norm()).item() for model in (ours, no_envelope, no_scale)
    )
    assert error < 0.02  # 0.009 to 0.014
    assert without_envelope > 4 * error
    assert without_scale > 0.2


@pytest.mark.parametrize(
    ("wrong", "bound"),
    [
        ({"shift": -1.0}, 0.3),
        ({"shift": 0.0}, 0.5),
        ({"turn": True}, 0.4),
        ({"sign": -1.0}, -0.99),
        ({"defocus_angle_deg": 0.0}, 0.97),
        ({"phase_shift_deg": 55.0}, 0.9),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_relion_refutes_every_other_convention(projected, wrong, bound):
    phantom, particles, theirs = projected
    lattice, ours = _model(phantom, particles, **wrong)
    assert _shell_by_shell(theirs, ours, lattice) < bound


def test_relions_astigmatism_turns_the_way_ours_does(projected):
    phantom, particles, theirs = projected
    lattice, ours = _model(phantom, particles)
    right = _shell_by_shell(theirs, ours, lattice)
    _, mirrored = _model(phantom, particles, defocus_angle_deg=-particles.table["defocus_angle_deg"])
    assert _shell_by_shell(theirs, mirrored, lattice) < right - 0.03


def test_an_odd_box_of_relion_is_one_pixel_off(relion, molecule, tmp_path):
    # what limits aspire/rln_proj_65: RELION's image of an odd box lies one pixel too far along x and y
    phantom = _scaled(molecule, 4.0)
    particles = _particles(tmp_path, 5, 49, 4.0, 0.0)
    particles.save(tmp_path / "x.star")
    write_volume(tmp_path / "map.mrc", phantom.density(49, 4.0).numpy(), 4.0)
    command = ["relion_project", "--i", "map.mrc", "--ang", "x.star", "--ctf", "--angpix", "4", "--o", "proj"]
    relion(tmp_path, *command)
    images = torch.from_numpy(StackReader(tmp_path / "proj.mrcs").read(np.arange(5))).double()
    lattice, ours = _model(phantom, particles)
    theirs = lattice.gather(fourier.fft(images, 2))
    one_pixel = fourier.shift_phase(lattice.frequencies.double(), torch.ones(2).double())
    assert _correlation(theirs * one_pixel, ours).min() > 0.999
    assert _correlation(theirs, ours).max() < 0.9


@pytest.mark.parametrize(("case", "n"), [("box 64", 1500), ("box 32, phase plate", 700)])
def test_relion_reconstructs_our_phantom_from_our_images(case, n, relion, molecule, tmp_path):
    size, pixel_A, phase_shift_deg = CASES[case]
    phantom = _scaled(molecule, pixel_A)
    particles = _particles(tmp_path, n, size, pixel_A, phase_shift_deg)
    lattice, transforms = _model(phantom, particles)
    images = fourier.ifft(lattice.scatter(transforms), 2).real
    generator = torch.Generator().manual_seed(2)
    images += images.std() * torch.randn(images.shape, generator=generator, dtype=torch.float64)  # SNR 1
    with StackWriter(tmp_path / "x.mrcs", n, size, pixel_A) as stack:
        stack.write(images.float().numpy())
    particles.save(tmp_path / "x.star")
    relion(tmp_path, "relion_reconstruct", "--i", "x.star", "--o", "map.mrc", "--ctf")
    volume, written_A = read_volume(tmp_path / "map.mrc")
    assert written_A == pytest.approx(pixel_A)

    theirs, truth = torch.from_numpy(volume).double(), phantom.density(size, pixel_A)
    curve = fsc(theirs, truth)
    assert resolution_A(curve, pixel_A, 0.5) < 2 * pixel_A / 0.8  # beyond 80 % of Nyquist
    assert curve[1 : size // 5].min() > 0.95
    gain = (theirs * truth).sum() / truth.square().sum()
    assert gain.item() == pytest.approx(1.0, abs=0.05)  # bright protein, and its grey values
    assert fsc(theirs.flip(0).roll(1, 0), truth)[5 : size // 2].max() < 0.6  # the other hand
