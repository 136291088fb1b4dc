"""A run folder: the only place that knows its file names.

run = Run("outputs/train/toy/2026-01-31_12-00-00")  # of cryoDRGN too; or "latest"
run.latents().z, run.particles().table, next(run.volumes(z))
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

from drgn.data.datamodule import ParticleDataModule
from drgn.errors import InputError, say
from drgn.formats.atomic import replacing
from drgn.formats.cryodrgn_run import is_run
from drgn.formats.documents import read_json
from drgn.formats.identity import match
from drgn.formats.inside import require_inside
from drgn.formats.particles import Particles
from drgn.formats.seal import require_whole
from drgn.hints import leaves
from drgn.models.halves import Halves
from drgn.models.reconstructor import Reconstructor
from drgn.physics.grids import half_lattice
from drgn.signature import build
from drgn.training import precision
from drgn.training.decode import decode
from drgn.training.encode import Encoded, Latents
from drgn.training.run_files import (
    changed,
    checkpoint_of,
    circumstances,
    found,
    found_again,
    identity_of,
    latents_of,
    load_weights,
    read_config,
    read_facts,
    read_latents,
    require_fitting,
)


class Run:
    """A trained model with everything needed to use it.

    Attributes
    ----------
    path
        The folder.
    config
        The composed configuration, plain values.
    halves
        Whether it decodes half maps.
    """

    decodes = True  # whether volumes can be made
    has_images = True  # whether the images that it was trained on are at hand

    def __new__(
        cls, path: str | Path, config: dict[str, Any] | None = None, trust: Sequence[str] = ()
    ) -> Self:
        """Make a `ForeignRun` of a folder of cryoDRGN."""
        folder = found(path)
        if cls is Run and config is None and not (folder / "run.json").is_file() and is_run(folder):
            from drgn.foreign_run import ForeignRun

            return super().__new__(ForeignRun)
        return super().__new__(cls)

    def __init__(self, path: str | Path, config: Any = None, trust: Sequence[str] = ()) -> None:
        self.path = found(path)
        if str(path) == "latest":
            say(f"run=latest: {self.path}", file=sys.stderr)
        self.config = read_config(self.path) if config is None else config
        self._trust = tuple(trust)
        self.halves = self.config.get("half_sets") is not None

    @classmethod
    def create(
        cls,
        path: Path,
        config: Mapping[str, Any],
        *,
        box_size: int,
        pixel_size_A: float,
        particles: Particles,
        **facts: Any,
    ) -> Self:
        """Start a run folder, or take one up again, and record what made it, and other facts."""
        path.mkdir(parents=True, exist_ok=True)
        require_inside(path, path)
        plain: dict[str, Any] = json.loads(json.dumps(config, default=str))
        _write(path / "config.yaml", yaml.safe_dump(plain, sort_keys=False))
        provenance = {
            **circumstances(),
            "box_size": box_size,
            "pixel_size_A": pixel_size_A,
            **identity_of(particles),
            **facts,
        }
        run = cls(path, plain, plain.get("trust", ()))
        run.record(**provenance)
        return run

    @classmethod
    def open(cls, path: str | Path, trust: Sequence[str] = ()) -> "Run":
        """Open a run folder, of cryoDRGN too (a `ForeignRun`).

        "latest" is the newest below outputs/train that has a checkpoint or latents.

        The same as `Run(path)`.

        Raises
        ------
        InputError
            It is not a run folder, or there is no such run.
        """
        return Run(path, trust=trust)

    @staticmethod
    def facts(path: Path) -> dict[str, Any]:
        """What run.json of a folder records; nothing where there is none yet."""
        file = path / "run.json"
        return read_json(file) if file.is_file() else {}

    @staticmethod
    def require_same(path: Path, config: Mapping[str, Any], *, box_size: int, particles: Particles) -> None:
        """Raise an InputError where a folder holds a run that cannot go on with these options.

        Learning rate, schedule, trainer and number of epochs may change; the model and its data may not.
        """
        if not any((path / "checkpoints").glob("*.ckpt")):
            return
        old = Run.open(path)
        then = {**_model_of(old.config), "box_size": old.box_size, "n_particles": old.info["n_particles"]}
        sizes = {"box_size": box_size, "n_particles": len(particles)}
        now = {**_model_of(json.loads(json.dumps(config, default=str))), **sizes}
        for key in sorted({**then, **now}, key=lambda name: name.count(".")):
            if then.get(key) != now.get(key):
                raise InputError(
                    f"output={path} holds a run with {key}={then.get(key)}, which cannot go on with"
                    f" {now.get(key)}: give another output=, or resume=false to start over"
                )
        if what := changed(old.info, particles):
            raise InputError(
                f"output={path} holds a run of {what} than {particles.source.path} has now: give"
                " another output=, or resume=false to start over"
            )

    @property
    def name(self) -> str:
        """Name of the data set."""
        return str(self.config["dataset"]["name"])

    @cached_property
    def info(self) -> dict[str, Any]:
        """What run.json records."""
        return read_facts(self.path / "run.json")

    @property
    def box_size(self) -> int:
        """Training box in pixels."""
        return int(self.info["box_size"])

    @property
    def pixel_size_A(self) -> float:
        """Pixel size of the training box."""
        return float(self.info["pixel_size_A"])

    @property
    def zdim(self) -> int:
        """Dimensions of the latent; 0 without one."""
        return int(self.config["latent"].get("zdim", 0))

    @property
    def trained(self) -> str:
        """When and by what, for people."""
        epochs = self.info.get("epochs")
        how_far = "not ended" if epochs is None else f"{epochs} epoch{'s' * (epochs != 1)}"
        return f"{self.info['started'][:10]}, {how_far}, drgn {self.info['drgn']}"

    @property
    def checkpoints(self) -> Path:
        """Folder of best.ckpt, last.ckpt and the one before that, previous.ckpt."""
        return self.path / "checkpoints"

    @property
    def best_checkpoint(self) -> Path:
        """The one with the lowest held-out loss (the last one where nothing was held out)."""
        path = checkpoint_of(self.path)
        if path is None:
            raise InputError(f"{self.checkpoints} holds no checkpoint: train first, or give another run")
        return path

    def require_maps(self, halves: bool = False) -> None:
        """Raise an InputError where no map, or no half maps, can be decoded."""
        self.best_checkpoint  # noqa: B018
        if halves and not self.halves:
            raise InputError(f"{self.path} has no half maps: train with half_sets=given")

    def place(self, *parts: str) -> Path:
        """Where something below the run is, or would be."""
        return self.path.joinpath(*parts)

    def folder(self, *parts: str) -> Path:
        """A folder below the run, made where it is missing."""
        path = self.place(*parts)
        require_inside(path, self.path)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def record(self, **facts: Any) -> None:
        """Add to run.json."""
        content = {**self.facts(self.path), **facts}
        _write(self.path / "run.json", json.dumps(content, indent=2, default=str))
        self.__dict__.pop("info", None)

    @cached_property
    def datamodule(self) -> ParticleDataModule:
        """The data the run was trained on; an InputError where its particles are not what they were."""
        node = found_again(self.config["dataset"], self.info.get("working_folder"))
        searched = str(self.config["pose"].get("_target_")).endswith("SearchedPose")
        found = self.place("poses.star")
        if searched:
            node["preflight"] = False
        try:
            module = build(node, trust=self._trust, key="dataset", half_sets=self.config.get("half_sets"))
        except InputError as error:
            raise InputError(f"{self.path / 'config.yaml'}: {error}") from None
        if not isinstance(module, ParticleDataModule):
            raise InputError(f"{self.path / 'config.yaml'}: dataset names no particles")
        if what := changed(self.info, module.particles):
            raise InputError(
                f"{module.particles.source.path} has {what} than when {self.path} was trained on it: put back"
                " the file as it was, or train on it as it is now"
            )
        module.posed = not searched or found.is_file()
        if searched and module.posed:
            own, posed = module.particles, Particles.from_file(found)
            rows = match(own.table, posed.table, own.source.path, str(found))
            module.particles = own.posed_as(posed, rows)
        return module

    def particles(self) -> Particles:
        """The particle table trained on."""
        return self.datamodule.particles

    def model(self, device: str | torch.device = "cpu") -> Reconstructor | Halves:
        """The model of the best checkpoint, ready to decode."""
        checkpoint = self.best_checkpoint
        require_fitting(self.config, checkpoint)
        model = build_reconstructor(
            self.config, box_size=self.box_size, n_particles=int(self.info["n_particles"]), trust=self._trust
        )
        require_whole(checkpoint, "take it away, and another checkpoint of the run is used")
        try:
            model.load_state_dict(load_weights(checkpoint))
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise InputError(f"{checkpoint} does not fit the run's config.yaml: {reason}") from None
        return model.to(device).eval()

    def save_latents(self, encoded: Encoded, heldout: NDArray[np.bool_]) -> Path:
        """Write latents.npz, keyed by particle."""
        path = self.path / "latents.npz"
        keys = self.particles().table["key"].to_numpy(str)
        with replacing(path) as temporary:
            np.savez(temporary, key=keys, heldout=heldout, **encoded._asdict())
        return path

    def latents(self) -> Latents:
        """Latents of all particles.

        Raises
        ------
        InputError
            The run has not been encoded, or has nothing to encode with.
        """
        if latents_of(self.path) is None:
            self.require_maps()
        return read_latents(self.path / "latents.npz", self.zdim)

    def volumes(
        self, z: NDArray[np.floating[Any]], device: str = "cpu", box_size: int | None = None
    ) -> Iterator[NDArray[np.float32]]:
        """Decode a volume (D, D, D) at each row of z (M, Z), with a progress bar: the mean of halves, if any.

        A smaller D costs as much less. Z = 0 gives M copies of one map.
        """
        for parts in self._decoded(z, device, box_size or self.box_size):
            yield sum(parts[1:], parts[0]).cpu().numpy() / len(parts)

    def half_volumes(self, z: Any, device: str = "cpu") -> Iterator[tuple[Tensor, ...]]:
        """Decode both half maps, as `volumes`; an InputError where the run has none."""
        self.require_maps(halves=True)
        for parts in self._decoded(z, device, self.box_size):
            yield tuple(part.cpu() for part in parts)

    def _decoded(self, z: Any, device: str, box_size: int) -> Iterator[tuple[Tensor, ...]]:
        at = torch.from_numpy(np.asarray(z, dtype=np.float32)).to(device)
        return decode(self.model(device), at, box_size=box_size, autocast=self.autocast_type(device))

    def autocast_type(self, device: str | torch.device) -> torch.dtype | None:
        """Of the matrix products, as in training where this device has it; None for float32."""
        return precision.autocast_type(str(self.config["trainer"]["precision"]), torch.device(device))

    def truth(self) -> pd.DataFrame | None:
        """Ground truth of a simulated set in the table's order (columns as in its truth.csv), or None."""
        path = Path(self.particles().source.path).with_name("truth.csv")
        if not path.is_file():
            return None
        table = pd.read_csv(path, dtype={"key": str}).set_index("key")
        keys = self.particles().table["key"]
        missing = keys[~keys.isin(table.index)]
        if len(missing):
            raise InputError(
                f"{path} has no row for particle {missing.iloc[0]} of {self.particles().source.path}:"
                " the two files are not of one simulation"
            )
        return table.loc[keys].reset_index(drop=True)


