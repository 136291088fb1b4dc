"""Half maps are made of their own half's images, and a run gives them back."""

from pathlib import Path

import numpy as np
import pytest
import torch

from drgn.data.dataset import ParticleDataset
from drgn.data.halves import random_halves
from drgn.data.prepared import prepare
from drgn.errors import InputError
from drgn.formats.particles import Particles
from drgn.models.modes import LinearModes, Subspace
from drgn.physics.fsc import fsc
from drgn.physics.grids import shells
from drgn.run import Run
from drgn.training.warmstart import fit_halves


class Changed(ParticleDataset):
    """Other images in the place of some."""

    change = staticmethod(lambda image, row, half: image)

    def __getitem__(self, rows):
        batch = super().__getitem__(rows)
        batch["image"] = self.change(batch["image"], batch["row"], batch["half"])
        return batch


@pytest.fixture(scope="module")
def dataset(toy, tmp_path_factory):
    """300 images of 16 px, in two halves."""
    particles = Particles.from_file(toy)
    stack = prepare(particles, box_size=16, window=True, cache=Path(tmp_path_factory.mktemp("prepared")))
    dataset = Changed(particles, stack)
    dataset.half = torch.from_numpy(random_halves(dataset.group.numpy(), 0))
    return dataset


def fitted(dataset, change, kind=LinearModes, **more):
    dataset.change = change
    torch.manual_seed(0)
    bases = [kind(box_size=16, zdim=2, radius_px=7, **more) for _ in range(2)]
    for name, network in bases[0].named_children():
        setattr(bases[1], name, network)
    fit_halves(bases, dataset, np.arange(len(dataset)), beta=1.0, seed=0)
    return bases


def test_volumes_of_a_half_do_not_know_the_images_of_the_other(dataset):
    one, two = fitted(dataset, lambda image, row, half: image)
    again, other = fitted(dataset, lambda image, row, half: torch.where(half[:, None] == 1, -image, image))
    assert torch.equal(one.density, again.density)
    assert not torch.equal(two.density, other.density)


def test_what_varies_is_the_same_in_both(dataset):
    """Their modes are turned onto each other: the halves agree in the mean and in the first mode."""
    one, two = fitted(dataset, lambda image, row, half: image)
    for volume, other in zip(one.density[:2], two.density[:2], strict=True):
        assert fsc(volume, other)[2:5].mean() > 0.5  # the first shell has a handful of voxels
    one, two = fitted(dataset, lambda image, row, half: image, Subspace, modes=3)
    with torch.no_grad():
        weights = [
            basis.weights(torch.eye(2) * 1.5) - basis.weights(-torch.eye(2) * 1.5) for basis in (one, two)
        ]
    moved = [torch.tensordot(w, basis.density, dims=1) for w, basis in zip(weights, (one, two), strict=True)]
    strongest = int(moved[0].flatten(1).norm(dim=1).argmax())
    assert fsc(moved[0][strongest], moved[1][strongest])[1:4].mean() > 0.5
    assert torch.equal(one.feature_std, two.feature_std)  # the networks are common
    assert one.coefficient_std.min() > 0


def test_volumes_of_noise_do_not_agree(dataset):
    """Beyond the low shells in which modes are turned onto each other their correlation is that of chance."""
    shape = (len(dataset), len(dataset.stack.lattice))
    noise = torch.randn(shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(4))
    dataset.change = lambda image, row, half: noise[row]
    bases = [LinearModes(box_size=16, zdim=2) for _ in range(2)]
    fit_halves(bases, dataset, np.arange(len(dataset)), beta=1.0, seed=0)
    curves = torch.stack([fsc(one, two) for one, two in zip(*(b.density for b in bases), strict=True)])
    voxels = torch.bincount(shells(bases[0].side, 3).flatten())[2:7]
    # under the spherical taper about half of the voxels are independent
    assert (curves[0, 2:7] * (voxels / 2).sqrt()).abs().max() < 4
    assert curves[0, 2:7].abs().mean() < 0.15


def test_a_run_gives_back_its_half_maps(train_tiny):
    words = ["warmstart=subspace", "warmstart.modes=3", "half_sets=given"]
    folder = train_tiny(*words)
    run = Run.open(folder)
    assert run.halves
    assert np.isfinite(run.info["best_loss"])
    z = run.latents().z[:2]
    first, again = (list(run.half_volumes(z)) for _ in range(2))
    for (one, two), (same, too), mean in zip(first, again, run.volumes(z), strict=True):
        assert torch.equal(one, same)
        assert torch.equal(two, too)
        assert not torch.equal(one, two)
        np.testing.assert_allclose(mean, ((one + two) / 2).numpy(), atol=1e-5)
    half = run.datamodule.dataset.half
    train_tiny(*words, "epochs=2", output=folder)  # goes on
    resumed = Run.open(folder)
    assert torch.equal(resumed.datamodule.dataset.half, half)
    assert resumed.info["epochs"] == 2
    with pytest.raises(InputError, match="half_sets"):
        train_tiny(*words[:2], "epochs=2", output=folder)
    with pytest.raises(InputError, match="has no half maps: train with half_sets"):
        next(Run.open(train_tiny()).half_volumes(z))


@pytest.mark.parametrize(
    "words",
    [
        ["latent.zdim=2"],
        ["latent=none"],
        ["model=linear", "latent.zdim=2"],
        ["model=classes", "latent.zdim=2"],
    ],
    ids=" ".join,
)
def test_other_models_have_halves_too(train_tiny, words):
    run = Run.open(train_tiny(*words, "half_sets=random"))
    one, two = next(run.half_volumes(np.zeros((1, run.zdim), np.float32) + 0.5))
    assert fsc(one, two)[1:3].min() > 0.3
    assert not torch.equal(one, two)
