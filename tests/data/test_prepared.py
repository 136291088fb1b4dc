import errno
import itertools
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from drgn.data import building, identity, prepared, sums
from drgn.data.dataset import ParticleDataset
from drgn.data.prepared import PreparedStack, prepare
from drgn.errors import InputError
from drgn.physics import fourier
from drgn.physics.grids import half_lattice


@pytest.fixture
def make(tmp_path):
    """Particles -> prepared stack of box 16."""

    def prepare_(particles, box_size=16, window=True, progress=None, cache="prepared"):
        return prepare(particles, box_size=box_size, window=window, cache=tmp_path / cache, progress=progress)

    return prepare_


def everything(stack):
    return stack.read(np.arange(stack.meta.n))


@pytest.mark.parametrize("window", [True, False])
@pytest.mark.parametrize(("size", "box"), [(16, 16), (32, 16), (17, 16)])
def test_noise_has_variance_one(make_particles, noise, make, size, box, window):
    stack = make(make_particles(5 + noise(400, size, std=37.0)), box, window)
    assert stack.meta.noise_std == pytest.approx(37.0, rel=0.02)
    values = everything(stack)
    assert values.shape == (400, len(half_lattice(box, 2)))
    assert values.abs().square().mean().item() == pytest.approx(1.0, abs=0.03)
    assert values.real.square().mean().item() == pytest.approx(0.5, abs=0.03)
    assert values.mean().abs() < 0.02


def test_the_values_are_the_images_transform(make_particles, noise, make):
    # without a window and in the same box only the background's mean is taken away, and k = 0 is left out
    images = noise(3, 16, std=2.0)
    stack = make(make_particles(images), window=False)
    expected = (
        half_lattice(16, 2).gather(fourier.fft(torch.from_numpy(images), 2)) / 16 / stack.meta.noise_std
    )
    torch.testing.assert_close(everything(stack).to(torch.complex128), expected, atol=2e-3, rtol=2e-3)


def test_parseval(make_particles, noise, make):
    # all that lies inside Nyquist: half of it is in the stack, the mates are the other half
    image = fourier.ifft(
        half_lattice(16, 2).scatter(torch.randn(1, len(half_lattice(16, 2)), dtype=torch.complex128)), 2
    ).real
    stack = make(make_particles(image.numpy()), window=False)
    power = 2 * everything(stack).abs().square().sum() * stack.meta.noise_std**2
    assert power.item() == pytest.approx(image.square().sum().item(), rel=1e-3)


