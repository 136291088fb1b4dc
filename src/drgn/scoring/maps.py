"""Fourier shell correlation of decoded maps with the true ones, by image and by state (P23, P24)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from drgn.analysis.clusters import on_data_mean
from drgn.physics import masks
from drgn.physics.fsc import fsc, resolution_A
from drgn.scoring.poses import PoseErrors, aligned
from drgn.scoring.subject import Subject
from drgn.scoring.truth import Truth

KINDS = ("unmasked", "masked")


def choose(subject: Subject, n_images: int, n_maps: int) -> pd.DataFrame:
    """Choose the particles at whose latents maps are compared with the truth.

    Parameters
    ----------
    subject
        Of a simulation with maps.
    n_images
        Particles evenly spread over the order of the true states, so that each state has its share.
    n_maps
        True maps, evenly spread over maps.csv, each compared at the particle nearest to the mean latent of
        its particles (its on-data centre, P17).

    Returns
    -------
    DataFrame
        `use` ("image" or "centre"), `key`, `map` and `row`, the row of `subject`.
    """
    file_of_row = subject.truth.map_of_row
    assert file_of_row is not None
    mine = file_of_row[subject.rows]
    ordered = subject.truth.order(subject.rows)
    n = min(n_images, len(ordered))
    spread = ordered[((np.arange(n) + 0.5) * len(ordered) / max(n, 1)).astype(np.int64)]
    position = pd.Index(subject.rows)
    images = position.get_indexer(spread)
    known = [file for file in subject.truth.maps["file"] if file in set(mine)]
    files = [known[i] for i in np.unique(np.linspace(0, len(known) - 1, n_maps).round().astype(int))]
    centres = []
    for file in files if n_maps else []:
        members = np.flatnonzero(mine == file)
        centres.append(members[on_data_mean(subject.z[members], np.zeros(len(members), np.int64))[0]])
    rows = np.array([*images, *centres], np.int64)
    use = ["image"] * len(images) + ["centre"] * len(centres)
    return pd.DataFrame({"use": use, "key": subject.key[rows], "map": mine[rows], "row": rows})


class Reference:
    """True maps and the masks made of them, in the box of the maps that are compared.

    The mask is the paper's recipe (P23) on the true map, so that it is the same for every program.
    """

    def __init__(self, truth: Truth, box_size: int) -> None:
        self.truth, self.box_size = truth, box_size
        self.pixel_size_A = truth.pixel_size_A * truth.box_size / box_size
        self._read = lru_cache(maxsize=4)(self._made)  # maps are compared in the order of their states

    def __call__(self, file: str) -> tuple[Tensor, Tensor]:
        """Map and mask (D, D, D)."""
        return self._read(file)

    def _made(self, file: str) -> tuple[Tensor, Tensor]:
        volume = self.truth.read_map(file, self.box_size)
        return volume, masks.soft_mask(volume, self.pixel_size_A)


def curves(
    volumes: Iterable[np.ndarray],
    files: Iterable[str],
    reference: Reference,
    errors: PoseErrors | None = None,
) -> np.ndarray:
    """Correlation of maps with the true ones of these files, (M, 2, D // 2 + 1): without and with mask.

    `errors` are those of the poses that the maps belong to, where the maps must be moved by them first.
    """
    found = []
    for volume, file in zip(volumes, files, strict=True):
        right, mask = reference(file)
        map_ = torch.from_numpy(np.array(volume, np.float32))
        if errors is not None:
            map_ = aligned(map_, errors, reference.pixel_size_A)
        found.append([fsc(map_, right).numpy(), fsc(map_, right, mask).numpy()])
    return np.array(found).reshape(len(found), 2, reference.box_size // 2 + 1)


def area(curve: np.ndarray) -> np.ndarray:
    """Area under correlation curves (..., D // 2 + 1), as a share of that of identical maps.

    CryoBench's: over the frequencies from 0, where the curve counts as 1, to the last shell inside Nyquist,
    by trapezoids. CryoBench gives it in cycles per pixel, which is nearly half of this number.
    """
    inside = np.concatenate([np.ones_like(curve[..., :1]), curve[..., 1:-1]], axis=-1)
    ends = 0.5 * (inside[..., 0] + inside[..., -1])
    return (inside.sum(axis=-1) - ends) / (inside.shape[-1] - 1)


def summary(choice: pd.DataFrame, curve: np.ndarray, reference: Reference) -> dict[str, float]:
    """Flat numbers: the area of the images' curves, and the resolution of each state's map.

    Parameters
    ----------
    choice
        From `choose`.
    curve
        (M, 2, D // 2 + 1) from `curves`.
    reference
        Of the true maps.
    """
    scores: dict[str, float] = {}
    image = (choice["use"] == "image").to_numpy()
    for k, kind in enumerate(KINDS):
        suffix = "" if kind == "unmasked" else "_masked"
        areas = area(curve[image, k])
        if len(areas):
            scores[f"fsc_auc{suffix}_mean"] = float(areas.mean())
            scores[f"fsc_auc{suffix}_sd"] = float(areas.std())
            scores[f"fsc_auc{suffix}_median"] = float(np.median(areas))
        centres = curve[~image, k]
        if len(centres):
            scores[f"map_fsc_auc{suffix}_mean"] = float(area(centres).mean())
        for threshold, name in ((0.5, "fsc05"), (0.143, "fsc0143")):
            nyquist = 2 * reference.pixel_size_A
            found = [
                resolution_A(
                    torch.from_numpy(c), reference.pixel_size_A, threshold, box_size=reference.box_size
                )
                for c in centres
            ]
            if len(found):
                scores[f"map_{name}{suffix}_nyquist_mean"] = float(np.mean(nyquist / np.array(found)))
                scores[f"map_{name}{suffix}_nyquist_least"] = float(np.min(nyquist / np.array(found)))
                middle = float(np.median(found))
                if np.isfinite(middle):
                    scores[f"map_{name}{suffix}_A_median"] = middle
    scores["fsc_images"] = float(image.sum())
    scores["fsc_maps"] = float((~image).sum())
    scores["fsc_box_size"] = float(reference.box_size)
    scores["fsc_pixel_size_A"] = reference.pixel_size_A
    return scores


def table(choice: pd.DataFrame, curve: np.ndarray, reference: Reference) -> pd.DataFrame:
    """One row for each map that was compared: areas and resolutions."""
    out = choice.drop(columns="row").copy()
    for k, kind in enumerate(KINDS):
        out[f"auc_{kind}"] = area(curve[:, k])
        for threshold, name in ((0.5, "fsc05"), (0.143, "fsc0143")):
            out[f"{name}_{kind}_A"] = [
                resolution_A(
                    torch.from_numpy(c), reference.pixel_size_A, threshold, box_size=reference.box_size
                )
                for c in curve[:, k]
            ]
    return out


def curve_table(choice: pd.DataFrame, curve: np.ndarray, reference: Reference) -> pd.DataFrame:
    """All curves, one row for each map and mask, one column for each shell, named by its frequency in 1/A."""
    shells = np.arange(curve.shape[-1]) / (reference.box_size * reference.pixel_size_A)
    names = [f"{s:.6f}" for s in shells]
    parts = [
        pd.concat(
            [
                choice.drop(columns="row").assign(mask=kind),
                pd.DataFrame(curve[:, k], columns=names, index=choice.index),
            ],
            axis=1,
        )
        for k, kind in enumerate(KINDS)
    ]
    return pd.concat(parts, ignore_index=True)
