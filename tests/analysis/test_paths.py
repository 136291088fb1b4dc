from itertools import pairwise

import numpy as np
import pytest
from scipy.sparse.csgraph import floyd_warshall

from drgn.analysis import paths
from drgn.analysis.embedding import pca
from drgn.errors import InputError

RNG = np.random.default_rng(0)
Z = RNG.normal(size=(80, 3)).astype(np.float32)
KEY = np.array([f"{i:06d}@a.mrcs" for i in range(len(Z))])


def neighbours(z, average, maximum):
    """The graph by the definition, all distances at once: {(i, j): distance}."""
    distance = np.linalg.norm(z[:, None].astype(float) - z[None], axis=-1) + np.diag(np.full(len(z), np.inf))
    order = distance.argsort(axis=1)[:, :maximum]
    listed = np.sort(np.take_along_axis(distance, order, axis=1).ravel())
    cutoff = listed[round(average * len(z)) - 1]
    return {(i, j): distance[i, j] for i in range(len(z)) for j in order[i] if distance[i, j] <= cutoff}


def length(z, rows):
    return sum(np.linalg.norm(z[a].astype(float) - z[b]) for a, b in pairwise(rows))


def test_a_component_from_percentile_to_percentile():
    found = pca(Z)
    path = paths.along_component(found, 2, 5, 5, 95)
    along = (path.z - found.mean) @ found.components.T
    ends = np.percentile(found.coordinates[:, 1], [5, 95])
    np.testing.assert_allclose(along[:, 1], np.linspace(*ends, 5), atol=1e-5)
    np.testing.assert_allclose(along[:, [0, 2]], 0, atol=1e-5)
    assert (path.row == -1).all()


@pytest.mark.parametrize("component", [0, 4, -1])
def test_a_component_that_is_not_there(component):
    with pytest.raises(
        InputError, match=f"pc={component}: the latent has 3 dimensions, so give one of 1 to 3"
    ):
        paths.along_component(pca(Z), component, 5, 5, 95)


def test_percentiles_are_those_of_the_paper():
    path = paths.along_percentiles(Z[:, :1], 6, 5, 95)
    np.testing.assert_allclose(path.z, np.percentile(Z[:, :1], [5, 23, 41, 59, 77, 95], axis=0), rtol=1e-6)
    with pytest.raises(InputError, match="one dimension, and this one has 3"):
        paths.along_percentiles(Z, 6, 5, 95)


def test_straight_lines_keep_their_anchors():
    path = paths.straight(np.array([[0.0, 0], [2, 0], [2, 4]]), np.array([7, -1, 9]), 3)
    assert path.z.tolist() == [[0, 0], [1, 0], [2, 0], [2, 2], [2, 4]]
    assert path.row.tolist() == [7, -1, -1, -1, 9]
    assert path.anchor.tolist() == [True, False, True, False, True]
    assert path.length.tolist() == [0, 1, 2, 4, 6]


def test_a_movie_passes_through_every_point():
    z = RNG.normal(size=(4, 2)).astype(np.float32)
    dense, steps = paths.between(z, 11)
    assert len(dense) == 13
    np.testing.assert_allclose(dense[::steps], z, rtol=1e-6)
    np.testing.assert_allclose(dense[2], (z[0] + z[1]) / 2, rtol=1e-5)
    assert paths.between(z[:1], 10)[0].shape == (1, 2)


def test_thinning_keeps_the_ends_and_the_spacing():
    path = paths.straight(np.array([[0.0], [100]]), np.array([0, 1]), 101)
    assert path.thinned(5).z.ravel().tolist() == [0, 25, 50, 75, 100]
    assert path.thinned(200) is path


def test_the_graph_is_the_one_defined():
    graph = paths.NeighbourGraph.of(Z, 4, 7)
    expected = neighbours(Z, 4, 7)
    assert 0 <= len(expected) - 4 * len(Z) <= 1  # four on average; a mutual pair may share the cutoff
    assert graph.cutoff == pytest.approx(max(expected.values()))
    back = graph.row  # nodes are sorted latents
    coo = graph.distances.tocoo()
    found = {(back[i], back[j]): d for i, j, d in zip(coo.row, coo.col, coo.data, strict=True)}
    both = {**expected, **{(j, i): d for (i, j), d in expected.items()}}
    assert set(found) == set(both)
    assert all(found[edge] == pytest.approx(both[edge]) for edge in both)


def test_shortest_paths_are_those_of_floyd_and_warshall():
    graph = paths.NeighbourGraph.of(Z, 5, 10)
    dense = np.full((len(Z), len(Z)), np.inf)
    for (i, j), d in neighbours(Z, 5, 10).items():
        dense[i, j] = dense[j, i] = d
    best = floyd_warshall(dense)
    component = graph.component[graph.node]
    inside = np.flatnonzero(component == np.bincount(component).argmax())
    for a, b in RNG.choice(inside, (20, 2)):
        rows = graph.shortest([a, b])
        assert (rows[0], rows[-1]) == (a, b)
        assert length(Z, rows) == pytest.approx(best[a, b], rel=1e-5)
        assert all(np.isfinite(dense[i, j]) for i, j in pairwise(rows))


