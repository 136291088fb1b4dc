"""Stacks of images made for the tests, with a star file that describes them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from drgn.formats.mrc import StackWriter
from drgn.formats.particles import Particles
from drgn.formats.relion import matrix_to_euler
from drgn.formats.star import write_blocks

PIXEL_A = 4.0


@pytest.fixture
def make_particles(tmp_path) -> Callable[..., Particles]:
    """Images (N, D, D) -> particles with identity poses and a CTF; columns replace or (None) remove some."""

    def make(images: np.ndarray, name: str = "particles", data_sign: float = 1.0, **columns) -> Particles:
        n, size = len(images), images.shape[-1]
        with StackWriter(tmp_path / f"{name}.mrcs", n, size, PIXEL_A) as stack:
            stack.write(images.astype(np.float32))
        optics = {
            "rlnOpticsGroup": [1],
            "rlnVoltage": [300.0],
            "rlnSphericalAberration": [2.7],
            "rlnAmplitudeContrast": [0.1],
            "rlnImagePixelSize": [PIXEL_A],
            "rlnImageSize": [size],
            "rlnImageDimensionality": [2],
        }
        euler_deg = matrix_to_euler(np.tile(np.eye(3), (n, 1, 1)))
        table = {
            "rlnImageName": [f"{i + 1:06d}@{name}.mrcs" for i in range(n)],
            "rlnAngleRot": euler_deg[:, 0],
            "rlnAngleTilt": euler_deg[:, 1],
            "rlnAnglePsi": euler_deg[:, 2],
            "rlnOriginXAngst": np.zeros(n),
            "rlnOriginYAngst": np.zeros(n),
            "rlnDefocusU": np.full(n, 15000.0),
            "rlnDefocusV": np.full(n, 15000.0),
            "rlnDefocusAngle": np.zeros(n),
            "rlnOpticsGroup": np.ones(n, int),
            **columns,
        }
        table = pd.DataFrame({key: value for key, value in table.items() if value is not None})
        path = tmp_path / f"{name}.star"
        write_blocks(path, {"optics": pd.DataFrame(optics), "particles": table})
        return Particles.from_file(Path(path), data_sign=data_sign)

    return make


@pytest.fixture
def noise() -> Callable[..., np.ndarray]:
    """(N, D, standard deviation) -> images of white noise."""

    def make(n: int, size: int, std: float = 1.0, seed: int = 0) -> np.ndarray:
        return std * np.random.default_rng(seed).normal(size=(n, size, size))

    return make
