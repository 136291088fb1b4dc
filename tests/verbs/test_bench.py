"""The bench verb beside a program that prints what cryoDRGN prints."""

import json
import sys

import pytest

from drgn.bench import bench
from drgn.command import compose

PEER = """#!{python}
import pathlib, sys, time
if sys.argv[1] == "train_vae":
    assert pathlib.Path(sys.argv[sys.argv.index("--poses") + 1]).is_file()
    for i in (8, 16, 24):
        print(f"(INFO) # [Train Epoch: 1/1] [{{i}}/24 particles] gen loss=1", flush=True)
        time.sleep(0.1)
"""


@pytest.mark.full
def test_a_report_of_both_programs(tmp_path):
    peer = tmp_path / "cryodrgn"
    peer.write_text(PEER.format(python=sys.executable))
    peer.chmod(0o755)
    case = {"model": "128x3", "box_size": 16, "images": 24, "batch_size": 8, "volumes": 2}
    options = {"cases": [case], "precisions": ["32-true"], "cryodrgn": peer, "pairs": 1, "threads": 1}
    options |= {"seconds": 0.1, "work": tmp_path / "work", "output": tmp_path / "out"}
    assert bench(**{**compose("bench"), **options}) == tmp_path / "out" / "report.md"
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    name = "128x3_box16_batch8"
    assert results[f"{name}.cryodrgn.train_images_per_s"] == pytest.approx(80, rel=0.2)
    for metric in (
        "train_images_per_s",
        "train_images_per_cpu_s",
        "first_step_s",
        "encode_s",
        "generate_cpu_s",
    ):
        assert results[f"{name}.drgn_fp32.{metric}"] > 0
        assert results[f"{name}.ratio.{metric}.drgn_fp32"] > 0
    assert 0 < results[f"{name}.drgn_fp32.step_peak_share"] < 1.5
