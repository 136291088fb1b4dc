"""What is scored: the latents of some particles, from a run folder or from plain files of any program."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from drgn.errors import InputError
from drgn.formats.cryodrgn import load_pickles
from drgn.formats.npz import read_npy, read_npz
from drgn.formats.particles import Particles
from drgn.run import Run
from drgn.scoring.truth import Truth


@dataclass(frozen=True, eq=False)
class Subject:
    """Particles that a program has described, one row for each physical particle.

    Attributes
    ----------
    truth
        The simulation that they come from.
    rows
        (N,) their rows in it.
    key
        (N,) their keys in it.
    z
        (N, Z) latents.
    run
        Where the latents come from, if not from a file.
    particles
        All images with their poses as the program knows them, and
    all_rows
        their rows in the simulation.
    """

    truth: Truth
    rows: np.ndarray
    key: np.ndarray
    z: np.ndarray
    run: Run | None
    particles: Particles
    all_rows: np.ndarray

    @property
    def states(self) -> pd.DataFrame:
        """True states of the particles, N rows."""
        return self.truth.states.iloc[self.rows].reset_index(drop=True)

    def decoded(self, which: np.ndarray) -> Iterator[np.ndarray]:
        """Maps (D, D, D) that the run decodes at the latents of some of the particles."""
        import torch

        assert self.run is not None
        return iter(self.run.volumes(self.z[which], "cuda" if torch.cuda.is_available() else "cpu"))


def of_run(run: Run, truth: Path | None) -> Subject:
    """Take a run folder, ours or cryoDRGN's; of one without a latent there is a map to score.

    Parameters
    ----------
    run
        That has been encoded.
    truth
        Folder of the simulation; None: where its particles lie.

    Raises
    ------
    InputError
        It has not been encoded, or the truth is not known.
    """
    particles = run.particles()
    known = Truth(Path(particles.source.path).parent if truth is None else truth)
    return subject_of(known, particles, run.latents().z, run)


def of_files(latents: Path, truth: Path, particles: Path | None) -> Subject:
    """Take latents in a file.

    Parameters
    ----------
    latents
        See `read_latents`; with a column `key` the rows name their particles, otherwise they are those of
    particles
        A particle file, in its order; None: particles.star of the simulation.
    truth
        Folder of the simulation.

    Raises
    ------
    InputError
        The latents are not one row for each particle, or a particle was not simulated or is there twice.
    """
    known = Truth(truth)
    z, key = read_latents(latents)
    table = known.particles if particles is None else Particles.from_file(particles)
    if key is not None:
        at = pd.Index(table.table["key"]).get_indexer(key)
        if (at < 0).any():
            raise InputError(f"{latents}: particle {key[int(np.argmin(at))]} is not in {table.source.path}")
        again = key[pd.Index(key).duplicated()]
        if len(again):
            raise InputError(
                f"{latents}: particle {again[0]} is there twice; give one row for each particle."
            )
        table = table.select(at)
    if len(z) != len(table):
        raise InputError(
            f"{latents} has {len(z)} rows, but {table.source.path} has {len(table)} particles; give the file"
            " that the latents are of as particles=FILE, in their order"
        )
    return subject_of(known, table, z, None)


def of_truth(truth: Path) -> Subject:
    """Take the simulated particles themselves, which nobody has described: their latents are (N, 0)."""
    known = Truth(truth)
    return subject_of(known, known.particles, np.zeros((len(known.particles), 0), np.float32), None)


def subject_of(truth: Truth, particles: Particles, z: np.ndarray, run: Run | None) -> Subject:
    """Join latents (one for each of `particles`) and truth; images of one physical particle are one row."""
    all_rows = truth.rows_of(particles)
    first = np.sort(np.unique(particles.table["group"].to_numpy(str), return_index=True)[1])
    key = truth.table.index.to_numpy(str)[all_rows[first]]
    return Subject(truth, all_rows[first], key, z[first], run, particles, all_rows)


def read_latents(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Latents (N, Z) of any program, and the keys (N,) of their particles where the file has them.

    Parameters
    ----------
    path
        .npy, an array (N, Z) or (N,); .npz, the array `z` (and `key`) as in our latents.npz; .pkl, numpy
        arrays alone, of which the first is taken (cryoDRGN's z.N.pkl, RECOVAR's); .csv with a header, whose
        columns but `key` are the latent; anything else: text, one particle in each line.

    Raises
    ------
    InputError
        It is not there, cannot be read, or a value is not finite.
    """
    if not path.is_file():
        raise InputError(f"latents={path}: there is no such file.")
    key = None
    try:
        if path.suffix == ".npy":
            z = read_npy(path)
        elif path.suffix == ".npz":
            arrays = read_npz(path)
            z = arrays["z"]
            key = arrays["key"].astype(str) if "key" in arrays else None
        elif path.suffix == ".pkl":
            z = load_pickles(path, most=1)[0]
        elif path.suffix == ".csv":
            table = pd.read_csv(path, dtype={"key": str})
            key = table.pop("key").to_numpy(str) if "key" in table else None
            z = table.to_numpy()
        else:
            z = np.loadtxt(path, ndmin=2)
        z = np.asarray(z)
    except InputError:
        raise
    except (ValueError, OSError, KeyError, EOFError, UnicodeDecodeError) as error:
        raise InputError(
            f"latents={path} cannot be read ({error}); give .npy, .npz with an array z, .pkl, .csv or text"
        ) from None
    z = z[:, None] if z.ndim == 1 else z
    if z.ndim != 2 or z.dtype.kind not in "fiu" or not z.size:
        raise InputError(
            f"latents={path} holds {z.dtype} {z.shape}, where numbers (particles, dimensions) are expected"
        )
    bad = np.flatnonzero(~np.isfinite(z).all(axis=1))
    if len(bad):
        raise InputError(f"latents={path}: row {bad[0] + 1} is not finite; give finite numbers.")
    return z.astype(np.float32), key
