"""Agreement with files that other programs wrote, read as a user would read them.

Each test states what was measured when it was written; the bounds leave a little room. Correlations are those
of the transforms on the half lattice: everything inside Nyquist except the mean.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import starfile
import torch
from torch import Tensor

from drgn.formats.cryodrgn import load_pickle
from drgn.formats.mrc import read_volume
from drgn.formats.particles import Particles, read_images
from drgn.physics import fourier, slices
from drgn.physics.ctf import PARAMETERS
from drgn.physics.fsc import fsc, resolution_A
from drgn.physics.grids import HalfLattice, half_lattice
from drgn.physics.imaging import Multiplied, matched_filter, observe, slice_coordinates, transfer
from drgn.physics.masks import window
from drgn.physics.phantoms import GaussianPhantom
from drgn.physics.rotations import from_euler, from_rotvec


@dataclass
class Images:
    """Images of a particle file as bright protein, on their half lattice, with all that the model needs."""

    lattice: HalfLattice
    transform: Tensor  # (N, P)
    rotation: Tensor
    shift_px: Tensor
    pixel_A: Tensor
    ctf_parameters: Tensor

    def transfer(self, shift: float = 1.0, **changes: float) -> tuple[Tensor, Tensor]:
        """CTF and phase, with the shifts multiplied by a factor and CTF parameters set to other values."""
        parameters = self.ctf_parameters.clone()
        for name, value in changes.items():
            parameters[:, PARAMETERS.index(name)] = value
        return transfer(self.lattice.frequencies.double(), self.pixel_A, parameters, shift * self.shift_px)


def _read(particles: Particles) -> Images:
    table = particles.table
    size = particles.box_size
    lattice = half_lattice(size, 2)
    images = torch.from_numpy(read_images(particles, np.arange(len(particles)))).double()
    images *= torch.tensor(table["data_sign"].to_numpy())[:, None, None]
    pixel_A = torch.tensor(table["pixel_size_A"].fillna(1.0).to_numpy())
    return Images(
        lattice=lattice,
        transform=lattice.gather(fourier.fft(images, 2)),
        rotation=torch.from_numpy(particles.rotation),
        shift_px=torch.tensor(table[["shift_x_A", "shift_y_A"]].to_numpy()) / pixel_A[:, None],
        pixel_A=pixel_A,
        ctf_parameters=torch.tensor(table[list(PARAMETERS)].to_numpy()),
    )


def _volume(path):
    return torch.from_numpy(read_volume(path)[0].copy()).double()


def _mirrored(volume):
    """Return the other hand: z reversed about the origin of the box."""
    return volume.flip(0).roll(1 - volume.shape[0] % 2, 0)


def _correlation(a, b):
    return (a * b.conj()).real.sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))


def _sections(images, volume, rotation=None):
    projections = slices.project(volume, images.rotation if rotation is None else rotation)
    return images.lattice.gather(fourier.fft(projections, 2))


def _backproject(images, values, weights, rotation):
    """Weighted back-projection on a grid padded twice: (D, D, D)."""
    size = images.lattice.box_size
    coordinates = slice_coordinates(images.lattice.frequencies.double(), rotation)
    total, weight = slices.insert(values.flatten(), weights.flatten(), coordinates.reshape(-1, 3), 2 * size)
    volume = fourier.ifft(total / (weight + 1e-3 * weight[weight > 0].mean()), 3).real
    return fourier.crop(volume, size, 3)


# --- RELION: relion_project of one voxel, 24 poses, shifts and CTFs of a real data set --------------------


@pytest.fixture(scope="module")
def pointmass(shared):
    return _read(Particles.from_file(shared / "simplecryoem" / "relion_proj_batch_pfac2.star"))


def _point(images, rotation, shift=1.0, sign=1.0):
    """Images of one voxel 17 pixels along x from the origin, exactly."""
    voxel = GaussianPhantom(*(torch.tensor(x).double() for x in ([[17.0, 0.0, 0.0]], [0.0], [1.0])))
    contrast, phase = images.transfer(shift)
    section = voxel.fourier(slice_coordinates(images.lattice.frequencies.double(), rotation))
    return observe(section, sign * contrast, phase)


def test_relion_projects_a_voxel_as_we_do(pointmass, shared):
    volume = _volume(shared / "simplecryoem" / "pointmass.mrc")
    assert torch.nonzero(volume).tolist() == [[32, 32, 49]]  # [z, y, x]
    found = _correlation(pointmass.transform, _point(pointmass, pointmass.rotation))
    assert found.min() > 0.998  # 0.9983 to 0.9992; the rest is RELION's trilinear interpolation
    assert found.mean() > 0.9985  # 0.9988


@pytest.mark.parametrize(
    ("wrong", "measured"), [("shift", -0.005), ("rotation", 0.038), ("contrast", -0.9988)]
)
def test_relion_refutes_every_other_convention(pointmass, wrong, measured):
    rotation = pointmass.rotation.mT if wrong == "rotation" else pointmass.rotation
    model = _point(
        pointmass,
        rotation,
        shift=-1.0 if wrong == "shift" else 1.0,
        sign=-1.0 if wrong == "contrast" else 1.0,
    )
    found = _correlation(pointmass.transform, model).mean().item()
    assert found < 0.3
    assert found == pytest.approx(measured, abs=0.02)


def test_our_projector_is_closer_to_relions_than_the_exact_transform(pointmass, shared):
    # both interpolate trilinearly in a transform padded twice
    volume = _volume(shared / "simplecryoem" / "pointmass.mrc")
    contrast, phase = pointmass.transfer()
    found = _correlation(pointmass.transform, observe(_sections(pointmass, volume), contrast, phase))
    assert found.mean() > 0.9992  # 0.9993
    assert (found > _correlation(pointmass.transform, _point(pointmass, pointmass.rotation))).all()


# --- RELION: relion_project of a ribosome in an odd box ---------------------------------------------------


@pytest.fixture(scope="module")
def ribosome(shared):
    folder = shared / "aspire"
    images = _read(Particles.from_file(folder / "rln_proj_65.star"))
    return images, _volume(folder / "clean70SRibosome_vol_65p.mrc")


def test_relion_projects_a_ribosome_in_an_odd_box_as_we_do(ribosome):
    # RELION leaves the image of an odd box one pixel too far along x and along y: 0.82 to 0.90 as it is,
    # 0.99999 once that is undone. (Its refinement refuses odd boxes.)
    images, volume = ribosome
    sections = _sections(images, volume)
    as_it_is = _correlation(images.transform, sections)
    one_pixel = torch.ones(len(sections), 2).double()
    centred = images.transform * fourier.shift_phase(images.lattice.frequencies.double(), one_pixel)
    assert _correlation(centred, sections).min() > 0.9999
    assert as_it_is.max() < 0.91


def test_relion_refutes_the_transposed_rotation_and_the_other_hand(ribosome):
    images, volume = ribosome
    one_pixel = torch.ones(len(images.rotation), 2).double()
    centred = images.transform * fourier.shift_phase(images.lattice.frequencies.double(), one_pixel)
    transposed = _sections(images, volume, images.rotation.mT)
    assert _correlation(centred, transposed).max() < 0.6
    assert _correlation(centred, _sections(images, _mirrored(volume))).max() < 0.9


# --- cryoDRGN: its toy set and its hand -------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy(shared):
    folder = shared / "cryodrgn-tests"
    particles = Particles.from_file(
        folder / "toy_projections.mrcs",
        poses=folder / "toy_rot_zerotrans.pkl",
        ctf=folder / "test_ctf.pkl",
        indices=np.arange(0, 1000, 4),
        pixel_size_A=1.0,
    )
    return _read(particles), _volume(folder / "toymodel_small_nocenter.mrc")


def test_cryodrgns_toy_pins_rotation_hand_and_sign(toy):
    images, volume = toy
    contrast, phase = images.transfer()
    assert contrast.min() > 0.99  # its CTF is that of a phase plate of 90 degrees
    sections = observe(_sections(images, volume), contrast, phase)
    # bright protein, data_sign +1
    assert _correlation(images.transform, sections).mean() > 0.99  # 0.9950
    # transposed 0.407, the other hand 0.318
    assert _correlation(images.transform, _sections(images, volume, images.rotation.mT)).mean() < 0.5
    assert _correlation(images.transform, _sections(images, _mirrored(volume))).mean() < 0.5


def test_cryodrgns_toy_images_are_centred(toy, shared):
    # toy_rot_trans.pkl belongs to shifted copies of these images that its tests make; here the shifts of up
    # to 4.7 px must not be applied, in either direction
    images, volume = toy
    _, fraction = load_pickle(shared / "cryodrgn-tests" / "toy_rot_trans.pkl")
    images = replace(images, shift_px=torch.from_numpy(np.asarray(fraction, dtype=float))[::4] * 30)
    sections = _sections(images, volume)
    for sign in (1.0, -1.0):
        _, phase = images.transfer(sign)
        assert _correlation(images.transform, sections * phase).mean() < 0.4  # 0.289


def _held_out(images, rotation, shift):
    """Correlation of every second image with the projection of the map that the others give."""
    _, phase = images.transfer(shift)
    centred = images.transform * phase.conj()
    ones = torch.ones_like(centred.real)
    volume = _backproject(images, centred[::2], ones[::2], rotation[::2])
    return _correlation(centred[1::2], _sections(images, volume, rotation[1::2])).mean().item()


def test_cryodrgns_hand_is_consistent_with_its_rotations(shared):
    # hand-vol.mrc is not this hand (the output of some network), so the images must explain one another
    folder = shared / "cryodrgn-tests"
    images = _read(Particles.from_file(folder / "hand.mrcs", poses=folder / "hand_rot.pkl"))
    assert _held_out(images, images.rotation, 0.0) > 0.99  # 0.9975
    assert _held_out(images, images.rotation.mT, 0.0) < 0.8  # 0.718


def test_cryodrgns_translations_move_the_image_to_the_centre(shared):
    # hand_rot_trans.pkl holds other poses of the same images, found by an ab initio search
    folder = shared / "cryodrgn-tests"
    images = _read(Particles.from_file(folder / "hand.mrcs", poses=folder / "hand_rot_trans.pkl"))
    assert images.shift_px.abs().max() > 5
    plus, none, minus = (_held_out(images, images.rotation, sign) for sign in (1.0, 0.0, -1.0))
    assert plus > 0.94  # 0.952
    assert none < 0.85  # 0.813
    assert minus < 0.7  # 0.637


# --- cryoDRGN's parsers: the poses it reads from a real .star and a real .cs ------------------------------


def test_the_poses_cryodrgn_reads_from_a_star(shared):
    folder = shared / "cryodrgn-tests"
    rotation, translation = load_pickle(folder / "pose.star.pkl")
    table = starfile.read(folder / "FinalRefinement-OriginalParticles-PfCRT.star")
    euler = torch.tensor(table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy(dtype=float))
    np.testing.assert_allclose(from_euler(euler), rotation, atol=1e-14)
    particles = Particles.from_file(folder / "FinalRefinement-OriginalParticles-PfCRT.star")
    np.testing.assert_allclose(particles.rotation, rotation, atol=1e-14)
    shift_px = particles.table[["shift_x_A", "shift_y_A"]].to_numpy() / 1.035
    np.testing.assert_allclose(shift_px / 300, translation, atol=1e-9)


def test_the_poses_cryodrgn_reads_from_a_cs(shared):
    folder = shared / "cryodrgn-tests"
    rotation, translation = load_pickle(folder / "pose.cs.pkl")
    records = np.load(folder / "cryosparc_P12_J24_001_particles.cs")
    pose = torch.from_numpy(records["alignments3D/pose"].astype(float))
    np.testing.assert_allclose(from_rotvec(pose), rotation, atol=2e-6)  # theirs is float32
    particles = Particles.from_file(folder / "cryosparc_P12_J24_001_particles.cs")
    np.testing.assert_allclose(particles.rotation, rotation, atol=2e-6)
    shift_px = particles.table[["shift_x_A", "shift_y_A"]].to_numpy() / records["blob/psize_A"][:, None]
    np.testing.assert_allclose(shift_px / 180, translation, atol=1e-6)
    assert (particles.table["data_sign"] == -1).all()  # blob/sign


# --- tomodrgn: noisy images of two maps of EMPIAR-10076, simulated with the sign of cryoDRGN's CTF
@pytest.fixture(scope="module")
def two_classes(shared):
    """Return the images of class D and E, their maps, and the sections of either map for either's images."""
    folder = shared / "tomodrgn"
    maps = {name: _volume(folder / f"10076_class{name}_32.mrc") for name in "DE"}
    images = {
        name: _read(  # dark protein: the star cannot say so
            Particles.from_file(folder / f"10076_class{name}_32_sim.star", datadir=folder, data_sign=-1)
        )
        for name in "DE"
    }
    sections = {(name, of): _sections(images[name], maps[of]) for name in "DE" for of in "DE"}
    return images, maps, sections


