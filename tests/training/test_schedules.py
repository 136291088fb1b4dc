import pytest

from drgn.training import schedules


@pytest.mark.parametrize("step", [0, 1, 500, 10_000])
def test_constant(step):
    assert schedules.constant(step, 100) == 1


@pytest.mark.parametrize(("step", "factor"), [(0, 0.2), (1, 0.4), (3, 0.8), (4, 1.0), (5, 1.0), (9999, 1.0)])
def test_warmup(step, factor):
    assert schedules.warmup(step, 10, warmup_steps=4) == pytest.approx(factor)


def test_no_warmup_is_constant():
    assert [schedules.warmup(step, 10, warmup_steps=0) for step in range(3)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 1 / 11),
        (9, 10 / 11),
        (10, 1.0),
        (60, 0.55),  # half way down to 0.1
        (35, 0.1 + 0.9 * (1 + 2**-0.5) / 2),
        (110, 0.1),
        (1000, 0.1),  # a run that is longer than was planned
    ],
)
def test_cosine(step, factor):
    assert schedules.cosine(step, 110, warmup_steps=10, final_fraction=0.1) == pytest.approx(factor)


def test_cosine_of_a_run_shorter_than_its_warmup():
    factors = [schedules.cosine(step, 5, warmup_steps=10, final_fraction=0.0) for step in range(5)]
    assert factors == pytest.approx([(step + 1) / 11 for step in range(5)])


@pytest.mark.parametrize(
    ("step", "share"), [(0, 0.2), (40, 0.2), (65, 0.6), (89, 0.984), (90, 1.0), (100, 1.0), (500, 1.0)]
)
def test_rising(step, share):
    assert schedules.rising(step, 100, start=0.2, hold=0.4, full=0.9) == pytest.approx(share)


def test_rising_without_a_ramp():
    shares = [schedules.rising(step, 10, start=0.5, hold=0.5, full=0.5) for step in range(10)]
    assert shares == [0.5] * 5 + [1.0] * 5
