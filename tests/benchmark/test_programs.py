import resource
import sys

import pytest

from drgn.benchmark.programs import Moment, Ran, run
from drgn.errors import InputError

WORK = """
import sys, time
for i in range(3):
    print("done", i, "of 2", flush=True)
    end = time.process_time() + 0.2
    while time.process_time() < end:
        sum(range(1000))
sys.exit(int(sys.argv[1]))
"""


def test_a_command_is_timed_line_by_line():
    ran = run([sys.executable, "-c", WORK, "0"])
    assert [m.line for m in ran.moments] == ["done 0 of 2", "done 1 of 2", "done 2 of 2"]
    assert 0.6 <= ran.cpu_seconds < 5
    assert ran.seconds >= ran.moments[-1].seconds >= ran.moments[0].seconds + 0.35
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    assert 0.001 < ran.memory_GiB < own + 1
    if ran.moments[-1].cpu_seconds:
        assert 0.35 <= ran.moments[-1].cpu_seconds - ran.moments[0].cpu_seconds < 0.6


def test_threads_are_told():
    code = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['MKL_NUM_THREADS'])"
    assert run([sys.executable, "-c", code], threads=3).moments[0].line == "3 3"


def test_a_command_that_fails_is_an_input_error_with_what_it_said():
    with pytest.raises(InputError, match=r"code 4: .*done 2 of 2"):
        run([sys.executable, "-c", WORK, "4"])
    with pytest.raises(InputError, match=r"nowhere/cryodrgn does not start"):
        run(["nowhere/cryodrgn"])


def test_rates_are_between_the_first_and_the_last_line():
    moments = [Moment(1, 1, "x"), Moment(2, 3, "at 10"), Moment(3, 4, "at 15"), Moment(6, 5, "at 30")]
    ran = Ran(9, 9, 1, moments)
    assert ran.rate(r"at (\d+)") == (5.0, 10.0)
    assert ran.rate(r"at (\d+)", 4) == (20.0, 40.0)
    assert ran.when(r"at (\d+)") == moments[1]
    with pytest.raises(InputError, match="fewer than two lines"):
        ran.rate(r"at (30)")