def build_reconstructor(
    config: Mapping[str, Any],
    *,
    box_size: int,
    n_particles: int,
    amplitude: torch.Tensor | None = None,
    density_scale: float = 1.0,
    trust: Sequence[str] = (),
) -> Reconstructor | Halves:
    """Build the model that a configuration's groups model, latent, pose, loss describe; two with half_sets.

    Parameters
    ----------
    config
        The composed configuration.
    box_size, n_particles
        Training box and rows of the particle table.
    amplitude
        See `Reconstructor`; None where a checkpoint will fill it in.
    density_scale
        See `Reconstructor`.
    trust
        Module prefixes that a `_target_` may name besides drgn's, torch's and Lightning's own.
    """
    zdim = config["latent"].get("zdim", 0)
    if "zdim" in config["latent"] and (not isinstance(zdim, int | float) or zdim < 1 or zdim % 1):
        raise InputError(
            f"latent.zdim={zdim}: expected a whole number of at least 1; a homogeneous model is latent=none"
        )
    if zdim and str(config["latent"].get("_target_")).endswith("NoLatent"):  # model=classes gives a zdim
        raise InputError(
            f"latent=none has no dimensions, but latent.zdim={zdim} is given (model=classes gives it): leave"
            " out latent=none, or give another model="
        )
    n_pixels = len(half_lattice(box_size, 2))
    runtime: dict[str, Any] = {
        "box_size": box_size,
        "n_particles": n_particles,
        "amplitude": torch.ones(n_pixels) if amplitude is None else amplitude,
        "zdim": int(zdim),
    }
    parts = config["model"]

    def make(node: Mapping[str, Any], key: str, **more: Any) -> Any:
        return build(node, trust=trust, key=key, **runtime, **more)

    wholes = [
        Reconstructor(
            box_size=box_size,
            decoder=make(
                parts["decoder"], "model.decoder", encoding=make(parts["encoding"], "model.encoding")
            )
            if parts.get("decoder")
            else None,
            latent=make(config["latent"], "latent", encoder=make(parts["encoder"], "model.encoder"))
            if zdim and parts.get("encoder")
            else make(config["latent"], "latent"),
            pose=make(config["pose"], "pose"),
            loss=make(config["loss"], "loss"),
            amplitude=runtime["amplitude"],
            density_scale=density_scale,
            basis=make(config["warmstart"], "warmstart") if config.get("warmstart") else None,
            nuisance=make(config["nuisance"], "nuisance") if config.get("nuisance") else None,
        )
        for _ in range(1 if config.get("half_sets") is None else 2)
    ]
    return Halves(*wholes) if len(wholes) == 2 else wholes[0]


def _model_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options that a checkpoint depends on."""
    groups = ("model", "latent", "pose", "warmstart", "nuisance", "half_sets")
    return dict(leaves({group: config.get(group) for group in groups}))


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)
