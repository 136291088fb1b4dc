import numpy as np
import pytest
import torch

from drgn.data.datamodule import ParticleDataModule
from drgn.errors import InputError


@pytest.fixture
def module(make_particles, noise, tmp_path):
    """Options -> data module on 100 images of noise."""

    def make(images=None, **options):
        make_particles(noise(100, 16) if images is None else images, **options.pop("columns", {}))
        paths = {"particles": tmp_path / "particles.star", "cache": tmp_path / "prepared"}
        return ParticleDataModule(**{"name": "test", **paths, **options})

    return make


def prepared(module):
    module.prepare_data()
    return module


def rows_of(loader):
    return torch.cat([batch["row"] for batch in loader]).tolist()


def test_training_and_heldout_rows_are_all_rows_and_apart(module):
    data = prepared(module(heldout_fraction=0.2))
    training, heldout = rows_of(data.train_dataloader()), rows_of(data.val_dataloader())
    assert len(heldout) == 20
    assert sorted(training + heldout) == list(range(100))
    assert data.heldout.sum() == 20
    assert sorted(heldout) == np.flatnonzero(data.heldout).tolist()
    assert rows_of(data.predict_dataloader()) == list(range(100))


def test_batches_are_of_the_size_asked_for(module):
    data = prepared(module(batch_size=16, heldout_fraction=0.2))
    assert {len(batch["row"]) for batch in data.train_dataloader()} == {16}
    assert {len(batch["row"]) for batch in prepared(module(batch_size=100)).predict_dataloader()} == {100}


@pytest.mark.parametrize(("fraction", "count"), [(0.0, 0), (0.05, 5), (0.5, 50)])
def test_the_share_that_is_held_out(module, fraction, count):
    data = prepared(module(heldout_fraction=fraction))
    assert data.heldout.sum() == count
    loader = data.val_dataloader()
    assert (loader == []) if count == 0 else (len(rows_of(loader)) == count)


def test_the_split_is_of_the_seed_and_nothing_else(module):
    assert np.array_equal(module(seed=3).heldout, module(seed=3, batch_size=2, box_size=8).heldout)
    assert not np.array_equal(module(seed=3).heldout, module(seed=4).heldout)


def tilt_columns():
    """As Warp writes tilt series: the images of one particle share a group and have a dose each."""
    tilt = np.arange(100) % 5
    return {
        "rlnGroupName": [f"tomogram_{i // 5}" for i in range(100)],
        "rlnCtfBfactor": -4.0 * (1 + tilt),
        "rlnCtfScalefactor": np.cos(np.deg2rad(3.0 * tilt)),
    }


def test_images_of_one_particle_are_held_out_together(module):
    data = module(heldout_fraction=0.3, columns=tilt_columns())
    groups = data.particles.table["group"].to_numpy()
    assert len(set(groups)) == 20
    held = {group: set(data.heldout[groups == group]) for group in set(groups)}
    assert all(len(flags) == 1 for flags in held.values())
    assert data.heldout.sum() == 30


def test_rejected_images_are_neither_trained_on_nor_held_out(module, noise):
    images = noise(100, 16)
    images[[3, 50, 99]] = 0
    data = prepared(module(images, heldout_fraction=0.5))
    assert data.rejected == [f"{i:06d}@particles.mrcs" for i in (4, 51, 100)]
    used = rows_of(data.train_dataloader()) + rows_of(data.val_dataloader())
    assert sorted(used) == [i for i in range(100) if i not in (3, 50, 99)]
    assert rows_of(data.predict_dataloader()) == sorted(used)  # nor do they say anything of a latent


def test_an_odd_box_is_cropped_by_one_and_a_given_one_is_kept(module, noise):
    images = noise(10, 17)
    data = prepared(module(images))
    assert data.box_size == data.dataset.stack.meta.box_size == 16
    assert data.dataset.stack.meta.pixel_size_A == pytest.approx(4.0 * 17 / 16)
    assert module(images, box_size=10).box_size == 10
    with pytest.raises(InputError, match=r"dataset\.box_size=18: .* 17$"):
        module(images, box_size=18).prepare_data()


