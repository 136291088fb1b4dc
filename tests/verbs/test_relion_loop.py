"""RELION takes over what drgn found: its maps of our classes, and its classes from our maps, agree with ours.

As the paper handed its classes to cryoSPARC (P25, P26). RELION must be on PATH, as in test_relion_programs.
"""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from drgn.analysis.metrics import adjusted_rand
from drgn.analyze import analyze
from drgn.command import bind, compose
from drgn.filter import filter as filter_particles
from drgn.formats.mrc import read_volume, write_volume
from drgn.formats.star import read_blocks
from drgn.physics import masks
from drgn.physics.fsc import fsc
from drgn.simulate import simulate
from drgn.train import train

pytestmark = pytest.mark.full
SIZE, PIXEL_A, N = 32, 12.0, 1500
STATES = ["30S", "50S", "70S"]


def relion(*command, cwd):
    if shutil.which(command[0]) is None:
        if os.environ.get("DRGN_REQUIRE_RELION") == "1":
            pytest.fail(f"{command[0]} is not on PATH")
        pytest.skip(f"{command[0]} is not on PATH")
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def density(path):
    return torch.from_numpy(read_volume(path)[0].copy())


@pytest.fixture(scope="module")
def found(tmp_path_factory, shared):
    """Return the folder of three ribosomal states, a run on them, and its analysis in three clusters."""
    folder = tmp_path_factory.mktemp("loop")
    model = shared / "ribosome-4v5a" / "4V5A_copy1.npz"
    options = ["set=compositional_small", f"n_particles={N}", f"box_size={SIZE}", f"pixel_size_A={PIXEL_A}"]
    options += ["shift_px=2.5", f"molecule.model.file={model}"]
    star = simulate(**{**compose("simulate", options), "output": folder / "set"})
    options = [
        "dataset=custom",
        f"dataset.particles={star}",
        f"dataset.cache={folder / 'prepared'}",
        "epochs=1",
    ]
    options += ["model=128x3", "latent.zdim=2", "trainer=cpu", "analyze=false", f"output={folder / 'run'}"]
    train(**bind(train, compose("train", options)))
    analyze(**{**compose("analyze", ["kmeans=3", "umap=false", "evidence=false"]), "run": folder / "run"})
    return folder


@pytest.fixture(scope="module")
def classes(found):
    """Return our class of each image by its name, and the star file of each class."""
    ours, stars = {}, []
    for number in range(3):
        star = found / "set" / f"class{number}.star"
        options = ["kmeans=3", f"clusters=[{number}]", f"output={star}", f"run={found / 'run'}"]
        filter_particles(**bind(filter_particles, compose("filter", options)))
        stars.append(star)
        ours.update(dict.fromkeys(read_blocks(star)["particles"]["rlnImageName"], number))
    return ours, stars


def test_its_maps_of_our_classes_are_the_states(found, classes):
    _, stars = classes
    truth = [density(found / "set" / "maps" / f"{state}.mrc") for state in STATES]
    nearest = []
    for number, star in enumerate(stars):
        relion("relion_reconstruct", "--i", star.name, "--o", f"relion{number}.mrc", "--ctf", cwd=star.parent)
        made = density(star.parent / f"relion{number}.mrc")
        alike = [float(fsc(made, true)[1:12].mean()) for true in truth]
        nearest.append(int(np.argmax(alike)))
        assert max(alike) > 0.85, alike
        neural = density(found / "run" / "analysis" / "kmeans3" / f"vol_{number:03d}.mrc")
        # RELION's map has the noise of a class of few images: ours, of all images, is nearer to the truth,
        # and agrees with RELION's as well as the truth does, less what it misses of the truth itself
        near = float(fsc(neural, truth[nearest[-1]])[1:12].mean())
        assert near > max(alike)
        assert float(fsc(made, neural)[1:12].mean()) > near * max(alike)
    assert sorted(nearest) == [0, 1, 2]


def test_its_own_classification_from_our_maps_agrees(found, classes):
    ours, stars = classes
    folder = stars[0].parent
    names = []
    for number in range(3):
        volume = density(found / "run" / "analysis" / "kmeans3" / f"vol_{number:03d}.mrc")
        names.append(f"reference{number}.mrc")
        write_volume(folder / names[-1], masks.low_pass(volume, PIXEL_A, 40.0).numpy(), PIXEL_A)
    (folder / "references.star").write_text(
        "data_\n\nloop_\n_rlnReferenceImage #1\n" + "\n".join(names) + "\n"
    )
    (folder / "relion").mkdir()
    command = ["relion_refine", "--i", "particles.star", "--ref", "references.star", "--o", "relion/run"]
    command += ["--ctf", "--skip_align", "--iter", 8, "--tau2_fudge", 4, "--particle_diameter", 330]
    command += [
        "--ini_high",
        40,
        "--flatten_solvent",
        "--zero_mask",
        "--dont_check_norm",
        "--pad",
        2,
        "--j",
        1,
    ]
    relion(*command, "--firstiter_cc", "--norm", "--scale", "--random_seed", 1, cwd=folder)
    table = read_blocks(folder / "relion" / "run_it008_data.star")["particles"]
    theirs = table["rlnClassNumber"].astype(int).to_numpy()
    mine = np.array([ours[name] for name in table["rlnImageName"]])
    assert adjusted_rand(mine, theirs) > 0.9
    truth = pd.read_csv(folder / "truth.csv").set_index("key")["state"]
    assert adjusted_rand(theirs, truth.loc[table["rlnImageName"]].to_numpy()) > 0.9


def test_the_files_are_where_relion_was_started(classes):
    """Paths in the exported star files are those of the file they came from."""
    for star in classes[1]:
        stack = read_blocks(star)["particles"]["rlnImageName"].iloc[0].split("@")[1]
        assert (Path(star).parent / stack).is_file()
