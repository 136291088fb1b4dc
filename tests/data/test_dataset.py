import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from drgn.data import identity
from drgn.data.dataset import Batches, ParticleDataset
from drgn.data.fields import fields_of
from drgn.data.prepared import Meta, PreparedStack
from drgn.data.sample import spread
from drgn.errors import InputError
from drgn.physics import imaging
from drgn.physics.grids import half_lattice

BOX = 16
LATTICE = half_lattice(BOX, 2)


@pytest.fixture
def stack_of(tmp_path):
    """Particles and complex transforms (N, P) -> their prepared stack; 8 px of an image became 4."""

    def make(particles, values, window=True):
        fields, field = fields_of(particles)
        files, stack = identity.source_files(particles)
        meta = Meta(
            n=len(values),
            box_size=BOX,
            original_box_size=2 * BOX,
            pixel_size_A=8.0,
            window=window,
            noise_std=1.0,
            density_scale=1.0,
            fields=fields,
            signal=[1.0] * len(fields),
            sources=files,
        )
        folder = tmp_path / "stack"
        folder.mkdir(exist_ok=True)
        (folder / "meta.json").write_text(json.dumps(asdict(meta)))
        identity.write(folder, particles.table, stack, field, field)
        torch.view_as_real(values).numpy().astype(np.float16).tofile(folder / "images.f16")
        return PreparedStack(folder)

    return make


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


def test_a_batch_is_what_the_table_says_of_its_rows(make_particles, stack_of):
    n = 5
    particles = make_particles(
        np.zeros((n, 2 * BOX, 2 * BOX)),
        rlnOriginXAngst=8.0 * np.arange(n),
        rlnOriginYAngst=-4.0 * np.arange(n),
        rlnDefocusU=10000.0 + np.arange(n),
        rlnPhaseShift=np.full(n, 20.0),
        rlnAnglePsi=10.0 * np.arange(n),
    )
    values = normal(n, len(LATTICE))
    dataset = ParticleDataset(particles, stack_of(particles, values))
    assert len(dataset) == n
    rows = np.array([3, 1])
    batch = dataset[rows]
    assert batch["row"].tolist() == [3, 1]
    assert torch.equal(batch["image"], dataset.stack.read(rows))
    # pixels of the training box, which are twice as large as those of the images
    assert batch["shift_px"].tolist() == [[3.0, -1.5], [1.0, -0.5]]
    assert batch["pixel_size_A"].tolist() == [8.0, 8.0]
    assert batch["ctf_parameters"][:, 0].tolist() == [10003.0, 10001.0]
    assert batch["ctf_parameters"][0, 1:].tolist() == pytest.approx([15000, 0, 20, 300, 2.7, 0.1, 0, 1])
    torch.testing.assert_close(batch["rotation"].double(), torch.from_numpy(particles.rotation[rows]))
    assert batch["premultiplied"].tolist() == [False, False]
    assert {name: value.dtype for name, value in batch.items() if value.is_floating_point()} == dict.fromkeys(
        ("rotation", "shift_px", "pixel_size_A", "ctf_parameters"), torch.float32
    )


def test_images_without_a_ctf_have_a_ctf_of_one(make_particles, stack_of):
    names = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
    particles = make_particles(np.zeros((3, 32, 32)), **dict.fromkeys(names))
    assert not particles.has_ctf
    batch = ParticleDataset(particles, stack_of(particles, normal(3, len(LATTICE))))[np.arange(3)]
    contrast, _ = imaging.transfer(
        LATTICE.frequencies, batch["pixel_size_A"], batch["ctf_parameters"], batch["shift_px"]
    )
    torch.testing.assert_close(contrast, torch.ones(3, len(LATTICE)))


def test_images_without_poses_are_refused_with_the_way_out(make_particles, stack_of):
    names = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
    particles = make_particles(np.zeros((3, 32, 32)), **dict.fromkeys(names))
    with pytest.raises(InputError, match=r"particles\.star has no poses: .* dataset\.poses="):
        ParticleDataset(particles, stack_of(particles, normal(3, len(LATTICE))))


