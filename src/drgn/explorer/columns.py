"""What the page can put on an axis or a colour: numbers and classes of each particle, by name.

Names are those of the verbs: z1, PC1, UMAP1; of `analysis.colours.columns` (z_norm, defocus_u_A,
rlnClassNumber, alignments3D/split); and of the labels that lie below the analysis (kmeans20, gmm5).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from drgn.analysis import colours, selection
from drgn.analysis.embedding import PCA, pca
from drgn.errors import InputError

if TYPE_CHECKING:
    from drgn.run import Run

_UNSEEN = {"key", "original_image", "source_row", "image_path", "image_index", "group"}
_ANGLES = ("rot_deg", "tilt_deg", "psi_deg")


@dataclass(frozen=True)
class Column:
    """Name of a column, the group it is listed in, and whether it is of classes ("class") or "number"."""

    name: str
    group: str
    kind: str


class Columns:
    """The columns of a run as its files are now.

    Parameters
    ----------
    run
        With latents.

    Attributes
    ----------
    z
        (N, Z) latents in the order of the particle table.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.particles = run.particles()
        self.latents = run.latents()
        self.key = self.particles.table["key"].to_numpy(str)
        self.z = selection.by_key(self.latents.z, self.latents.key, self.key)
        self._folder = run.place("analysis")
        self._made: dict[str, np.ndarray] = {}

    @cached_property
    def axes(self) -> PCA:
        """Principal components of the latents."""
        return pca(self.z)

    @cached_property
    def _tree(self) -> Any:
        from scipy.spatial import cKDTree

        return cKDTree(self.z)

    def placed(self, z: np.ndarray) -> dict[str, Any]:
        """Where latents (M, Z) are on the axes that are linear in z; for others the nearest particles."""
        along = {"z": z, "PC": (z - self.axes.mean) @ self.axes.components.T}
        at = {
            f"{name}{i + 1}": values[:, i].tolist()
            for name, values in along.items()
            for i in range(z.shape[1])
        }
        return {"z": z.tolist(), "at": at, "nearest": self._tree.query(z)[1].tolist()}

    @cached_property
    def _umap(self) -> np.ndarray | None:
        return selection.umap_of_analysis(self._folder, self.key)

    @cached_property
    def labels(self) -> dict[str, Any]:
        """Files of labels below the analysis, by the name of their folder."""
        return {path.parent.name: path for path in sorted(self._folder.glob(f"*/{selection.LABELS}"))}

    @cached_property
    def _of_file(self) -> dict[str, np.ndarray]:
        """Numbers (N,) that are not all the same, of the file of the particles, which is read here once more.

        Empty where it is not there any more, or is not what it was.
        """
        try:
            rows = self.particles.with_rows().source.rows
        except (InputError, OSError):
            return {}
        found = {}
        for name in selection.columns_of_file(rows):
            values = np.asarray(rows[name])
            if name != "uid" and values.dtype.kind in "fiu" and pd.Series(values).nunique() > 1:
                with np.errstate(over="ignore"):
                    found[name] = values.astype(np.float32)
        return found

    def listed(self) -> list[Column]:
        """All columns, in the order of the menu."""
        zdim = self.z.shape[1]
        found = [Column(f"PC{i + 1}", "principal components", "number") for i in range(zdim)]
        if self._umap is not None:
            found += [Column(f"UMAP{i + 1}", "UMAP", "number") for i in range(2)]
        found += [Column(f"z{i + 1}", "latent", "number") for i in range(zdim)]
        found.append(Column("z_norm", "latent", "number"))
        if np.isfinite(self.latents.reconstruction_loss).all():
            found.append(Column("reconstruction_loss", "latent", "number"))
        found += [Column(name, "clusters", "class") for name in self.labels]
        if self.particles.rotation is not None:
            found += [Column(name, "orientation", "number") for name in _ANGLES]
        for name, values in self.particles.table.items():
            if name not in _UNSEEN and values.nunique(dropna=False) > 1:
                kind = "number" if values.dtype.kind in "fiu" else "class"
                found.append(Column(str(name), "particles", kind))
        known = {column.name for column in found}
        found += [Column(name, "particle file", "number") for name in self._of_file if name not in known]
        return found

    def values(self, name: str) -> np.ndarray:
        """Values (N,) float32 of a column; classes are numbered from 0, and NaN is what is not known.

        Raises
        ------
        InputError
            There is no such column.
        """
        if name not in self._made:
            self._made[name] = np.ascontiguousarray(self._make(name), np.float32)
        return self._made[name]

    def _make(self, name: str) -> np.ndarray:
        letter, _, number = name.partition("PC") if name.startswith("PC") else name.partition("z")
        if (
            not letter
            and number.isdecimal()
            and number.isascii()
            and len(number) < 6
            and 1 <= int(number) <= self.z.shape[1]
        ):
            source = self.axes.coordinates if name.startswith("PC") else self.z
            return source[:, int(number) - 1]
        if name in ("UMAP1", "UMAP2") and self._umap is not None:
            return self._umap[:, int(name[-1]) - 1]
        if name in self.labels:
            return selection.read_labels(self.labels[name], self.key)
        if name in self.particles.table and self.particles.table[name].dtype.kind in "fiub":
            return self.particles.table[name].to_numpy(np.float32)  # NaN stays: it is drawn in grey
        if name in self._of_file:
            return self._of_file[name]
        found = colours.columns(self.particles, self.latents, [name])
        if name not in found:
            raise InputError(f"{name}: this run does not know it of every particle.")
        return found[name]