def _fit(images, sections, shift=1.0, **changes):
    contrast, phase = images.transfer(shift, **changes)
    return _correlation(images.transform, observe(sections, contrast, phase))


@pytest.mark.parametrize("name", ["D", "E"])
def test_tomodrgns_columns_and_its_contrast(two_classes, name):
    images, volume, sections = two_classes[0][name], two_classes[1][name], two_classes[2][name, name]
    assert len(images.transform) == {"D": 576, "E": 720}[name]
    full = _fit(images, sections).mean()
    assert full > 0.3  # 0.314 and 0.315, positive with data_sign -1; the rest is noise
    # what matters: the shifts (0.18, 0.19), their sign (0.06, 0.07), the rotation (0.25, 0.27), the phase
    # shift of 90 degrees (0.21, 0.21)
    assert _fit(images, sections, shift=0.0).mean() < 0.2
    assert _fit(images, sections, shift=-1.0).mean() < 0.08
    assert _fit(images, _sections(images, volume, images.rotation.mT)).mean() < 0.28
    assert _fit(images, sections, phase_shift_deg=0.0).mean() < 0.23
    # what does not, at 13 A per pixel: the B-factor that stands for the dose, and the scale of cos(tilt)
    without = _fit(images, sections, b_factor_A2=0.0, ctf_scale=1.0).mean()
    assert without.item() == pytest.approx(full.item(), abs=1e-3)


