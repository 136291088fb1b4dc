"""Paths through the latent space: along a component, percentiles, straight lines, a graph of neighbours.

The points of a path may be latents of particles (data) or lie between them (the network's interpolation). The
order of a path is not an order in time (P14).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from drgn.analysis.embedding import PCA
from drgn.errors import InputError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

WIDEST = 160  # most neighbours of a particle when anchors are to be joined by more neighbours
_TOGETHER = 100_000  # particles whose neighbours are looked for at once


@dataclass(frozen=True, eq=False)
class LatentPath:
    """Points of the latent space in order.

    Attributes
    ----------
    z
        (M, Z) float32 latents.
    row
        (M,) int64, the particle whose latent the point is; -1 where it is that of none.
    anchor
        (M,) bool, whether the path was asked to go through this point.
    """

    z: np.ndarray
    row: np.ndarray
    anchor: np.ndarray

    def __len__(self) -> int:
        return len(self.z)

    @property
    def length(self) -> np.ndarray:
        """(M,) distance from the first point, along the path."""
        steps = np.linalg.norm(np.diff(np.asarray(self.z, np.float64), axis=0), axis=1)
        return np.concatenate([[0.0], np.cumsum(steps)])

    def thinned(self, points: int) -> LatentPath:
        """Keep at most so many points: the ends, and those nearest to equal spacing along the path."""
        if len(self) <= points:
            return self
        wanted = np.linspace(0, self.length[-1], points)
        kept = np.unique(np.abs(self.length[:, None] - wanted).argmin(axis=0))
        kept[0], kept[-1] = 0, len(self) - 1
        return LatentPath(self.z[kept], self.row[kept], self.anchor[kept])


def along_component(pca: PCA, component: int, points: int, low: float, high: float) -> LatentPath:
    """Equally spaced points on a principal component, the others held at the mean (P18).

    Parameters
    ----------
    pca
        Of the latents.
    component
        Which one, counted from 1.
    points
        How many; P18 has 5.
    low, high
        Percentiles of the particles' coordinate between which the points lie; P18 has 5 and 95.

    Raises
    ------
    InputError
        When the latent has no such component.
    """
    zdim = pca.components.shape[1]
    if not 1 <= component <= zdim:
        raise InputError(
            f"pc={component}: the latent has {zdim} dimension{'s' * (zdim != 1)}, so give one of 1 to {zdim}."
        )
    return _between(pca.traverse(component - 1, points, low, high)[1])


def along_percentiles(z: np.ndarray, points: int, low: float, high: float) -> LatentPath:
    """Equally spaced percentiles of a one-dimensional latent (P19).

    Parameters
    ----------
    z
        (N, 1) latents.
    points
        How many; P19 has 6.
    low, high
        The first and the last percentile; P19 has 5 and 95.

    Raises
    ------
    InputError
        When the latent has more dimensions.
    """
    if z.shape[1] != 1:
        raise InputError(
            f"kind=percentiles is for a latent of one dimension, and this one has {z.shape[1]}; use kind=pc."
        )
    return _between(np.percentile(z, np.linspace(low, high, points), axis=0))


def straight(z: np.ndarray, row: np.ndarray, points: int) -> LatentPath:
    """Straight lines from anchor to anchor.

    Parameters
    ----------
    z
        (A, Z) anchors, A >= 2.
    row
        (A,) their particles, -1 for none.
    points
        Points of each line, both ends counted.
    """
    steps = points - 1
    at = np.arange(len(z)) * steps
    rows = np.full(at[-1] + 1, -1, np.int64)
    rows[at] = row
    return LatentPath(_stepped(z, steps), rows, np.isin(np.arange(len(rows)), at))


def between(z: np.ndarray, frames: int) -> tuple[np.ndarray, int]:
    """More latents on the straight lines between the points of a path, so that a movie is smooth.

    Parameters
    ----------
    z
        (M, Z) points.
    frames
        How many latents are wanted.

    Returns
    -------
    z : ((M - 1) steps + 1, Z) float32 array
        At least as many as wanted, unless there is one point only.
    steps : int
        Every so-manieth of them is a point of the path.
    """
    steps = max(1, -(-(frames - 1) // max(len(z) - 1, 1)))
    return _stepped(z, steps), steps


@dataclass(frozen=True, eq=False)
class NeighbourGraph:
    """Particles joined to their nearest neighbours (P20).

    Particles with one latent, such as the images of one tilt series, are one node.

    Attributes
    ----------
    distances
        (n, n) symmetric sparse float32; two nodes are joined where either has the other among its neighbours.
    node
        (N,) int, the node of each particle.
    row
        (n,) int64, the first particle of each node.
    cutoff
        Longest distance at which two latents are neighbours.
    average, maximum
        Neighbours asked for: on average, and at most, before joining made them mutual.
    """

    distances: csr_array
    node: np.ndarray
    row: np.ndarray
    cutoff: float
    average: float
    maximum: int

    @classmethod
    def of(cls, z: np.ndarray, average: float = 5.0, maximum: int = 10) -> NeighbourGraph:
        """Join each latent to at most `maximum` nearest others that are nearer than a cutoff (P20).

        The cutoff is the one at which a latent has `average` such neighbours on average.

        Parameters
        ----------
        z
            (N, Z) latents.
        average, maximum
            Neighbours on average and at most.

        Raises
        ------
        InputError
            When the numbers of neighbours make no sense.
        """
        from scipy.sparse import csr_array
        from scipy.spatial import cKDTree

        if not 0 < average <= maximum:
            raise InputError(
                f"average_neighbors={average:g} and max_neighbors={maximum}: expected a positive average "
                "that is not above the maximum."
            )
        distinct, row, node = np.unique(
            np.asarray(z, np.float32), axis=0, return_index=True, return_inverse=True
        )
        n = len(distinct)
        k = min(maximum, n - 1)
        tree = cKDTree(distinct)
        distance, neighbour = np.empty((n, k), np.float32), np.empty((n, k), np.int32)
        for start in range(0, n if k else 0, _TOGETHER):
            some = tree.indices[start : start + _TOGETHER]  # those near to each other together, for the cache
            far, who = tree.query(distinct[some], k + 1, workers=-1)
            distance[some], neighbour[some] = far[:, 1:], who[:, 1:]  # the first is the latent itself
        listed = min(distance.size, round(average * n))
        cutoff = float(np.partition(distance.ravel(), listed - 1)[listed - 1]) if listed else 0.0
        near = distance <= cutoff
        first = np.repeat(np.arange(n, dtype=np.int32), near.sum(axis=1))
        one_way = csr_array((distance[near], (first, neighbour[near])), shape=(n, n))
        both = csr_array(one_way.maximum(one_way.T))
        return cls(both, node.ravel(), row.astype(np.int64), cutoff, average, maximum)

    @cached_property
    def component(self) -> np.ndarray:
        """(n,) connected component of each node."""
        from scipy.sparse.csgraph import connected_components

        return connected_components(self.distances, directed=False)[1]

    def shortest(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Particles on the shortest path through anchors, by Dijkstra from each anchor to the next (P20).

        Parameters
        ----------
        rows
            (A,) particles, of one component.

        Returns
        -------
        (M,) int64 rows, the anchors among them.

        Raises
        ------
        ValueError
            When two anchors are not connected.
        """
        from scipy.sparse.csgraph import dijkstra

        path = [int(rows[0])]
        for start, end in pairwise(rows):
            source, node = self.node[start], self.node[end]
            if self.component[source] != self.component[node]:
                raise ValueError(f"particles {start} and {end} are not connected")
            _, before = dijkstra(self.distances, indices=source, return_predecessors=True)
            backwards = []
            while node != source:
                backwards.append(node)
                node = before[node]
            path += [*self.row[backwards[:0:-1]].tolist(), int(end)] if backwards else []
        return np.array(path, np.int64)


