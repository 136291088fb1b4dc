"""What was measured, as results.json, report.md and a picture."""

import json
import os
import platform
import re
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from drgn import __version__
from drgn.formats.atomic import replacing

Results = dict[str, float]


def summary(case: str, samples: Mapping[str, Sequence[float]]) -> Results:
    """Medians as CASE.program.metric, their spread (half of largest less smallest), and ratios to cryoDRGN.

    A ratio above 1 says that this program is faster: CASE.ratio.metric, or CASE.ratio.metric.VARIANT for
    variants of this program, is the median over the pairs.
    """
    results: Results = {}
    for name, values in samples.items():
        results[f"{case}.{name}"] = _rounded(statistics.median(values))
        results[f"{case}.{name}.spread"] = _rounded((max(values) - min(values)) / 2)
    for name, values in samples.items():
        program, metric = name.split(".", 1)
        theirs = samples.get(f"cryodrgn.{metric}")
        if program == "cryodrgn" or theirs is None or metric == "memory_GiB":
            continue
        pairs = zip(values, theirs, strict=True)
        ratios = [a / b if "_per_" in metric else b / a for a, b in pairs]
        results[f"{case}.ratio.{metric}.{program}"] = _rounded(statistics.median(ratios))
    return results


def write(folder: Path, results: Results, notes: Sequence[str]) -> None:
    """Write results.json, report.md and speed.png; results of other cases that are there already stay.

    Parameters
    ----------
    folder
        Made where it is missing.
    results
        CASE.program.metric -> value.
    notes
        Sentences for the head of the report: command, sizes, how often.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.json"
    cases = {name.split(".")[0] for name in results}
    old = json.loads(path.read_text()) if path.is_file() else {}
    kept = {name: value for name, value in old.items() if name.split(".")[0] not in cases}
    everything = dict(sorted({**kept, **results}.items()))
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(everything, indent=2) + "\n")
    with replacing(folder / "report.md") as temporary:
        temporary.write_text(_text(everything, notes))
    _draw(everything, folder / "speed.png")


def hardware() -> str:
    """Processor, cores, memory and versions, in a sentence."""
    name = platform.processor() or platform.machine()
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        name = found[1] if found else name
    except OSError:
        pass
    has = ["bfloat16 products"] if torch.ops.mkldnn._is_mkldnn_bf16_supported() else ["no bfloat16 products"]
    return (
        f"{name}, {os.cpu_count()} cores, {', '.join(has)}; drgn {__version__}, torch {torch.__version__},"
        f" Python {platform.python_version()}"
    )


def _text(results: Results, notes: Sequence[str]) -> str:
    lines = ["# Speed", "", f"{time.strftime('%Y-%m-%d')}. {hardware()}.", "", *notes, "", "![](speed.png)"]
    for case in sorted({name.split(".")[0] for name in results}):
        own = {name.split(".", 1)[1]: value for name, value in results.items() if name.split(".")[0] == case}
        programs = sorted({name.split(".")[0] for name in own} - {"ratio"})
        metrics = sorted(
            {name.split(".")[1] for name in own if not name.startswith("ratio.")}, key=lambda m: m.lower()
        )
        lines += ["", f"## {case}", "", f"| | {' | '.join(programs)} |", "|---" * (len(programs) + 1) + "|"]
        for metric in metrics:
            cells = []
            for program in programs:
                value, spread = own.get(f"{program}.{metric}"), own.get(f"{program}.{metric}.spread")
                ratio = own.get(f"ratio.{metric}.{program}")
                cell = "" if value is None else f"{value:.4g}"
                cell += "" if spread is None else f" ± {spread:.2g}"
                cells.append(cell + ("" if ratio is None else f" (**{ratio:.2f}x**)"))
            lines.append(f"| {metric} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _draw(results: Results, path: Path) -> None:
    """Images per second and per CPU-second of training, a panel for each case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    metrics = {"train_images_per_s": "images per second", "train_images_per_cpu_s": "images per CPU-second"}
    metrics = {m: label for m, label in metrics.items() if any(n.endswith(f".{m}") for n in results)}
    cases = sorted({name.split(".")[0] for name in results})
    if not metrics:
        return
    figure, panels = plt.subplots(
        len(metrics),
        len(cases),
        figsize=(2.6 * len(cases) + 1, 2.6 * len(metrics)),
        squeeze=False,
        layout="constrained",
    )
    for row, (metric, label) in zip(panels, metrics.items(), strict=True):
        row[0].set_ylabel(f"training, {label}")
        for axes, case in zip(row, cases, strict=True):
            found = {
                n.split(".")[1]: v for n, v in results.items() if re.fullmatch(rf"{case}\.\w+\.{metric}", n)
            }
            bars = axes.bar(list(found), list(found.values()), color=[f"C{i}" for i in range(len(found))])
            axes.bar_label(bars, fmt="%.3g", fontsize=8)
            axes.margins(y=0.12)
            axes.set_title(case.replace("_", " "), fontsize=9)
            axes.tick_params(axis="x", labelrotation=20, labelsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
