"""The residual network of `models.mlp` on many rows, on a CPU: in blocks of rows that stay in its cache.

The mathematics is that of the plain network, forward and backward. What differs is the order: all layers of
one block of rows before the next block, so that ReLU, additions and sums find their operands in the cache.
Bias and residual are added inside the matrix product, the encoding of the rows is made in the block, and
nothing is as large as all rows times a layer but what the backward pass needs. Each core takes blocks of its
own, which spares them waiting for each other at the end of every operation.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from threading import Barrier
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_ROWS = 4096  # of a block: many more leave the cache, fewer pay more for each call
_LEAST_ROWS = 256  # for fewer rows the weights are what takes the time

Layers = list[tuple[Tensor, Tensor]]  # weight and bias of the first, the hidden and the last layer
Encoding = Callable[[Tensor], Tensor]
Block = tuple[slice, slice]  # of the first two axes
T = TypeVar("T")


def suits(x: Tensor) -> bool:
    """Whether these rows (..., in_dim) are better taken in blocks."""
    if x.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # an operation that torch keeps to itself
        return False
    return x.numel() // x.shape[-1] >= _LEAST_ROWS and _type_of(x) in (torch.float32, torch.bfloat16)


def network(x: Tensor, offset: Tensor | None, layers: Layers, encoding: Encoding | None = None) -> Tensor:
    """Map rows through the network.

    Parameters
    ----------
    x
        (N, P, in_dim), or what `encoding` makes that of.
    offset
        (N, width), added before the first ReLU to the P rows of each of the N; None adds nothing.
    layers
        Weight and bias of each.
    encoding
        Applied to x block by block, without a gradient to x.

    Returns
    -------
    Tensor
        (N, P, out_dim), of the type of the products: bfloat16 under such an autocast, else float32.
    """
    flat = [tensor for layer in layers for tensor in layer]
    if torch.is_grad_enabled():
        return _Network.apply(x, offset, _type_of(x), encoding, *flat)
    return _forward(x, offset, _type_of(x), encoding, flat, keep=None)


def _type_of(x: Tensor) -> torch.dtype:
    if not torch.is_autocast_enabled("cpu"):
        return x.dtype
    kind = torch.get_autocast_dtype("cpu")
    hardware = kind != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return kind if hardware else torch.float64  # float64: nothing for blocks


def _blocks(shape: torch.Size) -> list[Block]:
    """Parts of the first two axes of a shape, several of the first or a piece of one of them.

    A multiple of the number of threads where there are rows enough, and equally large.
    """
    n, rows = shape[:2]
    threads = torch.get_num_threads()
    wanted = -(-n * rows // (_ROWS * threads)) * threads
    wanted = max(1, min(wanted, n * rows // _LEAST_ROWS))
    if wanted <= n:
        edges = [i * n // wanted for i in range(wanted + 1)]
        return [(slice(i, j), slice(0, rows)) for i, j in pairwise(edges)]
    pieces = -(-wanted // n)
    edges = [i * rows // pieces for i in range(pieces + 1)]
    return [(slice(i, i + 1), slice(j, k)) for i in range(n) for j, k in pairwise(edges)]


def _on_threads(work: Callable[[range], T], n_blocks: int) -> Iterator[T]:
    """Results of `work` on consecutive parts of the blocks, a part for each thread; in order."""
    threads = min(torch.get_num_threads(), n_blocks)
    if threads == 1:
        return iter([work(range(n_blocks))])
    edges = [i * n_blocks // threads for i in range(threads + 1)]
    parts = [range(i, j) for i, j in pairwise(edges)]
    # both modes are a thread's own
    work = torch.inference_mode(torch.is_inference_mode_enabled())(torch.no_grad()(work))
    return _pool(os.getpid(), torch.get_num_threads()).map(work, parts)


@lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads in which each of torch's operations takes one; a forked process needs its own."""
    pool = ThreadPoolExecutor(threads, "blocks", initializer=_alone)
    started = Barrier(threads)
    list(pool.map(lambda _: started.wait(), range(threads)))
    torch.set_num_threads(threads)  # the number is this thread's own, but also that of threads to come
    return pool


def _alone() -> None:
    torch.set_num_threads(1)
    torch.get_num_threads()  # a thread takes the number of the process when it is first asked: now that is 1


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, then: str = "none") -> Tensor:
    """x @ weight^T + bias, and "relu" or "none" on it, in one pass."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], "")


def _linear_plus(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x + x @ weight^T + bias in one pass."""
    return torch.ops.mkldnn._linear_pointwise.binary(x, x, weight, bias, "add")


