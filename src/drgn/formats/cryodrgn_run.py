"""A run folder of cryoDRGN (1.x to 4.x): what it was trained on, and the latent of each particle by its key.

Weights are only looked into (`torch_file`), not loaded: the numbers that are wanted are in z.N.pkl.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from drgn.errors import InputError
from drgn.formats import cryodrgn
from drgn.formats.documents import read_yaml
from drgn.formats.particles import Particles
from drgn.formats.reading import read_indices
from drgn.formats.table import CTF_COLUMNS
from drgn.formats.torch_file import look_into

StrPath = str | os.PathLike[str]
_NEAR_PX = 0.1  # between shifts that are taken for the same
_NEAR = {"phase_shift_deg": 0.01}  # likewise, where more than a rounded digit is allowed


@dataclass(frozen=True, eq=False)
class CryodrgnRun:
    """What a cryoDRGN run leaves that another program can use.

    Attributes
    ----------
    folder : the run folder
    config : config.yaml or config.pkl
    epoch : number of the z file as cryoDRGN counts (from 0 in 2.3 and before); None where z.pkl alone has it
    z : (N, Z) float32
    logvar : (N, Z) float32; None where the run has a z per particle without a variance (abinit, train_dec)
    rows : (N,) rows of the particle file that z belongs to
    particles : the N particles, in the order of z; `data_sign` as the run took it
    """

    folder: Path
    config: dict[str, Any]
    epoch: int | None
    z: NDArray[np.float32]
    logvar: NDArray[np.float32] | None
    rows: NDArray[np.int64]
    particles: Particles

    @property
    def box_size(self) -> int | None:
        """Pixels of the images; cryoDRGN's own D is larger by one."""
        side = _section(self.config, "lattice_args").get("D")
        return side - 1 if type(side) is int and 2 < side < 4098 else None

    @property
    def version(self) -> str:
        """Version of cryoDRGN, or "" where the run does not say (before 1.0)."""
        return str(self.config.get("version") or "")

    @property
    def weights_path(self) -> Path | None:
        """The weights of this epoch; None where there are none."""
        names = ["weights.pkl"] if self.epoch is None else [f"weights.{self.epoch}.pkl", "weights.pkl"]
        return next((self.folder / name for name in names if (self.folder / name).is_file()), None)

    @property
    def weights(self) -> str:
        """What the weights beside z are, in words; nothing is loaded."""
        path = self.weights_path
        if path is None:
            return "there are no weights"
        try:
            found = look_into(path)
        except InputError:
            return f"{path.name} cannot be read"
        return f"{path.name}: {' and '.join(found.parts) or 'no layers'}, {found.bytes / 1e6:.3g} MB"

    def labels(self, k: int) -> NDArray[np.int64]:
        """Cluster (N,) of each particle in cryoDRGN's own k-means of this epoch."""
        path = self._analysis() / f"kmeans{k}" / "labels.pkl"
        labels = cryodrgn.flat_array(cryodrgn.load_pickle(path), str(path))
        if labels.shape != (len(self.z),) or labels.dtype.kind not in "iu":
            raise InputError(
                f"{path} holds {labels.dtype} {labels.shape}, but z has {len(self.z)} particles."
            )
        return labels.astype(np.int64)

    def umap(self) -> NDArray[np.float64]:
        """UMAP (N, 2) that cryoDRGN made of this epoch."""
        path = self._analysis() / "umap.pkl"
        umap = cryodrgn.flat_array(cryodrgn.load_pickle(path), str(path))
        if umap.shape != (len(self.z), 2) or umap.dtype.kind != "f":
            raise InputError(f"{path} holds {umap.dtype} {umap.shape}, but z has {len(self.z)} particles.")
        return umap.astype(np.float64)

    def _analysis(self) -> Path:
        folders = _numbered(self.folder, r"analyze\.(\d+)")
        epoch = max(folders, default=None) if self.epoch is None else self.epoch
        if epoch not in folders:
            raise InputError(f"{self.folder} has no analyze.{'N' if epoch is None else epoch} of cryoDRGN.")
        return folders[epoch]


