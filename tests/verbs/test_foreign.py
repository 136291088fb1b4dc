"""The main job on files that other programs wrote, with nothing converted by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from drgn.formats.mrc import read_volume
from drgn.physics.fsc import fsc, resolution_A
from drgn.physics.masks import window
from drgn.run import Run

Train = Callable[..., Run]


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Overrides of drgn train -> the finished run."""
    from drgn.command import bind, compose
    from drgn.train import train

    def make(*overrides: str) -> Run:
        options = [
            "dataset=custom",
            f"dataset.cache={tmp_path / 'prepared'}",
            f"output={tmp_path / 'run'}",
            "trainer=cpu",
            "warmstart=none",
            "analyze=false",
            "trainer.log_every_n_steps=1",
            *overrides,
        ]
        train(**bind(train, compose("train", options)))
        return Run.open(tmp_path / "run")

    return make


def _map(path: Path) -> torch.Tensor:
    return torch.from_numpy(read_volume(path)[0].copy())


def _decoded(run: Run, z: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(volume) for volume in run.volumes(z)]


@pytest.mark.parametrize("n", [2500, pytest.param(5000, marks=pytest.mark.full)])
def test_the_demo_orders_the_motion_and_separates_the_class(tmp_path: Path, n: int) -> None:
    from drgn.command import bind, compose
    from drgn.score import score
    from drgn.train import train

    options = ["experiment=demo", "trainer=cpu", "analyze=false", f"output={tmp_path / 'run'}"]
    options += [f"dataset.simulate.output={tmp_path / 'particles'}", f"dataset.cache={tmp_path / 'prepared'}"]
    options += [f"dataset.simulate.n_particles={n}", "dataset.preflight=false"]
    train(**bind(train, compose("train", options)))
    scores = score(**{**compose("score", ["n_images=0", "n_maps=0"]), "run": tmp_path / "run"})
    assert scores["spearman_motion"] >= 0.97
    assert scores["ari_attached"] >= 0.95


@pytest.mark.full
def test_two_classes_of_a_tilt_star_are_told_apart(shared: Path, train: Train) -> None:
    """Particles of several images each; the stacks are not where the star says; phase plate; dark protein."""
    from sklearn.metrics import adjusted_rand_score

    from drgn.analysis.clusters import kmeans

    folder = shared / "tomodrgn"
    run = train(
        f"dataset.particles={folder / '10076_both_32_sim.star'}",
        "dataset.data_sign=-1",
        "dataset.batch_size=32",
        "optimizer.lr=1e-3",
        "warmstart=subspace",
        "epochs=6",
    )
    latents = run.latents()
    truth = np.array(["classE" in key for key in latents.key]).astype(int)
    assert np.bincount(truth).tolist() == [576, 720]
    found = kmeans(latents.z, 2, seed=0)
    assert adjusted_rand_score(truth, found.labels) >= 0.9
    maps = [_map(folder / f"10076_class{name}_32.mrc") for name in "DE"]
    for cluster, volume in enumerate(_decoded(run, found.centres)):
        own = np.bincount(truth[found.labels == cluster], minlength=2).argmax()
        # a mean over the shells to 35 A: the images hold no more
        agreement = [float(fsc(volume, reference)[1:13].mean()) for reference in maps]
        assert agreement[own] > agreement[1 - own]


def test_experimental_premultiplied_images_give_relions_map(shared: Path, train: Train) -> None:
    folder = shared / "warptools-flat"
    table = folder / "warptools_flat_050_076.npz"
    run = train(
        f"dataset.particles={folder / 'warptools_flat_050_076.mrcs'}",
        f"dataset.poses={table}",
        f"dataset.ctf={table}",
        "dataset.ctf_premultiplied=true",
        "dataset.heldout_fraction=0",
        "latent=none",
        "optimizer.lr=1e-3",
        "epochs=10",
    )
    (volume,) = _decoded(run, np.zeros((1, 0)))
    reference = _map(folder / "warptools_test_box-32_angpix-12_reconstruct.mrc")
    curve = fsc(volume, reference, window(32, 0.6, 0.99, ndim=3))
    assert resolution_A(curve, 12.0, 0.5) <= 70


def test_a_stack_with_pickled_poses_gives_its_volume(shared: Path, train: Train) -> None:
    folder = shared / "cryodrgn-tests"
    run = train(
        f"dataset.particles={folder / 'toy_projections.mrcs'}",
        f"dataset.poses={folder / 'toy_rot_zerotrans.pkl'}",
        f"dataset.ctf={folder / 'test_ctf.pkl'}",
        "latent=none",
        "optimizer.lr=1e-3",
        "epochs=6",
    )
    (volume,) = _decoded(run, np.zeros((1, 0)))
    curve = fsc(volume, _map(folder / "toymodel_small_nocenter.mrc"))
    assert curve[1:6].min() > 0.95  # the other hand: 0.8 0.1 -0.1 -0.1 -0.2
    assert curve[6] > 0.8  # the projections hold no more
