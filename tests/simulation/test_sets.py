"""Whole sets of moving atoms and of maps, and the sets that have a name."""

import json
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
import torch

from drgn.command import bind, compose
from drgn.errors import InputError
from drgn.formats.mrc import read_volume
from drgn.formats.particles import Particles
from drgn.hints import groups
from drgn.physics import fourier, rotations
from drgn.signature import resolve
from drgn.simulate import simulate
from drgn.simulation import files


def of(star, name):
    return pd.read_csv(star.parent / name)


def test_a_point_is_where_the_forward_model_says(make, images, one_atom):
    star = make(
        "molecule=atoms", f"molecule.model.file={one_atom}", "molecule.resolution_A=36", "snr=1e14",
        "molecule.compositions={a:[A],both:['*']}", "molecule.population.shares=[1,0]",
        "microscope.amplitude_contrast=1", "microscope.defocus_A=[0,0]", "microscope.astigmatism_A=0",
        "microscope.spherical_aberration_mm=0", "microscope.b_factor_A2=0",
    )  # fmt: skip
    particles = Particles.from_file(star)
    table = particles.table
    place_A = particles.rotation @ [40.0, 0, 0]  # the middle of both atoms is the origin
    place_A = place_A[:, :2] - table[["shift_x_A", "shift_y_A"]].to_numpy()
    found = images(star).clip(min=0) ** 2
    axis = (np.arange(32) - 16) * 12.0
    total = found.sum((1, 2))
    x = (found.sum(1) * axis).sum(1) / total
    y = (found.sum(2) * axis).sum(1) / total
    assert np.abs(np.stack([x, y], axis=1) - place_A).max() < 1.5


def test_the_files_tell_the_truth(make, clean, images):
    noisy = make("snr=0.2")
    noise = images(noisy) - images(clean)
    assert images(clean).var() / noise.var() == pytest.approx(0.2, rel=0.02)
    facts = json.loads((noisy.parent / "simulation.json").read_text())
    assert facts["noise_standard_deviation"] == pytest.approx(noise.std(), rel=0.01)
    assert facts["snr"] == pytest.approx(0.2, rel=0.02)
    assert facts["options"]["molecule"]["n_maps"] == 5
    truth, maps = of(noisy, "truth.csv"), of(noisy, "maps.csv").set_index("file")
    assert truth.columns.tolist() == ["key", "motion", "map"]
    assert truth["key"].tolist() == Particles.from_file(noisy).table["key"].tolist()
    assert truth["motion"].value_counts().to_dict() == dict.fromkeys([0, 0.25, 0.5, 0.75, 1.0], 40)
    assert (maps.loc[truth["map"], "motion"].to_numpy() == truth["motion"]).all()
    assert {path.name for path in (noisy.parent / "maps").iterdir()} == set(maps.index)


def test_the_images_are_projections_of_their_own_maps(make, images):
    # the CTF of a phase plate without envelope is 1 nearly everywhere: the image is the projection
    star = make(
        "snr=1e14", "shift_px=0", "microscope.amplitude_contrast=1", "microscope.defocus_A=[0,0]",
        "microscope.astigmatism_A=0", "microscope.spherical_aberration_mm=0", "microscope.b_factor_A2=0",
    )  # fmt: skip
    from drgn.physics.slices import project

    truth, rotation = of(star, "truth.csv"), torch.from_numpy(Particles.from_file(star).rotation).float()
    made = images(star)
    for name in truth["map"].unique():
        rows = np.flatnonzero(truth["map"] == name)[:3]
        expected = project(torch.from_numpy(read_volume(star.parent / "maps" / name)[0]), rotation[rows])
        expected -= expected.mean((1, 2), keepdim=True)
        difference = made[rows] - expected.numpy()
        assert difference.std() < 0.06 * expected.std()  # the corners of the transform are not in the images
        others = project(
            torch.from_numpy(read_volume(star.parent / "maps" / name)[0]), rotation[rows + 1 - 2]
        )
        assert (made[rows] - others.numpy()).std() > 0.3 * expected.std()


