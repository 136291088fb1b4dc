"""Fuzz every reader for a while; write report.md and results.json.

    python experiments/fuzz/run.py                                   # half an hour of one core
    python experiments/fuzz/run.py --only formats/p.star run/config.yaml --examples 20000 --seconds 600

Each target of tests/fuzz/targets.py is given spoilt files in two ways: by hypothesis, which draws how a sound
file is spoilt with knowledge of its format, and by atheris (where it is installed), which searches for inputs
that reach new lines of this program. Right is what reads, or what raises InputError with one line that names
the file; a finding is anything else: another exception, no answer in 20 s, 400 MB, the end of the process.
"""

import argparse
import importlib.util
import json
import os
import platform
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TARGETS = HERE.parents[1] / "tests" / "fuzz" / "targets.py"
SECONDS, MEMORY_MB = 20, 3000


def load() -> Any:
    """The targets, by their file: tests are no package."""
    spec = importlib.util.spec_from_file_location("fuzz_targets", TARGETS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_targets"] = module
    spec.loader.exec_module(module)
    return module


class Findings:
    """What went wrong, each place in the program once, with a file that shows it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: dict[str, str] = {}

    def add(self, error: BaseException, content: bytes) -> None:
        """Keep one."""
        cause = error.__cause__ or error
        lines = [f for f in traceback.extract_tb(cause.__traceback__) if "/drgn/" in f.filename]
        where = f"{Path(lines[-1].filename).name}:{lines[-1].lineno}" if lines else str(error)[:60]
        if where not in self.seen:
            self.seen[where] = str(error)[:300]
            self.path.write_text(json.dumps(self.seen))
            (self.path.parent / f"{len(self.seen)}_{self.path.stem}").write_bytes(content)


def late(*_: object) -> None:
    raise TimeoutError(f"no answer in {SECONDS} s")


def with_hypothesis(name: str, examples: int, found: Findings) -> tuple[int, int]:
    """Spoil and read; returns how many files were tried, and how many could still be read."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    targets = load()
    counts = [0, 0]
    with tempfile.TemporaryDirectory() as folder:
        targets.make_seeds(Path(folder))
        path = targets.path_of(Path(folder), name)
        sound = path.read_bytes()

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(
            seed=st.integers(0, 1 << 60), whole=st.none() | st.none() | st.none() | st.binary(max_size=500)
        )
        def spoilt(seed: int, whole: bytes | None) -> None:
            content = targets.spoil(sound, random.Random(seed)) if whole is None else whole
            path.write_bytes(content)
            counts[0] += 1
            signal.alarm(SECONDS)
            try:
                counts[1] += targets.check(name, path)
            except (targets.Wrong, TimeoutError) as error:
                found.add(error, content)
            finally:
                signal.alarm(0)

        spoilt()
    return counts[0], counts[1]


def with_atheris(name: str, seconds: int, findings: Path) -> None:
    """Search in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=["drgn", "zipfile", "yaml", "pickle"]):
        targets = load()
    folder = Path(tempfile.mkdtemp())
    targets.make_seeds(folder)
    path = targets.path_of(folder, name)
    corpus = folder / "corpus"
    corpus.mkdir()
    sound = path.read_bytes()
    (corpus / "sound").write_bytes(sound)
    for seed in range(20):
        (corpus / str(seed)).write_bytes(targets.spoil(sound, random.Random(seed)))
    found = Findings(findings)

    def one(content: bytes) -> None:
        path.write_bytes(content)
        try:
            targets.check(name, path)
        except targets.Wrong as error:
            found.add(error, content)

    options = [f"-max_total_time={seconds}", f"-timeout={SECONDS}", f"-rss_limit_mb={MEMORY_MB}"]
    options += [
        f"-max_len={4 * len(sound) + 1000}",
        "-print_final_stats=1",
        f"-artifact_prefix={findings.parent}/",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


def child(kind: str, name: str, amount: int, findings: Path) -> None:
    """Fuzz one target in this process."""
    if kind == "atheris":
        with_atheris(name, amount, findings)
    else:
        signal.signal(signal.SIGALRM, late)
        print("tried, read:", *with_hypothesis(name, amount, Findings(findings)))


def fuzz(kind: str, name: str, amount: int, folder: Path) -> dict[str, Any]:
    """Fuzz one target in a process of its own; its end by a signal is a finding."""
    findings = folder / f"{kind}_{name.replace('/', '_')}.json"
    findings.unlink(missing_ok=True)
    words = [sys.executable, __file__, "--child", kind, name, str(amount), str(findings)]
    start = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    said = done.stdout + done.stderr
    count = re.search(r"tried, read: (\d+) (\d+)", said) or re.search(
        r"number_of_executed_units: (\d+)()", said
    )
    found = json.loads(findings.read_text()) if findings.is_file() else {}
    if done.returncode != 0:
        found["the process"] = f"ended with {done.returncode}: {said[-300:]}"
    figures: dict[str, Any] = {"runs": int(count[1]) if count else 0, "findings": len(found)}
    if count and count[2]:
        figures["read"] = int(count[2])
    for where, what in found.items():
        print(f"    {where}: {what}", flush=True)
    return figures | {"seconds": round(time.perf_counter() - start, 1)}


def table(results: dict[str, Any], targets: list[str]) -> str:
    """Markdown: a row a target."""
    lines = [
        "| file | hypothesis: files tried | of them read | atheris: files tried | findings |",
        "|---|--:|--:|--:|--:|",
    ]
    for name in targets:
        value = {
            key: results.get(f"{name}.{key}", 0)
            for key in ("hypothesis.runs", "hypothesis.read", "atheris.runs")
        }
        findings = sum(results.get(f"{name}.{kind}.findings", 0) for kind in ("hypothesis", "atheris"))
        lines.append(f"| {name} | {' | '.join(f'{v:,}' for v in value.values())} | {findings} |")
    return "\n".join(lines)


def main() -> None:
    """Fuzz, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--examples", type=int, default=1000, help="files a target for hypothesis")
    parser.add_argument("--seconds", type=int, default=15, help="a target for atheris")
    parser.add_argument("--results", type=Path, default=HERE)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        kind, name, amount, findings = given.child
        child(kind, name, int(amount), Path(findings))
        return
    names = list(load().TARGETS)
    path = given.results / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    kinds = {"hypothesis": given.examples}
    with suppress(ImportError):
        import atheris  # noqa: F401

        kinds["atheris"] = given.seconds
    folder = Path(tempfile.mkdtemp(prefix="drgn_fuzz_"))
    for name in given.only or names:
        for kind, amount in kinds.items():
            figures = fuzz(kind, name, amount, folder)
            print(name, kind, figures, flush=True)
            results |= {f"{name}.{kind}.{key}": value for key, value in figures.items()}
        results |= {"date": time.strftime("%Y-%m-%d"), "python": platform.python_version()}
        path.write_text(json.dumps(dict(sorted(results.items())), indent=2) + "\n")
    for kind in ("hypothesis", "atheris"):
        results[f"all.{kind}.runs"] = sum(results.get(f"{name}.{kind}.runs", 0) for name in names)
        results[f"all.{kind}.findings"] = sum(results.get(f"{name}.{kind}.findings", 0) for name in names)
    path.write_text(json.dumps(dict(sorted(results.items())), indent=2) + "\n")
    report = given.results / "report.md"
    head, mark = (report.read_text() if report.is_file() else "# Fuzzing\n"), "\n## Counts\n"
    report.write_text(f"{head.partition(mark)[0].rstrip()}\n{mark}\n{table(results, names)}\n")
    print(f"files with which something went wrong: {folder}; cores: {len(os.sched_getaffinity(0))}")


if __name__ == "__main__":
    main()