@dataclass(frozen=True, eq=False)
class GraphPath:
    """A path through a graph, and how the graph had to be made.

    Attributes
    ----------
    path
        The path; every point is a particle.
    graph
        The graph that it goes through.
    moved
        Positions of the anchors that were moved into the largest component.
    """

    path: LatentPath
    graph: NeighbourGraph
    moved: list[int]


def through_graph(
    z: np.ndarray, key: np.ndarray, rows: np.ndarray, *, average: float, maximum: int, disconnected: str
) -> GraphPath:
    """Shortest path through anchors along a graph of neighbours (P20).

    Parameters
    ----------
    z
        (N, Z) latents.
    key
        (N,) names of the particles, for what is said.
    rows
        (A,) particles to go through, in order.
    average, maximum
        See `NeighbourGraph.of`.
    disconnected
        What to do when no path joins the anchors: "stop"; "widen", ask for twice as many neighbours until one
        does; "largest", take the nearest particles of the largest component in place of anchors outside it.

    Raises
    ------
    InputError
        When the anchors are not connected, or when fewer than two different ones are left.
    """
    if disconnected not in ("stop", "widen", "largest"):
        raise InputError(f"disconnected={disconnected}: expected stop, widen or largest.")
    _at_least_two(z, rows, "")
    graph = NeighbourGraph.of(z, average, maximum)
    while disconnected == "widen" and not _connected(graph, rows) and graph.maximum < min(WIDEST, len(z)):
        graph = NeighbourGraph.of(z, 2 * graph.average, 2 * graph.maximum)
    moved: list[int] = []
    if disconnected == "largest":
        rows, moved = _in_largest(graph, z, rows)
        _at_least_two(z, rows, " in the largest component")
    elif not _connected(graph, rows):
        raise InputError(_apart(graph, key, rows, disconnected))
    found = graph.shortest(rows)
    return GraphPath(LatentPath(np.asarray(z[found], np.float32), found, np.isin(found, rows)), graph, moved)


