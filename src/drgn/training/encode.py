"""The final pass over all particles: latents and how well each image is explained (P8)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from drgn.data.dataset import Batches, ParticleDataset
from drgn.models.halves import Halves
from drgn.models.latents import TableLatent
from drgn.models.reconstructor import Reconstructor, loss_scale
from drgn.physics.imaging import Batch
from drgn.training import memory

_FIT_STEPS, _FIT_RATE = 60, 0.05


class Encoded(NamedTuple):
    """Per particle, in the order of the table.

    Attributes
    ----------
    z, logvar
        (N, Z) float32, mean and log-variance of the posterior; Z = 0 for a homogeneous model.
    reconstruction_loss
        (N,) float32, squared residual per frequency in units of the noise: 1 is noise alone. An image that
        cannot be used has the largest of all.
    """

    z: NDArray[np.float32]
    logvar: NDArray[np.float32]
    reconstruction_loss: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Latents:
    """Latents of all particles of a run, in the order of its table.

    Attributes
    ----------
    key
        (N,) particle keys.
    z, logvar
        (N, Z) float32, mean and log-variance.
    reconstruction_loss
        (N,) float32; 1 is noise alone.
    heldout
        (N,) bool, never trained on.
    """

    key: NDArray[np.str_]
    z: NDArray[np.float32]
    logvar: NDArray[np.float32]
    reconstruction_loss: NDArray[np.float32]
    heldout: NDArray[np.bool_]


def encode(
    reconstructor: Reconstructor | Halves,
    batches: Iterable[Batch],
    *,
    n: int,
    autocast: torch.dtype | None,
    fit: NDArray[np.bool_] | None = None,
) -> Encoded:
    """Infer every particle's latent.

    Parameters
    ----------
    reconstructor
        A trained model, on its device.
    batches
        All particles, in any order.
    n
        Number of rows of the particle table.
    autocast
        bfloat16 for mixed precision, None for float32.
    fit
        (N,) rows whose entries of a latent table were never trained (held-out particles): they are found by
        gradient descent with the decoder fixed.
    """
    device = reconstructor.frequencies.device
    out = Encoded(
        z=np.zeros((n, reconstructor.zdim), np.float32),
        logvar=np.zeros((n, reconstructor.zdim), np.float32),
        reconstruction_loss=np.zeros(n, np.float32),
    )
    memory.keep_freed()
    reconstructor.eval()
    kind = autocast or torch.float32
    for batch in _on(device, batches):
        rows = batch["row"].cpu().numpy()
        with torch.autocast(device.type, dtype=kind, enabled=autocast is not None):
            if isinstance(reconstructor.latent, TableLatent) and fit is not None and fit[rows].any():
                with torch.random.fork_rng([device] if device.type == "cuda" else []):
                    torch.manual_seed(0)  # the same latents every time
                    _fit_table(reconstructor, batch, torch.from_numpy(fit[rows]).to(device))
            with torch.no_grad():
                prediction = reconstructor(batch)
        residual = torch.view_as_real(prediction.residual).square().sum((-1, -2)) / loss_scale(reconstructor)
        out.reconstruction_loss[rows] = residual.cpu().numpy()
        if prediction.posterior is not None:
            out.z[rows] = prediction.posterior.mean.detach().float().cpu().numpy()
            out.logvar[rows] = prediction.posterior.logvar.detach().float().cpu().numpy()
    return out


def gathered(mine: Encoded, sampler: Batches) -> Encoded:
    """Bring what the processes of a distributed run encoded to the first of them.

    Parameters
    ----------
    mine
        As of `encode`; of several processes each has its share.
    sampler
        What gave this process its share.

    Returns
    -------
    Encoded
        Complete in the first process, `mine` in the others.
    """
    if not torch.distributed.is_initialized():
        return mine
    rows, first = sampler.rows(), torch.distributed.get_rank() == 0
    parts: list[Any] | None = [None] * torch.distributed.get_world_size() if first else None
    torch.distributed.gather_object((rows, *(values[rows] for values in mine)), parts)
    for of, *values in parts or []:
        for whole, part in zip(mine, values, strict=True):
            whole[of] = part
    return mine


def complete(encoded: Encoded, dataset: ParticleDataset) -> None:
    """Say of the images that cannot be used what is known of them, in place.

    Their latent is that of their particle, where another image shows it, else that of the prior, N(0, I).
    """
    rejected, usable = np.flatnonzero(dataset.rejected), np.flatnonzero(~dataset.rejected)
    if not len(rejected) or not len(usable):
        return
    group = dataset.group.numpy()
    other = np.full(int(group.max()) + 1, -1)
    other[group[usable]] = usable
    source = other[group[rejected]]
    for values in (encoded.z, encoded.logvar):
        values[rejected] = np.where(source[:, None] < 0, 0, values[source])
    encoded.reconstruction_loss[rejected] = encoded.reconstruction_loss[usable].max()


def _on(device: torch.device, batches: Iterable[Batch]) -> Iterator[Batch]:
    for batch in batches:
        yield {name: value.to(device) for name, value in batch.items()}  # type: ignore[misc, attr-defined]


def _fit_table(reconstructor: Reconstructor | Halves, batch: Batch, which: torch.Tensor) -> None:
    """Descend on the table's entries of the chosen images of a batch, everything else fixed.

    Latents are drawn, as in training: the variance too must answer to the images. The parts of the model stay
    in evaluation.
    """
    table = reconstructor.latent
    assert isinstance(table, TableLatent)
    some = {name: value[which] for name, value in batch.items()}  # type: ignore[index]
    parameters = list(reconstructor.parameters())
    before = [p.requires_grad for p in parameters]
    for p in parameters:
        p.requires_grad_(False)
    entries = (table.mean, table.logvar)
    weights = [entry.weight for entry in entries]
    for w in weights:
        w.requires_grad_(True)
    for entry in entries:
        entry.sparse = True  # a step costs as much as the batch, and not as the table
    optimizer = torch.optim.SparseAdam(weights, lr=_FIT_RATE)
    reconstructor.training = True
    with torch.enable_grad():
        for _ in range(_FIT_STEPS):
            loss = reconstructor.loss(some, 1 << 60).total.sum()  # type: ignore[arg-type]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    reconstructor.training = False
    for entry in entries:
        entry.sparse = False
    for p, flag in zip(parameters, before, strict=True):
        p.requires_grad_(flag)
        p.grad = None
