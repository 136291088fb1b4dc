"""Read the logs of run.py; write results.json and errors.png beside this file. Runs of other names stay.

python collect.py NAME=LOG...
"""

import json
import re
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LINE = re.compile(
    r"(?P<step>\S+(?: r\d+)?)(?: (?:prior|width) (?P<prior_deg>[\d.]+) ?deg (?P<prior_A>[\d.]+) ?A)?"
    r" (?P<cpu_s>\d+)s"
    r" rot (?:median )?(?P<rotation_median_deg>[\d.]+) mean (?P<rotation_mean_deg>[\d.]+)"
    r" view (?P<view_median_deg>[\d.]+) shift (?:px\(64\) )?(?P<shift_median_px>[\d.]+)"
)

here = Path(__file__).parent
path = here / "results.json"
runs = json.loads(path.read_text()) if path.is_file() else {}
for argument in sys.argv[1:]:
    name, _, log = argument.rpartition("=")
    found = [match.groupdict() for match in map(LINE.match, Path(log).read_text().splitlines()) if match]
    runs[name] = [
        {key: value if key == "step" else float(value) for key, value in row.items() if value is not None}
        for row in found
    ]
path.write_text(json.dumps(runs, indent=1) + "\n")
figure, axes = plt.subplots(1, 3, figsize=(14, 4.8), layout="constrained")
for number, (key, label) in enumerate(
    [
        ("rotation_median_deg", "median rotation error (degrees)"),
        ("shift_median_px", "median shift error (pixels of box 64)"),
        ("prior_deg", "width of the prior of rotations (degrees)"),
    ]
):
    for name, rows in runs.items():
        known = [(i, row[key]) for i, row in enumerate(rows) if key in row]
        axes[number].plot(*zip(*known, strict=True), marker=".", label=name)
    axes[number].set(xlabel="step", ylabel=label, ylim=(0, None))
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
figure.savefig(here / "errors.png", dpi=80)
for name, rows in runs.items():
    print(name, rows[0], rows[-1])
