"""Files of a run folder, which may be a stranger's: checkpoint, latents, config.yaml and run.json.

Checkpoints are read as numbers: nothing that a file names is run, and nothing unpacks to more than the file.
"""

import os
import pickle
import platform
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from drgn import __version__
from drgn.errors import InputError
from drgn.formats.documents import read_json, read_yaml
from drgn.formats.npz import read_npz
from drgn.formats.particles import Particles
from drgn.formats.seal import BEST, LAST, PREVIOUS
from drgn.training.encode import Latents

_RUNS = Path("outputs/train")
_GROUPS = ("dataset", "model", "latent", "pose", "loss", "trainer")
_FACTS = {"box_size": int, "pixel_size_A": int | float, "n_particles": int, "started": str, "drgn": str}
# of the dataset
_PATHS = ("particles", "poses", "ctf", "datadir", "indices", "passthrough", "consensus", "cache")
_LARGEST_BOX = 4096
_LARGEST_NUMBER = 10_000_000


def found(path: str | Path) -> Path:
    """Return the folder that is meant: "latest" is the newest run that has something to be opened for.

    Raises
    ------
    InputError
        "latest" is asked for, and no run has.
    """
    if str(path) != "latest":
        return Path(path)
    runs = sorted(_RUNS.glob("**/run.json"), key=lambda facts: -facts.stat().st_mtime)
    usable = (facts.parent for facts in runs if checkpoint_of(facts.parent) or latents_of(facts.parent))
    newest = next(usable, None)
    if newest is None:
        what = (
            f"no run below {_RUNS} has got to its first checkpoint"
            if runs
            else f"there is no run below {_RUNS}"
        )
        raise InputError(f"run=latest: {what}; train one, or give its folder as run=")
    return newest


def checkpoint_of(folder: Path) -> Path | None:
    """Return a run's checkpoint of the lowest held-out loss, or else its last; None where there is none."""
    paths = (folder / "checkpoints" / name for name in (BEST, LAST, PREVIOUS))
    return next((path for path in paths if path.is_file()), None)


def latents_of(folder: Path) -> Path | None:
    """Return latents.npz of a run; None where there is none."""
    path = folder / "latents.npz"
    return path if path.is_file() else None


def circumstances() -> dict[str, Any]:
    """Return what run.json says of how, where and when a run was started."""
    return {
        "drgn": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "host": platform.node(),
        "working_folder": os.getcwd(),
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def identity_of(particles: Particles) -> dict[str, Any]:
    """Return what run.json says of the particles."""
    return {
        "n_particles": len(particles),
        "particles": particles.fingerprint,
        "poses_and_ctf": particles.poses_and_ctf,
    }


def changed(facts: Mapping[str, Any], particles: Particles) -> str:
    """Say what particles have that they had not when run.json was written; nothing where all is as it was."""
    now = identity_of(particles)
    if any(facts.get(name, now[name]) != now[name] for name in ("n_particles", "particles")):
        return (
            "other particles, if as many,"
            if facts.get("n_particles") == len(particles)
            else "other particles"
        )
    return (
        "" if facts.get("poses_and_ctf") in (None, now["poses_and_ctf"]) else "other poses, or another CTF,"
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Return what config.yaml of a run holds; an InputError where the folder is not that of a run."""
    path = folder / "config.yaml"
    if not path.is_file() or not (folder / "run.json").is_file():
        raise InputError(
            f"run={folder}: expected a folder that drgn train made, with config.yaml and run.json in it,"
            " or one of cryoDRGN"
        )
    return checked_config(read_yaml(path), path)


def load(path: Path) -> dict[str, Any]:
    """Read a file of torch.save, of numbers and plain containers, to the CPU.

    Raises
    ------
    InputError
        It cannot be read, is damaged, is no such file, is compressed, or names code to be run.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        size = os.path.getsize(path)
        if any(entry.compress_type for entry in entries) or sum(entry.file_size for entry in entries) > size:
            raise InputError(f"{path} is compressed, which torch never does; it is no checkpoint.")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} was not loaded: it holds more than numbers and plain containers, which could run code."
        ) from None
    except Exception as error:  # a damaged archive can raise nearly anything
        reason = (str(error).splitlines() or ["?"])[0]
        raise InputError(f"{path} is not a checkpoint that can be read ({reason}).") from None
    if any(tensor.numel() * tensor.element_size() > size for tensor in _tensors(content, 0)):
        raise InputError(f"{path} has a tensor that is larger than the file; it is no checkpoint.")
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, where a checkpoint is expected.")
    return content


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a checkpoint of `drgn train`, by their names in the `Reconstructor`.

    Raises
    ------
    InputError
        As `load`, and where it holds no weights.
    """
    state, prefix = load(path).get("state_dict"), "reconstructor."
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{path} holds no weights of a run.")
    return {str(k).removeprefix(prefix): v for k, v in state.items() if str(k).startswith(prefix)}


def checked_config(config: Any, path: Path) -> dict[str, Any]:
    """Return what a run's config.yaml holds; an InputError where a part that every run has is missing."""
    missing = [
        group for group in _GROUPS if not isinstance(config, dict) or not isinstance(config.get(group), dict)
    ]
    if missing:
        raise InputError(
            f"{path} is not the configuration of a run: it has no group {', no '.join(missing)}."
        )
    needed = [("trainer", "precision"), ("model", "decoder"), ("model", "encoding")]
    absent = [f"{group}.{name}" for group, name in needed if name not in config[group]]
    if absent and config["model"].get("decoder", True) is not None:
        raise InputError(f"{path} is not the configuration of a run: it has no {', no '.join(absent)}.")
    for value in _leaves([config.get(group) for group in ("model", "latent", "warmstart")]):
        if isinstance(value, int | float) and not abs(value) <= _LARGEST_NUMBER:
            raise InputError(f"{path}: {value} is larger than any number of a network.")
    zdim, name = config["latent"].get("zdim", 0), config["dataset"].get("name")
    if type(zdim) is not int or not 0 <= zdim <= 10_000 or not isinstance(name, str | int):
        raise InputError(f"{path}: latent.zdim={zdim} or dataset.name={name} is not what a run has.")
    return dict(config)