def test_wrong_poses_are_told_and_the_right_ones_kept(make, images, clean):
    star = make("snr=1e14", "poses.error_deg=6", "poses.error_A=5")
    np.testing.assert_allclose(images(star), images(clean), atol=1e-3 * images(clean).std())
    told, truth = Particles.from_file(star), of(star, "truth.csv")
    right = Particles.from_file(clean)
    names = ["true_rot_deg", "true_tilt_deg", "true_psi_deg"]
    rotation = rotations.from_euler(torch.tensor(truth[names].to_numpy()))
    np.testing.assert_allclose(rotation, right.rotation, atol=1e-9)
    shift = truth[["true_shift_x_A", "true_shift_y_A"]].to_numpy()
    wanted = ["shift_x_A", "shift_y_A"]
    np.testing.assert_allclose(shift, right.table[wanted].to_numpy(), atol=1e-9)
    angle = rotations.angle_deg(torch.tensor(told.rotation), rotation)
    assert angle.square().mean().sqrt().item() == pytest.approx(6, rel=0.1)
    assert np.sqrt(((told.table[wanted].to_numpy() - shift) ** 2).sum(1).mean()) == pytest.approx(5, rel=0.1)


def test_contrast_noise_spectrum_blocks_and_seeds(make, images, clean, monkeypatch):
    dark = images(make("snr=1e14", "data_sign=-1"))
    np.testing.assert_allclose(dark, -images(clean), atol=1e-5 * images(clean).std())
    coloured = images(make("noise_spectrum=[9,1,1]", "snr=0.1")) - images(clean)
    assert images(clean).var() / coloured.var() == pytest.approx(0.1, rel=0.03)
    assert np.corrcoef(coloured[:, :, 1:].ravel(), coloured[:, :, :-1].ravel())[0, 1] > 0.2
    before = images(make("snr=0.1"))
    monkeypatch.setattr(files, "_CHUNK", 50)
    monkeypatch.setattr(files, "_BLOCK_BYTES", 8 * 32**2 * 120)
    in_blocks = make("snr=1e14")  # blocks of 100 images
    np.testing.assert_allclose(images(in_blocks), images(clean), atol=1e-4 * images(clean).std())
    assert np.abs(images(make("snr=0.1", "seed=1")) - before).max() > before.std()


def test_a_motion_in_every_composition(make, images):
    parts = "+molecule.compositions={whole:['*'],body:[body]}"
    star = make("molecule.n_maps=3", parts, "+molecule.population.shares=[3,1]", "snr=1e14")
    truth, maps = of(star, "truth.csv"), of(star, "maps.csv").set_index("file")
    assert maps["label"].tolist() == [f"{c}_map{i}" for c in ("whole", "body") for i in (1, 2, 3)]
    assert np.bincount(truth["state"]).tolist() == [150, 50]
    assert set(truth.groupby("state")["motion"].unique().map(len)) == {3}
    assert (maps.loc[truth["map"], ["state", "motion"]].to_numpy() == truth[["state", "motion"]]).all(None)
    weight = {name: read_volume(star.parent / "maps" / name)[0].sum() for name in maps.index}
    lost = 1 - weight["body_map1.mrc"] / weight["whole_map1.mrc"]
    assert lost == pytest.approx(0.22, abs=0.03)  # the arm
    assert weight["body_map1.mrc"] == pytest.approx(weight["body_map3.mrc"])  # the body does not move
    power = np.square(images(star)).mean((1, 2))
    assert power[truth["state"] == 1].mean() < 0.9 * power[truth["state"] == 0].mean()


