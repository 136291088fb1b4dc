"""Particles out again: to files of other programs, by what they are, with the images asked for."""

import numpy as np
import pandas as pd
import pytest
import torch

from drgn.analysis import clusters, export, selection
from drgn.command import compose
from drgn.errors import InputError
from drgn.filter import filter as select
from drgn.formats import reading
from drgn.formats.cryodrgn import load_pickle
from drgn.formats.mrc import StackReader, StackWriter, read_volume
from drgn.formats.particles import Particles, read_images
from drgn.formats.star import read_blocks, write_blocks
from drgn.physics import fourier, imaging
from drgn.physics.ctf import PARAMETERS
from drgn.physics.fsc import fsc
from drgn.physics.grids import half_lattice
from drgn.physics.slices import insert
from drgn.run import Run


@pytest.fixture(scope="module")
def run(make_run):
    """A finished run with an analysis of three clusters."""
    folder = make_run(3)
    latents = Run.open(folder).latents()
    result = clusters.kmeans(latents.z, 3, seed=0)
    place = folder / "analysis" / "kmeans3"
    place.mkdir(parents=True)
    selection.write_labels(place / selection.LABELS, latents.key, result)
    return folder, result.labels


def make(run, output, **options):
    return select(**{**compose("filter"), "run": run[0], "kmeans": 3, "output": output, **options})


def test_each_cluster_to_a_file_of_its_own_with_latents_as_columns(run, tmp_path):
    n = make(run, tmp_path / "state.star", split=True, columns=True)
    files = sorted(tmp_path.glob("*.star"))
    assert [f.name for f in files] == [f"state_cluster0{i}.star" for i in range(3)]
    latents = Run.open(run[0]).latents()
    row_of = {key: i for i, key in enumerate(latents.key)}
    total = 0
    for label, file in enumerate(files):
        rows = read_blocks(file)["particles"]
        at = [row_of[name] for name in rows["rlnImageName"]]
        assert (run[1][at] == label).all()
        assert (rows["drgnCluster"] == label).all()
        np.testing.assert_allclose(rows["drgnLatent2"].astype(float), latents.z[at, 1])
        total += len(rows)
    assert total == n == len(latents.key)


def test_the_source_is_read_once_for_all_files(run, tmp_path, monkeypatch):
    read = []

    def parse(path, *more):
        read.append(path)
        return reading.parse(path, *more)

    monkeypatch.setattr("drgn.formats.particles.parse", parse)
    particles = Run.open(run[0]).particles()  # without rows
    parts = {f"{i}.star": np.array([i, i + 7]) for i in range(3)}
    export.export(particles, {tmp_path / name: rows for name, rows in parts.items()})
    assert len(read) == 1
    for name, rows in parts.items():
        written = Particles.from_file(tmp_path / name).table["key"]
        assert written.tolist() == particles.table["key"].iloc[rows].tolist()
    export.export(particles, {tmp_path / "rows.npy": np.array([1])})
    assert len(read) == 1  # the rows alone need nothing of it


def test_the_older_dialect_says_the_same(run, tmp_path):
    make(run, tmp_path / "new.star", clusters=[0])
    make(run, tmp_path / "old.star", clusters=[0], star_version=3.0)
    assert "optics" not in read_blocks(tmp_path / "old.star")
    new, old = (Particles.from_file(tmp_path / name) for name in ("new.star", "old.star"))
    np.testing.assert_array_equal(new.rotation, old.rotation)
    numbers = new.table.select_dtypes("number").columns.drop(["source_row"])
    pd.testing.assert_frame_equal(new.table[numbers], old.table[numbers], rtol=1e-12)
    with pytest.raises(InputError, match=r"star_version=2\.0: expected 3\.1, 3\.0 or null"):
        make(run, tmp_path / "x.star", clusters=[0], star_version=2.0)


def test_a_folder_for_cryodrgn(run, tmp_path):
    make(run, tmp_path / "selected", clusters=[1])
    particles = Particles.from_file(tmp_path / "selected" / "particles.star")
    rotation, shift = load_pickle(tmp_path / "selected" / "poses.pkl")
    np.testing.assert_allclose(rotation, particles.rotation, atol=1e-6)
    np.testing.assert_allclose(shift[:, 0] * 16 * 12.0, particles.table["shift_x_A"], atol=1e-4)
    assert load_pickle(tmp_path / "selected" / "ctf.pkl").shape == (len(particles), 9)


