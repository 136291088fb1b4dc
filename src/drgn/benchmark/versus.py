"""Beside cryoDRGN, on the same images with the same network: training, encoding, maps, start-up."""

import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from drgn.benchmark.programs import Ran, run
from drgn.command import compose
from drgn.formats.cryodrgn import write_cryodrgn
from drgn.formats.particles import Particles
from drgn.simulate import make_missing

Samples = dict[str, list[float]]  # "program.metric" -> one value for each pair

_EPOCHS = 3  # of ours: the rate is taken between the ends of the first and of the last
_EPOCH = r"^epoch (\d+)/"
_PROGRESS = r"\[Train Epoch: \d+/\d+\] \[(\d+)/\d+ \w+\]"


class Case:
    """A network on a set of images.

    Parameters
    ----------
    model
        A choice of conf/model: width x layers of encoder and decoder.
    box_size, images, batch_size
        Of the simulated set, and of a step.
    volumes
        Maps that are decoded; 0 leaves decoding and encoding out.
    folder
        Where the set and the runs go.
    """

    def __init__(
        self, *, model: str, box_size: int, images: int, batch_size: int, volumes: int, folder: Path
    ) -> None:
        self.model, self.box_size, self.images, self.batch_size = model, box_size, images, batch_size
        self.volumes, self.folder = volumes, folder
        self.name = f"{model}_box{box_size}_batch{batch_size}"
        self._set = folder / f"set_box{box_size}_{images}"
        self.star = self._set / "particles.star"
        width, _, layers = model.partition("x")
        self._size = (width, layers)

    @property
    def overrides(self) -> list[str]:
        """Options of `drgn train`: the paper's encoder, as cryoDRGN has it."""
        return [
            "dataset=custom",
            f"dataset.particles={self.star}",
            "dataset.preflight=false",
            f"dataset.cache={self.folder / 'prepared'}",
            f"dataset.batch_size={self.batch_size}",
            "dataset.heldout_fraction=0",
            f"model={self.model}",
            "model/encoder=mlp",
            "latent.zdim=8",
            "warmstart=none",
            "trainer=cpu",
        ]

    def simulate(self) -> None:
        """Make the images where they are not there yet, and cryoDRGN's poses and CTF for them."""
        dataset = compose("train", ["dataset=toy"])["dataset"]
        node = {
            **dataset["simulate"],
            "output": self._set,
            "n_particles": self.images,
            "box_size": self.box_size,
            "pixel_size_A": 192 / self.box_size,
        }
        make_missing({"particles": self.star, "simulate": node})
        particles = Particles.from_file(self.star)
        write_cryodrgn(self._set / "cryodrgn", particles.table, particles.rotation)

    def train(self, precision: str, pixels: str, threads: int | None) -> Ran:
        """Some epochs of `drgn train`."""
        output = self.folder / f"{self.name}_{precision}"
        shutil.rmtree(output, ignore_errors=True)
        options = [*self.overrides, f"pixels={pixels}", f"trainer.precision={precision}", f"output={output}"]
        options += [f"epochs={_EPOCHS}", "analyze=false", "logger=none", "callbacks=none"]
        return run([sys.executable, "-m", "drgn.train", *options], threads)

    def start(self, threads: int | None) -> Ran:
        """`drgn train` to the end of its first step."""
        output = self.folder / "start"
        shutil.rmtree(output, ignore_errors=True)
        options = [*self.overrides, f"output={output}", "epochs=1", "analyze=false", "logger=none"]
        options += ["callbacks=none", "trainer.limit_train_batches=1"]
        return run([sys.executable, "-m", "drgn.train", *options], threads)

    def encode(self, precision: str, threads: int | None) -> Ran:
        """Latents and losses of all images."""
        run_folder = self.folder / f"{self.name}_{precision}"
        return run([sys.executable, "-m", "drgn.encode", f"run={run_folder}"], threads)

    def generate(self, precision: str, threads: int | None) -> Ran:
        """Maps at the latents of `_points`."""
        output = self.folder / "maps"
        run_folder = self.folder / f"{self.name}_{precision}"
        options = [f"run={run_folder}", f"z_file={self._points()}", f"output={output}"]
        return run([sys.executable, "-m", "drgn.generate", *options], threads)

    def peer_train(self, cryodrgn: Path, threads: int | None) -> Ran:
        """One epoch of `cryodrgn train_vae`."""
        output = self.folder / f"{self.name}_cryodrgn"
        shutil.rmtree(output, ignore_errors=True)
        width, layers = self._size
        command: list[str | Path] = [
            cryodrgn,
            "train_vae",
            self.star.with_suffix(".mrcs"),
            *self._peer_data(),
        ]
        command += ["--zdim", "8", "-o", output, "-n", "1", "-b", str(self.batch_size), "--seed", "0"]
        command += ["--enc-dim", width, "--enc-layers", layers, "--dec-dim", width, "--dec-layers", layers]
        command += ["--no-analysis", "--log-interval", str(max(self.batch_size, self.images // 8))]
        return run(command, threads)

    def peer_encode(self, cryodrgn: Path, threads: int | None) -> Ran:
        """`cryodrgn eval_images`: latents and losses of all images."""
        output = self.folder / f"{self.name}_cryodrgn"
        command: list[str | Path] = [cryodrgn, "eval_images", self.star.with_suffix(".mrcs")]
        command += [output / "weights.1.pkl", "-c", output / "config.yaml", *self._peer_data()]
        command += ["-o", output / "loss.pkl", "--out-z", output / "z_again.pkl"]
        return run(command, threads)

    def peer_generate(self, cryodrgn: Path, threads: int | None) -> Ran:
        """`cryodrgn eval_vol` at the latents of `_points`."""
        output = self.folder / f"{self.name}_cryodrgn"
        command: list[str | Path] = [cryodrgn, "eval_vol", output / "weights.1.pkl"]
        command += ["-c", output / "config.yaml", "--zfile", self._points(), "-o", output / "maps"]
        return run(command, threads)

    def _peer_data(self) -> list[str | Path]:
        folder = self._set / "cryodrgn"
        return ["--poses", folder / "poses.pkl", "--ctf", folder / "ctf.pkl"]

    def _points(self) -> Path:
        path = self.folder / f"z_{self.volumes}.txt"
        np.savetxt(path, np.random.default_rng(0).standard_normal((self.volumes, 8)), fmt="%.5f")
        return path


def compare(
    case: Case,
    *,
    precisions: Mapping[str, str],
    pixels: str,
    cryodrgn: Path | None,
    pairs: int,
    threads: int | None,
    say: Callable[[str], None],
) -> Samples:
    """Run the programs in turn, `pairs` times.

    Parameters
    ----------
    case
        Its set must be simulated.
    precisions
        Name of a variant of this program -> its trainer.precision; the last one also encodes and decodes.
    pixels
        A choice of conf/pixels.
    cryodrgn
        The program; None leaves it out.
    pairs, threads
        How often, and with how many threads each.
    say
        Told what runs.
    """
    samples: Samples = {}

    def add(name: str, **values: float) -> None:
        for metric, value in values.items():
            samples.setdefault(f"{name}.{metric}", []).append(value)
        say(f"{case.name} {name}: " + ", ".join(f"{k} {v:.4g}" for k, v in values.items()))

    def timed(name: str, what: str, ran: Ran) -> None:
        add(name, **{f"{what}_s": ran.seconds, f"{what}_cpu_s": ran.cpu_seconds})

    best = list(precisions)[-1]
    for _ in range(pairs):
        for name, precision in precisions.items():
            ran = case.train(precision, pixels, threads)
            wall, cpu = ran.rate(_EPOCH, case.images)
            add(name, train_images_per_s=wall, train_images_per_cpu_s=cpu, memory_GiB=ran.memory_GiB)
        ran = case.start(threads)
        first = ran.when(_EPOCH)
        add(best, first_step_s=first.seconds, first_step_cpu_s=first.cpu_seconds)
        if case.volumes:
            timed(best, "encode", case.encode(precisions[best], threads))
            timed(best, "generate", case.generate(precisions[best], threads))
        if cryodrgn is None:
            continue
        ran = case.peer_train(cryodrgn, threads)
        wall, cpu = ran.rate(_PROGRESS)
        begin = ran.when(_PROGRESS)
        add("cryodrgn", train_images_per_s=wall, train_images_per_cpu_s=cpu, memory_GiB=ran.memory_GiB)
        add("cryodrgn", first_step_s=begin.seconds, first_step_cpu_s=begin.cpu_seconds)
        if case.volumes:
            timed("cryodrgn", "encode", case.peer_encode(cryodrgn, threads))
            timed("cryodrgn", "generate", case.peer_generate(cryodrgn, threads))
    return samples
