"""The one LightningModule: it schedules and logs what the Reconstructor computes."""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from drgn.errors import InputError
from drgn.models.halves import Halves
from drgn.models.losses import Loss
from drgn.models.poses import RefinedPose
from drgn.models.reconstructor import Reconstructor, loss_scale
from drgn.physics.imaging import Batch


class ReconstructionModule(pl.LightningModule):
    """Train a Reconstructor.

    Parameters
    ----------
    reconstructor
        The model.
    optimizer
        Parameters -> optimizer.
    schedule
        (step, total steps) -> factor of the learning rate.
    pixels
        (step, total steps) -> share of each image's frequencies that a step predicts.
    """

    def __init__(
        self,
        reconstructor: Reconstructor | Halves,
        optimizer: Callable[[Any], torch.optim.Optimizer],
        schedule: Callable[[int, int], float],
        pixels: Callable[[int, int], float],
    ) -> None:
        super().__init__()
        self.reconstructor = reconstructor
        self._optimizer = optimizer
        self._schedule, self._pixels = schedule, pixels
        self._total_steps = 1
        pose = reconstructor.pose
        self._pose = pose if isinstance(pose, RefinedPose) and pose.lr else None
        if self._pose is not None:  # each process moves the poses of its own images, see `RefinedPose.agree`
            names = [*self._pose.trained, "seen"]
            self._ddp_params_and_buffers_to_ignore = [
                name for name, _ in self.named_buffers(remove_duplicate=False) if _is_of_pose(name, names)
            ]
        self.register_buffer("images_seen", torch.zeros((), dtype=torch.int64), persistent=True)
        self._images_seen = 0  # the same on the host, so that no step waits for the device
        self.skipped: list[int] = []  # rows of the batches that gave no finite loss or gradient
        self.faulty: list[int] = []  # those among them, and held-out ones, whose own loss was not finite
        self._rows: list[Tensor] = []  # of the pieces of this step
        self._finite = 0  # images with a finite loss in this epoch of training or validation
        self._sums: dict[str, Tensor] = {}  # of the losses of this epoch's training so far, times images
        self._images = 0  # of those sums

    images_seen: Tensor

    def on_fit_start(self) -> None:
        """Take up the count of a checkpoint."""
        self._images_seen = int(self.images_seen)

    def on_train_start(self) -> None:
        """Send no buffers with each step: those of the warm start are large and do not change.

        All processes have those of the first from its start. Running means of nuisance variables do change.
        """
        wrapped = self.trainer.strategy.model
        if isinstance(wrapped, DistributedDataParallel):
            wrapped.broadcast_buffers = bool(self.reconstructor.nuisances)

    def _counts(self, loader: DataLoader[Batch], index: int) -> tuple[int, int]:
        """Images of a batch that count, and images of its step in all processes and pieces."""
        n, of = loader.sampler.counts[index]  # type: ignore[attr-defined]
        return int(n), int(of)

    def training_step(self, batch: Batch, index: int) -> Tensor | None:
        """Loss of a batch per frequency and image; None, which skips the step, when it is not finite."""
        share = self._pixels(self.trainer.global_step, self._total_steps)
        if self._pose is not None:
            self._pose.steps_now = self.current_epoch >= self._pose.begin_epoch
        loss = self.reconstructor.loss(batch, self._images_seen, share)
        n, of = self._counts(self.trainer.train_dataloader, index)  # type: ignore[arg-type]
        pieces = self.trainer.accumulate_grad_batches
        piece = index % pieces
        self._rows = [*(self._rows if piece else []), batch["row"]]
        if piece == pieces - 1:
            self._images_seen += of
            self.images_seen.fill_(self._images_seen)
        # Lightning averages over processes and pieces: what is left is the mean over all images of the step
        weight = (n > 0) * self.trainer.world_size * pieces / (of * loss_scale(self.reconstructor))
        total = loss.total.sum() * weight
        if not torch.isfinite(total):
            self.skipped += batch["row"].tolist()
            self.faulty += batch["row"][~loss.total.isfinite()].tolist()
            if self.trainer.world_size == 1:
                return None
            # the other processes wait for this one's gradients: give them zeros
            return sum((p.sum() * 0 for p in self.parameters()), torch.zeros((), device=self.device))
        self._finite += len(batch["row"])
        self._images += n
        for name, value in self._values("train", loss).items():
            self.log(f"{name}_step", value, on_step=True, on_epoch=False, batch_size=n)
            self._sums[name] = self._sums.get(name, 0) + value * n
        return total if total.requires_grad else None  # the volumes of a basis alone are not trained further

    def on_after_backward(self) -> None:
        """Let the poses of the batch take their steps."""
        if self._pose is not None:
            total = self._total_steps
            begin = total * self._pose.begin_epoch / (self.trainer.max_epochs or 1)
            self._pose.descend(max(0.0, (total - self.trainer.global_step) / max(1.0, total - begin)))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep a gradient that is not finite from the weights."""
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        if gradients and not torch.isfinite(torch.stack(torch._foreach_norm(gradients))).all():
            self.skipped += torch.cat(self._rows).tolist()
            for gradient in gradients:
                gradient.zero_()

    def validation_step(self, batch: Batch, index: int) -> None:
        """Loss of held-out images with the mean of their posterior."""
        loss = self.reconstructor.loss(batch, self._images_seen)
        good = loss.total.isfinite()
        if not good.all() and not self.trainer.sanity_checking:
            bad = batch["row"][~good].tolist()
            self.skipped += bad
            self.faulty += bad
        if good.any():
            self._finite += int(good.sum())
            loss = Loss(*(part[good] for part in loss))
            n = int(good.sum()) * (self._counts(self.trainer.val_dataloaders, index)[0] > 0)  # type: ignore[arg-type]
            for name, value in self._values("heldout", loss).items():
                self.log(name, value, on_epoch=True, batch_size=n, sync_dist=True)

    def on_train_epoch_start(self) -> None:
        """Count anew."""
        self._finite = self._images = 0
        self._sums = {}

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log the means of an epoch: Lightning's own would forget what was before a resume within it."""
        if self.trainer.is_last_batch:
            for name, total in self._sums.items():
                mean, n = total / max(1, self._images), self._images
                self.log(f"{name}_epoch", mean, on_epoch=True, on_step=False, batch_size=n, sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what was counted so far."""
        checkpoint["counted"] = {
            "finite": self._finite,
            "images": self._images,
            "sums": self._sums,
            "skipped": self.skipped,
            "faulty": self.faulty,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it up."""
        counted = checkpoint.get("counted")
        if counted is not None:
            self._finite, self._images, self._sums = (counted[name] for name in ("finite", "images", "sums"))
            self.skipped, self.faulty = list(counted["skipped"]), list(counted["faulty"])

    def on_validation_epoch_start(self) -> None:
        """Look back at the training, which is over for this epoch, and count anew."""
        self.agree()
        self._require_finite()
        self._finite = 0

    def on_validation_epoch_end(self) -> None:
        """Look back at the validation."""
        self._require_finite()

    def on_train_epoch_end(self) -> None:
        """Look back at the training, where nothing is held out."""
        self._require_finite()

    def agree(self) -> None:
        """Bring together the poses that each process has moved."""
        if self._pose is not None and not self.trainer.sanity_checking:
            self._pose.agree()

    def _require_finite(self) -> None:
        if self._finite == 0 and not self.trainer.sanity_checking:
            raise InputError(
                "no image has a finite loss any more: the training diverged; give a smaller optimizer.lr, or"
                " trainer.gradient_clip_val=1"
            )

    def _values(self, where: str, loss: Loss) -> dict[str, Tensor]:
        scale = loss_scale(self.reconstructor)
        return {
            f"{where}/loss": loss.total.detach().mean() / scale,
            f"{where}/reconstruction": loss.reconstruction.detach().mean() / scale,
            f"{where}/kl": loss.kl.detach().mean(),
        }

    def configure_optimizers(self) -> dict[str, Any] | None:
        """Adam and its schedule over the whole run; None when there is nothing to train."""
        self._total_steps = total = max(1, int(self.trainer.estimated_stepping_batches))
        parameters = list(self.parameters())
        if not parameters:
            if self._pose is not None:
                raise InputError(
                    "pose.lr needs a network to be trained with: model=linear has none; set pose.lr=0"
                )
            return None
        optimizer = self._optimizer(parameters)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self._schedule(step, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _is_of_pose(name: str, names: list[str]) -> bool:
    *_, parent, own = ["", *name.split(".")]
    return parent == "pose" and own in names


def require_usable(optimizer: Callable[[Any], torch.optim.Optimizer]) -> None:
    """Raise an InputError where an optimizer does not take its options, such as a learning rate below 0."""
    try:
        optimizer([torch.nn.Parameter(torch.zeros(1))])
    except ValueError as error:
        raise InputError(
            f"optimizer: {error}; expected what it takes, for instance optimizer.lr=5e-4"
        ) from None
