"""Train a model on particles with poses; ends with their latents and a first analysis.

    drgn train                                              # the simulated toy set
    drgn train dataset.particles=run_data.star dataset=custom dataset.box_size=128
    drgn train dataset=empiar10076 model=1024x3 trainer=gpu
    drgn train latent=none                                  # homogeneous reconstruction
    drgn train pose=search                                  # without poses: ab-initio
    drgn train half_sets=given                              # two decoders: half maps at any latent
    drgn train dataset=empiar10076 plan=true                # what it would cost, from a few steps
    drgn train experiment=empiar10076_pilot                 # a run of the paper
    drgn train -m latent.zdim=2,4,8 output=FOLDER           # one run each, compared in sweep.html

Writes the run folder: config.yaml and run.json (what made it), checkpoints/ (best by held-out loss, last),
latents.npz, poses.star (with pose=refine; of a .cs, poses.cs too), analysis/report.html,
tensorboard/ (see it with: tensorboard --logdir outputs/train).
The same command with output=FOLDER goes on from FOLDER's last checkpoint, to the same numbers as if it had
not been stopped: after Ctrl-C, SIGTERM, kill -9, a full disk (docs/reliability.md).
"""

import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal

from drgn.command import command, compose
from drgn.errors import InputError, say
from drgn.signature import build

_UNSUPPORTED = ("64", "64-true", 64, "16-true", "bf16-true")  # of weights: those here are float32
_MEASURED = 100_000  # images that the functions of a nuisance penalty are made white over


def train(
    *,
    dataset: Mapping[str, Any],
    model: Mapping[str, Any],
    latent: Mapping[str, Any],
    warmstart: Mapping[str, Any] | None,
    half_sets: Literal["given", "random"] | None,
    pose: Mapping[str, Any],
    loss: Mapping[str, Any],
    nuisance: Mapping[str, Any] | None,
    optimizer: Mapping[str, Any],
    schedule: Mapping[str, Any],
    pixels: Mapping[str, Any],
    trainer: Mapping[str, Any],
    logger: Mapping[str, Any] | None,
    callbacks: Mapping[str, Any],
    output: Path,
    seed: int,
    epochs: int,
    memory_GB: float | None,
    resume: bool,
    checkpoint_minutes: float,
    analyze: bool,
    plan: bool,
    trust: list[str],
) -> float:
    """Train, encode, analyse.

    Parameters
    ----------
    dataset, model, latent, warmstart, pose, loss, nuisance, optimizer, schedule, pixels, trainer, logger,
    callbacks
        Nodes of the configuration: `_target_` and keyword arguments, see conf/.
    half_sets
        Train a decoder for each half of the particles: "given", halves of the particle file where it has any,
        else drawn; "random", drawn. None: one decoder.
    output
        The run folder.
    seed
        Of the weights, the split and the order of images.
    epochs
        Passes through the training images.
    memory_GB
        Memory for training that the processes on this machine may take together (on a GPU: each); None: what
        is free when it begins. A batch that does not fit is taken in parts, to the same result.
    resume
        Go on from the last checkpoint in `output`, where there is one.
    checkpoint_minutes
        Between two checkpoints within an epoch.
    analyze
        End with `drgn analyze`.
    plan
        Do not train: measure a few steps of everything, and say what time, memory and disk the run takes.
    trust
        Module prefixes that a `_target_` may name besides drgn's, torch's and Lightning's own.

    Returns
    -------
    float
        The best held-out loss, for sweeps; NaN of a plan.
    """
    config = {**locals()}
    if epochs < 1 or seed < 0:
        raise InputError(f"epochs={epochs} seed={seed}: expected at least one epoch, and a seed of 0 or more")
    if checkpoint_minutes <= 0:
        raise InputError(f"checkpoint_minutes={checkpoint_minutes}: expected more than 0")
    if trainer["precision"] in _UNSUPPORTED:
        raise InputError(f"trainer.precision={trainer['precision']}: expected auto, 32-true or bf16-mixed")
    from pytorch_lightning.utilities import rank_zero_only

    from drgn.data.readers import told_when_ended
    from drgn.formats.atomic import naming
    from drgn.formats.lock import only_writer
    from drgn.run import Run
    from drgn.simulate import make_missing
    from drgn.training import memory, slurm
    from drgn.training.processes import require_device, told_when_lost
    from drgn.training.quiet import quiet
    from drgn.training.stages import Stages

    quiet()
    memory.keep_freed()
    slurm.listen()
    stages = Stages()
    stages.begin("start")
    require_device(trainer["accelerator"], trainer["devices"])
    make_missing(dataset)
    data, model, steps = _built(config)
    particles = data.particles
    if particles.source.mapping:
        say(particles.source.mapping, file=sys.stderr)
    if plan:
        return _planned(config, data, stages)
    if _in_sweep():
        from drgn.sweeps.done import done

        known = done(config)
        if known is not None:
            return known
    if resume:
        Run.require_same(output, config, box_size=data.box_size, particles=particles)
    with ExitStack() as held:
        if rank_zero_only.rank == 0:  # the other processes of a distributed run belong to it
            held.enter_context(only_writer(output, "output"))
        held.enter_context(naming(output))
        held.enter_context(told_when_lost(output))
        held.enter_context(told_when_ended(f"with output={output} the same command goes on"))
        score = _trained(config, data, model, steps, stages)
        if rank_zero_only.rank == 0:
            if analyze:
                stages.begin("analysis")
                _analyze(output, trust)
                stages.end()
            Run(output, config).record(**stages.facts(), complete=True)
    return score


