"""Atomic models that are made up, so that a set needs no file."""

import numpy as np

from drgn.formats.atoms import AtomicModel
from drgn.physics.phantoms import hinged_points

_ELECTRONS = 59.0  # of an average residue of a protein


def hinged_complex() -> AtomicModel:
    """Build the complex of `physics.phantoms.hinged_points`, a residue an atom; groups: body, arm."""
    body, arm = (points.numpy() for points in hinged_points())
    n = len(body) + len(arm)
    return AtomicModel(
        frames_A=np.concatenate([body, arm])[None],
        electrons=np.full(n, _ELECTRONS),
        chain=np.full(n, "", dtype=np.str_),
        residue=np.arange(n) + 1,
        group=np.repeat(["body", "arm"], [len(body), len(arm)]),
        path="the hinged complex",
    )
