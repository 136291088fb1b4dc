"""A small model and a batch that any model of conf/ must be able to take."""

import functools
from collections.abc import Callable

import pytest
import torch

from drgn.command import compose
from drgn.models.reconstructor import Reconstructor
from drgn.physics.grids import half_lattice
from drgn.physics.imaging import Batch
from drgn.physics.rotations import random_rotations
from drgn.run import build_reconstructor

BOX, N = 16, 40
composed = functools.cache(lambda overrides: compose("train", overrides))


@pytest.fixture
def make_model() -> Callable[..., Reconstructor]:
    """Overrides of `drgn train` -> a model of box 16 for 40 particles."""

    def make(*overrides: str, seed: int = 0) -> Reconstructor:
        own_start = any(o.startswith(("model=", "warmstart=")) for o in overrides)
        start = () if own_start else ("warmstart=none",)
        config = composed(("model=128x3", "model.hidden_dim=24", *start, *overrides))
        radius = half_lattice(BOX, 2).frequencies.norm(dim=1)
        torch.manual_seed(seed)
        return build_reconstructor(
            config, box_size=BOX, n_particles=N, amplitude=3 * torch.exp(-8 * radius), density_scale=2.0
        )

    return make


@pytest.fixture
def batch() -> Batch:
    """Return four images of noise, one of them premultiplied by its CTF, one phase-flipped."""
    generator = torch.Generator().manual_seed(3)
    n, n_pixels = 4, len(half_lattice(BOX, 2))
    ctf = torch.tensor([15000.0, 13000.0, 30.0, 0.0, 300.0, 2.7, 0.1, 0.0, 1.0])
    return Batch(
        row=torch.tensor([7, 0, 39, 21]),
        group=torch.tensor([8, 30, 2, 11]),
        image=torch.randn(n, n_pixels, dtype=torch.complex64, generator=generator),
        rotation=random_rotations(n, generator).float(),
        shift_px=torch.randn(n, 2, generator=generator),
        pixel_size_A=torch.full((n,), 5.0),
        ctf_parameters=ctf.repeat(n, 1),
        premultiplied=torch.tensor([False, False, True, False]),
        phase_flipped=torch.tensor([True, False, False, False]),
    )