def found_again(dataset: Mapping[str, Any], folder: object) -> dict[str, Any]:
    """Options of the dataset; relative paths that are not here are looked for where training was started."""
    node = {key: value for key, value in dataset.items() if key != "simulate"}
    for key in _PATHS:
        value = node.get(key)
        if isinstance(value, str) and isinstance(folder, str) and not os.path.exists(value):
            there = os.path.join(folder, value)
            node[key] = there if os.path.exists(there) else value
    return node


def read_facts(path: Path) -> dict[str, Any]:
    """Return run.json; an InputError where a fact that every run has is missing or of another type."""
    facts = read_json(path)
    for name, kind in _FACTS.items():
        if not isinstance(facts.get(name), kind) or isinstance(facts[name], bool):
            raise InputError(f"{path}: {name} is missing or not what a run has.")
    if not 0 < facts["box_size"] <= _LARGEST_BOX or facts["box_size"] % 2 or facts["n_particles"] < 1:
        raise InputError(
            f"{path}: a box of {facts['box_size']} px, or {facts['n_particles']} particles, is no run's."
        )
    return facts


def read_latents(path: Path, zdim: int) -> Latents:
    """Return latents.npz; an InputError where its arrays are not those of N particles."""
    if not path.is_file():
        raise InputError(f"{path} is not there: run `drgn encode run={path.parent}` first")
    arrays = read_npz(path, [field.name for field in fields(Latents)])
    n = len(arrays["key"]) if arrays["key"].ndim == 1 else -1
    shapes = {"z": (n, zdim), "logvar": (n, zdim), "reconstruction_loss": (n,), "heldout": (n,)}
    bad = [
        name
        for name, shape in shapes.items()
        if arrays[name].shape != shape or arrays[name].dtype.kind not in "fb"
    ]
    if bad or arrays["key"].dtype.kind != "U":
        raise InputError(
            f"{path}: {', '.join(bad) or 'key'} is not of as many particles, or not of {zdim} dimensions."
        )
    return Latents(**{field.name: arrays[field.name] for field in fields(Latents)})


def require_fitting(config: dict[str, Any], checkpoint: Path) -> None:
    """Raise an InputError where the networks of a configuration are far larger than the checkpoint.

    They are made before the checkpoint is put into them, and one number in config.yaml can ask for all
    memory.
    """
    width, layers = config["model"].get("hidden_dim", 1), config["model"].get("layers", 1)
    if type(width) is not int or type(layers) is not int:
        return  # `build` tells
    if 4 * width * max(width, layers) > (1 << 26) + 4 * os.path.getsize(checkpoint):
        raise InputError(
            f"{checkpoint} does not fit the run's config.yaml: {layers} layers {width} wide do not fit in."
        )


def _leaves(node: Any) -> Iterator[Any]:
    """Yield the values of a configuration."""
    if isinstance(node, dict | list):
        for part in node.values() if isinstance(node, dict) else node:
            yield from _leaves(part)
    else:
        yield node


def _tensors(content: Any, depth: int) -> Iterator[torch.Tensor]:
    """Yield the tensors in containers; one of few numbers can be spread over as many as one likes."""
    if isinstance(content, torch.Tensor):
        yield content
    elif isinstance(content, dict | list | tuple) and depth < 8:
        for part in content.values() if isinstance(content, dict) else content:
            yield from _tensors(part, depth + 1)