def _at_least_two(z: np.ndarray, rows: np.ndarray, where: str) -> None:
    if len(np.unique(z[rows], axis=0)) < 2:
        raise InputError(f"A path needs at least two different anchors{where}; name others or more of them.")


def _connected(graph: NeighbourGraph, rows: np.ndarray) -> bool:
    return len(set(graph.component[graph.node[rows]].tolist())) == 1


def _in_largest(graph: NeighbourGraph, z: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Rows (A,) in the largest component, and the positions of those that had to be replaced."""
    component = graph.component[graph.node]
    members = np.flatnonzero(component == np.bincount(component).argmax())
    outside = np.flatnonzero(component[rows] != component[members[0]])
    rows = rows.copy()
    for i in outside:
        rows[i] = members[np.linalg.norm(z[members] - z[rows[i]], axis=1).argmin()]
    return rows, outside.tolist()


def _apart(graph: NeighbourGraph, key: np.ndarray, rows: np.ndarray, disconnected: str) -> str:
    """Say which anchors are in which component, and what to do."""
    component = graph.component[graph.node]
    sizes = np.bincount(component)
    parts = []
    for number in sorted(set(component[rows].tolist()), key=lambda number: -sizes[number]):
        inside = np.flatnonzero(component[rows] == number)
        named = ", ".join(f"{i} ({key[rows[i]]})" for i in inside[:5]) + ", ..." * (len(inside) > 5)
        parts.append(f"anchor{'s' * (len(inside) > 1)} {named} among {sizes[number]:,} particles")
    remedy = "give disconnected=largest, or other anchors"
    if disconnected == "stop":
        remedy = (
            f"raise average_neighbors={graph.average:g} and max_neighbors={graph.maximum}, or give "
            "disconnected=widen or disconnected=largest"
        )
    return (
        f"No path over at most {graph.maximum} neighbours of each particle joins the anchors: "
        f"{'; '.join(parts[:4])}{'; ...' * (len(parts) > 4)}; {remedy}."
    )


def _between(z: np.ndarray) -> LatentPath:
    """A path of points that are no particles."""
    anchor = np.zeros(len(z), bool)
    anchor[[0, -1]] = True
    return LatentPath(np.asarray(z, np.float32), np.full(len(z), -1, np.int64), anchor)


def _stepped(z: np.ndarray, steps: int) -> np.ndarray:
    """Divide each line between consecutive points (M, Z) into so many steps."""
    at = np.arange((len(z) - 1) * steps + 1) / steps
    start = np.minimum(at.astype(np.int64), max(len(z) - 2, 0))
    end = np.minimum(start + 1, len(z) - 1)
    share = (at - start)[:, None]
    z = np.asarray(z, np.float64)
    return ((1 - share) * z[start] + share * z[end]).astype(np.float32)
