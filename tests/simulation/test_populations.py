import numpy as np
import pytest

from drgn.errors import InputError
from drgn.simulation.populations import Population


def draw(n=50_000, n_maps=50, n_compositions=1, **options):
    uniform = np.random.default_rng(0).random((n, 2))
    return Population(**options).draw(uniform, n_maps, n_compositions)


def test_an_even_spread_gives_each_map_as_many_particles_in_random_order():
    along, composition = draw()
    assert np.bincount(along).tolist() == [1_000] * 50
    assert not composition.any()
    assert abs(np.corrcoef(along, np.arange(len(along)))[0, 1]) < 0.02


@pytest.mark.parametrize("sd", [3.0, 1.0])
def test_a_mixture_has_the_moments_asked_for(sd):
    along, _ = draw(means=[10, 25, 40], sds=[sd] * 3)
    maps = along + 1
    assert maps.mean() == pytest.approx(25, abs=0.02)
    assert maps.var() == pytest.approx(150 + sd**2 + 1 / 12, rel=0.005)  # 1/12: the width of a bin
    middle = maps[(maps > 17) & (maps < 33)]
    assert len(middle) == pytest.approx(50_000 / 3, rel=0.01)
    assert middle.std() == pytest.approx(np.sqrt(sd**2 + 1 / 12), rel=0.03)
    if sd == 1:  # noncontiguous: nothing between the modes
        assert not np.isin(maps, [16, 17, 18, 19, 31, 32, 33, 34]).any()


def test_what_falls_beyond_the_maps_counts_as_the_last():
    along, _ = draw(n_maps=5, means=[5], sds=[1.0])
    assert (along == 4).mean() == pytest.approx(0.6915, abs=1e-3)  # all above 4.5
    along, _ = draw(n_maps=3, means=[-90], sds=[1.0])
    assert not along.any()


def test_weights_frequencies_and_shares():
    along, _ = draw(means=[10, 40], sds=[1, 1], weights=[1, 3])
    assert (along < 25).mean() == pytest.approx(0.25)
    along, composition = draw(n_maps=4, n_compositions=3, frequencies=[4, 0, 3, 3], shares=[2, 3, 5])
    assert np.bincount(along).tolist() == [20_000, 0, 15_000, 15_000]
    assert np.bincount(composition).tolist() == [10_000, 15_000, 25_000]  # P33
    assert abs(np.corrcoef(along, composition)[0, 1]) < 0.02


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"means": [1.0]}, "give means and sds"),
        ({"means": [1.0], "sds": [1.0, 2.0]}, "sds has 2 values for 1 means"),
        ({"means": [1.0], "sds": [0.0]}, "sds=.* above 0"),
        ({"frequencies": [1.0]}, "frequencies has 1 values for 50 maps"),
        ({"shares": [0.0]}, "not all 0"),
        ({"shares": [1.0, 2.0]}, "shares has 2 values for 1 compositions"),
    ],
)
def test_mistakes(options, sentence):
    with pytest.raises(InputError, match=sentence):
        draw(100, **options)
