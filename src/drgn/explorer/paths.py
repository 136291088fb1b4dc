"""Paths through the latent space: what the page asks for as options of drgn traverse, and their latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from drgn.analysis import traversal
from drgn.errors import InputError

if TYPE_CHECKING:
    from drgn.explorer.columns import Columns

_GRAPH = {"average_neighbors": 5.0, "max_neighbors": 10}
_DISCONNECTED = ("widen", "largest")  # what is tried where no path joins the anchors, in this order
_ENDS = {"low": 5.0, "high": 95.0}  # percentiles of a component
_NO_ANCHORS = {"kmeans": None, "labels": None, "pathway": None, "random": None, "seed": 0}


def options(request: dict[str, Any], zdim: int, is_row: Callable[[Any], bool]) -> dict[str, Any]:
    """Options of `drgn traverse` for {"how": "line", "points": 5, "anchors": [3, 9]} (or "pc", with "pc": 1).

    Raises
    ------
    InputError
        They do not name a path.
    """
    kind = request.get("how")
    found: dict[str, Any] = {"kind": kind, "points": whole(request, "points", 2, 200)}
    if kind == "pc":
        return found | {"pc": whole(request, "pc", 1, zdim)} | _ENDS
    if kind not in ("line", "graph"):
        raise InputError(f"how={kind}: expected pc, line or graph.")
    anchors = request.get("anchors")
    if not isinstance(anchors, list) or len(anchors) < 2:
        raise InputError("A path needs two anchors at least: click a point, then 'add anchor'.")
    if not all(map(is_row, anchors)):
        raise InputError("anchors: expected rows of the particle table.")
    if kind == "line":
        return found | {"anchors": anchors}
    apart = request.get("disconnected") or _DISCONNECTED[0]
    if apart not in _DISCONNECTED:
        raise InputError(f"disconnected={apart}: expected {' or '.join(_DISCONNECTED)}.")
    return found | {"anchors": anchors, "disconnected": apart} | _GRAPH


def route(columns: Columns, chosen: dict[str, Any]) -> dict[str, Any]:
    """Where a path goes: its latents, their place on the axes, the nearest particles, and what was found.

    Where an anchor lies so far from all others that no number of neighbours joins it, the path is between the
    nearest particles of the largest component; "disconnected" says which option it is then.
    """
    options = {"pc": 1, "anchors": None, "disconnected": "stop", **_ENDS, **_GRAPH, **_NO_ANCHORS, **chosen}
    analysis = columns.run.place("analysis")

    def find() -> traversal.Route:
        return traversal.find(columns.latents, columns.axes, analysis, **options)

    try:
        found = find()
    except InputError:
        if options["disconnected"] != "widen":
            raise
        options["disconnected"] = "largest"
        found = find()
    said = [line for line in found.findings if not line.startswith("Anchors ")]
    if moved := [str(place + 1) for place in found.facts.get("anchors_moved", [])]:  # as the plot counts them
        said.append(
            f"Not from anchor {', '.join(moved)}, which lies apart, but from the nearest connected particle."
        )
    told = {"said": said, "disconnected": options["disconnected"]}
    return columns.placed(found.path.z) | told


def whole(request: dict[str, Any], name: str, low: int, high: int) -> int:
    """A whole number from the page; an InputError where it is something else."""
    value = request.get(name)
    if type(value) is not int or not low <= value <= high:
        raise InputError(f"{name}={value}: expected a whole number from {low} to {high}.")
    return value