@pytest.mark.parametrize("name", ["D", "E"])
def test_tomodrgns_images_give_their_own_map_back(two_classes, name):
    (images, maps, _), other = two_classes, {"D": "E", "E": "D"}[name]
    images = images[name]
    contrast, phase = images.transfer()
    one = torch.ones_like(contrast)
    values = matched_filter(images.transform, contrast, phase, Multiplied(one, one))
    volume = _backproject(images, values, contrast.square(), images.rotation)
    own, foreign = fsc(volume, maps[name]), fsc(volume, maps[other])
    # D: own 0.99 1.00 0.97 0.92 0.85, the other class 0.99 0.98 0.85 0.78 0.76
    assert own[1:6].min() > 0.8
    assert (own - foreign)[3:6].min() > 0.05
    wrong = _backproject(images, values, contrast.square(), images.rotation.mT)
    assert fsc(wrong, maps[name])[3:6].max() < 0.8


def test_tomodrgns_particles_fit_their_own_map_best(two_classes):
    images, _, sections = two_classes
    for name, other, per_particle in (("D", "E", 8), ("E", "D", 10)):
        margin = _fit(images[name], sections[name, name]) - _fit(images[name], sections[name, other])
        assert (margin.reshape(-1, per_particle).mean(1) > 0).double().mean() > 0.95  # 0.986, 1.0


