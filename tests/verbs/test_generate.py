import re
import subprocess
import sys

import mrcfile
import numpy as np
import pandas as pd
import pytest
import torch

from drgn.command import compose
from drgn.errors import InputError
from drgn.generate import generate
from drgn.physics import fourier
from drgn.physics.fsc import fsc
from drgn.physics.grids import shell_mean, shells
from drgn.run import Run


def make(run, **options):
    return generate(**{**compose("generate"), "run": run, **options})


def test_volumes_at_given_latents_are_those_of_the_run(finished, tmp_path):
    z = np.array([[0.0, 0, 0], [1, 2, 3]], np.float32)
    paths = make(finished, z=z.tolist(), output=tmp_path)
    assert [path.name for path in paths] == ["vol_000.mrc", "vol_001.mrc"]
    for path, expected in zip(paths, Run.open(finished).volumes(z), strict=True):
        with mrcfile.open(path) as file:
            np.testing.assert_allclose(file.data, expected, rtol=1e-5, atol=1e-7)
            assert float(file.voxel_size.x) == 12


def test_each_request_has_its_folder_in_the_run(finished):
    folder = finished / "volumes"
    assert make(finished, z=[0, 0.1, -1])[0] == folder / "z_0_0.1_-1" / "vol_000.mrc"
    three = make(finished, kmeans=3)
    assert [path.parent for path in three] == [folder / "kmeans3"] * 3
    long = make(finished, z=[[0.123456, 1, 2], [0.123456, 1, 3], [0.123456, 1, 4], [0.123456, 1, 5]])[
        0
    ].parent
    assert re.fullmatch("z_[0-9a-f]{8}", long.name)
    assert make(finished, kmeans=3, seed=1)[0].parent == folder / "kmeans3_seed1"
    key = [str(Run.open(finished).latents().key[3])]
    drawn = make(finished, particles=key, samples=2)[0].parent
    assert make(finished, particles=key)[0].parent.name + "_samples2" == drawn.name
    for path in (*three, long / "vol_003.mrc", drawn / "vol_000_sd.mrc"):
        assert path.is_file()


def test_the_spread_of_a_particles_map_is_that_of_its_posterior(finished, tmp_path):
    latents = Run.open(finished).latents()
    key = [str(latents.key[3])]
    (path,) = make(finished, particles=key, samples=16, output=tmp_path)
    assert path.name == "vol_000.mrc"
    with mrcfile.open(path) as mean, mrcfile.open(tmp_path / "vol_000_sd.mrc") as spread:
        expected = next(Run.open(finished).volumes(latents.z[3:4]))
        np.testing.assert_allclose(mean.data, expected, rtol=1e-5, atol=1e-7)
        assert spread.data.min() >= 0
        first = spread.data.copy()
    drawn = np.random.default_rng(0).standard_normal((16, latents.z.shape[1]), np.float32)
    maps = np.stack(list(Run.open(finished).volumes(latents.z[3] + np.exp(0.5 * latents.logvar[3]) * drawn)))
    np.testing.assert_allclose(first, maps.std(0, ddof=1), rtol=1e-3, atol=1e-6)
    make(finished, z=[0, 0, 0], output=tmp_path)
    assert not (tmp_path / "vol_000_sd.mrc").exists()  # which would be of another map
    with pytest.raises(InputError, match="samples=16: expected at least 2, of particles"):
        make(finished, z=[0, 0, 0], samples=16)


def test_kmeans_and_files_of_latents(finished, tmp_path):
    first = make(finished, kmeans=3, output=tmp_path / "a")
    again = make(finished, z_file=tmp_path / "a" / "z_values.txt", output=tmp_path / "b")
    assert len(first) == 3
    for a, b in zip(first, again, strict=True):
        np.testing.assert_allclose(
            mrcfile.read(a), mrcfile.read(b), atol=1e-4 * np.abs(mrcfile.read(a)).max()
        )


