"""The precision of the matrix products, chosen by a measurement."""

import time
from collections.abc import Callable

import torch

_SHAPE = (8192, 256)  # rows of pixels x width of a decoder layer
_GAIN = 1.2  # bf16 must be faster by this much to be chosen


def choose(device: torch.device) -> tuple[str, str]:
    """Choose between float32 and bfloat16 matrix products on a device.

    Returns
    -------
    tuple of str
        Lightning's name of the precision, and a sentence with what was measured.
    """
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return "32-true", "this GPU has no bfloat16"
    single, half = (_seconds(device, dtype) for dtype in (torch.float32, torch.bfloat16))
    gain = single / half
    said = f"matrix products take {half * 1e3:.2f} ms in bfloat16, {single * 1e3:.2f} ms in float32"
    return ("bf16-mixed" if gain >= _GAIN else "32-true"), said


def autocast_type(precision: str, device: torch.device) -> torch.dtype | None:
    """The type of the matrix products of a run of this precision on this device, None for float32.

    A run may be opened on another machine than it was trained on, which has no bfloat16.
    """
    if "bf16" not in precision:
        return None
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else None
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else None


def _seconds(device: torch.device, dtype: torch.dtype) -> float:
    a = torch.randn(_SHAPE, device=device).to(dtype)
    b = torch.randn(_SHAPE[1], _SHAPE[1], device=device).to(dtype)

    def run() -> None:
        for _ in range(4):
            torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return min(_timed(run) for _ in range(6))


def _timed(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
