import time

import numpy as np
import pytest

from drgn.analysis.nuisance import PARTICLES, Dependence, audit
from drgn.analysis.nuisance_report import draw, sentence

N = 4000


def taken(seed, n=N, micrographs=40):
    """Views, in-plane angles, defoci, shifts, micrographs and contrasts of n images, all independent."""
    rng = np.random.default_rng(seed)
    view, angle = rng.normal(size=(n, 3)), rng.normal(size=(n, 2))
    return {
        "view": view / np.linalg.norm(view, axis=1, keepdims=True),
        "angle": angle / np.linalg.norm(angle, axis=1, keepdims=True),
        "defocus": rng.uniform(8e3, 3e4, (n, 1)),
        "shift": rng.uniform(-20, 20, (n, 2)),
        "micrograph": rng.integers(0, micrographs, n),
        "contrast": rng.normal(1, 0.3, (n, 1)),
    }


def effect(name, values):
    """A function of one variable, that is neither linear nor monotonic where that can be: unit variance."""
    known = {
        "view": lambda v: v[:, 0] * v[:, 2],
        "angle": lambda v: 2 * v[:, 0] ** 2,
        "defocus": lambda v: np.cos(v[:, 0] / 4000),
        "shift": lambda v: v[:, 0] * v[:, 1],
        "micrograph": lambda v: np.random.default_rng(5).normal(size=100)[v],
        "contrast": lambda v: v[:, 0],
    }[name](values)
    return (known - known.mean()) / known.std()


@pytest.mark.parametrize("seed", range(6))
def test_no_alarm_where_nothing_depends(seed):
    rng = np.random.default_rng(100 + seed)
    state = rng.integers(0, 3, (N, 1))
    z = np.concatenate([3.0 * state + rng.normal(size=(N, 1)), rng.uniform(size=(N, 3)) ** 2], axis=1)
    found = audit(z, taken(seed), seed)
    assert len(found) == 6
    assert [d.variable for d in found if d.significant] == []
    assert all("not more than noise" in sentence(d) for d in found)


def test_the_spread_of_noisy_images_is_no_sign():
    """At low defocus the posterior mean of a perfect model lies nearer to 0, and its mean stays 0."""
    known = taken(0)
    z = np.random.default_rng(1).normal(size=(N, 2)) * known["defocus"] / 3e4
    assert [d.variable for d in audit(z, known, 0) if d.significant] == []


@pytest.mark.parametrize("name", list(taken(0, 2)))
def test_an_alarm_for_what_was_planted_and_for_nothing_else(name):
    known = taken(1)
    z = np.random.default_rng(2).normal(size=(N, 3)) * [3.0, 1.0, 1.0]
    z[:, 1] = 2 * (np.sqrt(0.85) * z[:, 1] + np.sqrt(0.15) * effect(name, known[name]))
    found = {d.variable: d for d in audit(z, known, 0)}
    assert [d.variable for d in found.values() if d.alarm] == [name]
    assert found[name].component == 1
    assert found[name].share == pytest.approx(0.15, abs=0.04)
    assert found[name].p == pytest.approx(1 / 101)
    assert found[name].nats == pytest.approx(-0.5 * np.log(1 - found[name].share))
    assert "What to do" in sentence(found[name])


@pytest.mark.parametrize(
    ("variable", "share", "alarm"),
    [("view", 0.019, False), ("view", 0.021, True), ("contrast", 0.09, False), ("contrast", 0.11, True)],
)
def test_what_is_real_but_small_is_told_without_an_alarm(variable, share, alarm):
    found = Dependence(variable, share, 2, 0.01, 0.01, 5000)
    assert found.alarm == alarm
    assert ("too little" in sentence(found), "What to do" in sentence(found)) == (not alarm, alarm)
    assert f"{100 * share:.1f} % of the variance of PC3" in sentence(found)


def test_words_and_line_are_of_one_mind():
    """A share above all permutations but within 4 standard deviations is noise, and left of the line."""
    known = {"contrast": taken(0)["contrast"]}
    z = np.random.default_rng(1).normal(size=(N, 1))
    found_noise = []
    for strength in np.linspace(0.13, 0.18, 11):
        (found,) = audit(z + strength * effect("contrast", known["contrast"])[:, None], known, 0)
        assert found.significant == (found.share > found.noise)
        assert ("not more than noise" in sentence(found)) == (found.share <= found.noise)
        found_noise.append(found.p < 0.01 and not found.significant)
    assert any(found_noise)


def test_what_is_unknown_or_constant_is_left_out():
    known = {
        "defocus": np.full((N, 1), np.nan),
        "shift": np.zeros((N, 2)),
        "micrograph": np.zeros(N, np.int64),
        "contrast": np.full((N, 1), np.nan),
    }
    z = np.random.default_rng(0).normal(size=(N, 2))
    assert audit(z, known, 0) == []
    assert audit(z, {"micrograph": np.arange(N)}, 0) == []  # a particle of each
    assert audit(np.zeros((N, 2)), taken(0), 0) == []  # a latent that collapsed
    (found,) = audit(z, {"contrast": np.where(np.arange(N)[:, None] < 300, taken(0)["contrast"], np.nan)}, 0)
    assert found.particles == 300


def test_the_time_does_not_grow_with_the_particles():
    n = 200_000
    known = taken(0, n, micrographs=4000)
    z = np.random.default_rng(0).normal(size=(n, 8))
    z[:, 3] += effect("micrograph", known["micrograph"] % 100)
    started = time.perf_counter()
    found = {d.variable: d for d in audit(z, known, 0)}
    assert time.perf_counter() - started < 30
    assert max(d.particles for d in found.values()) <= PARTICLES + 200
    assert [d.variable for d in found.values() if d.alarm] == ["micrograph"]


def test_a_picture_of_one_variable(tmp_path):
    one = Dependence("defocus", 0.3, 1, 0.01, 0.01, 100)
    assert draw([one], tmp_path / "x.png").stat().st_size > 3_000