def test_a_run_without_a_latent_has_one_volume(make_run):
    run = make_run(0)
    assert make(run) == [run / "volumes" / "map" / "vol_000.mrc"]
    with pytest.raises(InputError, match="no latent"):
        make(run, z=[1.0])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "exactly one of"),
        ({"z": [1, 2]}, "has 2 numbers, but the latent of this run has 3 dimensions"),
        ({"z": [1, 2, 3], "kmeans": 2}, "z and kmeans are given"),
        ({"kmeans": 1000}, "number of different latents, 120"),
        ({"z": [0, 0, 0], "halves": True}, "has no half maps: train with half_sets=given"),
        ({"z": [0, 0, 0], "local_window_A": 60.0}, "local_window_A=60.0 is of half maps: give halves=true"),
        ({"z": [0, 0, 0], "halves": True, "local_window_A": 0.0}, "expected a length above 0 A"),
    ],
)
def test_mistakes_are_one_sentence(finished, options, sentence):
    with pytest.raises(InputError, match=sentence):
        make(finished, **options)


def test_nothing_is_made_without_a_checkpoint(make_run):
    run = make_run(2)
    (run / "checkpoints" / "best.ckpt").unlink()
    before = sorted(run.iterdir())
    with pytest.raises(InputError, match="checkpoints holds no checkpoint"):
        make(run, z=[0, 0])
    assert sorted(run.iterdir()) == before


def test_half_maps_and_what_they_say_of_the_map(train_tiny, tmp_path, capsys):
    run = train_tiny("model=linear", "latent.zdim=2", "half_sets=given")
    make(run, z=[[0, 0], [1, 0], [2, 0]], halves=True, output=tmp_path)
    paths = make(run, z=[[0.5, 0], [1, 0]], halves=True, local_window_A=60.0, output=tmp_path)
    kinds = ["fsc.csv", "fsc.png", "half_1.mrc", "half_2.mrc", "local_resolution.mrc", "weighted.mrc"]
    expected = [f"vol_00{i}{ending}" for i in (0, 1) for ending in [".mrc", *(f"_{k}" for k in kinds)]]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*expected, "z_values.txt"])
    maps = {kind: mrcfile.read(tmp_path / f"vol_000_{kind}.mrc") for kind in ("half_1", "half_2", "weighted")}
    mean = (maps["half_1"] + maps["half_2"]) / 2
    np.testing.assert_allclose(mrcfile.read(paths[0]), mean, atol=1e-6 * np.abs(mean).max())
    table = pd.read_csv(tmp_path / "vol_000_fsc.csv")
    halves = [torch.from_numpy(maps[kind].copy()) for kind in ("half_1", "half_2")]
    np.testing.assert_allclose(table["unmasked"], fsc(*halves), atol=1e-4)
    # each shell of the mean is weighed by its expected correlation with the truth
    weights = table["corrected"].clip(0, 1).to_numpy()
    power = shell_power(maps["weighted"]) / shell_power(mean)
    np.testing.assert_allclose(power[1:8], (2 * weights / (1 + weights))[1:8], atol=1e-3)
    assert "vol_000: half maps agree to corrected" in capsys.readouterr().out
    # without them nothing of an earlier series is left beside the volume
    make(run, z=[0, 0], output=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vol_000.mrc", "z_values.txt"]


def shell_power(volume):
    transform = fourier.fft(torch.from_numpy(volume.copy()).double(), 3)
    return shell_mean(transform.abs().square().flatten(), shells(16, 3).flatten()).numpy()


def test_the_command_line(finished, tmp_path):
    command = [sys.executable, "-m", "drgn.generate", f"run={finished}", f"output={tmp_path}/new"]
    done = subprocess.run([*command, "z=[[0,0,0],[1,0,0]]"], capture_output=True, text=True, check=True)
    assert "2 volumes in" in done.stdout
    assert (tmp_path / "new" / "vol_001.mrc").is_file()
    wrong = subprocess.run([*command, "z=[1]"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr
    assert "3 dimensions" in wrong.stderr


def test_maps_are_made_and_validated_without_lightning():
    modules = "drgn.run, drgn.analysis.volumes, drgn.evidence.section"
    code = f"import sys, {modules}; sys.exit('pytorch_lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
