"""A newcomer's path: a class in a file of one's own and a YAML that names it, with no edit to drgn."""

import subprocess
import sys

import numpy as np
import pytest
import yaml

from drgn.command import bind, compose
from drgn.encode import encode
from drgn.errors import InputError
from drgn.formats.mrc import read_volume
from drgn.generate import generate
from drgn.run import Run

# a decoder that is no neural network: a few Gaussian blobs, each at a place that the latent moves
MODULE = '''
import torch
from torch import nn


class Blobs(nn.Module):
    """Gaussian blobs."""

    def __init__(self, *, zdim: int, box_size: int, n_blobs: int = 8) -> None:
        super().__init__()
        self.box_size = box_size
        self.centre_px = nn.Parameter(torch.randn(n_blobs, 3))
        self.height = nn.Parameter(torch.ones(n_blobs))
        self.move = nn.Linear(zdim, 3 * n_blobs)

    def forward(self, coordinates, z):
        centre_px = self.centre_px + self.move(z).unflatten(-1, self.centre_px.shape)  # (B, n, 3)
        phase = -2 * torch.pi * coordinates @ centre_px.mT  # (B, P, n)
        height = self.height * (-20 * coordinates.square().sum(-1, keepdim=True)).exp()
        return torch.stack([(height * phase.cos()).sum(-1), (height * phase.sin()).sum(-1)], dim=-1)
'''
YAML = """
# Gaussian blobs.
_target_: mine_module.Blobs
n_blobs: 5
"""


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A newcomer's folder: the module and conf/model/decoder/mine.yaml."""
    folder = tmp_path_factory.mktemp("newcomer")
    (folder / "mine_module.py").write_text(MODULE)
    (folder / "conf" / "model" / "decoder").mkdir(parents=True)
    (folder / "conf" / "model" / "decoder" / "mine.yaml").write_text(YAML)
    return folder


@pytest.fixture(scope="module")
def train(desk, tiny, environment):
    """Words -> `python -m drgn.train` with them, in the newcomer's folder."""

    def run(*words):
        command = [sys.executable, "-m", "drgn.train", "--config-dir", "conf", *tiny, "latent.zdim=2"]
        return subprocess.run(
            [*command, "model/decoder=mine", *words],
            capture_output=True,
            text=True,
            cwd=desk,
            env=environment,
        )

    return run


def test_foreign_code_is_not_run_unless_trusted(desk, train):
    refused = train("output=refused")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1, refused.stderr
    assert "model.decoder._target_=mine_module.Blobs is outside" in refused.stderr
    assert "trust=[mine_module]" in refused.stderr
    assert not (desk / "refused").exists()


def test_a_decoder_of_ones_own_trains_and_its_run_is_like_any_other(desk, train, monkeypatch):
    trained = train("output=run", "trust=[mine_module]")
    assert trained.returncode == 0, trained.stderr
    assert "best heldout/loss" in trained.stdout
    config = yaml.safe_load((desk / "run" / "config.yaml").read_text())
    assert config["model"]["decoder"] == {"_target_": "mine_module.Blobs", "n_blobs": 5}

    monkeypatch.syspath_prepend(desk)
    monkeypatch.chdir(desk)
    options = compose("generate", ["run=run", "z=[[0,0],[2,0]]", "output=maps"])
    with pytest.raises(
        InputError, match=r"trust=\[mine_module\]"
    ):  # a run is not trusted for saying so itself
        generate(**bind(generate, options))
    paths = generate(**bind(generate, {**options, "trust": ["mine_module"]}))
    volumes = [read_volume(path)[0] for path in paths]
    assert [v.shape for v in volumes] == [(16, 16, 16)] * 2
    assert np.abs(volumes[0] - volumes[1]).max() > 0
    before = np.load(desk / "run" / "latents.npz")["z"]
    (desk / "run" / "latents.npz").unlink()
    encode(**bind(encode, compose("encode", ["run=run", "trust=[mine_module]"])))
    np.testing.assert_array_equal(Run.open(desk / "run").latents().z, before)
