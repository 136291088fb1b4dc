"""Images of several pixel sizes in one training box, against the forward model."""

import numpy as np
import pandas as pd
import pytest
import torch

from drgn.data.dataset import ParticleDataset
from drgn.data.fields import Field, box_and_pixel, default_box_size, fields_of, require_box_size
from drgn.data.prepared import prepare
from drgn.errors import InputError
from drgn.formats.mrc import StackWriter
from drgn.formats.particles import Particles
from drgn.formats.relion import matrix_to_euler
from drgn.formats.star import write_blocks
from drgn.physics import fourier, imaging, rotations, slices
from drgn.physics.grids import half_lattice, shells
from drgn.physics.phantoms import toy_molecule

NOISE = 0.005  # per A of pixel: white noise of the same strength in every group
GROUPS = ((5.0, 48, 90), (4.1, 60, 60), (4.1, 52, 40))  # pixel size, box, images
BOX = 40
MOLECULE = toy_molecule(0.5, True)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """One molecule seen with three cameras; noise is the same per area, grey values are not normalised."""
    folder = tmp_path_factory.mktemp("mixed")
    generator = torch.Generator().manual_seed(0)
    rows, optics = [], []
    for number, (pixel_A, size, n) in enumerate(GROUPS, 1):
        lattice = half_lattice(size, 2)
        frequencies = lattice.frequencies.double()
        rotation = rotations.random_rotations(n, generator)
        shift_A = 12 * (torch.rand(n, 2, generator=generator, dtype=torch.float64) - 0.5)
        defocus = 4000 + 3000 * torch.rand(n, generator=generator, dtype=torch.float64)
        parameters = torch.tensor([0, 0, 0, 0, 200.0, 2.0, 0.1, 100.0, 1.0], dtype=torch.float64).repeat(n, 1)
        parameters[:, 0] = parameters[:, 1] = defocus
        transforms = MOLECULE.fourier(imaging.slice_coordinates(frequencies, rotation) / pixel_A)
        contrast, phase = imaging.transfer(
            frequencies, torch.full((n,), pixel_A, dtype=torch.float64), parameters, shift_A / pixel_A
        )
        clean = fourier.ifft(lattice.scatter(imaging.observe(transforms, contrast, phase)), 2).real
        gain = 1.0 + number  # of the camera: grey values mean nothing
        noise = NOISE * pixel_A * torch.randn(n, size, size, generator=generator, dtype=torch.float64)
        with StackWriter(folder / f"{number}.mrcs", n, size, pixel_A) as stack:
            stack.write((gain * (clean + noise)).float().numpy())
        euler_deg = matrix_to_euler(rotation.numpy())
        rows.append(
            pd.DataFrame(
                {
                    "rlnImageName": [f"{i + 1:06d}@{number}.mrcs" for i in range(n)],
                    **{f"rlnAngle{a}": euler_deg[:, i] for i, a in enumerate(("Rot", "Tilt", "Psi"))},
                    "rlnOriginXAngst": shift_A[:, 0],
                    "rlnOriginYAngst": shift_A[:, 1],
                    "rlnDefocusU": defocus,
                    "rlnDefocusV": defocus,
                    "rlnDefocusAngle": 0.0,
                    "rlnCtfBfactor": 100.0,
                    "rlnOpticsGroup": number,
                }
            )
        )
        optics.append(
            {
                "rlnOpticsGroup": number,
                "rlnVoltage": 200.0,
                "rlnSphericalAberration": 2.0,
                "rlnAmplitudeContrast": 0.1,
                "rlnImagePixelSize": pixel_A,
                "rlnImageSize": size,
            }
        )
    particles = pd.concat(rows).sample(frac=1, random_state=0)  # groups in turn, as nobody wants them
    write_blocks(folder / "mixed.star", {"optics": pd.DataFrame(optics), "particles": particles})
    return Particles.from_file(folder / "mixed.star")


@pytest.fixture(scope="module")
def dataset(mixed, tmp_path_factory):
    cache = tmp_path_factory.mktemp("prepared")
    return ParticleDataset(mixed, prepare(mixed, box_size=BOX, window=True, cache=cache))


def group_rows(particles, number):
    return np.flatnonzero(particles.table["optics_group"] == str(number))


def test_the_most_frequent_box_and_pixel_is_the_reference(mixed):
    fields, field = fields_of(mixed)
    # 240 A: 58.5 pixels of 4.1 A, of which there is no half
    assert fields == [Field(48, 5.0, 48), *fields[1:]]
    assert set(fields[1:]) == {Field(60, 4.1, 59), Field(52, 4.1, 59)}
    size = mixed.table["box_size_px"].to_numpy()
    assert [fields[i].original_box_size for i in field] == size.tolist()
    assert default_box_size(fields) == 48
    kinds, _, counts = box_and_pixel(mixed)
    assert dict(zip(kinds, counts.tolist(), strict=True)) == {(48, 5.0): 90, (60, 4.1): 60, (52, 4.1): 40}


