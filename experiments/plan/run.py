"""What `drgn train ... plan=true` says, against what the run then takes. Writes results.json.

python experiments/plan/run.py /tmp/plan SETTING...       # of SETTINGS; the sets are simulated on first use

A setting that is measured again needs another folder, or /tmp/plan/SETTING removed: it begins with no cache.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
SETS = {
    "box32": ["n_particles=2500", "box_size=32", "pixel_size_A=12", "shift_px=2"],
    "box64": [],
    "box128": ["n_particles=1000", "box_size=128", "pixel_size_A=3", "shift_px=10"],
}
SETTINGS = {
    "box32_256x3": ("box32", ["model=256x3", "epochs=4"]),
    "box32_256x3_no_warm_start": ("box32", ["model=256x3", "epochs=4", "warmstart=none"]),
    "box16_1024x3": (
        "box32",
        ["model=1024x3", "epochs=1", "dataset.box_size=16", "warmstart=none", "analyze=false"],
    ),
    "box64_256x3": ("box64", ["model=256x3", "epochs=1"]),
    "box128_256x3": ("box128", ["model=256x3", "epochs=1"]),
}


def main() -> None:
    work = Path(sys.argv[1])
    if sys.argv[2] == "--one":
        return one(Path(sys.argv[3]), sys.argv[4:])
    for name in sys.argv[2:]:
        images, options = SETTINGS[name]
        data = work / "sets" / images
        if not (data / "particles.star").is_file():
            made = ["set=uniform_small", *SETS[images], "microscope.table=null"]
            drgn("drgn.simulate", *made, f"output={data}")
        folder = work / name
        words = ["dataset=custom", f"dataset.particles={data / 'particles.star'}", *options]
        words += [f"dataset.cache={folder / 'cache'}", f"output={folder / 'run'}"]
        folder.mkdir()
        for what in ("plan", "run"):
            command = [sys.executable, __file__, str(work), "--one", str(folder / f"{what}.json"), *words]
            subprocess.run([*command, f"plan={str(what == 'plan').lower()}"], check=True)
        record(name, folder, options)


def drgn(module: str, *words: str) -> None:
    subprocess.run([sys.executable, "-m", module, *words], check=True)


def one(path: Path, words: list[str]) -> None:
    """Plan or train in this process, and keep what was said or what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    from drgn import train as verb
    from drgn.command import bind, compose
    from drgn.planning.forecast import Forecast

    said = []

    def say(*values: object, **how: object) -> None:
        said.extend(values)
        print(*values, **how)

    verb.say = say
    verb.train(**bind(verb.train, compose("train", words)))
    taken = [time.perf_counter() - wall, time.process_time() - cpu]
    found = {"taken_s": taken}
    for forecast in said:
        if isinstance(forecast, Forecast):
            found |= {
                "rows": {row.name: row.seconds.tolist() for row in forecast.rows},
                "seconds": forecast.seconds.tolist(),
                "memory_GB": forecast.memory_B / 1e9,
                "disk_MB": forecast.disk_B / 1e6,
                "said": str(forecast),
            }
    path.write_text(json.dumps(found, indent=1))


def record(name: str, folder: Path, options: list[str]) -> None:
    plan, run = (json.loads((folder / f"{what}.json").read_text()) for what in ("plan", "run"))
    facts = json.loads((folder / "run" / "run.json").read_text())
    files = [f for part in ("cache", "run") for f in (folder / part).rglob("*") if f.is_file()]
    actual = {
        "time_s": run["taken_s"][0],
        "cpu_s": run["taken_s"][1],
        "memory_GB": facts["peak_memory_GB"],
        "disk_MB": sum(f.stat().st_size for f in files if f.parent.name != "preflight") / 1e6,
    }
    said = {
        "time_s": plan["seconds"][0],
        "cpu_s": plan["seconds"][1],
        **{k: plan[k] for k in ("memory_GB", "disk_MB")},
    }
    results = HERE / "results.json"
    known = json.loads(results.read_text()) if results.is_file() else {}
    known = {k: v for k, v in known.items() if not k.startswith(f"{name}.")}
    for what, value in actual.items():
        known[f"{name}.{what}.predicted"] = float(f"{said[what]:.4g}")
        known[f"{name}.{what}.actual"] = float(f"{value:.4g}")
        known[f"{name}.{what}.ratio"] = float(f"{said[what] / value:.3g}")
    for part, seconds in facts["cpu_seconds_of"].items():
        known[f"{name}.part.{part}.actual_cpu_s"] = seconds
    for part, (_, seconds) in plan["rows"].items():
        known[f"{name}.part.{part}.predicted_cpu_s"] = float(f"{seconds:.4g}")
    known[f"{name}.plan_took_cpu_s"] = float(f"{plan['taken_s'][1]:.4g}")
    results.write_text(json.dumps(known, indent=1) + "\n")
    print(json.dumps({k: v for k, v in known.items() if k.startswith(f"{name}.")}, indent=1), options)


if __name__ == "__main__":
    main()
