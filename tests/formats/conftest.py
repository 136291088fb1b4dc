"""Small files made for the tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drgn.formats.mrc import StackWriter

# the fields of a refinement, from cryoSPARC 2 on
CRYOSPARC_FIELDS = [
    ("uid", "u8"),
    ("blob/path", "S40"),
    ("blob/idx", "u4"),
    ("blob/shape", "u4", (2,)),
    ("blob/psize_A", "f4"),
    ("blob/sign", "f4"),
    ("alignments3D/shift", "f4", (2,)),
    ("alignments3D/pose", "f4", (3,)),
    ("alignments3D/psize_A", "f4"),
    ("alignments3D/split", "u4"),
    ("location/micrograph_path", "S40"),
    ("location/micrograph_shape", "u4", (2,)),
    ("location/center_x_frac", "f4"),
    ("location/center_y_frac", "f4"),
    ("ctf/bfactor", "f4"),
    ("ctf/df_angle_rad", "f4"),
    ("ctf/phase_shift_rad", "f4"),
]


@pytest.fixture
def records() -> np.ndarray:
    """Four particles of cryoSPARC."""
    records = np.zeros(4, dtype=CRYOSPARC_FIELDS)
    records["uid"] = [7, 2**63 + 5, 9, 1]
    records["blob/path"] = b">J1/extract/a.mrc"
    records["blob/idx"] = [3, 1, 0, 2]
    records["blob/shape"] = 8
    records["blob/psize_A"] = 1.5
    records["blob/sign"] = -1
    records["alignments3D/psize_A"] = 3.0
    records["alignments3D/shift"] = [[2, -1], [0, 0], [1, 0], [0, 1]]
    records["alignments3D/split"] = [0, 1, 0, 1]
    records["location/micrograph_path"] = b">J1/m.mrc"
    records["location/micrograph_shape"] = (3000, 4000)
    records["location/center_x_frac"] = 0.25
    records["location/center_y_frac"] = 0.5
    records["ctf/bfactor"] = 20
    records["ctf/df_angle_rad"] = np.pi / 2
    records["ctf/phase_shift_rad"] = np.pi
    return records


@pytest.fixture
def make_stack(tmp_path: Path) -> Callable[..., np.ndarray]:
    """Write a stack of random images under tmp_path; return the images."""

    def make(name: str, n: int, box: int = 8, pixel_size_A: float = 2.0) -> np.ndarray:
        images = np.random.default_rng(n).normal(size=(n, box, box)).astype(np.float32)
        path = tmp_path / name
        with StackWriter(path, n, box, pixel_size_A) as stack:
            stack.write(images)
        return images

    return make


@pytest.fixture
def make_star(tmp_path: Path) -> Callable[..., Path]:
    """Write a star file of RELION 3.1 (with `optics`) or 3.0 (without) from columns; return its path."""

    def block(name: str, columns: dict[str, list[Any]]) -> str:
        header = "".join(f"_{column} #{i}\n" for i, column in enumerate(columns, 1))
        rows = "\n".join(" ".join(map(str, row)) for row in zip(*columns.values(), strict=True))
        return f"\n# version 30001\n\ndata_{name}\n\nloop_\n{header}{rows}\n\n"

    def make(
        particles: dict[str, list[Any]],
        optics: dict[str, list[Any]] | None = None,
        *,
        name: str = "particles.star",
        particle_block: str = "particles",
    ) -> Path:
        path = tmp_path / name
        text = "" if optics is None else block("optics", optics)
        path.write_text(text + block(particle_block, particles))
        return path

    return make