def test_pixel_sizes_that_differ_by_rounding_are_one(mixed):
    rows = group_rows(mixed, 1)
    some = mixed.select(rows)
    wobble = 5.0 * (1 + 3e-5 * np.sign(np.arange(len(rows)) % 9 - 4))
    fields, field = fields_of(type(some)(some.table.assign(pixel_size_A=wobble), some.rotation, some.source))
    assert len(fields) == 1
    assert not field.any()


def test_a_box_for_which_images_would_be_enlarged_is_refused():
    fields = [Field(128, 1.0, 128), Field(64, 3.0, 43)]
    with pytest.raises(
        InputError, match=r"have 3 A per pixel.* only 43 of their pixels.*box_size=42 or less"
    ):
        require_box_size(64, fields)
    require_box_size(42, fields)


def test_each_image_keeps_its_pixel_size(dataset, mixed):
    for number, (pixel_A, _, n) in enumerate(GROUPS, 1):
        rows = group_rows(mixed, number)
        batch = dataset[rows]
        own_A = (48 if number == 1 else 59) * pixel_A / BOX
        assert batch["pixel_size_A"].numpy() == pytest.approx(own_A)
        assert batch["frequency_scale"].numpy() == pytest.approx(6.0 / own_A)
        shift_A = mixed.table.loc[rows, ["shift_x_A", "shift_y_A"]].to_numpy()
        np.testing.assert_allclose(batch["shift_px"].numpy(), shift_A / own_A, rtol=1e-5, atol=1e-6)
        assert len(rows) == n
    assert dataset.stack.meta.pixel_size_A == pytest.approx(6.0)
    assert dataset.stack.meta.signal[0] == 1


def model_of(dataset, batch, scale):
    """Slices of the molecule in units of the reference group's noise, as the microscope shows them."""
    frequencies = dataset.stack.lattice.frequencies
    coordinates = imaging.slice_coordinates(frequencies, batch["rotation"], scale)
    transforms = MOLECULE.fourier(coordinates.double() / 6.0).to(torch.complex64)
    unit = 48.0 * NOISE * 5.0 * WINDOWED
    contrast, phase = imaging.transfer(
        frequencies, batch["pixel_size_A"], batch["ctf_parameters"], batch["shift_px"]
    )
    return imaging.observe(transforms / unit, contrast, phase)


def _windowed():
    from drgn.physics.masks import window

    return float(window(48).square().mean().sqrt())


WINDOWED = _windowed()


@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_group_is_the_model_and_noise_of_variance_one(dataset, mixed, number):
    batch = dataset[group_rows(mixed, number)]
    model = model_of(dataset, batch, batch["frequency_scale"])
    assert model.abs().square().mean() > 3, "there is a signal to be wrong about"
    residual = batch["image"] - model
    assert residual.abs().square().mean().item() == pytest.approx(1.0, abs=0.06)
    # the strength of the signal is that of the model, though gain, box and pixel differ
    strength = (batch["image"] * model.conj()).real.sum() / model.abs().square().sum()
    assert strength.item() == pytest.approx(1.0, abs=0.02)
    if number > 1:
        wrong = batch["image"] - model_of(dataset, batch, None)
        assert wrong.abs().square().mean() > residual.abs().square().mean() + 0.02


def test_back_projections_of_the_groups_agree(dataset, mixed):
    maps = []
    for numbers in ((1,), (2, 3)):
        batch = dataset[np.concatenate([group_rows(mixed, number) for number in numbers])]
        frequencies = dataset.stack.lattice.frequencies
        contrast, phase = imaging.transfer(
            frequencies, batch["pixel_size_A"], batch["ctf_parameters"], batch["shift_px"]
        )
        one = imaging.Multiplied(torch.ones_like(contrast), torch.ones_like(contrast))
        values = imaging.matched_filter(batch["image"], contrast, phase, one)
        where = imaging.slice_coordinates(frequencies, batch["rotation"], batch["frequency_scale"])
        total, weight = slices.insert(
            values.flatten(), contrast.square().flatten(), where.reshape(-1, 3), BOX
        )
        maps.append(total / (weight + 0.1))
    inside = shells(BOX, 3) < 8
    a, b = maps[0][inside], maps[1][inside]
    correlation = (a * b.conj()).real.sum() / (a.norm() * b.norm())
    assert correlation > 0.95
    assert (b.norm() / a.norm()).item() == pytest.approx(1.0, abs=0.06)


def test_images_of_one_pixel_size_have_no_scale(mixed, tmp_path):
    some = mixed.select(group_rows(mixed, 1))
    dataset = ParticleDataset(some, prepare(some, box_size=BOX, window=True, cache=tmp_path))
    assert "frequency_scale" not in dataset[np.arange(3)]


def test_noise_is_measured_by_optics_group(dataset):
    for entry in dataset.stack.meta.noise:
        number = int(entry["optics_group"])
        pixel_A = GROUPS[number - 1][0]
        assert entry["std"] == pytest.approx((1 + number) * NOISE * pixel_A, rel=0.02)


def test_an_unknown_pixel_size_is_a_sentence(mixed):
    some = type(mixed)(mixed.table.assign(pixel_size_A=np.nan), mixed.rotation, mixed.source)
    with pytest.raises(InputError, match=r"mixed\.star does not give the pixel size.*dataset\.pixel_size_A"):
        fields_of(some)
