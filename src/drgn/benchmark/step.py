"""A training step taken apart: images per second, share of the matrix products' peak, wait for the loader."""

import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple

import torch
from torch import nn

from drgn.command import compose
from drgn.models.reconstructor import Reconstructor
from drgn.run import build_reconstructor
from drgn.signature import build
from drgn.training import memory, precision

_SIDE = 1536  # of the square matrices whose product is the peak
_WARM_UP = 2


class Step(NamedTuple):
    """Medians over the steps.

    Attributes
    ----------
    images_per_s, images_per_cpu_s
        Of wall time and of CPU time, the wait for the loader included.
    gflop_per_s, peak_gflop_per_s, peak_share
        Matrix products of the step per second of wall time; those of a product of two 1536 x 1536 matrices of
        the same type, taken between the steps; their ratio, step by step.
    loader_share
        Part of the time that the step waits for its batch.
    memory_GiB
        Most that the process held.
    """

    images_per_s: float
    images_per_cpu_s: float
    gflop_per_s: float
    peak_gflop_per_s: float
    peak_share: float
    loader_share: float
    memory_GiB: float


def measure(overrides: list[str], half: bool, threads: int | None, seconds: float) -> Step:
    """Take training steps in a process of their own.

    Parameters
    ----------
    overrides
        Options of `drgn train`; the stack must be prepared.
    half
        bfloat16 products.
    threads
        None: as many as torch takes.
    seconds
        How long to go on; five steps at least.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, overrides, half, threads, seconds).result()


def gemm_flop(model: Reconstructor, n_images: int) -> float:
    """Operations of the matrix products of a training step, two for each multiplication.

    Three products for each layer, forward and two backward; two for a first layer, whose input needs no
    gradient.
    """
    total = 0
    parts = [(model.decoder, len(model.frequencies)), (model.latent, 1)]
    for part, rows in parts:
        layers = [m for m in part.modules() if isinstance(m, nn.Linear) and m.bias is not None]
        for i, layer in enumerate(layers):
            total += (2 if i == 0 else 3) * 2 * rows * layer.weight.numel()
    return float(total * n_images)


def _measure(overrides: list[str], half: bool, threads: int | None, seconds: float) -> Step:
    if threads is not None:
        torch.set_num_threads(threads)
    memory.keep_freed()
    config = compose("train", overrides)
    data: Any = build({k: v for k, v in config["dataset"].items() if k != "simulate"}, key="dataset")
    data.prepare_data()
    torch.manual_seed(0)
    model = build_reconstructor(
        config,
        box_size=data.box_size,
        n_particles=len(data.particles),
        amplitude=data.dataset.signal_amplitude(data.rows(heldout=False)),
    )
    optimizer = build(config["optimizer"], key="optimizer")(model.parameters())
    kind = precision.autocast_type("bf16" if half else "32", torch.device("cpu"))
    batches = _forever(data)
    square = torch.randn(_SIDE, _SIDE).to(kind or torch.float32)
    product = torch.empty_like(square)
    rows, end = [], time.perf_counter() + seconds
    while len(rows) < _WARM_UP + 5 or time.perf_counter() < end:
        wall, cpu = time.perf_counter(), time.process_time()
        batch = next(batches)
        wait = time.perf_counter() - wall
        with torch.autocast("cpu", dtype=kind or torch.float32, enabled=kind is not None):
            loss = model.loss(batch).total.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        n = len(batch["row"])
        rate, peak = gemm_flop(model, n) / wall / 1e9, _peak(square, product)
        rows.append((n / wall, n / cpu, rate, peak, rate / peak, wait / wall))
    medians = [statistics.median(column) for column in zip(*rows[_WARM_UP:], strict=True)]
    return Step(*medians, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20))


def _forever(data: Any) -> Any:
    while True:
        yield from data.train_dataloader()


def _peak(square: torch.Tensor, product: torch.Tensor) -> float:
    """GFLOP/s of the faster of torch's two ways to a product, best of three."""
    best = float("inf")
    for _ in range(3):
        for way in (
            lambda: torch.mm(square, square.t(), out=product),
            lambda: torch.ops.mkldnn._linear_pointwise(square, square, None, "none", [], ""),
        ):
            start = time.perf_counter()
            way()
            best = min(best, time.perf_counter() - start)
    return 2 * _SIDE**3 / best / 1e9