# --- Warp: 720 experimental tilt images of 20 ribosomes, multiplied by their CTF --------------------------


@pytest.fixture(scope="module")
def tilts(shared):
    folder = shared / "warptools-flat"
    table = folder / "warptools_flat_050_076.npz"
    particles = Particles.from_file(
        folder / "warptools_flat_050_076.mrcs", poses=table, ctf=table, ctf_premultiplied=True
    )
    reference = _volume(folder / "warptools_test_box-32_angpix-12_reconstruct.mrc")
    return _read(particles), reference


def _tilt_curve(tilts, rotation, *, premultiplied=True):
    """FSC inside a round mask between RELION's map and ours from the same images."""
    images, reference = tilts
    contrast, phase = images.transfer()
    values = images.transform * phase.conj() * (1 if premultiplied else contrast)
    volume = _backproject(images, values, contrast.square(), rotation)
    return fsc(volume, reference, window(32, 0.6, 0.99, ndim=3).double())


def test_warps_premultiplied_images_give_relions_map_back(tilts):
    curve = _tilt_curve(tilts, tilts[0].rotation)
    # 0.988 0.945 0.840 0.781 0.693 0.508, positive: bright protein
    assert (curve[1:7] > torch.tensor([0.97, 0.92, 0.82, 0.75, 0.66, 0.48])).all()
    assert resolution_A(curve, 12.0, 0.5) < 66  # 64 A


def test_warps_rotations_are_not_transposed(tilts):
    curve = _tilt_curve(tilts, tilts[0].rotation.mT)
    assert curve[3:7].max() < 0.65  # 0.58 0.51 0.32 0.06
    assert resolution_A(curve, 12.0, 0.5) > 90
