"""Read what run.py wrote; write results.json (flat) and search.png beside this file.

python collect.py RESULT.json...
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

here = Path(__file__).parent
path = here / "results.json"
flat = json.loads(path.read_text()) if path.is_file() else {}
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
for file in map(Path, sys.argv[1:]):
    told = json.loads(file.read_text())
    curve = told.pop("curve", None)
    flat |= {f"{file.stem}.drgn.{name}": value for name, value in told.items()}
    if curve:
        left.plot(np.arange(1, len(curve)) / (len(curve) - 1), curve[1:], lw=1, label=file.stem)
        for number, step in enumerate(("search", "refined")):
            right.plot(
                told[f"{step}.cpu_s"], told[f"{step}.rotation_median_deg"], "os"[number], c=f"C{number}"
            )
            right.plot(
                told[f"{step}.cpu_s"],
                told[f"{step}.rotation_90_percent_deg"],
                "os"[number],
                c=f"C{number}",
                fillstyle="none",
            )
left.axhline(0.5, c="0.7", lw=0.8)
left.set(xlabel="frequency / Nyquist", ylabel="FSC with the true map", ylim=(0, 1.02))
left.legend(fontsize=7, ncols=2)
right.set(
    xlabel="CPU seconds from the start",
    ylabel="rotation error (degrees)",
    yscale="log",
    xlim=(0, None),
    title="circles: found; squares: refined; filled: median, open: 90 %",
)
right.title.set_fontsize(9)
figure.savefig(here / "search.png", dpi=90)
path.write_text(json.dumps(dict(sorted(flat.items())), indent=1) + "\n")
