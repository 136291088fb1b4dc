"""What an earlier start of the same sweep has done already."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drgn.errors import InputError, say
from drgn.hints import leaves
from drgn.run import Run

# options by which a run that goes on may differ from itself: how it is trained, not what
_HOW = (
    "output",
    "epochs",
    "trainer",
    "callbacks",
    "logger",
    "memory_GB",
    "checkpoint_minutes",
    "analyze",
    "trust",
)
_FREE = (*_HOW, "resume", "plan", "dataset.cache", "dataset.workers", "dataset.shards", "dataset.preflight")
_SAME = ("epochs", "analyze")  # of these, what a finished run must have had


def done(config: Mapping[str, Any]) -> float | None:
    """The best loss of a job of a sweep that is finished; None where there is something to do.

    Parameters
    ----------
    config
        Of `drgn train`.

    Raises
    ------
    InputError
        The folder holds a run with other options: jobs are numbered, and the sweep is another one.
    """
    output = Path(config["output"])
    if not config["resume"] or not (output / "run.json").is_file() or not (output / "config.yaml").is_file():
        return None
    then, now = (dict(leaves(json.loads(json.dumps(c, default=str)))) for c in (Run(output).config, config))
    for key in sorted({**then, **now}):
        if not _below(key, _FREE) and then.get(key) != now.get(key):
            raise InputError(
                f"output={output} holds a run with {key}={then.get(key)}, where this job has {now.get(key)}:"
                " new values come last in a sweep, or give another output="
            )
    facts = Run.facts(output)
    if not facts.get("complete") or any(then.get(key) != now.get(key) for key in _SAME):
        return None
    loss = float(facts["best_loss"])
    say(f"{output} is finished, best {facts['monitor']} {loss:.5f}: not trained again", flush=True)
    return loss


def _below(key: str, names: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)
