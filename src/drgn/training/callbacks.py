"""What is watched while a model trains: pictures for TensorBoard, the progress bar, bad batches."""

import sys
import time
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn
from torch import Tensor

from drgn.errors import say
from drgn.models.reconstructor import Reconstructor
from drgn.physics import fourier
from drgn.training.stages import duration


class Draws(Callback):
    """Seed the draws of each step anew: they are the same in a resumed run, and in all processes.

    Parameters
    ----------
    seed
        Of the run.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        """Seed from the run, the epoch and the step, once the loader has drawn what it needs."""
        step = batch_idx // trainer.accumulate_grad_batches
        sequence = np.random.SeedSequence([self._seed, trainer.current_epoch, step])
        torch.manual_seed(int(sequence.generate_state(1)[0]))


class HyperParameters(Callback):
    """Show the options in TensorBoard's HPARAMS tab, beside the losses that runs are compared by.

    Parameters
    ----------
    options
        One level of names and values.
    monitor
        Name of the loss.
    """

    def __init__(self, options: dict[str, Any], monitor: str) -> None:
        self._options, self._monitor = options, monitor
        self._best = f"best_{monitor}"

    @rank_zero_only
    def on_fit_start(self, trainer: pl.Trainer, module: Any) -> None:
        """Write them. Lightning's own way needs the metrics' values, which are not known yet."""
        from torch.utils.tensorboard.summary import hparams

        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for summary in hparams(self._options, {self._best: 0, self._monitor: 0}):
                    logger.experiment._get_file_writer().add_summary(summary)

    @rank_zero_only
    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Write the best loss of the run."""
        found = [c.best_model_score for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
        last = trainer.callback_metrics.get(self._monitor)
        losses = {self._monitor: last, self._best: found[0] if found else None}
        known = {name: float(value) for name, value in losses.items() if value is not None}
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and self._best in known:
                logger.log_hyperparams(self._options, known, step=trainer.global_step)


class Throughput(Callback):
    """Images per second of training, and the time left, in the log and on the progress bar."""

    def __init__(self) -> None:
        self._start = self._images = 0.0
        self._batches = 0

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        """Start the clock of an epoch that is taken up within."""
        self.on_train_epoch_start(trainer, module)

    def on_train_epoch_start(self, trainer: pl.Trainer, module: Any) -> None:
        """Start the clock."""
        self._start, self._images, self._batches = time.perf_counter(), 0.0, 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images."""
        self._images += len(batch["row"]) * trainer.world_size
        self._batches += 1

    @property
    def images_per_second(self) -> float:
        """Of the current epoch so far."""
        return self._images / max(1e-9, time.perf_counter() - self._start)

    def seconds_left(self, trainer: pl.Trainer) -> float:
        """At the current speed, validation not counted."""
        steps_left = trainer.estimated_stepping_batches - trainer.global_step
        return float(steps_left) * (time.perf_counter() - self._start) / max(1, self._batches)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Log the speed."""
        module.log("images_per_second", self.images_per_second, rank_zero_only=True)


class ProgressBar(RichProgressBar):
    """Lightning's Rich bar with images per second and the time left of the whole run."""

    def get_metrics(self, trainer: pl.Trainer, pl_module: Any) -> dict[str, Any]:
        """Show the losses of interest and the speed."""
        metrics = super().get_metrics(trainer, pl_module)
        shown = {k: v for k, v in metrics.items() if k in ("train/loss_step", "heldout/loss")}
        speed = next((c for c in trainer.callbacks if isinstance(c, Throughput)), None)
        if speed is not None:
            shown["images/s"] = f"{speed.images_per_second:,.0f}"
            shown["left"] = duration(speed.seconds_left(trainer))
        return shown


class Agreement(Callback):
    """The first to act at the end of an epoch: what others ask of all processes must come after it."""

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Bring together the poses that each process has moved."""
        module.agree()


class EpochLine(Callback):
    """One line an epoch where the output is a file: SLURM logs stay readable."""

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Print the losses, the speed and the time left."""
        values = trainer.callback_metrics  # means over all processes, to which each must come
        if sys.stdout.isatty() or not trainer.is_global_zero:
            return
        parts = [f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"]
        shown = {"train/loss_epoch": "train/loss", "heldout/loss": "heldout/loss"}
        parts += [f"{said} {float(values[name]):.5f}" for name, said in shown.items() if name in values]
        parts += [f"kl {float(values['train/kl_epoch']):.2f}"] if "train/kl_epoch" in values else []
        speed = next((c for c in trainer.callbacks if isinstance(c, Throughput)), None)
        if speed is not None:
            left = speed.seconds_left(trainer)
            parts += [f"{speed.images_per_second:,.0f} images/s", f"{duration(left)} left"]
        say("  ".join(parts), flush=True)


class BadBatches(Callback):
    """Count the images that were skipped because a loss was not finite, and name the particles at fault.

    Parameters
    ----------
    keys
        Key of each row of the particle table.
    """

    def __init__(self, keys: pd.Series) -> None:
        self._keys = keys
        self._skipped = self._faulty = 0

    def state_dict(self) -> dict[str, Any]:
        """How many were told."""
        return {"skipped": self._skipped, "faulty": self._faulty}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up."""
        self._skipped, self._faulty = state_dict["skipped"], state_dict["faulty"]

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Report what is new, and log how many images were left out so far."""
        new, faulty = len(module.skipped) - self._skipped, module.faulty[self._faulty :]
        self._skipped, self._faulty = len(module.skipped), len(module.faulty)
        module.log("skipped_images", float(self._skipped), reduce_fx="sum", sync_dist=True)
        if new:
            rows = sorted(set(faulty))
            named = ", ".join(self._keys.iloc[rows[:16]]) + (", ..." if len(rows) > 16 else "")
            rank_zero_warn(
                f"{new} images were left out this epoch: the loss or the gradient of their batch was not"
                f" finite. Particles whose own loss is not finite: {named or 'none; a smaller lr may help'}"
            )


class Pictures(Callback):
    """Latents, a map and an image beside its model, in TensorBoard after every epoch.

    Also how far they have come since the epoch before: `heldout/latent_drift` is the share of the variance
    of the latents that no linear map of those before explains, `heldout/map_change` is 1 - the correlation of
    the maps at their mean.
    """

    def __init__(self) -> None:
        self._z: list[Tensor] = []
        self._batch: Any = None
        self._before: tuple[Tensor | None, Tensor] | None = None

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the held-out latents, where they are drawn."""
        if trainer.sanity_checking or _board(trainer) is None:
            return
        if self._batch is None:
            self._batch = {name: value[:4] for name, value in batch.items()}
        posterior = module.reconstructor.posterior(batch)
        if posterior is not None:
            mean = posterior.mean.float().cpu()
            self._z.append(mean[mean.isfinite().all(1)])

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Draw."""
        parts, batch = self._z, self._batch
        self._z, self._batch = [], None
        board = _board(trainer)
        if board is None or batch is None:
            return
        model, epoch = module.reconstructor, trainer.current_epoch
        z = torch.cat(parts) if parts else None
        training = model.training
        model.eval()
        with torch.no_grad():
            volume = model.volume(None if z is None else z.mean(0)).cpu()
            if self._before is not None:
                earlier, map_before = self._before
                change = 1 - torch.corrcoef(torch.stack([volume.flatten(), map_before.flatten()]))[0, 1]
                module.log("heldout/map_change", float(change), rank_zero_only=True)
                if z is not None and earlier is not None and len(z) == len(earlier):
                    module.log("heldout/latent_drift", _drift(earlier, z), rank_zero_only=True)
            self._before = z, volume
            board.add_image("map/slices", _slices(volume), epoch, dataformats="HW")
            board.add_image("map/projections", _projections(volume), epoch, dataformats="HW")
            board.add_image("images/data_and_model", _compare(model, batch), epoch, dataformats="HW")
        if z is not None:
            board.add_image("latent/pca", _scatter(z), epoch, dataformats="HW")
        model.train(training)


def _board(trainer: pl.Trainer) -> Any:
    """TensorBoard, in the one process that draws and where it is wanted; else None."""
    if not trainer.is_global_zero:
        return None
    return next((x.experiment for x in trainer.loggers if isinstance(x, TensorBoardLogger)), None)


def _drift(before: Tensor, after: Tensor) -> float:
    """Share of the variance of latents (M, Z) that a linear map of earlier ones leaves."""
    known = torch.cat([before, before.new_ones(len(before), 1)], dim=1).double()
    centred = (after - after.mean(0)).double()
    left = centred - known @ torch.linalg.lstsq(known, centred).solution
    return float(left.square().sum() / centred.square().sum().clamp_min(1e-30))


def _grey(image: Tensor) -> Tensor:
    image = image.nan_to_num()
    low, high = image.min(), image.max()
    return (image - low) / (high - low).clamp_min(1e-12)


def _slices(volume: Tensor) -> Tensor:
    c = volume.shape[0] // 2
    return torch.cat([_grey(s) for s in (volume[c], volume[:, c], volume[:, :, c])], dim=1)


def _projections(volume: Tensor) -> Tensor:
    return torch.cat([_grey(volume.sum(axis)) for axis in range(3)], dim=1)


def _compare(model: Reconstructor, batch: Any) -> Tensor:
    """Four images (top) and their models (bottom), low-passed to half of Nyquist to be seen at all."""
    prediction = model(batch)
    keep = model.frequencies.norm(dim=1) < 0.25
    rows = []
    for values in (batch["image"], prediction.image):
        transform = model.lattice.scatter((values * keep).cpu())
        images = fourier.ifft(transform, 2).real
        rows.append(torch.cat([_grey(image) for image in images], dim=1))
    return torch.cat(rows)


def _scatter(z: Tensor, size: int = 256) -> Tensor:
    """Density of the latents in the plane of their first two principal components, as a picture."""
    centred = (z - z.mean(0)).numpy()
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    points = centred @ axes[:2].T
    if points.shape[1] == 1:
        points = np.column_stack([points[:, 0], np.zeros(len(points))])
    limit = float(np.percentile(np.abs(points), 99.5)) * 1.1 + 1e-9
    counts, _, _ = np.histogram2d(
        points[:, 1], points[:, 0], bins=size // 4, range=[[-limit, limit], [-limit, limit]]
    )
    picture = np.kron(np.log1p(counts[::-1]), np.ones((4, 4)))
    return torch.from_numpy(picture / max(picture.max(), 1e-9)).float()
