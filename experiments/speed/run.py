"""Time a training step and the decoding of a map on this machine; write report.md and results.json.

    make bench

Random images: the numbers do not depend on what is in them. The median of several steps after a warm-up.
"""

import json
import platform
import statistics
import time
from pathlib import Path

import torch

from drgn import __version__
from drgn.command import compose
from drgn.physics.grids import half_lattice
from drgn.physics.imaging import Batch
from drgn.physics.rotations import random_rotations
from drgn.run import build_reconstructor

HERE = Path(__file__).parent
CASES = [("256x3", 32), ("256x3", 64), ("1024x3", 64)]
BATCH, STEPS = 16, 7


def batch_of(box_size: int) -> Batch:
    """Return images of noise in random orientations."""
    generator = torch.Generator().manual_seed(0)
    n = len(half_lattice(box_size, 2))
    ctf = torch.tensor([15000.0, 15000.0, 0.0, 0.0, 300.0, 2.0, 0.1, 100.0, 1.0])
    return Batch(
        row=torch.arange(BATCH),
        group=torch.arange(BATCH),
        image=torch.randn(BATCH, n, dtype=torch.complex64, generator=generator),
        rotation=random_rotations(BATCH, generator).float(),
        shift_px=torch.zeros(BATCH, 2),
        pixel_size_A=torch.full((BATCH,), 192 / box_size),
        ctf_parameters=ctf.expand(BATCH, -1),
        premultiplied=torch.zeros(BATCH, dtype=torch.bool),
        phase_flipped=torch.zeros(BATCH, dtype=torch.bool),
    )


def measure(model_name: str, box_size: int, half: bool) -> tuple[float, float]:
    """Return images per second of training and seconds for one map."""
    config = compose("train", [f"model={model_name}"])
    model = build_reconstructor(config, box_size=box_size, n_particles=BATCH)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    batch, seconds = batch_of(box_size), []
    for _ in range(STEPS + 2):
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = model.loss(batch).total.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        model.eval().volume(torch.zeros(model.zdim))
    return BATCH / statistics.median(seconds[2:]), time.perf_counter() - start


def main() -> None:
    results: dict[str, float] = {}
    lines = [
        "# Speed of a training step",
        "",
        f"{time.strftime('%Y-%m-%d')}, drgn {__version__}, torch {torch.__version__}, {platform.processor()},"
        f" {torch.get_num_threads()} threads. Command: `make bench`. Batch {BATCH}, zdim 8, back-projecting"
        f" encoder, median of {STEPS} steps.",
        "",
        "| model | box | precision | training, images/s | one map, s |",
        "|---|---|---|---|---|",
    ]
    for model_name, box_size in CASES:
        for half in (False, True):
            precision = "bf16" if half else "fp32"
            speed, volume = measure(model_name, box_size, half)
            key = f"{model_name}_box{box_size}.drgn.{precision}"
            results[f"{key}_images_per_s"], results[f"{key}_map_s"] = round(speed, 1), round(volume, 3)
            lines.append(f"| {model_name} | {box_size} | {precision} | {speed:.0f} | {volume:.2f} |")
            print(lines[-1], flush=True)
    (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (HERE / "report.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
