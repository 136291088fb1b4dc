"""Some particles of a run, as options of a small run; and such a run, opened for its analysis."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drgn.data.datamodule import ParticleDataModule
from drgn.formats.table import codes_of
from drgn.run import Run
from drgn.signature import build
from drgn.training.stages import now

_DRAWS = 1000  # of the schedule of the pixels
_APART = 0.1  # how much the maps of the rehearsal differ, of the map


def rows_of(data: ParticleDataModule, n: int, seed: int) -> NDArray[np.int64]:
    """Rows of the table, n or a few more: all images of particles that are drawn."""
    group, n_groups = codes_of(data.particles.table["group"])
    sizes = np.bincount(group, minlength=n_groups)
    drawn = np.random.default_rng([seed, 2]).permutation(n_groups)
    chosen = np.zeros(n_groups, bool)
    chosen[drawn[: np.searchsorted(np.cumsum(sizes[drawn]), n) + 1]] = True
    return np.flatnonzero(chosen[group])


def options_of(
    config: Mapping[str, Any], data: ParticleDataModule, rows: NDArray[np.int64], folder: Path
) -> dict[str, Any]:
    """Options of `drgn train` for a short run of some rows of the table, in a folder of its own."""
    folder.mkdir()
    node = {k: v for k, v in config["dataset"].items() if k != "simulate"}
    if node.get("indices") is not None:  # of the whole file, then
        whole = build({**node, "indices": None}, trust=config["trust"], key="dataset").particles
        place = {key: row for row, key in enumerate(whole.table["key"])}
        rows = np.array([place[key] for key in data.particles.table["key"].iloc[rows]])
    np.save(folder / "rows.npy", rows)
    small = {"indices": str(folder / "rows.npy"), "cache": str(folder / "prepared")}
    one = {
        "devices": 1,
        "num_nodes": 1,
        "strategy": "auto",
        "limit_train_batches": 1.0,
        "limit_val_batches": 1.0,
    }
    pose = dict(config["pose"])
    if "begin_epoch" in pose:  # steps with poses cost more
        pose["begin_epoch"] = 0
    return {
        **config,
        "dataset": {**node, **small, "preflight": False, "shards": 1, "box_size": data.box_size},
        "pose": pose,
        "pixels": _mean_share(config),
        "trainer": {**config["trainer"], **one},
        "output": folder / "run",
        "epochs": 3,
        "resume": False,
        "checkpoint_minutes": 1e6,
    }


def _mean_share(config: Mapping[str, Any]) -> dict[str, Any]:
    """The share of the pixels that a step of the run takes on average, in every step."""
    share = build(config["pixels"], trust=config["trust"], key="pixels")
    mean = float(np.mean([share(step, _DRAWS) for step in range(_DRAWS)]))
    return {
        "_target_": "drgn.training.schedules.rising",
        "_partial_": True,
        "start": mean,
        "hold": 1.0,
        "full": 2.0,
    }


class Rehearsed(Run):
    """A run of which one map is decoded and shown again for all others, which are counted.

    Attributes
    ----------
    decoded, shown
        Maps of the full box.
    seconds
        Of decoding those that were.
    """

    def __init__(self, path: str | Path, config: Any = None, trust: Any = ()) -> None:
        super().__init__(path, config, trust)
        self.decoded = self.shown = 0.0
        self.seconds = np.zeros(2)
        self._maps: dict[int, tuple[Tensor, ...]] = {}

    def _decoded(self, z: Any, device: str, box_size: int) -> Iterator[tuple[Tensor, ...]]:
        share = (box_size / self.box_size) ** 3
        self.shown += share * len(z)
        if box_size not in self._maps:
            began = now()
            self._maps[box_size] = next(iter(super()._decoded(np.asarray(z)[:1], device, box_size)))
            self.seconds += now() - began
            self.decoded += share
        for number in range(len(z)):
            factor = 1 + _APART * float(torch.tensor(0.7 * number).sin())
            yield tuple(factor * part for part in self._maps[box_size])