@pytest.mark.parametrize("premultiplied", [False, True])
def test_the_amplitude_of_a_known_spectrum(make_particles, stack_of, premultiplied):
    n = 2000
    particles = make_particles(np.zeros((n, 2 * BOX, 2 * BOX)), rlnDefocusU=np.linspace(5000.0, 25000.0, n))
    table = particles.table.assign(
        ctf_premultiplied=premultiplied, defocus_v_A=particles.table["defocus_u_A"].to_numpy()
    )
    particles = type(particles)(table, particles.rotation, particles.source)
    truth = 4 * torch.exp(-5 * LATTICE.frequencies.norm(dim=1))  # 4 at the origin, 0.33 at Nyquist
    blank = ParticleDataset(particles, stack_of(particles, normal(n, len(LATTICE))))
    batch = blank[np.arange(n)]
    contrast, _ = imaging.transfer(
        LATTICE.frequencies, batch["pixel_size_A"], batch["ctf_parameters"], batch["shift_px"]
    )
    images = truth * normal(n, len(LATTICE), seed=1) * contrast + normal(n, len(LATTICE), seed=2)
    if premultiplied:
        images = images * contrast * blank.density_scale  # in units of the noise after it, as a stack is
    dataset = ParticleDataset(particles, stack_of(particles, images, window=False))
    found = dataset.signal_amplitude(np.arange(n))
    assert found.dtype == torch.float32
    assert found.shape == (len(LATTICE),)
    ratio = (found / truth)[LATTICE.frequencies.norm(dim=1) < 0.35]
    assert ratio.min() > 0.75
    assert ratio.max() < 1.3
    assert (found > 0).all()
    assert torch.equal(dataset.signal_amplitude(np.arange(n)[::-1].copy(), limit=n), found)


def test_the_amplitude_of_noise_alone_is_small_and_not_zero(make_particles, stack_of):
    particles = make_particles(np.zeros((500, 32, 32)))
    dataset = ParticleDataset(particles, stack_of(particles, normal(500, len(LATTICE))))
    amplitude = dataset.signal_amplitude(np.arange(500))
    assert (amplitude > 0).all()
    assert amplitude.median() < 0.4


def singles(n):
    return np.arange(100, 100 + n), np.arange(n)


@pytest.mark.parametrize(("n", "size"), [(23, 5), (20, 5), (3, 8), (1, 1)])
def test_every_row_comes_once_in_each_epoch(n, size):
    sampler = Batches(*singles(n), size, seed=0)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert [len(batch) for batch in batches[:-1]] == [size] * (n // size - (n % size == 0))
        assert sorted(np.concatenate(batches)) == list(range(100, 100 + n))
        assert len(batches) == len(sampler) == -(-n // size)


def test_the_order_is_of_the_seed_and_the_epoch():
    def order(seed, epoch):
        sampler = Batches(*singles(50), 8, seed)
        sampler.set_epoch(epoch)
        return np.concatenate(list(sampler)).tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)}) == 6
    assert order(None, 0) == order(None, 5) == list(range(100, 150))


@pytest.mark.parametrize(("n", "world"), [(64, 2), (65, 2), (41, 3), (9, 4)])
def test_processes_share_an_epoch(n, world):
    samplers = [Batches(*singles(n), 8 * world, 0, rank, world) for rank in range(world)]
    batches = [list(sampler) for sampler in samplers]
    assert len({len(b) for b in batches} | {len(s) for s in samplers}) == 1, "a process would wait for ever"
    rows = np.concatenate([row for b in batches for row in b])
    assert set(rows) == set(range(100, 100 + n))
    assert len(rows) < n + 8 * world


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("n", [1, 20, 100])
def test_each_batch_is_announced_once_and_some_batches_before_it_comes(n, world):
    announced = []
    sampler = Batches(*singles(n), 8, 0, world - 1, world, will_need=announced.append)
    for number, batch in enumerate(sampler):
        assert len(announced) == min(number + 4, len(sampler))
        assert announced[number] is batch or np.array_equal(announced[number], batch)


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("particles", [40, 150, 4])  # 7 or 2 images each; 75, more than a batch
def test_images_of_one_particle_stay_in_one_batch(seed, world, particles):
    group = np.random.default_rng(0).integers(0, particles, 300)
    samplers = [Batches(np.arange(300), group, 16, seed, rank, world) for rank in range(world)]
    lengths = set()
    for epoch in range(6):
        batches = []
        for sampler in samplers:
            sampler.set_epoch(epoch)
            batches.append(list(sampler))
            lengths |= {len(sampler), len(batches[-1])}
        together = [set(group[b]) for part in batches for b in part]
        rows = np.concatenate([b for part in batches for b in part])
        assert set(rows) == set(range(300))
        assert all(
            np.isin(group, list(found)).sum() == len(b)
            for found, b in zip(together, [b for part in batches for b in part], strict=True)
        )
    # the trainer asks for the number of batches once, and stops there in every epoch
    assert len(lengths) == 1


def test_a_sample_of_rows_is_of_the_whole_file():
    assert spread(np.arange(100, 200), 5).tolist() == [100, 124, 149, 174, 199]
    assert spread(np.arange(3), 5).tolist() == [0, 1, 2]