def test_shortest_paths_are_those_of_networkx():
    networkx = pytest.importorskip("networkx")
    reference = networkx.Graph()
    for (i, j), d in neighbours(Z, 5, 10).items():
        reference.add_edge(i, j, weight=d)
    graph = paths.NeighbourGraph.of(Z, 5, 10)
    anchors = sorted(max(networkx.connected_components(reference), key=len))[::15]
    expected = [anchors[0]]
    for a, b in pairwise(anchors):
        expected += networkx.dijkstra_path(reference, a, b)[1:]
    assert graph.shortest(anchors).tolist() == expected


def test_a_path_on_a_circle_goes_the_shorter_way_round():
    angle = np.linspace(0, 2 * np.pi, 100, endpoint=False)
    z = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    found = paths.through_graph(z, KEY, np.array([0, 20, 90]), average=2, maximum=2, disconnected="stop")
    assert found.path.row.tolist() == [*range(21), *range(19, -1, -1), *range(99, 89, -1)]
    assert np.flatnonzero(found.path.anchor).tolist() == [0, 20, 40, 50]


def test_particles_with_one_latent_are_one_node():
    z = np.repeat(np.arange(10, dtype=np.float32)[:, None], 3, axis=0)  # three images of each
    graph = paths.NeighbourGraph.of(z, 1.8, 2)  # those at both ends have one neighbour
    assert graph.shortest([1, 29]).tolist() == [1, *range(3, 27, 3), 29]  # an anchor stays the one named
    assert graph.shortest([0, 1, 2]).tolist() == [0]


@pytest.fixture
def islands():
    """Two groups of 50 and 30 particles, far apart."""
    z = np.random.default_rng(1).uniform(size=(80, 2)).astype(np.float32)
    z[50:] += 30
    return z


def test_anchors_apart_are_one_sentence(islands):
    sentence = (
        r"^No path over at most 10 neighbours of each particle joins the anchors: anchors 0 "
        r"\(000003@a\.mrcs\), 1 \(000009@a\.mrcs\) among 50 particles; anchor 2 \(000060@a\.mrcs\) among 30 "
        r"particles; raise average_neighbors=9 and max_neighbors=10, or give disconnected=widen or "
    )
    with pytest.raises(InputError, match=sentence):
        paths.through_graph(islands, KEY, np.array([3, 9, 60]), average=9, maximum=10, disconnected="stop")


def test_more_neighbours_join_them(islands):
    rows = np.array([3, 60])
    found = paths.through_graph(islands, KEY, rows, average=9, maximum=10, disconnected="widen")
    assert found.path.row[[0, -1]].tolist() == [3, 60]
    assert found.graph.maximum > 30


def test_what_was_given_already_is_not_proposed(islands, monkeypatch):
    monkeypatch.setattr(paths, "WIDEST", 20)
    with pytest.raises(
        InputError, match=r"at most 20 neighbours .*; give disconnected=largest, or other"
    ) as e:
        paths.through_graph(islands, KEY, np.array([3, 60]), average=9, maximum=10, disconnected="widen")
    assert "widen" not in str(e.value)


def test_or_they_move_into_the_largest_component(islands):
    rows = np.array([3, 60, 9])
    found = paths.through_graph(islands, KEY, rows, average=9, maximum=10, disconnected="largest")
    assert found.moved == [1]
    assert found.path.row.max() < 50
    nearest = np.linalg.norm(islands[:50] - islands[60], axis=1).argmin()
    assert nearest in found.path.row[found.path.anchor]


@pytest.mark.parametrize(
    ("rows", "options", "sentence"),
    [
        ([3, 3], {}, "at least two different anchors; name"),
        ([3, 9], {"average": 11.0}, "average_neighbors=11 and max_neighbors=10: expected a positive average"),
        ([3, 9], {"average": 0.0}, "expected a positive average"),
        ([3, 9], {"disconnected": "maybe"}, "disconnected=maybe: expected stop, widen or largest"),
        ([60, 61], {"disconnected": "largest"}, "two different anchors in the largest component"),
    ],
)
def test_mistakes_are_one_sentence(rows, options, sentence):
    z = RNG.normal(size=(80, 2)).astype(np.float32)
    z[60] += 30  # two outliers, both nearest to one particle
    z[61] = z[60] + 1
    options = {"average": 5.0, "maximum": 10, "disconnected": "stop", **options}
    with pytest.raises(InputError, match=sentence):
        paths.through_graph(z, KEY, np.array(rows), **options)