def test_the_cropped_box_has_larger_pixels(module, noise):
    data = prepared(module(noise(10, 32), box_size=16))
    (batch,) = data.predict_dataloader()
    assert set(batch["pixel_size_A"].tolist()) == {8.0}
    assert batch["image"].shape[1] == len(data.dataset.stack.lattice)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch_size": 0}, r"dataset\.batch_size=0: expected at least 1"),
        ({"heldout_fraction": 1.0}, r"dataset\.heldout_fraction=1\.0: expected a share from 0 to below 1"),
        ({"heldout_fraction": -0.1}, r"dataset\.heldout_fraction=-0\.1"),
    ],
)
def test_impossible_numbers_are_refused(module, options, sentence):
    with pytest.raises(InputError, match=sentence):
        module(**options)


def test_an_odd_training_box_is_refused(module):
    with pytest.raises(InputError, match=r"dataset\.box_size=15: expected an even number"):
        module(box_size=15).prepare_data()


def test_nothing_left_to_train_on_is_a_sentence(module, noise):
    data = prepared(module(noise(1, 16), heldout_fraction=0.9))
    with pytest.raises(InputError, match="no usable image is left for training"):
        data.train_dataloader()


def test_a_missing_file_says_what_to_download(tmp_path):
    options = {"name": "x", "particles": tmp_path / "none.star"}
    with pytest.raises(InputError, match=r"none\.star is not there: get 3 GB from EMPIAR"):
        ParticleDataModule(**options, download="get 3 GB from EMPIAR").prepare_data()
    with pytest.raises(InputError, match=r"none\.star"):
        ParticleDataModule(**options).prepare_data()


def test_images_without_poses_are_refused_before_they_are_prepared(module, tmp_path):
    data = module(columns=dict.fromkeys(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")))
    with pytest.raises(InputError, match=r"has no poses.*dataset\.poses="):
        data.prepare_data()
    assert not (tmp_path / "prepared").exists()


def test_images_without_a_ctf_are_told(module, capsys):
    module(columns={"rlnDefocusU": None, "rlnDefocusV": None, "rlnDefocusAngle": None}).check()
    assert "gives no defocus: its images are taken as projections without a CTF" in capsys.readouterr().err
    module().check()
    assert "defocus" not in capsys.readouterr().err


def test_half_sets_part_particles_and_not_their_images(module):
    assert "half" not in next(iter(prepared(module()).predict_dataloader()))
    columns = tilt_columns()
    data = prepared(module(half_sets="given", columns=columns))  # the file has none: they are drawn
    half = data.dataset.half.numpy()
    for batch in data.predict_dataloader():
        assert batch["half"].tolist() == half[batch["row"].numpy()].tolist()
    assert (half == 0).sum() == 50
    for group in range(20):
        assert len(set(half[5 * group : 5 * group + 5])) == 1
    again = prepared(module(half_sets="random", columns=columns, box_size=8))
    assert again.dataset.half.tolist() == half.tolist()
    other = prepared(module(half_sets="random", columns=columns, seed=1))
    assert other.dataset.half.tolist() != half.tolist()


def test_half_sets_of_the_file_are_taken(module):
    subset = 1 + np.arange(100) // 50
    assert prepared(module(half_sets="given", columns={"rlnRandomSubset": subset})).dataset.half.tolist() == [
        *[0] * 50,
        *[1] * 50,
    ]
    columns = tilt_columns() | {"rlnRandomSubset": 1 + (np.arange(100) >= 52)}
    with pytest.raises(InputError, match="images of the particle tomogram_10 are in both half sets"):
        prepared(module(half_sets="given", columns=columns)).dataset  # noqa: B018
