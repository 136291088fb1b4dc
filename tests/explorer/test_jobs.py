"""How a job ends that is cancelled."""

import signal
import subprocess
import sys
import time

import pytest

from drgn.explorer import jobs
from drgn.explorer.jobs import Job, Jobs

WRITES = """
import sys, time
from pathlib import Path
from drgn.formats.atomic import replacing
with replacing(Path(sys.argv[1]) / "map.mrc") as temporary:
    temporary.write_bytes(b"half of it")
    print("writing", flush=True)
    time.sleep(60)
"""
STUBBORN = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("writing", flush=True)
time.sleep(60)
"""
LEAVES_ANOTHER = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {STUBBORN!r}])
time.sleep(60)
"""


@pytest.fixture
def at_work(environment, tmp_path):
    """Return a function that makes the jobs of a server, with one at work that runs a script."""
    # as the server has it: what a shell starts in the background ignores Ctrl-C, and would hand that on
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    processes = []

    def begin(script):
        command = [sys.executable, "-c", script, str(tmp_path)]
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        assert process.stdout.readline() == "writing\n"
        of_server = Jobs()
        of_server._jobs[1] = Job(1, "a job", "drgn x", tmp_path, process)
        return of_server

    yield begin
    for process in processes:
        process.kill()
        process.wait(20)
        process.stdout.close()
    signal.signal(signal.SIGINT, before)


def test_a_job_that_is_cancelled_removes_what_it_was_writing(at_work, tmp_path):
    of_server = at_work(WRITES)
    assert len(list(tmp_path.glob(".*.part.mrc"))) == 1
    assert of_server.cancel(1).state == "cancelled"
    of_server[1].process.wait(20)
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_does_not_listen_is_ended(at_work, monkeypatch):
    monkeypatch.setattr(jobs, "_TO_TIDY_S", 0.2)
    of_server = at_work(STUBBORN)
    of_server.cancel(1)
    of_server[1].process.wait(20)


def test_what_a_job_leaves_running_is_ended(at_work):
    of_server = at_work(LEAVES_ANOTHER)
    of_server.cancel(1)
    of_server[1].process.wait(20)
    rest = of_server[1].process.stdout  # which the other holds open
    began = time.monotonic()
    assert rest.read() == ""
    assert time.monotonic() - began < 20


def test_a_server_that_ends_waits_for_its_jobs(at_work, tmp_path):
    of_server = at_work(WRITES)
    of_server.close()
    assert of_server[1].process.poll() is not None
    assert list(tmp_path.iterdir()) == []
