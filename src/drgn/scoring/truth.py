"""What drgn simulate wrote beside its particles: every particle's state, map and pose."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from drgn.analysis.metrics import true_states
from drgn.errors import InputError
from drgn.formats.identity import match
from drgn.formats.mrc import read_volume
from drgn.formats.particles import Particles
from drgn.physics import fourier
from drgn.physics.rotations import from_euler


class Truth:
    """A folder of drgn simulate.

    Parameters
    ----------
    folder
        With particles.star and truth.csv.

    Raises
    ------
    InputError
        It is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("truth.csv", "particles.star"):
            if not (folder / name).is_file():
                raise InputError(
                    f"{folder} holds no {name}: the truth of these particles is not known; score wants those"
                    " of drgn simulate (truth=FOLDER names their folder)"
                )
        table = pd.read_csv(folder / "truth.csv", dtype={"key": str}).set_index("key")
        keys = self.particles.table["key"]
        missing = keys[~keys.isin(table.index)]
        if len(missing):
            raise InputError(
                f"{folder / 'truth.csv'} has no row for particle {missing.iloc[0]} of"
                f" {folder / 'particles.star'}: the two files are not of one simulation"
            )
        self.table = table.loc[keys]

    @cached_property
    def particles(self) -> Particles:
        """The simulated particles; rows are counted in their order."""
        return Particles.from_file(self.folder / "particles.star")

    @cached_property
    def states(self) -> pd.DataFrame:
        """Columns of `table` that say the state, without the keys."""
        return true_states(self.table.reset_index(drop=True))

    def rows_of(self, particles: Particles) -> np.ndarray:
        """Row of each particle (N,), found by what it is.

        Raises
        ------
        InputError
            One of them was not simulated here.
        """
        mine = self.particles
        keys = pd.Index(mine.table["key"])
        rows = keys.get_indexer(particles.table["key"])
        if (rows >= 0).all():
            return rows.astype(np.int64)
        return match(particles.table, mine.table, particles.source.path, mine.source.path)

    def order(self, rows: np.ndarray) -> np.ndarray:
        """Sort rows by state, classes before coordinates, as the file has them where states are equal."""
        states = self.states.iloc[rows]
        classes = [name for name in states if states[name].dtype.kind != "f"]
        columns = [*classes, *(name for name in states if name not in classes)]
        return rows[np.lexsort([rows, *(states[name].to_numpy() for name in reversed(columns))])]

    @cached_property
    def map_of_row(self) -> np.ndarray | None:
        """File name of each particle's map (N,); None where there are no maps."""
        if "map" not in self.table or not (self.folder / "maps").is_dir():
            return None
        return self.table["map"].to_numpy(str)

    @cached_property
    def maps(self) -> pd.DataFrame:
        """maps.csv: `file` and the state that it shows, in its order.

        Raises
        ------
        InputError
            The folder has none.
        """
        path = self.folder / "maps.csv"
        if not path.is_file():
            raise InputError(f"{path} is not there: simulate the set again, which writes the true maps")
        return pd.read_csv(path)

    @property
    def box_size(self) -> int:
        """Side of the images and of the maps in pixels."""
        return self.particles.box_size

    @property
    def pixel_size_A(self) -> float:
        """Pixel size of the images and of the maps."""
        return self.particles.pixel_size_A

    def read_map(self, file: str, box_size: int | None = None) -> Tensor:
        """Map (D, D, D) of the images' box, or Fourier-cropped to a smaller one."""
        path = self.folder / "maps" / file
        if not path.is_file():
            raise InputError(f"{path} is not there, which truth.csv names; simulate the set again")
        volume = torch.from_numpy(read_volume(path)[0])
        return volume if box_size in (None, len(volume)) else fourier.downsample(volume, box_size, 3)

    @cached_property
    def poses(self) -> tuple[np.ndarray, np.ndarray]:
        """True rotations (N, 3, 3) and shifts in Angstrom (N, 2)."""
        names = [f"true_{angle}_deg" for angle in ("rot", "tilt", "psi")]
        if names[0] in self.table:
            rotation = from_euler(torch.from_numpy(self.table[names].to_numpy(np.float64).copy())).numpy()
            return rotation, self.table[["true_shift_x_A", "true_shift_y_A"]].to_numpy(np.float64)
        rotation = self.particles.rotation
        assert rotation is not None  # drgn simulate wrote them
        return rotation, self.particles.table[["shift_x_A", "shift_y_A"]].to_numpy(np.float64)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """simulation.json.

        Raises
        ------
        InputError
            The folder has none.
        """
        path = self.folder / "simulation.json"
        if not path.is_file():
            raise InputError(f"{path} is not there: the noise of the images is not known")
        content: dict[str, Any] = json.loads(path.read_text())
        return content
