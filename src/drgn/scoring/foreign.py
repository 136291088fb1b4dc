"""Maps that another program made, checked before they are compared: box, pixel size, sign, hand and place."""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from drgn.analysis.volumes import VolumeFiles
from drgn.errors import InputError
from drgn.formats.atomic import for_spreadsheets, replacing
from drgn.formats.mrc_header import read_header
from drgn.physics import fourier
from drgn.scoring.maps import Reference
from drgn.scoring.poses import PoseErrors, aligned
from drgn.scoring.subject import Subject
from drgn.scoring.truth import Truth

IMAGES, LATENTS = "images.csv", "z.txt"
_SAME = 1e-3  # relative difference of pixel sizes that is rounding
_LOOKED_AT = 20  # maps that sign, hand and place are judged by
_CLEAR = 0.1  # difference of correlations that is one


def write_choice(folder: Path, choice: pd.DataFrame, z: np.ndarray) -> tuple[Path, Path]:
    """Write images.csv, which images maps are wanted of, and z.txt, their latents, in the same order."""
    paths = folder / IMAGES, folder / LATENTS
    with replacing(paths[0]) as temporary:
        for_spreadsheets(choice.drop(columns="row")).to_csv(temporary, index=False)
    with replacing(paths[1]) as temporary:
        np.savetxt(temporary, z[choice["row"].to_numpy()], fmt="%.8g")
    return paths


def asked_for(folder: Path, choice: pd.DataFrame, subject: Subject) -> list[str]:
    """Write which maps are wanted, and say how to make them."""
    listed, points = write_choice(folder, choice, subject.z)
    said = [
        f"No maps are compared yet: {listed} lists the {len(choice)} images whose maps are wanted, {points}"
        " their latents. Make the maps in this order and give their folder as volumes=FOLDER"
        + (":" if subject.run else ".")
    ]
    if subject.run is not None:
        weights = max(
            subject.run.path.glob("weights*.pkl"), key=lambda path: path.stat().st_mtime, default=None
        )
        config = next(subject.run.path.glob("config.*"))
        truth = subject.truth
        pixel_A = truth.pixel_size_A * truth.box_size / subject.run.box_size
        said.append(
            f"  cryodrgn eval_vol {weights or 'WEIGHTS.pkl'} --config {config} --zfile {points}"
            f" -o {folder / 'maps'} --Apix {pixel_A:.6g}"
        )
    return said


def read_choice(path: Path, subject: Subject) -> pd.DataFrame:
    """Read which images maps belong to, in the form of `maps.choose`.

    Parameters
    ----------
    path
        A .csv with a column `key`, and one `use` where some are centres of states; else all are images.
    subject
        What is scored.

    Raises
    ------
    InputError
        It cannot be read, or names a particle that is not scored.
    """
    try:
        listed = pd.read_csv(path, dtype=str)
        keys = listed["key"]
    except (OSError, KeyError, ValueError, UnicodeDecodeError):
        raise InputError(
            f"images={path} cannot be read: expected a .csv with a column key, as drgn score writes"
        ) from None
    use = listed["use"] if "use" in listed else pd.Series("image", index=listed.index)
    row = pd.Index(subject.key).get_indexer(keys)
    if (row < 0).any():
        raise InputError(f"images={path}: particle {keys[int(np.argmin(row))]} is not among those scored")
    if not use.isin(["image", "centre"]).all():
        raise InputError(f"images={path}: a use is neither image nor centre")
    file_of_row = subject.truth.map_of_row
    assert file_of_row is not None
    return pd.DataFrame({"use": use, "key": keys, "map": file_of_row[subject.rows[row]], "row": row})


def find_volumes(where: str, n: int) -> VolumeFiles:
    """Find n maps, in the order of the numbers in their names.

    Parameters
    ----------
    where
        A folder of .mrc, or a pattern.
    n
        How many there must be.

    Raises
    ------
    InputError
        There are more or fewer.
    """
    pattern = str(Path(where) / "*.mrc") if Path(where).is_dir() else where
    paths = sorted((Path(p) for p in glob.glob(pattern)), key=lambda path: _numbers(path.name))
    if len(paths) != n:
        raise InputError(
            f"volumes={where}: {len(paths)} .mrc are there, but maps of {n} images are wanted, in the order"
            f" of {IMAGES}; name the list of images that they belong to as images=FILE.csv"
        )
    return VolumeFiles(paths)