def _built(config: dict[str, Any]) -> tuple[Any, Callable[..., Any], list[Any]]:
    """The data, what makes the model of it, and optimizer, schedule and pixels.

    Mistakes are told here, before images are prepared, which can take an hour.
    """
    from drgn.models.poses import SearchedPose
    from drgn.run import build_reconstructor
    from drgn.training.module import require_usable

    trust = config["trust"]
    node = {k: v for k, v in config["dataset"].items() if k != "simulate"}
    data = build(node, trust=trust, key="dataset", half_sets=config["half_sets"])
    data.particles.require_images()
    known = {"box_size": data.box_size, "n_particles": len(data.particles), "trust": trust}
    model = partial(build_reconstructor, config, **known)
    data.posed = not isinstance(model().pose, SearchedPose)
    steps = [build(config[key], trust=trust, key=key) for key in ("optimizer", "schedule", "pixels")]
    require_usable(steps[0])
    return data, model, steps


def _planned(config: dict[str, Any], data: Any, stages: Any) -> float:
    """Say what the run will cost, from runs of a few of the particles; `stages` of the start so far."""
    from drgn.analyze import analyzed
    from drgn.planning.measure import measure

    def rehearse(small: dict[str, Any], stages: Any, watchers: list[Any]) -> Any:
        data, model, steps = _built(small)
        _trained(small, data, model, steps, stages, watchers)
        return data

    analysis = partial(
        analyzed, **{k: v for k, v in _options("analyze").items() if k not in ("run", "output", "trust")}
    )
    forecast = measure(config, data, stages, rehearse, analysis if config["analyze"] else None)
    say(forecast)
    return float("nan")