@pytest.fixture
def unbinned(run, tmp_path):
    """The same particles at twice the box, in reversed order, in two stacks, without poses."""
    particles = Run.open(run[0]).particles()
    block = read_blocks(particles.source.path)
    images = np.random.default_rng(0).normal(size=(len(particles), 32, 32)).astype(np.float32)
    (tmp_path / "big").mkdir()
    with StackWriter(tmp_path / "big" / "particles.mrcs", len(images), 32, 6.0) as stack:
        stack.write(images)
    frame = block["particles"].iloc[::-1].reset_index(drop=True)
    frame = frame.drop(columns=[name for name in frame if name.startswith(("rlnAngle", "rlnOrigin"))])
    block["optics"]["rlnImagePixelSize"], block["optics"]["rlnImageSize"] = 6.0, 32
    frame["userColumn"] = np.arange(len(frame))
    write_blocks(tmp_path / "big" / "unbinned.star", {"optics": block["optics"], "particles": frame})
    return tmp_path / "big" / "unbinned.star", images


def test_the_original_images_of_a_selection(run, unbinned, tmp_path):
    path, images = unbinned
    n = make(run, tmp_path / "full.star", clusters=[0, 2], original=path, images=True)
    kept = Particles.from_file(tmp_path / "full.star")
    rows = np.flatnonzero(run[1] != 1)
    assert len(kept) == n == len(rows)
    assert (kept.box_size, kept.pixel_size_A) == (32, 6.0)
    assert StackReader(tmp_path / "full.mrcs").n == n
    np.testing.assert_array_equal(read_images(kept, np.arange(n)), images[rows])
    small = Run.open(run[0]).particles().select(rows)
    np.testing.assert_allclose(kept.rotation, small.rotation, atol=1e-9)  # which the original has not
    np.testing.assert_allclose(kept.table["shift_x_A"], small.table["shift_x_A"])
    blocks = read_blocks(tmp_path / "full.star")["particles"]
    assert sorted(blocks["userColumn"]) == sorted(len(images) - 1 - rows)
    # and the copy is still known as what it was made from
    again = Particles.from_file(path, indices=tmp_path / "full.star")
    assert again.table["image_index"].tolist() == rows.tolist()


def test_an_original_without_one_of_the_particles_names_both_files(run, unbinned, tmp_path):
    blocks = read_blocks(unbinned[0])
    blocks["particles"] = blocks["particles"].iloc[:-1]
    write_blocks(unbinned[0], blocks)
    with pytest.raises(InputError, match=r"unbinned\.star does not hold the particles of .*particles\.star"):
        make(run, tmp_path / "full.star", max_z_norm=1e9, original=unbinned[0])
    with pytest.raises(InputError, match="images=true goes with"):
        make(run, tmp_path / "rows.npy", clusters=[0], images=True)


def test_relion_reconstructs_what_we_do_from_an_exported_selection(run, relion, tmp_path):
    make(run, tmp_path / "kept.star", clusters=[0, 1], columns=True, images=True)
    relion(tmp_path, "relion_reconstruct", "--i", "kept.star", "--o", "map.mrc", "--ctf")
    theirs = torch.from_numpy(read_volume(tmp_path / "map.mrc")[0])
    kept = Particles.from_file(tmp_path / "kept.star")
    lattice = half_lattice(16, 2)
    images = torch.from_numpy(read_images(kept, np.arange(len(kept))))
    parameters = torch.tensor(kept.table[list(PARAMETERS)].to_numpy(np.float64)).float()
    shift_px = torch.tensor(kept.table[["shift_x_A", "shift_y_A"]].to_numpy() / 12.0).float()
    contrast, phase = imaging.transfer(
        lattice.frequencies, torch.full((len(kept),), 12.0), parameters, shift_px
    )
    values = lattice.gather(fourier.fft(images, 2)) * contrast * phase.conj()
    where = imaging.slice_coordinates(lattice.frequencies, torch.from_numpy(kept.rotation).float())
    total, weight = insert(values.flatten(), contrast.square().flatten(), where.reshape(-1, 3), 16)
    ours = fourier.ifft(total / (weight + 0.1 * weight.mean()), 3).real
    assert fsc(ours, theirs)[1:6].min() > 0.9  # noise and all
    other = fourier.ifft(total.conj() / (weight + 0.1 * weight.mean()), 3).real
    assert fsc(other, theirs)[1:6].mean() < 0.7
