"""Time reading, filtering and writing a star file of a million particles; write report.md and results.json.

    python experiments/million_rows/run.py [--starfile] [--rows 1000000]

The file is of RELION 3.1: two optics groups, 26 columns padded with blanks as RELION writes them. No stack of
it exists. Each case runs in a process of its own, whose peak memory is the whole process's.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow

HERE = Path(__file__).parent
TARGET_S, TARGET_GIB = 60, 4
NAMES = [
    "CoordinateX",
    "CoordinateY",
    "ImageName",
    "MicrographName",
    "DefocusU",
    "DefocusV",
    "DefocusAngle",
    "PhaseShift",
    "CtfBfactor",
    "CtfScalefactor",
    "CtfMaxResolution",
    "CtfFigureOfMerit",
    "AngleRot",
    "AngleTilt",
    "AnglePsi",
    "OriginXAngst",
    "OriginYAngst",
    "ClassNumber",
    "NormCorrection",
    "RandomSubset",
    "LogLikeliContribution",
    "MaxValueProbDistribution",
    "NrOfSignificantSamples",
    "GroupNumber",
    "OpticsGroup",
    "ImageOriginalName",
]
NUMBER, INTEGER = "%12.6f", "%12d"
IMAGE = "%06d@Extract/job020/Movies/FoilHole_%08d_Data_20230810_EER.mrcs"
ROW = (
    f"{NUMBER} {NUMBER} {IMAGE} MotionCorr/job002/Movies/FoilHole_%08d_Data_20230810_EER.mrc "
    + f"{NUMBER} " * 13
    + f"{INTEGER} {NUMBER} {INTEGER} %12.6e {NUMBER} {INTEGER} {INTEGER} {INTEGER} {IMAGE} \n"
)


def generate(path: Path, n: int) -> None:
    """Write n particles, 200 a micrograph, as RELION does."""
    rng = np.random.default_rng(0)
    coordinates, defocus = rng.uniform(0, 4000, (n, 2)), rng.uniform(5000, 30000, (n, 2))
    angles, shifts = rng.uniform(-180, 180, (n, 4)), 3 * rng.normal(size=(n, 2))
    optics = (
        "OpticsGroup OpticsGroupName Voltage SphericalAberration AmplitudeContrast ImagePixelSize ImageSize"
    )
    with open(path, "w") as file:
        header = "".join(f"_rln{name} #{i} \n" for i, name in enumerate(optics.split(), 1))
        file.write(f"\n# version 30001\n\ndata_optics\n\nloop_ \n{header}")
        for group in (1, 2):
            file.write(
                f"{group:12d} group{group}   300.000000     2.700000     0.100000     1.{group}00000  256 \n"
            )
        header = "".join(f"_rln{name} #{i} \n" for i, name in enumerate(NAMES, 1))
        file.write(f" \n\n# version 30001\n\ndata_particles\n\nloop_ \n{header}")
        for i in range(n):
            m, k = i // 200, i % 200 + 1
            file.write(
                ROW
                % (
                    *(*coordinates[i], k, m, m, *defocus[i], angles[i, 0], 0, 0, 1, 4.5, 0.08),
                    *(
                        *angles[i, 1:],
                        *shifts[i],
                        1,
                        0.9,
                        i % 2 + 1,
                        2.5e5,
                        0.05,
                        450,
                        m + 1,
                        m % 2 + 1,
                        k,
                        m,
                    ),
                )
            )
        file.write(" \n")


def table(source: Path, folder: Path) -> dict[str, float]:
    """The target: read the particles, select half, write them."""
    from drgn.formats.particles import Particles

    start = time.perf_counter()
    particles = Particles.from_file(source)
    read = time.perf_counter()
    half = particles.select(np.arange(0, len(particles), 2))
    half.save(folder / "half.star")
    end = time.perf_counter()
    return {"from_file_s": read - start, "select_half_save_s": end - read, "from_file_to_save_s": end - start}


def blocks(source: Path, folder: Path) -> dict[str, float]:
    """Only the star file: read, written whole, and read again to the last bit."""
    from drgn.formats import star

    start = time.perf_counter()
    before = star.read_blocks(source)
    read = time.perf_counter()
    star.write_blocks(folder / "again.star", before)
    written = time.perf_counter()
    after = star.read_blocks(folder / "again.star")
    for name, frame in before.items():
        pd.testing.assert_frame_equal(after[name], frame, check_exact=True)
    return {"read_s": read - start, "write_s": written - read}


def convert(source: Path, folder: Path) -> dict[str, float]:
    """All particles in the dialect of RELION 3.0, with ten more columns."""
    from drgn.formats import star
    from drgn.formats.particles import Particles
    from drgn.formats.relion import to_blocks

    particles = Particles.from_file(source)
    latents = np.random.default_rng(1).normal(size=(len(particles), 10)).astype(np.float32)
    extra = pd.DataFrame(latents, columns=[f"drgnZ{i}" for i in range(10)])
    start = time.perf_counter()
    new = to_blocks(particles.source, particles.table, particles.rotation, version="3.0", extra=extra)
    star.write_blocks(folder / "old.star", new)
    return {"export_3_0_with_latents_s": time.perf_counter() - start}


def starfile(source: Path, folder: Path) -> dict[str, float]:
    """The starfile library on the same file, for comparison."""
    import starfile

    start = time.perf_counter()
    before = starfile.read(source, always_dict=True)
    read = time.perf_counter()
    starfile.write(before, folder / "theirs.star")
    return {"read_s": read - start, "write_s": time.perf_counter() - read}


CASES = {"table": table, "blocks": blocks, "convert": convert, "starfile": starfile}


def child(case: str, source: Path, folder: Path) -> None:
    figures = CASES[case](source, folder)
    figures[f"{case}_peak_GiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--starfile", action="store_true", help="time the starfile library too (minutes)")
    parser.add_argument("--child", nargs=3, metavar=("CASE", "SOURCE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.child[0], *map(Path, options.child[1:]))
    results: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "particles.star"
        generate(source, options.rows)
        size_mib = source.stat().st_size / 2**20
        for case in CASES if options.starfile else list(CASES)[:-1]:
            command = [sys.executable, __file__, "--child", case, str(source), folder]
            print(case, flush=True)
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            program = "starfile" if case == "starfile" else "drgn"
            for name, value in json.loads(done.stdout).items():
                results[f"star{options.rows:.0e}.{program}.{name}".replace("+0", "")] = round(value, 2)
    report(results, options, size_mib)


def report(results: dict[str, float], options: argparse.Namespace, size_mib: float) -> None:
    from drgn import __version__

    models = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")]
    processor = models[0].split(":")[1].strip() if models else platform.processor()
    lines = [
        f"# A star file of {options.rows:,} particles",
        "",
        f"{time.strftime('%Y-%m-%d')}, drgn {__version__}, pandas {pd.__version__}, pyarrow "
        f"{pyarrow.__version__}, Python {platform.python_version()}; {processor}, {os.cpu_count()} cores "
        "shared with other work.",
        f"Command: `python {Path(__file__).relative_to(HERE.parents[1])}"
        f"{' --starfile' if options.starfile else ''}`. The file: RELION 3.1, two optics groups, "
        f"{len(NAMES)} columns, {size_mib:.0f} MiB, stacks absent.",
        "",
        f"Expected: from_file, selecting half and saving within {TARGET_S} s and {TARGET_GIB} GiB. All "
        "values come back to the last bit (checked in the case `blocks`).",
        "",
        "| figure | value |",
        "|---|---|",
        *(f"| {name.split('.', 1)[1]} | {value} |" for name, value in results.items()),
        "",
        "`from_file_to_save` is Particles.from_file, select and save; `read` and `write` are "
        "star.read_blocks and write_blocks of all rows; `_peak_GiB` is the largest memory of the process of "
        "that case.",
    ]
    (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (HERE / "report.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
