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
import multiprocessing
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


def with_hypothesis(name: str, examples: int, path: Path, found: Findings, said: Any) -> None:
    """Spoil and read; says how many files were tried, and how many could still be read."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    signal.signal(signal.SIGALRM, late)
    targets, sound, counts = sys.modules["fuzz_targets"], path.read_bytes(), [0, 0]

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(seed=st.integers(0, 1 << 60), whole=st.none() | st.none() | st.none() | st.binary(max_size=500))
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
    said.send(counts)


def with_atheris(name: str, seconds: int, path: Path, findings: Path) -> None:
    """Search in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=["drgn", "zipfile", "yaml", "pickle"]):
        targets = load()
    sound = path.read_bytes()
    corpus = Path(tempfile.mkdtemp(dir=findings.parent))
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


def fuzz(kind: str, name: str, amount: int, path: Path, folder: Path) -> dict[str, Any]:
    """Fuzz one target in a process of its own; its end by a signal is a finding."""
    findings = folder / f"{kind}_{name.replace('/', '_')}.json"
    start, counts, ended = time.perf_counter(), [0], ""
    if kind == "hypothesis":
        context = multiprocessing.get_context("fork")
        here, there = context.Pipe()
        found = Findings(findings)
        process = context.Process(target=with_hypothesis, args=(name, amount, path, found, there))
        process.start()
        process.join()
        counts = here.recv() if here.poll() else counts
        ended = f"ended with {process.exitcode}" if process.exitcode else ""
    else:
        words = [sys.executable, __file__, "--child", name, str(amount), str(path), str(findings)]
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
        executed = re.search(r"number_of_executed_units: (\d+)", done.stdout + done.stderr)
        counts = [int(executed[1])] if executed else counts
        ended = f"ended with {done.returncode}: {done.stderr[-300:]}" if done.returncode else ""
    wrong = json.loads(findings.read_text()) if findings.is_file() else {}
    if ended:
        wrong["the process"] = ended
    for where, what in wrong.items():
        print(f"    {where}: {what}", flush=True)
    figures: dict[str, Any] = {"runs": counts[0], "findings": len(wrong)}
    if len(counts) > 1:
        figures["read"] = counts[1]
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
        name, seconds, path, findings = given.child
        with_atheris(name, int(seconds), Path(path), Path(findings))
        return
    targets = load()
    names = list(targets.TARGETS)
    path = given.results / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    kinds = {"hypothesis": given.examples}
    with suppress(ImportError):
        import atheris  # noqa: F401

        kinds["atheris"] = given.seconds
    folder = Path(tempfile.mkdtemp(prefix="drgn_fuzz_"))
    (folder / "seeds").mkdir()
    targets.make_seeds(folder / "seeds")
    for name in given.only or names:
        file = targets.path_of(folder / "seeds", name)
        sound = file.read_bytes()
        for kind, amount in kinds.items():
            figures = fuzz(kind, name, amount, file, folder)
            file.write_bytes(sound)
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
