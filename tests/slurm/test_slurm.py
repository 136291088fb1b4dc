"""Jobs of a real SLURM that are put back into the queue while they train."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

CLUSTER = Path(__file__).with_name("cluster.sh")


@pytest.fixture
def cluster(tmp_path):
    """Start a SLURM of this machine alone; the environment that knows it."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs drgn[slurm]")
    missing = [
        name for name in ("slurmctld", "slurmd", "munged") if not shutil.which(name, path="/usr/sbin:/sbin")
    ]
    if missing or os.getuid() != 0:
        pytest.skip(f"no SLURM can be started here: {', '.join(missing) or 'only root can'}")
    folder = tmp_path / "cluster"
    known = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    try:
        subprocess.run([CLUSTER, "start", folder], check=True, timeout=60, env={**os.environ, **known})
        until(lambda: "idle" in told(["sinfo", "-h", "-o", "%T"], known), 60)
        yield known
    finally:
        told(["scancel", "--user=root"], known)
        subprocess.run([CLUSTER, "stop", folder], check=False)


def told(command, environment):
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    return done.stdout + done.stderr


def until(happened, seconds):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.2)


@contextmanager
def launched(tiny, output, options, known):
    """Let submitit queue the jobs of a sweep; they go on when what is inside is done."""
    command = [sys.executable, "-m", "drgn.train", "-m", "hydra/launcher=slurm", *tiny, "epochs=150"]
    launcher = subprocess.Popen(
        [*command, *options, f"output={output}"],
        cwd=output.parent,
        env=known,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        launcher.kill()
        launcher.wait()


def first_job(cluster):
    """Of several jobs, which are an array, or the only one."""
    jobs = told(["squeue", "-h", "-r", "-t", "running", "-o", "%i"], cluster).split()
    return next(name for name in jobs if name.endswith("_0") or len(jobs) == 1)


@pytest.mark.full
def test_a_sweep_of_jobs_and_one_that_is_queued_again(cluster, tiny, tmp_path, environment):
    output = tmp_path / "sweep"
    with launched(tiny, output, ["latent.zdim=1,2"], {**environment, **cluster}):
        until((output / "0/checkpoints/last.ckpt").exists, 600)
        assert told(["scontrol", "requeue", first_job(cluster)], cluster) == ""
        assert not (output / "0/latents.npz").exists()
        for name in ("0", "1"):
            until((output / name / "latents.npz").exists, 900)
    began_twice_and_trained_once("".join(p.read_text() for p in output.glob("slurm/*_0/*_log.out")))
    assert same_as_at_once(output / "0", tiny, tmp_path, environment)


@pytest.mark.full
def test_a_job_whose_time_is_over_is_queued_again_by_submitit(cluster, tiny, tmp_path, environment):
    output = tmp_path / "sweep"
    # of ten minutes submitit takes any moment for the end
    options = ["latent.zdim=1", "hydra.launcher.timeout_min=10", "hydra.launcher.signal_delay_s=30"]
    with launched(tiny, output, options, {**environment, **cluster}):
        until((output / "0/checkpoints/previous.ckpt").exists, 600)
        assert told(["scancel", "--signal=USR2", first_job(cluster)], cluster) == ""
        assert not (output / "0/latents.npz").exists()
        until((output / "0/latents.npz").exists, 900)
    said = "".join(path.read_text() for path in output.glob("slurm/*/*_log.out"))
    assert "Caught signal SIGUSR2" in said
    assert "this job is timed-out" in said
    began_twice_and_trained_once(said)
    assert same_as_at_once(output / "0", tiny, tmp_path, environment)


@pytest.mark.full
def test_a_script_whose_time_is_over_is_queued_again(cluster, tiny, tmp_path, environment):
    run, log, script = tmp_path / "run", tmp_path / "log", tmp_path / "job.sh"
    words = [sys.executable, "-m", "drgn.train", *tiny, "epochs=150", "latent.zdim=1", f"output={run}"]
    script.write_text(f"#!/bin/sh\nexec srun {shlex.join(words)}\n")
    settings = ["--parsable", "--open-mode=append", f"--output={log}", f"--chdir={tmp_path}"]
    known = {**environment, **cluster}
    job = told(["sbatch", "--signal=USR1@60", *settings, str(script)], known).strip()
    assert job.isdigit()
    until((run / "checkpoints/previous.ckpt").exists, 600)
    assert told(["scancel", "--signal=USR1", job], known) == ""
    until(lambda: f"job {job} is queued again" in log.read_text(), 180)
    assert not (run / "latents.npz").exists()
    until((run / "latents.npz").exists, 900)
    said = log.read_text()
    assert "SIGUSR1: stopping at the next step, with a checkpoint" in said
    began_twice_and_trained_once(said)
    assert list(run.glob("hpc*")) == []
    assert same_as_at_once(run, tiny, tmp_path, environment)


def began_twice_and_trained_once(said):
    assert said.count("; writing to ") == 2, "it began twice"
    assert said.count("epoch 1/150 ") == 1, "but trained the first epoch once"


def same_as_at_once(run, tiny, tmp_path, environment):
    """Whether the weights are those of the same training, of one latent dimension, that nothing stopped."""
    words = [*tiny, "epochs=150", "latent.zdim=1", f"output={tmp_path / 'whole'}"]
    command = [sys.executable, "-m", "drgn.train", *words]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    one, other = (
        torch.load(path / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for path in (run, tmp_path / "whole")
    )
    return all(torch.equal(value, other[name]) for name, value in one.items())
