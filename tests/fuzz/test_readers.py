"""Every reader, of a spoilt file, returns or says one sentence: no other error, no hang, no flood of memory.

The examples are the same each time; `make fuzz` tries many more, and others.
"""

import importlib.util
import random
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

SPEC = importlib.util.spec_from_file_location("fuzz_targets", Path(__file__).with_name("targets.py"))
targets = importlib.util.module_from_spec(SPEC)
sys.modules["fuzz_targets"] = targets
SPEC.loader.exec_module(targets)

SECONDS = 60


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "seeds"
    folder.mkdir()
    targets.make_seeds(folder)
    return folder


@pytest.fixture
def hurry():
    """A reader that hangs fails."""

    def late(*_):
        raise targets.Wrong(f"no answer in {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    yield lambda: signal.alarm(SECONDS)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", targets.TARGETS)
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 1 << 32), whole=st.none() | st.none() | st.binary(max_size=200))
@example(seed=0, whole=b"")
@example(seed=0, whole=b"\0")
def test_a_spoilt_file_is_read_or_told_of(seeds, hurry, name, seed, whole):
    path = targets.path_of(seeds, name)
    sound = path.read_bytes()
    try:
        path.write_bytes(targets.spoil(sound, random.Random(seed)) if whole is None else whole)
        hurry()
        targets.check(name, path)
    finally:
        path.write_bytes(sound)


@pytest.mark.parametrize("name", targets.TARGETS)
def test_the_sound_file_is_read(seeds, name):
    assert targets.check(name, targets.path_of(seeds, name))
