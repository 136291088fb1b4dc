import subprocess
import sys

import mrcfile
import numpy as np
import pandas as pd
import pytest
import torch

from drgn.command import compose
from drgn.errors import InputError
from drgn.formats.particles import Particles, read_images
from drgn.physics import fourier, imaging
from drgn.physics.ctf import PARAMETERS
from drgn.physics.grids import half_lattice
from drgn.physics.phantoms import toy_molecule
from drgn.simulate import simulate
from drgn.simulation import files

N, BOX, PIXEL_A = 200, 20, 10.0


def make(output, **options):
    size = {"n_particles": N, "box_size": BOX, "pixel_size_A": PIXEL_A}
    return simulate(**{**compose("simulate"), **size, "output": output, **options})


def toy(attached_fraction):
    return {"_target_": "drgn.simulation.molecules.Toy", "attached_fraction": attached_fraction}


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    return make(tmp_path_factory.mktemp("noisy"), snr=0.2)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Return the same set but for the noise, which is far below rounding."""
    return make(tmp_path_factory.mktemp("clean"), snr=1e14)


def images(star):
    return read_images(Particles.from_file(star), np.arange(N))


def test_the_snr_is_variance_over_variance(noisy, clean):
    signal = images(clean)
    noise = images(noisy) - signal
    assert signal.var() / noise.var() == pytest.approx(0.2, rel=0.02)
    assert abs(noise.mean()) < 0.02 * noise.std()
    neighbours = np.corrcoef(noise[:, :, 1:].ravel(), noise[:, :, :-1].ravel())[0, 1]
    assert abs(neighbours) < 0.02  # white


def test_the_star_and_the_truth_describe_every_image(clean):
    # the forward model with what was written gives the images that were written
    particles, truth = Particles.from_file(clean), pd.read_csv(clean.parent / "truth.csv")
    table, lattice = particles.table, half_lattice(BOX, 2)
    assert truth["key"].tolist() == table["key"].tolist()
    assert particles.has_ctf
    assert particles.pixel_size_A == PIXEL_A
    assert set(table["data_sign"]) == {1.0}
    rotation = torch.from_numpy(particles.rotation)
    frequencies = lattice.frequencies.double()
    contrast, phase = imaging.transfer(
        frequencies,
        torch.full((N,), PIXEL_A, dtype=torch.float64),
        torch.tensor(table[list(PARAMETERS)].to_numpy(np.float64)),
        torch.tensor(table[["shift_x_A", "shift_y_A"]].to_numpy(np.float64)) / PIXEL_A,
    )
    slices = torch.stack(
        [
            toy_molecule(row.motion, bool(row.attached)).fourier(
                imaging.slice_coordinates(frequencies, rotation[i]) / PIXEL_A
            )
            for i, row in enumerate(truth.itertuples())
        ]
    )
    expected = fourier.ifft(lattice.scatter(imaging.observe(slices, contrast, phase)), 2).real.numpy()
    error = np.abs(images(clean) - expected).max(axis=(1, 2)) / expected.std(axis=(1, 2))
    assert error.max() < 1e-3


def test_states_and_poses_are_spread_as_asked(noisy, tmp_path):
    truth = pd.read_csv(noisy.parent / "truth.csv")
    assert truth["motion"].between(0, 1).all()
    assert np.histogram(truth["motion"], 4, (0, 1))[0].min() > 30
    assert 0.45 < truth["attached"].mean() < 0.75
    particles = Particles.from_file(noisy)
    direction = particles.rotation[:, 2]  # uniform on the sphere: each axis is uniform in [-1, 1]
    assert np.abs(direction.mean(0)).max() < 0.15
    assert np.abs((direction**2).mean(0) - 1 / 3).max() < 0.07
    shift_px = particles.table[["shift_x_A", "shift_y_A"]].to_numpy() / PIXEL_A
    assert 2.8 < np.abs(shift_px).max() <= 3
    defocus = particles.table["defocus_u_A"]
    assert defocus.between(8_000, 30_400).all()
    assert defocus.std() > 4_000
    assert set(particles.table["b_factor_A2"]) == {100.0}
    one_state = pd.read_csv(make(tmp_path, molecule=toy(0.0), shift_px=0.0).parent / "truth.csv")
    assert set(one_state["attached"]) == {0}
    assert not Particles.from_file(tmp_path / "particles.star").table["shift_x_A"].any()


def test_the_maps_are_of_the_states(noisy):
    names = sorted(path.name for path in (noisy.parent / "maps").iterdir())
    assert len(names) == 6
    listed = pd.read_csv(noisy.parent / "maps.csv").set_index("file")
    assert sorted(listed.index) == names
    truth = pd.read_csv(noisy.parent / "truth.csv")
    of_nearest = listed.loc[truth["map"]]
    assert (of_nearest["attached"].to_numpy() == truth["attached"]).all()
    assert np.abs(of_nearest["motion"].to_numpy() - truth["motion"]).max() <= 0.25
    for name in names:
        motion, _, lobe = name.removesuffix(".mrc").removeprefix("motion").partition("_")
        with mrcfile.open(noisy.parent / "maps" / name) as file:
            expected = toy_molecule(float(motion), lobe == "attached").density(BOX, PIXEL_A)
            np.testing.assert_allclose(file.data, expected, rtol=1e-5, atol=1e-6)
            assert float(file.voxel_size.x) == PIXEL_A


def test_a_seed_decides_everything(noisy, tmp_path):
    again = make(tmp_path / "again", snr=0.2)
    other = make(tmp_path / "other", snr=0.2, seed=1)
    for name, start in (("particles.mrcs", 1024), ("particles.star", 200), ("truth.csv", 0)):
        contents = [(star.parent / name).read_bytes()[start:] for star in (noisy, again, other)]
        assert contents[0] == contents[1]  # but for the date in the head
        assert contents[0][-1000:] != contents[2][-1000:]


def test_more_particles_than_are_made_at_a_time(tmp_path, monkeypatch, clean):
    monkeypatch.setattr(files, "_CHUNK", 17)
    monkeypatch.setattr(files, "_BLOCK_BYTES", 8 * BOX**2 * 60)
    np.testing.assert_allclose(images(make(tmp_path, snr=1e14)), images(clean), atol=1e-4)


def test_an_unfinished_set_has_no_star(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(files, "write_volume", fail)
    with pytest.raises(OSError, match="full"):
        make(tmp_path)
    assert not (tmp_path / "particles.star").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"n_particles": 0}, "n_particles=0 .*expected at least one particle"),
        ({"box_size": 17}, "box_size=17 .*an even box of at least 16 px"),
        ({"box_size": 14}, "box_size=14 "),
        ({"snr": 0.0}, r"snr=0\.0 .*an SNR above 0"),
        ({"snr": -1.0}, r"snr=-1\.0"),
        ({"pixel_size_A": 5.0}, "a field of 100 A; the toy molecule needs at least 180 A"),
        ({"molecule": toy(1.5)}, r"attached_fraction=1\.5: expected a share from 0 to 1"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, options, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        make(tmp_path / "out", **options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_set_is_not_replaced_by_another(tmp_path, capsys):
    star = make(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"simulated with seed=0, where now 1 is asked for; give output=AN"):
        make(tmp_path, seed=1)
    assert capsys.readouterr().out.startswith("simulated 200 images")
    assert make(tmp_path) == star
    assert capsys.readouterr().out == f"{tmp_path} holds this set already, which is kept\n"
    assert contents(tmp_path) == before
    star.unlink()  # as an interrupted one, which is made anew
    make(tmp_path)
    again = contents(tmp_path)
    assert {**again, "particles.mrcs": again["particles.mrcs"][1024:]} == {
        **before,
        "particles.mrcs": before["particles.mrcs"][1024:],
    }


@pytest.mark.parametrize("name", ["particles.star", "particles.mrcs"])
def test_particles_of_another_program_are_not_replaced(tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(InputError, match=r"holds particles, and no simulation\.json"):
        make(tmp_path)
    assert contents(tmp_path) == {name: b"precious"}


def test_the_command_line(tmp_path, environment):
    command = [sys.executable, "-m", "drgn.simulate", "n_particles=20", "box_size=16", "pixel_size_A=12"]
    done = subprocess.run(
        [*command, "output=new"], capture_output=True, text=True, cwd=tmp_path, env=environment, check=True
    )
    assert done.stdout == "simulated 20 images of 16 px: new/particles.star\n"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert len(Particles.from_file(tmp_path / "new" / "particles.star")) == 20
    wrong = subprocess.run(
        [*command, "snr=0", "output=x"], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1
