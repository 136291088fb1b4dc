import re
import shutil
import subprocess

import numpy as np
import pytest

from drgn.command import bind, compose
from drgn.errors import InputError
from drgn.formats.mrc import read_volume
from drgn.formats.particles import Particles
from drgn.prepare import prepare


def make(star, tmp_path, *overrides):
    options = compose(
        "prepare",
        ["dataset=custom", f"dataset.particles={star}", f"dataset.cache={tmp_path / 'cache'}", *overrides],
    )
    return prepare(**bind(prepare, options))


def test_it_counts_says_the_cost_and_prepares(star, tmp_path, capsys):
    np.save(tmp_path / "some.npy", np.arange(100))
    folder = make(star, tmp_path, f"dataset.indices={tmp_path / 'some.npy'}", "dataset.box_size=12")
    out, err = capsys.readouterr()
    lines = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in out.splitlines() if "  " in line)
    assert lines["rows"] == f"120 in {star}"
    assert lines["poses"] == lines["CTF"] == "120 in the particle file"
    assert lines["indices"] == f"100 of the rows, {tmp_path / 'some.npy'}"
    assert lines["images"] == "100 used of 120 in 1 stack"
    assert lines["box, pixel"] == "16 px, 12 A: 100 images"
    assert lines["optics group"] == "1: 100 images"
    assert lines["protein"] == "bright in 100"
    assert lines["training box"] == "12 px"
    assert (folder / "meta.json").is_file()
    assert f"prepared: {folder}, 100 images of 16 A per pixel" in out
    assert re.search(
        r"preparing 100 images, .* on disk in .*cache .* free\), about 1 s with \d+ threads", err
    )
    assert "prepared 100 images in" in err


def test_what_is_prepared_is_what_training_reads(star, tmp_path, capsys):
    from drgn.data.datamodule import ParticleDataModule

    folder = make(star, tmp_path)
    capsys.readouterr()
    data = ParticleDataModule(name="x", particles=star, cache=tmp_path / "cache")
    data.prepare_data()
    assert data.dataset.stack.folder == folder
    assert capsys.readouterr().err == "", "nothing is prepared again"


def test_the_output_is_a_star_of_smaller_images(star, tmp_path, capsys):
    output = tmp_path / "small.star"
    options = [f"output={output}", "dataset.box_size=12", "dataset.data_sign=-1", "dataset.preflight=false"]
    assert make(star, tmp_path, *options) == output
    assert "written: " in (out := capsys.readouterr().out)
    assert "dataset.data_sign=-1" in out
    small = Particles.from_file(output)
    assert (len(small), small.box_size, small.pixel_size_A) == (120, 12, 16.0)
    assert not (tmp_path / "cache").exists()


def test_a_wrong_sign_is_found_before_anything_is_prepared(star, tmp_path, capsys):
    with pytest.raises(InputError, match=r"protein comes out dark .*; set dataset\.data_sign=1, or go on"):
        make(star, tmp_path, "dataset.data_sign=-1")
    assert not (tmp_path / "cache").exists()
    make(star, tmp_path, "check_only=true")
    out = capsys.readouterr().out
    assert "as the file is read" in out
    assert "rotation matrices transposed" in out
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["preflight"]


@pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="relion_reconstruct is not installed")
def test_relion_makes_the_same_map_of_the_smaller_images(star, tmp_path):
    # the shifts, the CTF and the names in the star are right where a foreign program gets the same map
    output = tmp_path / "small.star"
    make(star, tmp_path, f"output={output}", "dataset.box_size=12")

    def reconstruct(file, name):
        command = ["relion_reconstruct", "--i", file.name, "--o", tmp_path / name, "--ctf", "--skip_gridding"]
        subprocess.run(command, cwd=file.parent, check=True, capture_output=True)
        return read_volume(tmp_path / name)

    import torch

    from drgn.physics import fourier
    from drgn.physics.fsc import fsc

    large, _ = reconstruct(star, "large.mrc")
    small, pixel_A = reconstruct(output, "small.mrc")
    assert pixel_A == pytest.approx(16.0)
    expected = fourier.downsample(torch.from_numpy(large), 12, 3)
    curve = fsc(torch.from_numpy(small), expected)
    assert curve[1:5].min() > 0.97


def test_mistakes_are_told_before_anything_is_written(star, tmp_path):
    with pytest.raises(InputError, match="box_size=18"):
        make(star, tmp_path, "dataset.box_size=18")
    with pytest.raises(InputError, match=r"dataset\.particles has no value"):
        compose("prepare", ["dataset=custom"])
    assert not list(tmp_path.iterdir())