def _trained(
    config: dict[str, Any],
    data: Any,
    model: Callable[..., Any],
    steps: list[Any],
    stages: Any,
    more_watchers: Sequence[Any] = (),
) -> float:
    """Prepare, train and encode; `steps` are optimizer, schedule and pixels."""
    import pytorch_lightning as pl
    import torch
    from pytorch_lightning.utilities.exceptions import MisconfigurationException

    from drgn.data.sample import spread
    from drgn.models.latents import TableLatent
    from drgn.models.poses import RefinedPose
    from drgn.run import Run
    from drgn.training import precision
    from drgn.training.callbacks import (
        Agreement,
        BadBatches,
        Draws,
        EpochLine,
        HyperParameters,
        Pictures,
        ProgressBar,
        Throughput,
    )
    from drgn.training.checkpoints import LastCheckpoint, SealedCheckpoints, newest
    from drgn.training.encode import complete, encode, gathered
    from drgn.training.loaders import Loaders
    from drgn.training.module import ReconstructionModule
    from drgn.training.refinement import refined, write_refined
    from drgn.training.start import warm_start

    started = time.perf_counter()
    output, seed, trust, resume = (config[name] for name in ("output", "seed", "trust", "resume"))
    particles, settings = data.particles, dict(config["trainer"])
    pl.seed_everything(seed, workers=True, verbose=False)
    measured = Run.facts(output).get("measured_precision", {}) if resume else {}
    if settings["precision"] == "auto":
        gpu = settings["accelerator"] in ("gpu", "cuda", "auto") and torch.cuda.is_available()
        device = "cuda" if gpu else "cpu"
        chosen, said = precision.choose(torch.device(device))
        measured = {device: chosen, **measured}  # a run goes on as it began
        settings["precision"] = measured[device]
        say(f"precision {settings['precision']}: {said}", file=sys.stderr)
        config["trainer"] = settings
    stages.begin("preflight")
    data.check()
    stages.begin("preparation")
    data.prepare()
    stages.begin("start")
    rejected = data.rejected
    if rejected:
        say(
            f"{len(rejected)} images are constant or not finite and are left out: {', '.join(rejected[:16])}",
            file=sys.stderr,
        )
    stack = data.dataset.stack.meta
    run = Run.create(
        output,
        config,
        box_size=stack.box_size,
        pixel_size_A=stack.pixel_size_A,
        particles=particles,
        measured_precision=measured,
        complete=False,
    )
    start = newest(run.checkpoints) if resume else None
    reconstructor = model(
        amplitude=data.dataset.signal_amplitude(data.rows(heldout=False)),
        density_scale=data.dataset.density_scale,
    )
    for penalty in reconstructor.nuisances:
        penalty.measure(data.dataset.taken(spread(data.rows(heldout=False), _MEASURED)))
    if start is None:
        stages.begin("warm start")
        warm_start(reconstructor, data, seed, stages)
    stages.begin("training")
    module = ReconstructionModule(reconstructor, *steps)
    # a latent table is trained for the training particles alone: those held out keep the latents of the start
    judged = len(data.rows(heldout=True)) and not isinstance(reconstructor.latent, TableLatent)
    monitor = "heldout/loss" if judged else "train/loss_epoch"
    best = pl.callbacks.ModelCheckpoint(
        dirpath=run.checkpoints, filename="best", monitor=monitor, enable_version_counter=False
    )
    last = LastCheckpoint(run.checkpoints, config["checkpoint_minutes"], anew=start is None)
    watchers: list[pl.Callback] = [
        best,
        last,
        Agreement(),
        Draws(seed),
        Throughput(),
        BadBatches(particles.table["key"]),
        Pictures(),
        *more_watchers,
        *(build(node, trust=trust, key=f"callbacks.{name}") for name, node in config["callbacks"].items()),
        EpochLine(),
    ]
    if sys.stdout.isatty():
        watchers.append(ProgressBar())
    log = None
    if config["logger"] is not None:
        log = build(config["logger"], trust=trust, key="logger")(save_dir=run.path)
    if log is None:
        watchers = [w for w in watchers if not isinstance(w, pl.callbacks.LearningRateMonitor)]
    else:
        log.log_hyperparams(_flat(config))
        watchers.append(HyperParameters(_flat(config), monitor))
    try:
        fitter = build(
            settings,
            trust=trust,
            key="trainer",
            max_epochs=config["epochs"],
            logger=log if log is not None else False,
            callbacks=watchers,
            plugins=[SealedCheckpoints(start)],
            enable_progress_bar=sys.stdout.isatty(),
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=run.path,
        )
    except InputError:
        raise
    except (MisconfigurationException, ValueError) as error:
        raise InputError(f"trainer: {str(error).splitlines()[0]}") from None
    say(_summary(data, reconstructor, run.path), flush=True)
    loaders = Loaders(data, fit="accumulate_grad_batches" not in settings, memory_GB=config["memory_GB"])
    try:
        fitter.fit(module, loaders, ckpt_path=start, weights_only=True)
    except SystemExit:  # Lightning's answer to Ctrl-C and SIGTERM
        if not fitter.interrupted:
            raise
        signal.signal(signal.SIGINT, signal.default_int_handler)
        say(f"interrupted; the same command with output={run.path} goes on", file=sys.stderr)
        if last.asked not in (None, signal.SIGINT):
            sys.exit(128 + last.asked)
        raise KeyboardInterrupt from None
    fitter.strategy.barrier()  # the checkpoints are written
    stages.begin("encoding")
    loader = data.predict_dataloader()
    encoded = encode(
        run.model(fitter.strategy.root_device),
        loader,
        n=len(particles),
        autocast=run.autocast_type(fitter.strategy.root_device),
        fit=data.heldout,
    )
    encoded = gathered(encoded, loader.sampler)
    if not fitter.is_global_zero:
        return float("nan")
    complete(encoded, data.dataset)
    score = float(best.best_model_score) if best.best_model_score is not None else float("nan")
    run.record(
        finished=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        seconds=round(time.perf_counter() - started, 1),
        epochs=fitter.current_epoch,
        best_loss=score,
        monitor=monitor,
        precision=settings["precision"],
        skipped_images=len(module.skipped),
        rejected=rejected,
    )
    if isinstance(reconstructor.pose, RefinedPose):
        write_refined(refined(particles, run.model().pose, data.dataset), run.path)
    run.save_latents(encoded, data.heldout)
    stages.end()
    say(f"best {monitor} {score:.5f}; run folder {run.path}", flush=True)
    return score


def _in_sweep() -> bool:
    """Whether this is one of the jobs of a multirun."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _options(verb: str) -> dict[str, Any]:
    return compose(verb)


def _analyze(path: Path, trust: list[str]) -> None:
    from drgn.analysis import clusters
    from drgn.analyze import analyze
    from drgn.run import Run

    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        say("no analysis: it needs `pip install drgn[analyze]`; then: drgn analyze run=" + str(path))
        return
    options, run = _options("analyze"), Run.open(path, trust=trust)
    if run.zdim:  # few particles, or classes that are certain of all
        options["kmeans"] = min(options["kmeans"], clusters.most(run.latents().z))
    analyze(**{**options, "run": path, "trust": trust, "output": None})


def _summary(data: Any, reconstructor: Any, path: Path) -> str:
    weights = sum(p.numel() for p in reconstructor.parameters())
    meta = data.dataset.stack.meta
    return (
        f"{data.name}: {len(data.particles):,} particles, {len(data.rows(heldout=True)):,} of them held out,"
        f" box {meta.box_size} px of {meta.pixel_size_A:.3f} A; z of {reconstructor.zdim} dimensions,"
        f" {weights:,} weights; writing to {path}"
    )


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options as one level, for TensorBoard's hparams."""
    flat: dict[str, Any] = {}
    for name, value in node.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value if isinstance(value, bool | int | float) else str(value)
    return flat


main = command(train)
if __name__ == "__main__":
    main()