@pytest.mark.parametrize(("size", "box"), [(16, 16), (32, 16)])
def test_the_density_scale_gives_the_grey_values_of_the_images(make_particles, noise, make, size, box):
    # images of a molecule along z, whose transform is also the slice of the volume that is wanted
    axis = torch.arange(size, dtype=torch.float64) - size // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    width = 2.0 * size / box  # in pixels: 2 of the training box
    density = 7.0 * torch.exp(-0.5 * ((x - width) ** 2 + y**2 + (z + width) ** 2) / width**2)
    image = density.sum(0)
    images = image.numpy() + noise(300, size, std=3.0)
    stack = make(make_particles(images), box, window=False)
    mean = everything(stack).mean(0)
    central = fourier.crop(fourier.fft(density, 3), box, 3)
    plane = half_lattice(box, 2).gather(central[box // 2])
    unit = (mean * plane.conj()).real.sum() / plane.abs().square().sum()  # of the prepared transform
    volume = fourier.ifft(central * unit, 3).real * stack.meta.density_scale
    step = size // box
    voxels = density[::step, ::step, ::step]  # the grey values of the images, on the training grid
    assert (volume - voxels).abs().max() < 0.05 * 7.0
    assert volume.max().item() == pytest.approx(7.0, rel=0.03)


def test_the_window_leaves_the_middle_and_removes_the_corners(make_particles, make):
    image = np.zeros((2, 32, 32))
    image[0, 16, 20], image[1, 1, 1] = 100.0, 100.0  # the corner's pixel is not that of a particle
    image += np.random.default_rng(0).normal(size=image.shape)
    kept = everything(make(make_particles(image))).abs().square().sum(1)
    all_ = everything(make(make_particles(image, name="other"), window=False)).abs().square().sum(1)
    assert kept[1] < 0.1 * all_[1]
    assert kept[0] > 0.9 * all_[0]


def test_dark_protein_is_turned_bright(make_particles, noise, make):
    images = noise(5, 16)
    bright = everything(make(make_particles(images, name="bright")))
    dark = everything(make(make_particles(-images, name="dark", data_sign=-1.0)))
    assert torch.equal(bright, dark)
    assert not torch.equal(bright, everything(make(make_particles(-images, name="wrong"))))


def test_bad_images_are_set_aside_and_do_not_disturb_the_others(make_particles, noise, make):
    images = noise(600, 16, std=3.0)
    expected = everything(make(make_particles(images, name="good")))
    bad = images.copy()
    bad[0] = np.nan
    bad[7, 3, 3] = np.inf
    bad[300] = 4.0  # constant
    bad[301:330] = 0.0
    bad[599, 0, 0] = -np.inf
    stack = make(make_particles(bad, name="bad"))
    rejected = [0, 7, 300, *range(301, 330), 599]
    assert stack.meta.rejected == rejected
    values = everything(stack)
    assert values.isfinite().all()
    assert not values[rejected].any()
    good = np.setdiff1d(np.arange(600), rejected)
    assert stack.meta.noise_std == pytest.approx(3.0, rel=0.01)
    torch.testing.assert_close(values[good], expected[good], rtol=0.01, atol=0.01)


def test_one_wild_image_does_not_disturb_the_others(make_particles, noise, make):
    images = noise(200, 16)
    images[50] *= 1e9  # finite, but beyond half precision in units of the noise
    stack = make(make_particles(images))
    assert stack.meta.noise_std == pytest.approx(1.0, rel=0.02)
    assert everything(stack).isfinite().all()
    assert stack.meta.rejected == [50]


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_stack_without_particles_is_refused(make_particles, make, tmp_path, value):
    with pytest.raises(InputError, match=r"particles\.star: the images are empty"):
        make(make_particles(np.full((4, 16, 16), value)))
    assert not list(tmp_path.glob("prepared/*/meta.json"))


@pytest.mark.parametrize("box", [15, 18, 6, 0, -16])
def test_a_box_that_is_odd_or_too_large_is_refused(make_particles, noise, make, box):
    with pytest.raises(
        InputError, match=rf"dataset\.box_size={box}: expected an even number from 8 to .* 16"
    ):
        make(make_particles(noise(3, 16)), box)


def test_missing_images_are_named(make_particles, noise, make, tmp_path):
    particles = make_particles(noise(3, 16))
    (tmp_path / "particles.mrcs").unlink()
    with pytest.raises(InputError, match=r"particles\.mrcs was not found"):
        make(particles)


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_killed_build_goes_on_where_it_stopped(make_particles, noise, make, tmp_path, monkeypatch, after):
    monkeypatch.setattr(building, "CHUNK_BYTES", 16 * 16 * 16 * 4)
    images = noise(60, 16)
    images[5] = np.nan
    particles = make_particles(images)
    whole = make(particles, cache="whole")
    count = itertools.count(1)

    def kill(done, total):
        assert total == 60
        if next(count) == after:
            raise Killed

    with pytest.raises(Killed):
        make(particles, progress=kill)
    assert [path.suffix for path in (tmp_path / "prepared").iterdir()] == [".partial"]
    done = []
    stack = make(particles, progress=lambda n, _: done.append(n))
    assert done == [16, 32, 48, 60][after:]
    assert replace(stack.meta, provenance={}) == replace(whole.meta, provenance={})
    for name in ("images.f16", "particles.parquet"):
        assert (stack.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert [path.name for path in (tmp_path / "prepared").iterdir()] == [stack.folder.name]
    assert sorted(path.name for path in stack.folder.iterdir()) == [
        "images.f16",
        "meta.json",
        "particles.parquet",
        "sha256.json",
    ]


def test_a_chunk_that_was_only_half_written_is_made_again(make_particles, noise, make, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "CHUNK_BYTES", 16 * 16 * 16 * 4)
    particles = make_particles(noise(60, 16))
    whole = make(particles, cache="whole")

    def kill(done, total):
        raise Killed

    with pytest.raises(Killed):
        make(particles, progress=kill)
    (partial,) = (tmp_path / "prepared").iterdir()
    with open(partial / "images.f16", "r+b") as file:
        file.seek(20 * len(half_lattice(16, 2)) * 4)
        file.write(b"\xff" * 1000)
    assert torch.equal(everything(make(particles)), everything(whole))


def test_a_finished_stack_is_not_made_again(make_particles, noise, make, monkeypatch):
    particles = make_particles(noise(10, 16))
    first = make(particles)
    monkeypatch.setattr(prepared, "_build", None)
    assert make(particles).folder == first.folder


def test_whatever_the_stack_depends_on_is_in_its_name(make_particles, noise, make, tmp_path):
    images = noise(10, 32)
    particles = make_particles(images)

    def folder(p=particles, **options):
        return make(p, **options).folder.name

    def changed(**columns):
        return type(particles)(particles.table.assign(**columns), particles.rotation, particles.source)

    names = {
        "as it is": folder(),
        "box": folder(box_size=20),
        "window": folder(window=False),
        "sign": folder(changed(data_sign=-1.0)),
        "pixel": folder(changed(pixel_size_A=5.0)),
    }
    os.utime(tmp_path / "particles.mrcs", ns=(0, 1))
    names["mtime"] = folder()
    assert len(set(names.values())) == len(names)
    # poses and CTF are not in the stack: a new refinement does not prepare the images again
    assert folder(changed(defocus_u_A=9.0, shift_x_A=1.0)) == names["mtime"]


@pytest.fixture
def unbuildable(monkeypatch):
    """A function: from now on no stack can be made."""
    return lambda: monkeypatch.setattr(prepared, "_build", None)


def test_a_selection_in_any_order_finds_its_images_in_the_stack(make_particles, noise, make, unbuildable):
    images = noise(60, 16)
    images[[3, 20]] = 0
    particles = make_particles(images)
    whole = make(particles)
    values = everything(whole)
    unbuildable()
    rows = np.random.default_rng(0).permutation(60)[:40]
    for chosen in (rows, np.arange(60)[::-1].copy(), np.array([20])):
        some = particles.select(chosen)
        stack = make(some)
        assert stack.folder == whole.folder
        dataset = ParticleDataset(some, stack)
        assert len(dataset) == len(chosen)
        assert torch.equal(dataset[np.arange(len(chosen))]["image"], values[chosen])
        assert dataset.rejected.tolist() == np.isin(chosen, [3, 20]).tolist()


def test_other_optics_groups_take_only_a_stack_whose_noise_was_measured_by_them(
    make_particles, noise, make, tmp_path
):
    images = noise(200, 16)
    images[100:] *= 5
    particles = make_particles(images)

    def grouped(names):
        table = particles.table.assign(optics_group=pd.Series(names).astype("category"))
        return replace(particles, table=table)

    def powers(some):
        stack = make(some)
        power = stack.read(stack.find(some)[0]).abs().square().mean(1).numpy()
        number = some.table["image_index"].to_numpy() // 100
        return stack.folder, [power[number == half].mean() for half in np.unique(number)]

    one, two = grouped(["a"] * 200), grouped(["a"] * 100 + ["b"] * 100)
    together, (quiet, loud) = powers(one)
    assert loud > 20 * quiet
    apart, found = powers(two)
    assert found == pytest.approx([1, 1], abs=0.05)
    # selections, in any order, and groups of another name, are measured alike
    for some in (two.select(np.arange(199, 40, -3)), grouped(["y"] * 100 + ["x"] * 100)):
        assert powers(some)[0] == apart
    mixed = one.select(np.arange(20, 180))  # of one group: that which was measured as one
    assert powers(mixed)[0] == together
    assert powers(grouped(["a"] * 50 + ["b"] * 150))[0] not in (together, apart)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_stack_that_does_not_tell_its_groups_serves_where_there_is_one(make_particles, noise, make, groups):
    particles = make_particles(noise(40, 16))
    names = pd.Series(np.where(np.arange(40) < 20, "a", "b" if groups == 2 else "a")).astype("category")
    particles = replace(particles, table=particles.table.assign(optics_group=names))
    stack = make(particles)
    path = stack.folder / identity.FILE
    pd.read_parquet(path).drop(columns="noise_group").to_parquet(path)
    sums.record(stack.folder)
    again = make(particles.select(np.arange(3, 19)))
    assert (again.folder == stack.folder) == (groups == 1)
    assert again.meta.n == (40 if groups == 1 else 16)


def test_the_table_is_read_by_what_the_images_are_and_not_by_their_rows(make_particles, noise, make):
    images = noise(30, 16)
    order = np.random.default_rng(1).permutation(30)
    particles = make_particles(
        images,
        rlnImageName=[f"{i + 1:06d}@particles.mrcs" for i in order],
        rlnOriginXAngst=4.0 * order,
    )
    dataset = ParticleDataset(particles, make(particles, window=False))
    batch = dataset[np.arange(30)]
    assert batch["shift_px"][:, 0].tolist() == order.tolist()
    expected = half_lattice(16, 2).gather(fourier.fft(torch.from_numpy(images[order]), 2)) / 16
    torch.testing.assert_close(
        batch["image"].to(torch.complex128), expected / dataset.stack.meta.noise_std, atol=2e-3, rtol=2e-3
    )


def test_other_images_do_not_pass_for_those_of_a_stack(make_particles, noise, make, tmp_path, unbuildable):
    particles = make_particles(noise(20, 16))
    stack = make(particles)
    unbuildable()
    table = particles.table
    same = {"cache": "prepared"}

    def changed(**columns):
        return type(particles)(table.assign(**columns), particles.rotation, particles.source).select(
            np.arange(9)
        )

    for other in (
        changed(data_sign=-1.0),
        changed(pixel_size_A=4.1),
        make_particles(noise(20, 16), name="other"),
    ):
        with pytest.raises(TypeError):  # it would be made anew
            make(other, **same)
        with pytest.raises(
            InputError, match=r"does not hold .* of the .* images of .*\.star, the first of them 0"
        ):
            ParticleDataset(other, stack)
    for options in ({"box_size": 14}, {"window": False}):
        with pytest.raises(TypeError):
            make(particles, **options)
    os.utime(tmp_path / "particles.mrcs", ns=(0, 1))
    with pytest.raises(TypeError):
        make(particles.select(np.arange(5)))


def test_the_folder_says_what_is_in_it(make_particles, noise, make):
    particles = make_particles(noise(12, 16)).select(np.arange(12)[::-1])
    stack = make(particles)
    assert identity.keys(stack.folder).tolist() == [f"{i + 1:06d}@particles.mrcs" for i in range(12)]
    told = stack.meta.provenance
    assert told["particles"] == particles.source.path
    assert {"drgn", "date", "host", "command"} < set(told)
    (source,) = stack.meta.sources
    assert os.stat(source.path).st_size == source.size


def test_keys_of_many_images_are_small_and_quick(tmp_path):
    n = 200_000
    number = pd.Series(np.arange(n))
    stack = number // 100
    key = (
        (number % 100 + 1).astype(str).str.zfill(6)
        + "@Extract/job012/Micrographs/FoilHole_"
        + stack.astype(str)
    )
    table = pd.DataFrame({"key": key, "image_index": number % 100, "data_sign": 1.0})
    identity.write(tmp_path, table, stack.to_numpy(), np.zeros(n, int), np.zeros(n, int))
    assert (tmp_path / identity.FILE).stat().st_size < 4 * n
    files = [identity.SourceFile(str(i), 0, 0) for i in range(n // 100)]
    wanted = np.random.default_rng(0).permutation(n)[:1000]
    rows = identity.find_rows(
        tmp_path, files, files, wanted // 100, wanted % 100, np.ones(1000), np.zeros(1000, int)
    )
    assert np.array_equal(rows, wanted)


def test_a_disk_that_is_too_small_is_told_before_anything_is_read(
    make_particles, noise, make, monkeypatch, tmp_path
):
    particles = make_particles(noise(100, 16))
    free = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    monkeypatch.setattr(prepared, "noise_std", None)
    needed = f"{100 * len(half_lattice(16, 2)) * 4 / 1000:.3g} kB"
    with pytest.raises(
        InputError, match=rf"need {needed} in .*prepared, where 10 kB are free.* dataset\.cache="
    ):
        make(particles)


def test_a_disk_that_fills_up_is_a_sentence(make_particles, noise, make, monkeypatch):
    def full(file, values):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(building, "_write", full)
    with pytest.raises(InputError, match="prepared is full: 0 of 10 images are prepared; make room"):
        make(make_particles(noise(10, 16)))


def test_the_cost_is_told_before_it_starts(make_particles, noise, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "CHUNK_BYTES", 16 * 16 * 16 * 4)
    said = []
    particles = make_particles(noise(800, 16))
    cache = tmp_path / "told"
    prepare(
        particles,
        box_size=16,
        window=True,
        cache=cache,
        say=said.append,
        progress=lambda done, total: said.append(done),
    )
    cost = said[0]
    assert (cost.images, cost.folder) == (800, cache)
    assert cost.disk_bytes == next(cache.glob("*/images.f16")).stat().st_size
    assert cost.seconds > 0
    assert cost.memory_bytes > 1e6
    assert said[-1] == 800
    assert f"800 images, {cost.disk_bytes / 1000:.3g} kB on disk in {cache}" in str(cost)
    assert "min" in str(replace(cost, seconds=300.0))


KILLED = """
import sys, time
from pathlib import Path
from drgn.data import building
from drgn.data.prepared import prepare
from drgn.formats.particles import Particles

building.CHUNK_BYTES, building._SYNC_S = 16 * 16 * 16 * 4, 0.05
def progress(done, total):
    time.sleep(0.02)
particles, cache = Particles.from_file(sys.argv[1]), Path(sys.argv[2])
prepare(particles, box_size=16, window=True, cache=cache, progress=progress)
"""


def test_a_build_killed_outright_goes_on(make_particles, noise, make, tmp_path, environment):
    particles = make_particles(noise(3200, 16))
    whole = make(particles, cache="whole")
    cache = tmp_path / "prepared"
    child = subprocess.Popen([sys.executable, "-c", KILLED, particles.source.path, cache], env=environment)
    for _ in range(400):
        states = [json.loads(path.read_text())["done"] for path in cache.glob("*/state.json")]
        if states and states[0] >= 160:
            break
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    (state,) = cache.glob("*.partial/state.json")
    at = json.loads(state.read_text())["done"]
    assert 160 <= at < 3200
    done = []
    stack = make(particles, progress=lambda n, _: done.append(n))
    assert done[0] > at
    assert (stack.folder / "images.f16").read_bytes() == (whole.folder / "images.f16").read_bytes()


def test_threads_of_torch_are_as_before(make_particles, noise, make):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        make(make_particles(noise(5, 16)))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_of_two_processes_one_makes_the_stack(make_particles, noise, make, monkeypatch, tmp_path):
    monkeypatch.setattr(building, "CHUNK_BYTES", 8 * 16 * 16 * 4)
    particles = make_particles(noise(80, 16))
    started, waiting = threading.Event(), threading.Event()
    done = []

    def first(n, _):
        done.append(n)
        started.set()
        waiting.wait(0.2)

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(make, particles, progress=first)
        assert started.wait(10)
        two = pool.submit(make, particles, progress=lambda n, _: done.append(-n))
        stacks = [one.result(20), two.result(20)]
    assert done == list(range(8, 81, 8))
    assert torch.equal(everything(stacks[0]), everything(stacks[1]))
    assert [path.name for path in (tmp_path / "prepared").iterdir()] == [stacks[0].folder.name]


def test_rows_are_read_in_the_order_asked_for(make_particles, noise, make):
    stack = make(make_particles(noise(10, 16)))
    values = everything(stack)
    assert torch.equal(stack.read(np.array([7, 0, 7])), values[[7, 0, 7]])
    stack.will_need(np.array([9, 0, 7]))  # a hint: nothing is to be seen of it
    assert values.dtype == torch.complex64
    assert torch.equal(everything(PreparedStack(stack.folder)), values)
    assert torch.equal(everything(pickle.loads(pickle.dumps(stack))), values)  # as workers get it


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no /proc here")
def test_only_a_part_of_the_stack_stays_mapped(make_particles, noise, make, monkeypatch):
    def mapped_kB():
        lines = Path("/proc/self/smaps").read_text().splitlines()
        at = next(i for i, line in enumerate(lines) if line.endswith(str(stack.folder / "images.f16")))
        return int(next(line for line in lines[at:] if line.startswith("Rss:")).split()[1])

    stack = make(make_particles(noise(2000, 16)))
    values = everything(stack)
    assert mapped_kB() > 500
    monkeypatch.setattr(prepared, "_MAPPED_BYTES", 100_000)
    rows = np.arange(200)
    assert all(torch.equal(stack.read(rows + start), values[rows + start]) for start in range(0, 2000, 200))
    assert mapped_kB() < 300


def test_memory_does_not_grow_with_the_number_of_images(make_particles, noise, make, monkeypatch):
    monkeypatch.setattr(building, "CHUNK_BYTES", 16 * 16 * 16 * 4)
    peaks = []
    for n in (1200, 2400):
        particles = make_particles(noise(n, 16), name=f"stack{n}")
        particles.require_images()
        tracemalloc.start()  # numpy's arrays: the images as they are read
        make(particles, progress=lambda done, total: None)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    per_image = 16 * 16 * 4
    assert peaks[1] - peaks[0] < 0.5 * 1200 * per_image


def test_a_damaged_stack_is_said_and_made_again(make_particles, noise, make, capsys):
    particles = make_particles(noise(60, 16))
    stack = make(particles, 16)
    whole = (stack.folder / "images.f16").read_bytes()
    for name in ("images.f16", "particles.parquet", "meta.json"):
        path = stack.folder / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        again = make(particles, 16)
        said = f"{stack.folder} is damaged (the SHA-256 of its {name} is another than when it was made)"
        assert said in capsys.readouterr().err
        assert (again.folder / "images.f16").read_bytes() == whole


def test_a_stack_that_is_cut_off_while_it_is_read_is_a_sentence(make_particles, noise, make):
    particles = make_particles(noise(60, 16))
    stack = make(particles, 16)
    with open(stack.folder / "images.f16", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(InputError, match=r"images\.f16 has 1,000 bytes, where .* cut off"):
        stack.read(np.arange(60))
    assert len(make(particles, 16).read(np.arange(60))) == 60
