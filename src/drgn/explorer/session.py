"""What the server knows and does, without HTTP: one run, its columns, selections, volumes and jobs."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from drgn.analysis.history import losses
from drgn.analysis.render import isosurface_level
from drgn.errors import InputError
from drgn.explorer import paths
from drgn.explorer.columns import Columns
from drgn.explorer.decoding import COARSE, MOST_IMAGES, Confidence, Decoder
from drgn.explorer.jobs import Job, Jobs
from drgn.explorer.selections import Selections, named
from drgn.formats.inside import require_inside
from drgn.formats.mrc import volume_bytes
from drgn.run import Run


class Session:
    """A run that is explored.

    Parameters
    ----------
    run
        Opened.
    trust
        Module prefixes, handed on to the verbs that are started.
    """

    def __init__(self, run: Run, trust: list[str]) -> None:
        if run.zdim == 0:
            raise InputError(f"{run.path} has no latent (latent=none): drgn generate writes its one volume.")
        self.run, self.trust = run, trust
        self.folder = run.place("explorer")  # everything that the page keeps
        require_inside(self.folder, run.path)
        self.decoder, self.jobs = Decoder(run), Jobs()
        self._lock = threading.Lock()
        self._columns: tuple[Any, Columns | None] = (None, None)
        self._logged: tuple[Any, pd.DataFrame] = (None, pd.DataFrame())
        self._particles = run.particles()
        group = self._particles.table["group"].to_numpy(str)
        self._group = group if len(np.unique(group)) < len(group) else None
        self.selections = Selections(self.folder / "selections", self._particles)

    @property
    def n(self) -> int:
        """Number of particles."""
        return len(self._particles)

    def stamp(self) -> str:
        """Changes when there are other latents, or another analysis, than before."""
        paths = [self.run.path / "latents.npz", *sorted(self.run.place("analysis").glob("*/labels.npz"))]
        paths.append(self.run.place("analysis") / "embedding.npz")
        return "-".join(str(path.stat().st_mtime_ns) for path in paths if path.is_file())

    def columns(self) -> Columns | None:
        """Columns as the files are now; None while the run has no latents yet."""
        with self._lock:
            stamp = self.stamp()
            if self._columns[0] != stamp or self._columns[1] is None:
                if self.run.has_images and not (self.run.path / "latents.npz").is_file():
                    return None
                self._columns = (stamp, Columns(self.run))
            return self._columns[1]

    def required(self) -> Columns:
        """Columns; an InputError while there are none."""
        columns = self.columns()
        if columns is None:
            raise InputError("This run has no latents yet: encode its particles first.")
        return columns

    def facts(self) -> dict[str, Any]:
        """What the page needs to begin."""
        run, columns = self.run, self.columns()
        pixel = run.pixel_size_A
        return {
            "name": run.name,
            "path": str(run.path),
            "trained": run.trained,
            "n": self.n,
            "zdim": run.zdim,
            "box_size": run.box_size,
            "pixel_size_A": pixel if np.isfinite(pixel) else None,
            "decodes": run.decodes,
            "coarse_first": run.box_size > COARSE,
            "has_images": run.has_images,
            "halves": run.halves,
            "tilts": self._group is not None,
            "device": self.decoder.device,
            "source": self._particles.source.kind,
            "stamp": self.stamp(),
            "columns": [] if columns is None else [vars(column) for column in columns.listed()],
            "explained": [] if columns is None else columns.axes.explained_variance_ratio.tolist(),
        }

    def live(self) -> dict[str, Any]:
        """Where training is: losses by epoch, and whether latents or weights are new."""
        table = self._losses()
        wanted = [name for name in ("train/loss", "heldout/loss") if name in table]
        found = {name: [None if np.isnan(v) else float(v) for v in table[name]] for name in wanted}
        weights = [path.stat().st_mtime_ns for path in self.run.checkpoints.glob("*.ckpt")]
        return {
            "stamp": self.stamp(),
            "epochs": [int(epoch) for epoch in table.index],
            "losses": found,
            "weights": str(max(weights, default=0)),
            "latents": self.columns() is not None,
        }

    def _losses(self) -> pd.DataFrame:
        """Losses by epoch, read again when a log has grown; none of a run of cryoDRGN."""
        if not self.run.has_images:
            return pd.DataFrame()
        logs = [*self.run.path.glob("**/events.out.tfevents.*"), *self.run.path.glob("**/metrics.csv")]
        sizes = [(path, path.stat().st_size) for path in sorted(logs)]
        if self._logged[0] != sizes:
            self._logged = (sizes, losses(self.run.path))
        return self._logged[1]

    def is_row(self, row: Any) -> bool:
        """Whether a value from the page is a row of the table."""
        return type(row) is int and 0 <= row < self.n

    def point(self, request: dict[str, Any]) -> np.ndarray:
        """The latent (Z,) that {"row": 3} or {"z": [...]} means."""
        if not isinstance(request, dict):
            raise InputError("A point is given as a row or as z.")
        if "z" in request:
            return numbers(request["z"], "z")
        row = request.get("row")
        if not self.is_row(row):
            raise InputError(f"row={row}: expected 0 to {self.n - 1}.")
        return self.required().z[row]

    def volume(self, request: dict[str, Any]) -> tuple[bytes, float]:
        """MRC bytes and contour level at a point; with "minus" the difference to a second point.

        With "coarse" the map is a small one of its low frequencies, which comes sooner.
        """
        half, coarse = request.get("half"), request.get("coarse") is True
        volume = self.decoder.volume(self.point(request), half, coarse)
        if request.get("minus") is not None:
            volume = volume - self.decoder.volume(self.point(request["minus"]), half, coarse)
            level = 4 * float(volume.std())
        else:
            level = isosurface_level([volume])
        return self._map(volume), level

    def confidence(self, request: dict[str, Any]) -> tuple[bytes, Confidence]:
        """Local resolution at a point, as the bytes of an MRC file and as it is."""
        window = request.get("window_A")
        window_A = None if window is None else numbers([window], "window_A").item()
        found = self.decoder.confidence(self.point(request), window_A)
        return self._map(found.resolution_A), found

    def _map(self, volume: np.ndarray) -> bytes:
        """A file of a volume of the whole box; with a pixel of 1 A where none is known."""
        pixel = self.run.pixel_size_A * self.run.box_size / len(volume)
        return volume_bytes(volume, pixel if np.isfinite(pixel) else 1.0)

    def route(self, request: dict[str, Any]) -> dict[str, Any]:
        """Latents along a path that is not written, see `paths.route`."""
        return paths.route(self.required(), paths.options(request, self.run.zdim, self.is_row))

    def tilts(self, row: int) -> dict[str, Any]:
        """Images of the same physical particle as a row, the least exposed first, and their B-factors.

        Of a star of Warp or M, and of a ctf.npz with doses, the B-factor grows with the dose.
        """
        if not self.is_row(row):
            raise InputError(f"row={row}: expected 0 to {self.n - 1}.")
        rows = np.array([row]) if self._group is None else np.flatnonzero(self._group == self._group[row])
        factors = np.nan_to_num(self._particles.table["b_factor_A2"].to_numpy(float)[rows])
        order = np.argsort(factors, kind="stable")[:MOST_IMAGES]
        return {"rows": rows[order].tolist(), "b_factor_A2": factors[order].tolist()}

    def start(self, request: dict[str, Any]) -> Job:
        """Start the job that the page asks for: evidence, path, encode or analyze."""
        makers = {
            "evidence": self._evidence,
            "path": self._path,
            "encode": self._encode,
            "analyze": self._analyze,
        }
        kind = request.get("kind")
        if not isinstance(kind, str) or kind not in makers:
            raise InputError(f"kind={kind}: expected {', '.join(makers)}.")
        return makers[kind](request)

    def _evidence(self, request: dict[str, Any]) -> Job:
        name = named(str(request.get("selection", "")))
        self.selections.load(name)
        output = self.folder / "evidence" / name
        if not self.run.has_images:  # of cryoDRGN: its particles are back-projected from their file
            (star,) = self.selections.export("particles", "star", self.selections.load(name), output)
            source = self._particles.source
            stacks = source.datadir or Path(source.path).resolve().parent  # the star names them from there
            options = {"dataset": "custom", "dataset.particles": star, "dataset.datadir": stacks}
            options["output"] = output
            return self.jobs.start(f"evidence for {name}", "backproject", options, output)
        options = {"indices": self.selections.path(name), "output": output}
        return self._verb(f"evidence for {name}", "validate", options, output)

    def _path(self, request: dict[str, Any]) -> Job:
        name = named(str(request.get("name") or "path"))
        options = paths.options(request, self.run.zdim, self.is_row)
        output = self.folder / "paths" / name
        options |= {"movie": bool(request.get("movie", False)), "output": output}
        return self._verb(f"path {name}", "traverse", options, output)

    def _encode(self, _: dict[str, Any]) -> Job:
        return self._verb("encode the particles", "encode", {}, self.run.path)

    def _analyze(self, _: dict[str, Any]) -> Job:
        options = {"volumes": False, "evidence": False, "audit": False}
        return self._verb("clusters and UMAP", "analyze", options, self.run.place("analysis"))

    def _verb(self, title: str, verb: str, options: dict[str, Any], output: Path) -> Job:
        more = {"trust": self.trust} if self.trust else {}
        return self.jobs.start(title, verb, {"run": self.run.path, **options, **more}, output)

    def result(self, job: Job) -> dict[str, Any]:
        """What a job that is done has made, as names below the explorer's folder."""
        if job.state != "done" or not job.output.is_relative_to(self.folder):
            return {}
        files = [path for path in sorted(job.output.rglob("*")) if path.is_file()]
        found: dict[str, Any] = {"files": [path.relative_to(self.folder).as_posix() for path in files]}
        for path in files:
            if path.name == "traverse.json":
                found["level"] = json.loads(path.read_text()).get("level")
            if path.name == "z.csv":
                z = pd.read_csv(path).filter(regex=r"^z\d+$").to_numpy()
                found |= self.required().placed(z)
        return found


def numbers(value: Any, name: str) -> np.ndarray:
    """A list of finite numbers (M,) from the page, as float32.

    Raises
    ------
    InputError
        It is something else.
    """
    listed = value if isinstance(value, list) else [None]
    if not all(type(item) in (int, float) and abs(item) < 1e30 for item in listed):
        raise InputError(f"{name}: expected finite numbers.")
    return np.array(listed, np.float32)