def test_maps_as_states(make, images, clean, tmp_path):
    source = sorted((clean.parent / "maps").iterdir())
    # every map as a class of its own, in a larger field and a coarser box
    star = make(
        "molecule=maps", f"molecule.files=[{source[0]},{source[4]}]", "molecule.population.shares=[3,1]",
        "box_size=20", "pixel_size_A=24",
    )  # fmt: skip
    assert of(star, "truth.csv")["state"].value_counts().to_dict() == {0: 150, 1: 50}
    assert of(star, "maps.csv")["label"].tolist() == ["map1", "map5"]
    volume, pixel_A = read_volume(star.parent / "maps" / "map5.mrc")
    assert pixel_A == 24
    original = torch.from_numpy(read_volume(source[4])[0])
    expected = fourier.downsample(fourier.pad(original, 40, 3), 20, 3) * 8
    np.testing.assert_allclose(volume, expected, atol=1e-5 * float(expected.max()))
    along = make(
        "molecule=maps", "molecule.continuous=true", f"molecule.files=[{','.join(map(str, source))}]"
    )
    assert sorted(of(along, "truth.csv")["motion"].unique()) == [0, 0.25, 0.5, 0.75, 1]
    # the same maps, the same poses: the same images as from the atoms
    again = make(
        "molecule=maps",
        "molecule.continuous=true",
        f"molecule.files=[{','.join(map(str, source))}]",
        "snr=1e14",
    )
    np.testing.assert_allclose(images(again), images(clean), atol=2e-3 * images(clean).std())


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["box_size=16"], "a field of 192 A; this molecule with its shifts needs 2.. A"),
        (["shift_px=8"], "a field of 384 A; this molecule with its shifts needs 4.. A"),
        (["molecule.n_maps=1"], "n_maps=1: expected 1 without a motion"),
        (["molecule.resolution_A=0"], r"resolution_A=0"),
        (["molecule.motion.moving=[leg]"], "no atoms in leg; there are arm, body"),
        (["molecule=atoms", "molecule.model.file=no.pdb"], r"no\.pdb is not there"),
        (["molecule=maps", "molecule.files=[]"], "names no map"),
        (["molecule.motion.angle=3"], "molecule.motion.angle is not an option of"),
        (["molecule=maps", "molecule.files=[no.mrc]"], r"no\.mrc cannot be read"),
        (["seed=-1"], "seed=-1"),
    ],
)
def test_mistakes_are_one_sentence(make, overrides, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        make(*overrides)
    assert "\n" not in str(error.value)


def _resolved(options, key=""):
    """Bind every node of the options without constructing."""
    if isinstance(options, dict):
        if "_target_" in options:
            given = {k: v for k, v in options.items() if k != "_target_"}
            nested = {k for k, v in given.items() if isinstance(v, dict) and "_target_" in v}
            plain = {k: v for k, v in given.items() if k not in nested}
            bind(resolve(options["_target_"]), plain, key=key, partial=True)
        for name, value in options.items():
            _resolved(value, f"{key}.{name}" if key else name)


NEEDED = [f"molecule.{o}" for o in ("motion.moving=[A]", "motion.axis=[0,0,1]", "motion.point_A=[0,0,0]")]
GIVEN = {
    "atoms": ["molecule.model.file=x"],
    "path": ["molecule.model.file=x"],
    "screw": ["molecule.model.file=x", *NEEDED, "molecule.motion.angle_deg=9"],
    "maps": ["molecule.files=[x]"],
}


@pytest.mark.parametrize("choice", groups("simulate")["molecule"])
def test_a_molecule_composes_and_binds(choice):
    options = compose("simulate", [f"molecule={choice}", *GIVEN.get(choice, [])])
    bind(simulate, options)
    _resolved(options)


@pytest.mark.parametrize("choice", groups("simulate")["set"])
def test_a_set_composes_and_can_be_trained_on(choice):
    options = compose("simulate", [f"set={choice}"])
    bind(simulate, options)
    _resolved(options)
    dataset = compose("train", [f"dataset=simulated_{choice}"])["dataset"]
    assert dataset["name"] == f"simulated_{choice}"
    assert dataset["simulate"]["set"] == choice
    assert dataset["particles"] == f"outputs/simulate/{choice}_snr0.1_seed0/particles.star"


def test_the_sets_of_the_paper_are_the_papers():
    def size(choice):
        o = compose("simulate", [f"set={choice}"])
        return (
            o["n_particles"],
            o["box_size"],
            o["pixel_size_A"],
            o["shift_px"],
            o["molecule"]["resolution_A"],
        )

    assert size("uniform") == size("cooperative") == size("noncontiguous") == (50_000, 128, 6.0, 10.0, 12.0)
    assert size("compositional") == (50_000, 128, 3.0, 10.0, 4.5)  # 20 of the 256 px of 1.5 A: 30 A
    assert size("uniform_small") == (10_000, 64, 6.0, 5.0, 12.0)
    assert size("compositional_small") == (10_000, 64, 6.0, 5.0, 4.5)
    o = compose("simulate", ["set=cooperative"])
    step_rad = np.radians(o["molecule"]["motion"]["angle_deg"]) / (o["molecule"]["n_maps"] - 1)
    assert step_rad == pytest.approx(0.03, rel=1e-4)
    assert o["molecule"]["population"]["means"] == [10, 25, 40]
    assert np.array(o["molecule"]["population"]["sds"]) * step_rad == pytest.approx([0.09] * 3, rel=1e-3)
    o = compose("simulate", ["set=noncontiguous_small"])
    assert np.array(o["molecule"]["population"]["sds"]) * step_rad == pytest.approx([0.03] * 3, rel=1e-3)
    m = o["microscope"]
    assert (m["voltage_kV"], m["spherical_aberration_mm"], m["amplitude_contrast"]) == (300, 2, 0.1)
    assert (m["b_factor_A2"], m["astigmatism_A"], o["snr"]) == (100, 0, 0.1)


def test_a_set_is_made_by_train_once_and_not_mixed_up(tmp_path):
    from drgn.simulate import make_missing

    def ask(*overrides):
        small = [
            "+dataset.simulate.box_size=32",
            "+dataset.simulate.pixel_size_A=12",
            "+dataset.simulate.shift_px=1",
        ]
        few = ["dataset.simulate.n_particles=60", "+dataset.simulate.molecule.n_maps=3"]
        out = f"dataset.simulate.output={tmp_path / 'x'}"
        make_missing(
            compose("train", ["dataset=simulated_uniform", *small, *few, out, *overrides])["dataset"]
        )

    ask()
    star = tmp_path / "x" / "particles.star"
    assert len(Particles.from_file(star)) == 60
    assert sorted(of(star, "truth.csv")["motion"].unique()) == [0, 0.5, 1]
    first = star.read_bytes()
    ask()
    assert star.read_bytes() == first
    with pytest.raises(InputError, match=r"simulated with snr=0\.1, where now 0\.03"):
        ask("dataset.simulate.snr=0.03")


def test_relion_projects_the_maps_to_the_same_images(make, images, tmp_path):
    if shutil.which("relion_project") is None:
        pytest.skip("relion_project is not on PATH")
    star = make("snr=1e14", "microscope.b_factor_A2=0", "microscope.astigmatism_A=900")
    truth, made = of(star, "truth.csv"), images(star)
    name = truth["map"][0]
    command = [
        "relion_project",
        "--i",
        str(star.parent / "maps" / name),
        "--ang",
        str(star),
        "--ctf",
        "--pad",
        "2",
    ]
    done = subprocess.run(
        [*command, "--angpix", "12", "--o", "out"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    from drgn.formats.mrc import StackReader

    theirs = StackReader(tmp_path / "out.mrcs").read(np.arange(len(made)))
    same = np.flatnonzero(truth["map"] == name)
    ours = made - made.mean((1, 2), keepdims=True)
    theirs = theirs - theirs.mean((1, 2), keepdims=True)
    norms = np.sqrt((ours**2).sum((1, 2)) * (theirs**2).sum((1, 2)))
    correlation = (ours * theirs).sum((1, 2)) / norms
    assert correlation[same].min() > 0.97
    scale = (ours * theirs).sum((1, 2))[same] / (theirs**2).sum((1, 2))[same]
    assert np.median(scale) == pytest.approx(scale[0], rel=0.05)
    assert correlation[same].mean() > correlation[truth["map"] != name].mean() + 0.01  # of other states: less
