"""Small files made for the tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drgn.formats.mrc import StackWriter


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