def _forward(
    x: Tensor,
    offset: Tensor | None,
    kind: torch.dtype,
    encoding: Encoding | None,
    flat: Sequence[Tensor],
    keep: list[Tensor] | None,
) -> Tensor:
    """Fill `keep` with the inputs of all layers of the first block, of the second, and so on."""
    cast = [tensor.to(kind) for tensor in flat]
    first, *hidden, last = zip(cast[::2], cast[1::2], strict=True)
    added = None if offset is None else offset.to(kind)
    out = x.new_empty(*x.shape[:2], len(last[1]), dtype=kind)
    # the same rows for each offset: what comes before the offset is made once
    shared = keep is None and added is not None and len(x) > 1 and x.stride(0) == 0
    blocks = _blocks(x[:1].shape if shared else x.shape)

    def rest(h: Tensor, kept: list[Tensor]) -> Tensor:
        for weight, bias in hidden:
            h = _linear_plus(h, weight, bias).relu_()
            if keep is not None:
                kept.append(h)
        return _linear(h, *last)

    def work(part: range) -> list[Tensor]:
        kept: list[Tensor] = []
        for images, rows in blocks[part.start : part.stop]:
            n = images.stop - images.start
            seen = x[images, rows]
            seen = (seen if encoding is None else encoding(seen)).flatten(0, 1).to(kind)
            if shared and added is not None:
                before = _linear(seen, *first)
                for image, own in enumerate(added):
                    out[image, rows] = rest((before + own).relu_(), kept)
                continue
            if added is None:
                h = _linear(seen, *first, "relu")
            elif n == 1:
                h = _linear(seen, first[0], first[1] + added[images.start], "relu")
            else:
                h = _linear(seen, *first)
                h.unflatten(0, (n, -1)).add_(added[images].unsqueeze(1))
                h.relu_()
            if keep is not None:
                kept += [seen, h]
            out[images, rows] = rest(h, kept).unflatten(0, (n, -1))
        return kept

    for kept in _on_threads(work, len(blocks)):
        if keep is not None:
            keep += kept
    return out


class _Network(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        offset: Tensor | None,
        kind: torch.dtype,
        encoding: Encoding | None,
        *flat: Tensor,
    ) -> Tensor:
        kept: list[Tensor] = []
        out = _forward(x, offset, kind, encoding, flat, kept)
        ctx.kind, ctx.x, ctx.n_flat = kind, (x.shape, x.dtype), len(flat)
        ctx.offset_type = None if offset is None else offset.dtype
        ctx.blocks = _blocks(x.shape)
        ctx.save_for_backward(*flat, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        flat, kept = ctx.saved_tensors[: ctx.n_flat], ctx.saved_tensors[ctx.n_flat :]
        shape, x_type = ctx.x
        n_layers, kind = ctx.n_flat // 2, ctx.kind
        weights = [weight.to(kind) for weight in flat[::2]]
        turned = [weight.t().contiguous() for weight in weights[1:-1]]
        for_x = gradient.new_empty(shape, dtype=x_type) if ctx.needs_input_grad[0] else None

        def work(numbers: range) -> list[Tensor]:
            total = [torch.zeros_like(tensor, dtype=torch.float32) for tensor in flat]
            for_offset = torch.zeros(shape[0], len(weights[0]))

            def add(layer: int, down: Tensor, seen: Tensor) -> None:
                total[2 * layer].add_(torch.mm(down.t(), seen))
                total[2 * layer + 1].add_(down.sum(0))

            for number in numbers:
                images, rows = ctx.blocks[number]
                part, *h = kept[number * n_layers : (number + 1) * n_layers]
                n = images.stop - images.start
                down = gradient[images, rows].flatten(0, 1).to(kind)
                add(n_layers - 1, down, h[-1])
                down = torch.mm(down, weights[-1])
                for i in range(n_layers - 2, 0, -1):
                    _through_relu(down, h[i])
                    add(i, down, h[i - 1])
                    down = _linear_plus(down, turned[i - 1], None)
                _through_relu(down, h[0])
                add(0, down, part)
                if ctx.needs_input_grad[1]:
                    for_offset[images] += down.unflatten(0, (n, -1)).sum(1)
                if for_x is not None:
                    for_x[images, rows] = torch.mm(down, weights[0]).unflatten(0, (n, -1)).to(x_type)
            return [for_offset, *total]

        # always in the order of the blocks: the same sums every time
        for_offset, *total = (
            torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]
            for parts in zip(*_on_threads(work, len(ctx.blocks)), strict=True)
        )
        return (
            for_x,
            for_offset.to(ctx.offset_type) if ctx.needs_input_grad[1] else None,
            None,
            None,
            *(t.to(f.dtype) for t, f in zip(total, flat, strict=True)),
        )


def _through_relu(down: Tensor, out: Tensor) -> None:
    """Set the gradient (in place) to zero where the ReLU's output is zero."""
    torch.ops.aten.threshold_backward.grad_input(down, out, 0, grad_input=down)
