"""Each planted fault is found by name, in data that are right in everything else."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from drgn.command import compose
from drgn.data.preflight import Choice, Report, preflight, require_sound
from drgn.errors import InputError
from drgn.formats.mrc import read_volume
from drgn.formats.particles import Particles
from drgn.formats.table import Correction
from drgn.simulate import simulate

PIXEL_A = 6.0
MIRROR = np.diag([1.0, 1.0, -1.0])


@pytest.fixture(scope="module")
def star(tmp_path_factory):
    options = compose("simulate", ["n_particles=600", "box_size=32", f"pixel_size_A={PIXEL_A}", "snr=0.2"])
    return simulate(**{**options, "output": tmp_path_factory.mktemp("preflight")})


@pytest.fixture(scope="module")
def particles(star):
    return Particles.from_file(star)


@pytest.fixture(scope="module")
def consensus(star):
    volume, pixel_A = read_volume(star.parent / "maps" / "motion0.5_attached.mrc")
    return torch.from_numpy(volume), pixel_A


def planted(particles, rotation=None, shift=1.0, roll=0, **columns):
    table = particles.table.copy()
    for name in ("shift_x_A", "shift_y_A"):
        table[name] = np.roll(table[name].to_numpy(), roll) * shift
    for name, value in columns.items():
        table[name] = value
    rotation = particles.rotation if rotation is None else rotation
    return replace(particles, table=table, rotation=np.roll(rotation, roll, axis=0))


def test_sound_data_pass(particles):
    report = preflight(particles)
    assert (report.faults, report.settings, report.warnings) == ([], {}, [])
    assert report.gain > 1
    assert all(choice.z < -5 for choice in report.choices)
    assert report.resolution_A < 40
    (said,) = report.lines()
    assert f"{len(report.choices)} other readings fit worse" in said
    require_sound(report, "x.star")


@pytest.mark.parametrize(
    ("fault", "words", "settings"),
    [
        ({"data_sign": -1.0}, "protein comes out dark", {"data_sign": 1.0}),
        ({"rotation": "transposed"}, "rotation matrices transposed", {"transpose_rotations": True}),
        ({"rotation": "mirrored"}, "images mirrored", {"mirror_images": True}),
        ({"shift": -1.0}, "shifts of the opposite sign", {"shift_factor": -1.0}),
        ({"shift": 1 / PIXEL_A}, "pixels that were taken for Angstrom", {"shift_factor": PIXEL_A}),
        ({"shift": PIXEL_A}, "Angstrom that were taken for pixels", {"shift_factor": 1 / PIXEL_A}),
        ({"roll": 1}, "pose of the row after it", {}),
        ({"roll": -1}, "pose of the row before it", {}),
        (
            {"rotation": "transposed", "shift": -1.0, "data_sign": -1.0},
            "protein comes out dark",
            {"transpose_rotations": True, "shift_factor": -1.0, "data_sign": 1.0},
        ),
        ({"rotation": "shuffled"}, "are these the poses of these images", {}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_planted_fault_is_named(particles, fault, words, settings):
    right = particles.rotation
    rotations = {
        "transposed": right.transpose(0, 2, 1),
        "mirrored": np.diag([1.0, -1.0, -1.0]) @ right,
        "shuffled": right[np.random.default_rng(0).permutation(len(right))],
    }
    columns = {**fault, "rotation": rotations.get(fault.get("rotation", ""))}
    if fault.get("rotation") == "mirrored":
        columns["shift_y_A"] = -particles.table["shift_y_A"]
    report = preflight(planted(particles, **columns))
    assert words in "; ".join(report.faults)
    assert report.settings == pytest.approx(settings)
    with pytest.raises(InputError, match=r"^x\.star: preflight: ") as error:
        require_sound(report, "x.star")
    for key in settings:
        assert f"dataset.{key}=" in str(error.value)


def test_the_hand_and_the_sign_are_told_by_a_consensus_map(particles, consensus):
    assert preflight(particles, consensus=consensus).faults == []
    mirrored = planted(particles, MIRROR @ particles.rotation @ MIRROR, data_sign=-1.0)
    report = preflight(mirrored, consensus=consensus)
    assert report.settings == {"mirror_map": True, "data_sign": 1.0}
    assert "of the other hand than the consensus map" in report.faults[1]
    other = (torch.randn(20, 20, 20, generator=torch.Generator().manual_seed(0)), 9.0)
    assert "does not resemble" in preflight(particles, consensus=other).warnings[0]


def test_only_images_of_the_usual_pixel_size_are_checked_and_that_is_said(particles):
    table = particles.table
    pixel_A = table["pixel_size_A"].where(table.index % 3 != 1, 1.5 * PIXEL_A)
    report = preflight(planted(particles, pixel_size_A=pixel_A))
    assert report.faults == []
    n, others = (table.index % 3 != 1).sum(), (table.index % 3 == 1).sum()
    assert report.n == n
    assert (
        f"only the {n:,} images of 32 px at {PIXEL_A:.5g} A are checked, and not the {others:,}"
        in (report.warnings[0])
    )
    # the row before is that of the file, whatever its pixel size
    rolled = planted(particles, roll=1, pixel_size_A=pixel_A)
    assert "pose of the row after it" in preflight(rolled).faults[0]


def test_too_few_images_are_a_warning(particles):
    few = particles.select(np.arange(12))
    report = preflight(replace(few, rotation=few.rotation[::-1].copy()))
    assert report.faults == []
    assert "too few, or too noisy" in report.warnings[0]
    (said,) = report.lines()  # and nothing of what fits better or worse
    assert "too few, or too noisy" in said


def test_readings_that_cannot_be_told_apart_are_named():
    choices = [Choice("transposed", 0.1, -9.0), Choice("shifts of the opposite sign", 1.0, -0.5)]
    report = Report(700, 1.0, 30.0, choices, [], {}, [], conclusive=True)
    (said,) = report.lines()
    assert "1 other readings fit worse, 1 about as well" in said
    assert said.endswith("(shifts of the opposite sign)")


def test_what_is_set_mends_what_was_found(star, particles):
    """The options that the report names undo the fault when the file is read with them."""
    correction = Correction(transpose_rotations=True, shift_factor=-0.5)
    wrong, shift = particles.rotation.transpose(0, 2, 1), -2 * particles.table[["shift_x_A", "shift_y_A"]]
    rotation, shift_A = correction.of(wrong, shift.to_numpy())
    np.testing.assert_allclose(rotation, particles.rotation)
    np.testing.assert_allclose(shift_A, particles.table[["shift_x_A", "shift_y_A"]])
    mended = Particles.from_file(star, mirror_images=True, mirror_map=True)
    assert mended.source.replaced
    again = Correction(mirror_images=True, mirror_map=True).of(
        mended.rotation, mended.table[["shift_x_A", "shift_y_A"]].to_numpy()
    )
    np.testing.assert_allclose(again[0], particles.rotation, atol=1e-12)


def test_settings_are_told_as_they_must_be_given(particles):
    """The file is read with shift_factor=2 already, which is wrong: the sentence says 1, not 0.5."""
    settings = {"shift_factor": 2.0, "pixel_size_A": PIXEL_A}
    report = preflight(planted(particles, shift=2.0), settings=settings)
    assert report.settings == {"shift_factor": 1.0}
    # a pixel size that was given, and is half of the true one, would do the same
    assert "look at dataset.pixel_size_A=6 first" in report.faults[0]