def is_run(folder: StrPath) -> bool:
    """Whether a folder looks like one that cryoDRGN made: a config and weights or latents in pickles."""
    place = Path(folder)
    return any((place / name).is_file() for name in ("config.yaml", "config.pkl")) and any(
        any(place.glob(pattern)) for pattern in ("z.pkl", "z.*.pkl", "weights.pkl", "weights.*.pkl")
    )


def read_run(folder: StrPath, epoch: int | None = None) -> CryodrgnRun:
    """Read a cryoDRGN run.

    Parameters
    ----------
    folder : the run folder
    epoch : number of the z file; None for the newest

    Raises
    ------
    InputError
        When the folder has no config or latents, a file that it names is not found, or counts do not match;
        tilt series are refused, because they have a latent for several images together.
    """
    place = Path(folder)
    config, config_path = _read_config(place)
    data = _section(config, "dataset_args")
    model = _section(config, "model_args")
    if model.get("encode_mode") == "tilt":
        raise InputError(
            f"{config_path}: this run is of tilt series, which have one latent for several images; only runs "
            "of single particles are read."
        )
    z_path, number = _find_z(place, epoch)
    z, logvar = _read_z(z_path)
    if type(model.get("zdim")) is int and model["zdim"] != z.shape[1]:
        raise InputError(
            f"{z_path} has {z.shape[1]} dimensions, but {config_path} says zdim {model['zdim']}; the two are "
            "not of one run."
        )
    paths = {key: _path(data, key, config_path) for key in ("particles", "poses", "ctf", "ind", "datadir")}
    if paths["particles"] is None:
        raise InputError(f"{config_path} names no particles in dataset_args; it is no config of cryoDRGN.")
    # cryoDRGN's CTF is minus everyone else's: images that it multiplies by -1 have bright protein
    sign = 1.0 if data.get("invert_data", True) else -1.0
    particles = _read_particles(paths["particles"], paths["poses"], paths["ctf"], paths["datadir"], sign)
    if paths["ind"] is None:
        rows = np.arange(len(particles))
    else:
        rows = read_indices(paths["ind"], len(particles), paths["particles"])
    if len(rows) != len(z):
        raise InputError(
            f"{z_path} has {len(z)} particles, but {paths['ind'] or paths['particles']} has {len(rows)}; a "
            f"file that {config_path} names has changed since the run."
        )
    return CryodrgnRun(place, config, number, z, logvar, rows, particles.select(rows))


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Safe, and indifferent to the tags with which Python objects are marked: they become plain values."""


def _plain(loader: _Loader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    return loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else None


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", _plain)


def _read_config(folder: Path) -> tuple[dict[str, Any], Path]:
    path = folder / "config.yaml"
    if path.is_file():
        config = read_yaml(path, _Loader)
    else:
        path = folder / "config.pkl"
        if not path.is_file():
            raise InputError(f"{folder} has no config.yaml or config.pkl of a cryoDRGN run.")
        config = cryodrgn.load_pickle(path)
    if not isinstance(config, dict) or not isinstance(config.get("dataset_args"), dict):
        raise InputError(f"{path} is no config of cryoDRGN: it has no dataset_args.")
    return config, path


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    section = config.get(name)
    return section if isinstance(section, dict) else {}


def _path(data: dict[str, Any], key: str, config: Path) -> str | None:
    """Return the path of an input that the config names, found also where the project has been moved."""
    value = data.get(key)
    if value is None:
        return None
    if not isinstance(value, str | os.PathLike):
        raise InputError(f"{config}: {key} is {value!r}, where the path of a file is expected.")
    written = Path(value)
    folders = [Path.cwd(), *(config.absolute().parents)]
    places = [written] if written.is_absolute() else [folder / written for folder in folders]
    for skipped in range(1, len(written.parts)):
        places += [folder / Path(*written.parts[skipped:]) for folder in folders[1:]]
    found = next((place for place in places if place.exists()), None)
    if found is None:
        raise InputError(
            f"{config}: {key} {written} was not found, nor were its last folders beside the run; correct the "
            "path in that file."
        )
    return str(found)


def _numbered(folder: Path, pattern: str) -> dict[int, Path]:
    matches = ((re.fullmatch(pattern, place.name), place) for place in folder.iterdir())
    return {int(match[1]): place for match, place in matches if match}


def _find_z(folder: Path, epoch: int | None) -> tuple[Path, int | None]:
    """Return the z file of an epoch; of the newest one, by default, and its number where it has one."""
    numbered, final = _numbered(folder, r"z\.(\d+)\.pkl"), folder / "z.pkl"
    if epoch is not None:
        if epoch not in numbered:
            have = ", ".join(map(str, sorted(numbered))) or "none"
            raise InputError(f"{folder} has no z.{epoch}.pkl (it has the epochs: {have}).")
        return numbered[epoch], epoch
    last = max(numbered, default=None)
    # a training that was taken up again leaves the z.pkl of its first end behind
    if final.is_file() and (last is None or final.stat().st_mtime >= numbered[last].stat().st_mtime):
        return final, last if last is not None and _same(final, numbered[last]) else None
    if last is None:
        raise InputError(f"{folder} has no z.pkl or z.N.pkl: a homogeneous run of cryoDRGN has no latents.")
    return numbered[last], last


def _same(one: Path, other: Path) -> bool:
    return one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()


def _read_z(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    arrays = cryodrgn.load_pickles(path, most=2)
    for array in arrays:
        if (
            not isinstance(array, np.ndarray)
            or array.dtype.kind != "f"
            or array.ndim != 2
            or array.shape != arrays[0].shape
            or not array.size
        ):
            raise InputError(f"{path} does not hold latents: an array (N, zdim), and a second of variances.")
        if not np.isfinite(array).all():
            row = np.flatnonzero(~np.isfinite(array).all(axis=1))[0]
            raise InputError(f"{path}, row {row + 1}: a value is not finite; the training has diverged.")
    z = arrays[0].astype(np.float32)
    return z, arrays[1].astype(np.float32) if len(arrays) > 1 else None


def _read_particles(
    path: str, poses: str | None, ctf: str | None, datadir: str | None, sign: float
) -> Particles:
    """Read the particle file, with the poses and CTF of the run where they are not its own.

    A .star or .cs whose own numbers they are is left as it is, so that a selection keeps its columns.
    """
    particles = Particles.from_file(path, datadir=datadir, data_sign=sign)
    columns: dict[str, Any] = {}
    if ctf is not None:
        columns = cryodrgn.read_ctf(ctf, len(particles), path, particles.table["box_size_px"].to_numpy())
    other_poses = None if poses is None or _has_poses(particles, poses, columns) else poses
    other_ctf = None if _has_ctf(particles, columns) else ctf
    if other_poses is None and other_ctf is None:
        return particles
    return Particles.from_file(path, datadir=datadir, data_sign=sign, poses=other_poses, ctf=other_ctf)


def _has_ctf(particles: Particles, columns: dict[str, Any]) -> bool:
    """Whether CTF, phase shift and pixel size of the particles are those in `columns`, where it has any."""
    return all(
        np.allclose(particles.table[name], columns[name], rtol=1e-3, atol=_NEAR.get(name, 1e-8))
        for name in (*CTF_COLUMNS, "phase_shift_deg", "pixel_size_A")
        if name in columns
    )


def _has_poses(particles: Particles, poses: str, columns: dict[str, Any]) -> bool:
    """Whether rotations and shifts of the particles are those of a file of cryoDRGN's.

    `columns` may have box and pixel size, of which its shifts are fractions. Where none are known, shifts are
    not compared.
    """
    rotation, fraction = cryodrgn.read_poses(poses, len(particles), particles.source.path)
    if particles.rotation is None or not np.allclose(particles.rotation, rotation, atol=1e-3):
        return False
    box, pixel_A = (
        np.asarray(columns.get(name, particles.table[name]), np.float64)
        for name in ("box_size_px", "pixel_size_A")
    )
    shift_px = 0 if fraction is None else fraction * box[:, None]
    own_px = particles.table[["shift_x_A", "shift_y_A"]].to_numpy() / pixel_A[:, None]
    away_px = np.abs(own_px - shift_px)[(box > 0) & np.isfinite(pixel_A)]
    return bool((away_px < _NEAR_PX).all())