def _numbers(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def box_of(volumes: VolumeFiles, truth: Truth) -> int:
    """Box of maps whose field of view is that of the true ones.

    Raises
    ------
    InputError
        Boxes differ, are larger than the true one, or a pixel size does not fit.
    """
    side = None
    for path in volumes.paths:
        header = read_header(path)
        side = header.shape[0] if side is None else side
        if set(header.shape) != {side} or not side <= truth.box_size or side % 2:
            raise InputError(
                f"{path} has {' x '.join(map(str, header.shape))} voxels; expected cubes of one even box of"
                f" at most {truth.box_size}, the box of the simulation"
            )
        pixel_A, wanted_A = header.pixel_size_A[0], truth.pixel_size_A * truth.box_size / side
        if not abs(pixel_A - wanted_A) <= _SAME * wanted_A:
            raise InputError(
                f"{path} says a pixel of {pixel_A:.5g} A, but the simulated field of"
                f" {truth.box_size} x {truth.pixel_size_A:.5g} A in a box of {side} has {wanted_A:.5g} A: it"
                " is a map of something else, or its header is wrong (cryodrgn eval_vol: --Apix)"
            )
    assert side is not None
    return side


@dataclass(frozen=True)
class Fit:
    """How maps lie on the true ones.

    Attributes
    ----------
    sign
        +1 where density is bright, -1 where dark.
    correlation, mirrored_correlation
        Mean correlation with the true maps, as they are and with z reversed; the sign taken out.
    offset_px
        x, y, z of the displacement at which their sum correlates best.
    """

    sign: int
    correlation: float
    mirrored_correlation: float
    offset_px: tuple[int, int, int]

    def scores(self) -> dict[str, float]:
        """Flat numbers."""
        return {
            "volumes_sign": float(self.sign),
            "volumes_correlation": self.correlation,
            "volumes_mirrored_correlation": self.mirrored_correlation,
            "volumes_offset_px": float(np.linalg.norm(self.offset_px)),
        }

    def warnings(self) -> list[str]:
        """Sentences for what would spoil the correlation without the map being wrong."""
        said = []
        if self.sign < 0:
            said.append("The maps are dark where the true ones are bright: they are compared with sign -1.")
        if self.mirrored_correlation > self.correlation + _CLEAR:
            said.append(
                f"The maps fit the true ones better with z reversed ({self.mirrored_correlation:.2f}) than as"
                f" they are ({self.correlation:.2f}): they are of the other hand, or were written flipped;"
                " the numbers below are of the maps as they are."
            )
        if any(self.offset_px):
            said.append(
                f"The maps lie {self.offset_px} voxels (x, y, z) off the true ones; the numbers below are of"
                " the maps as they are."
            )
        return said


def fit(
    volumes: VolumeFiles, files: list[str], reference: Reference, errors: PoseErrors | None = None
) -> Fit:
    """Find sign, hand and place of maps by those of a few of them; `errors` as of `maps.curves`."""
    some = np.unique(np.linspace(0, len(volumes) - 1, min(_LOOKED_AT, len(volumes))).astype(int))
    straight, mirrored = [], []
    overlap = torch.zeros((reference.box_size,) * 3)
    for i in some:
        map_ = torch.from_numpy(np.array(volumes[int(i)], np.float32))
        if errors is not None:
            map_ = aligned(map_, errors, reference.pixel_size_A)
        right = reference(files[i])[0]
        reversed_ = map_.flip(0)
        if reference.box_size % 2 == 0:  # about the origin, D // 2
            reversed_ = reversed_.roll(1, 0)
        straight.append(_correlation(map_, right))
        mirrored.append(max((_correlation(m, right) for m in (reversed_, map_.flip(0))), key=abs))
        product = fourier.fft(map_ - map_.mean(), 3) * fourier.fft(right - right.mean(), 3).conj()
        overlap += fourier.ifft(product, 3).real / map_.std().clamp_min(1e-30)
    best, other = float(np.mean(straight)), float(np.mean(mirrored))
    sign = -1 if (best if abs(best) >= abs(other) else other) < 0 else 1
    peak = int((sign * overlap).argmax())
    d = reference.box_size
    z, y, x = peak // d**2 - d // 2, peak // d % d - d // 2, peak % d - d // 2
    return Fit(sign, sign * best, sign * other, (x, y, z))


def _correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-30))
