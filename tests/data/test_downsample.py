import numpy as np
import pytest
import torch

from drgn.data.downsample import write_downsampled
from drgn.errors import InputError
from drgn.formats.identity import match
from drgn.formats.mrc import read_header
from drgn.formats.particles import Particles, read_images
from drgn.formats.star import read_blocks
from drgn.physics import fourier


@pytest.fixture
def particles(make_particles, noise):
    n = 40
    order = np.random.default_rng(0).permutation(n)
    return make_particles(
        noise(n, 32) + 7,
        rlnImageName=[f"{i + 1:06d}@particles.mrcs" for i in order],
        rlnOriginXAngst=np.linspace(-9, 9, n),
        rlnMicrographName=[f"mic{i % 3}.mrc" for i in range(n)],
        rlnLogLikeliContribution=np.arange(n) / 7,
    )


def test_images_are_those_of_the_slow_formula_in_the_order_of_the_table(particles, tmp_path):
    output = tmp_path / "out" / "small.star"
    told = []
    stack = write_downsampled(particles, output, 16, progress=lambda done, total: told.append((done, total)))
    assert stack == tmp_path / "out" / "small.mrcs"
    assert told[-1] == (40, 40)
    small = Particles.from_file(output)
    found = read_images(small, np.arange(40))
    old = torch.from_numpy(read_images(particles, np.arange(40)))
    expected = fourier.downsample(old.double(), 16, 2)
    np.testing.assert_allclose(found, expected.float().numpy(), atol=1e-5)
    assert read_header(stack).pixel_size_A[0] == pytest.approx(8.0)


def test_the_star_keeps_everything_and_says_what_images_were_before(particles, tmp_path):
    output = tmp_path / "small.star"
    write_downsampled(particles, output, 16)
    small = Particles.from_file(output)
    table, before = small.table, particles.table
    assert table["original_image"].tolist() == before["key"].tolist()
    assert small.pixel_size_A == 8.0
    assert small.box_size == 16
    for column in ("shift_x_A", "defocus_u_A", "voltage_kV", "micrograph", "data_sign"):
        assert table[column].tolist() == before[column].tolist(), column
    np.testing.assert_allclose(small.rotation, particles.rotation, atol=1e-9)
    blocks = read_blocks(output)
    assert blocks["optics"]["rlnImageSize"].tolist() == [16]
    assert blocks["particles"]["rlnLogLikeliContribution"].tolist() == (np.arange(40) / 7).tolist()
    # identity comes back: a selection of the small images is one of the large
    chosen = small.select(np.array([30, 2, 11]))
    rows = match(chosen.table, before, "small", "large")
    assert rows.tolist() == [30, 2, 11]


def test_made_smaller_twice_the_first_image_is_the_original(particles, tmp_path):
    write_downsampled(particles, tmp_path / "a.star", 24)
    write_downsampled(Particles.from_file(tmp_path / "a.star"), tmp_path / "b.star", 16)
    twice = Particles.from_file(tmp_path / "b.star")
    assert twice.table["original_image"].tolist() == particles.table["key"].tolist()
    assert twice.pixel_size_A == pytest.approx(8.0)


def test_particles_of_another_kind_of_file(particles, tmp_path):
    stack = Particles.from_file(tmp_path / "particles.mrcs", data_sign=-1)
    write_downsampled(stack, tmp_path / "small.star", 16)
    small = Particles.from_file(tmp_path / "small.star")
    assert small.table["original_image"].iloc[4] == f"000005@{tmp_path / 'particles.mrcs'}"
    # the sign of the images is what it was
    old = torch.from_numpy(read_images(stack, np.arange(3)))
    expected = fourier.downsample(old, 16, 2).numpy()
    np.testing.assert_allclose(read_images(small, np.arange(3)), expected, atol=1e-5)


def test_the_table_is_not_replaced_where_its_stack_has_another_name(particles, tmp_path):
    table = tmp_path / "table.star"
    particles.save(table)
    before = table.read_bytes()
    with pytest.raises(InputError, match=r"table\.star is the table that is read"):
        write_downsampled(type(particles).from_file(table), table, 16)
    assert table.read_bytes() == before
    assert not table.with_suffix(".mrcs").exists()


def test_mistakes_are_sentences(particles, tmp_path):
    with pytest.raises(InputError, match=r"box_size=34: expected an even number"):
        write_downsampled(particles, tmp_path / "small.star", 34)
    with pytest.raises(InputError, match=r"small\.mrcs: expected a name that ends in \.star"):
        write_downsampled(particles, tmp_path / "small.mrcs", 16)
    with pytest.raises(InputError, match=r"is the stack that is read"):
        write_downsampled(particles, tmp_path / "particles.star", 16)
    sign = np.where(np.arange(40) < 3, -1.0, 1.0)
    mixed = type(particles)(particles.table.assign(data_sign=sign), particles.rotation, particles.source)
    with pytest.raises(InputError, match="bright and with dark"):
        write_downsampled(mixed, tmp_path / "small.star", 16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["particles.mrcs", "particles.star"]
