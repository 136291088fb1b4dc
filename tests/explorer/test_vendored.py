"""Scripts of others are what their checksums say, and each has its licence."""

import hashlib
from pathlib import Path

import drgn

VENDOR = Path(drgn.__file__).parent / "explorer" / "static" / "vendor"


def test_the_scripts_are_those_that_were_reviewed():
    lines = (VENDOR / "SHA256SUMS").read_text().splitlines()
    sums = dict(reversed(line.split("  ")) for line in lines)
    files = {path.name for path in VENDOR.iterdir()} - {"SHA256SUMS", "README.md"}
    assert set(sums) == files
    for name, expected in sums.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == expected, name
    assert {"molstar.LICENSE", "regl-scatterplot.LICENSE"} <= files
    assert sum((VENDOR / name).stat().st_size for name in files) < 6e6
