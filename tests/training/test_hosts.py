"""Two hosts, each a network namespace, train together; one is cut off, and both go on later."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from drgn.run import Run

HOSTS = ("drgn-one", "drgn-two")
PAUSED = str(Path(__file__).with_name("paused.py"))


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True)


@pytest.fixture
def hosts():
    """Make two hosts 10.99.0.1 and 10.99.0.2 with a cable between them."""
    try:
        for host in HOSTS:
            ip("netns", "add", host)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here (iproute2, as root): {getattr(error, 'stderr', error)}")
    try:
        ip(
            "link",
            "add",
            "cable-one",
            "netns",
            HOSTS[0],
            "type",
            "veth",
            "peer",
            "cable-two",
            "netns",
            HOSTS[1],
        )
        for number, (host, cable) in enumerate(zip(HOSTS, ("cable-one", "cable-two"), strict=True), 1):
            ip("-n", host, "address", "add", f"10.99.0.{number}/24", "dev", cable)
            ip("-n", host, "link", "set", cable, "up")
            ip("-n", host, "link", "set", "lo", "up")
        yield HOSTS
    finally:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "delete", host], check=False)


@pytest.fixture
def start(hosts, tiny, environment, tmp_path):
    """Return a function: begin the run in both hosts, to wait where a function is called; their programs."""

    def begin(name, epochs, timeout_s=20, pause_at=None):
        command = [
            "-m",
            "torch.distributed.run",
            "--nnodes=2",
            "--nproc-per-node=1",
            "--master-addr=10.99.0.1",
        ]
        train = [
            *tiny,
            "latent.zdim=2",
            f"epochs={epochs}",
            "dataset.batch_size=16",
            f"output={tmp_path / name}",
        ]
        train = ["trainer=ddp" if option == "trainer=cpu" else option for option in train]
        train += ["trainer.accelerator=cpu", "trainer.devices=1", "trainer.num_nodes=2"]
        train += [f"trainer.strategy.timeout_s={timeout_s}"]
        programs = []
        for rank, (host, cable) in enumerate(zip(hosts, ("cable-one", "cable-two"), strict=True)):
            there = [
                "ip",
                "netns",
                "exec",
                host,
                sys.executable,
                *command,
                f"--node-rank={rank}",
                *(["-m", "drgn.train"] if pause_at is None else [PAUSED, pause_at, str(tmp_path)]),
            ]
            programs.append(
                subprocess.Popen(
                    [*there, *train],
                    env={**environment, "GLOO_SOCKET_IFNAME": cable},
                    cwd=tmp_path,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        return tmp_path / name, programs

    return begin


def finished(programs, timeout):
    output = [program.communicate(timeout=timeout)[0] for program in programs]
    return [program.returncode for program in programs], output


@pytest.mark.full
def test_a_host_is_cut_off_and_comes_back(start):
    whole, programs = start("whole", 40)
    codes, output = finished(programs, 300)
    assert codes == [0, 0], output

    run, programs = start("cut", 40)
    while not (run / "checkpoints" / "best.ckpt").exists():
        assert all(program.poll() is None for program in programs)
        time.sleep(0.05)
    ip("-n", HOSTS[1], "link", "set", "cable-two", "down")
    began = time.monotonic()
    codes, output = finished(programs, 120)
    assert time.monotonic() - began < 100
    assert 0 not in codes
    assert any("another process of this run cannot be reached" in text for text in output), output
    assert not (run / "latents.npz").exists()

    ip("-n", HOSTS[1], "link", "set", "cable-two", "up")
    codes, output = finished(start("cut", 40)[1], 300)
    assert codes == [0, 0], output
    states = [torch.load(r / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for r in (whole, run)]
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, msg=name)
    assert Run.open(run).info["best_loss"] == pytest.approx(Run.open(whole).info["best_loss"], rel=1e-6)


@pytest.mark.full
@pytest.mark.parametrize(
    "moment",
    [
        "drgn.run:Run.create",
        "torch.distributed:init_process_group",
        "pytorch_lightning.strategies.ddp:DDPStrategy._setup_model",
        "drgn.training.loaders:Loaders.setup",
        "drgn.training.checkpoints:LastCheckpoint.on_train_start",
        "drgn.training.module:ReconstructionModule.training_step",
    ],
)
def test_a_host_that_is_cut_off_before_the_first_step_is_a_sentence(start, tmp_path, moment):
    run, programs = start("early", 1, timeout_s=30, pause_at=moment)
    while len(list(tmp_path.glob("reached.*"))) < 2:
        assert all(program.poll() is None for program in programs), "\n".join(finished(programs, 60)[1])
        time.sleep(0.05)
    ip("-n", HOSTS[1], "link", "set", "cable-two", "down")
    (tmp_path / "go").touch()
    codes, output = finished(programs, 180)
    assert 0 not in codes
    for text in output:
        assert "Error executing job" not in text, text
        assert "src/drgn" not in text, text  # a traceback through the program
    assert any("another process of this run cannot be reached" in text for text in output), output
    assert not (run / "latents.npz").exists()
