"""A configuration is not obeyed: `_target_` in a run's config.yaml, and what a folder of YAML tells Hydra."""

import shlex
import subprocess
import sys

import pytest
import yaml

from drgn.errors import InputError
from drgn.run import Run
from drgn.signature import resolve


def nodes(command):
    """What a stranger would write; each would run the command, or lead to it."""
    words = shlex.split(command)
    return {
        "os.system": {"command": command},
        "subprocess.Popen": {"args": words},
        "builtins.eval": {"source": "1"},
        "torch.distributed.elastic.multiprocessing.subprocess_handler.SubprocessHandler": {
            **{"entrypoint": words[0], "args": words[1:], "env": {}, "stdout": None, "stderr": None},
            **{"local_rank_id": 0, "numa_options": None},
        },
        "torch.hub.load": {"repo_or_dir": "x/y", "model": "z"},
        "torch.package.PackageImporter": {"file_or_buffer": "x.pt"},
        "torch.load": {"f": "x.pt", "weights_only": False},
        "pytorch_lightning.cli.LightningCLI": {},
        "drgn.signature.build": {"node": {}, "trust": ["subprocess"]},
        "drgn.signature.resolve": {"name": "subprocess.Popen", "trust": ["subprocess"]},
        "drgn.run.Run": {"path": "elsewhere", "trust": ["subprocess"]},
        "drgn.generate.generate": {"run": "elsewhere", "trust": ["subprocess"]},
        "drgn.benchmark.programs.run": {"command": words},
        "drgn.explorer.jobs.Jobs": {},
        "drgn.simulate.simulate": {"output": "elsewhere"},
        "drgn.formats.mrc.write_volume": {"path": "elsewhere.mrc"},
        "drgn.models.os.system": {"command": command},
    }


GROUPS = ("dataset", "model.decoder", "model.encoder", "model.encoding", "latent", "pose", "loss")


@pytest.mark.parametrize("target", nodes("x"))
def test_no_target_of_a_run_folder_is_obeyed(stranger, harm, target):
    path = stranger / "run" / "config.yaml"
    sound = path.read_text()
    for group in GROUPS:
        config = yaml.safe_load(sound)
        config["trust"] = ["os", "subprocess", "torch", "drgn"]  # a stranger's word for it
        *above, last = group.split(".")
        place = config[above[0]] if above else config
        node = {"_target_": target, **nodes(harm.command)[target]}
        kept = {name: value for name, value in place[last].items() if name in ("zdim", "name")}
        place[last] = node | kept
        path.write_text(yaml.safe_dump(config))
        run = Run.open(stranger / "run")
        with pytest.raises(InputError, match=r"outside the components|not a class or function|is no such"):
            _ = run.datamodule if group == "dataset" else run.model()
        assert not harm.exists()


@pytest.mark.parametrize(
    "name", ["torch.optim.Adam", "pytorch_lightning.Trainer", "drgn.models.losses.BetaKL"]
)
def test_components_may_be_named(name):
    assert resolve(name).__name__ == name.rpartition(".")[2]


HYDRA = {
    "a callback": {"callbacks": {"x": {"_target_": "os.system", "command": "COMMAND"}}},
    "launcher": {"_target_": "subprocess.Popen", "args": "COMMAND", "shell": True},
    "sweeper": {"_target_": "subprocess.Popen", "args": "COMMAND", "shell": True},
    "a factory of logging": {
        "job_logging": {"handlers": {"x": {"()": "os.popen", "cmd": "COMMAND"}}, "root": {"handlers": ["x"]}}
    },
    "a class of logging": {
        "job_logging": {
            "handlers": {"x": {"class": "subprocess.Popen", "args": "COMMAND", "shell": True}},
            "root": {"handlers": ["x"]},
        }
    },
}


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("what", HYDRA)
def test_a_folder_of_yaml_does_not_make_hydra_run_code(tmp_path, harm, environment, what, many):
    text = yaml.safe_dump({"hydra": HYDRA[what]}).replace("COMMAND", harm.command)
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    if what in ("launcher", "sweeper"):  # a choice of a group of Hydra's
        (tmp_path / "conf" / "hydra" / what).mkdir(parents=True)
        part = yaml.safe_dump(HYDRA[what]).replace("COMMAND", harm.command)
        (tmp_path / "conf" / "hydra" / what / "theirs.yaml").write_text(part)
        text = f"defaults:\n  - override /hydra/{what}: theirs\n"
    (tmp_path / "conf" / "experiment" / "theirs.yaml").write_text(f"# @package _global_\n{text}")
    words = ["experiment=theirs,demo"] if many else ["experiment=theirs"]
    command = [sys.executable, "-m", "drgn.train", *(["-m"] if many else []), "--config-dir", "conf", *words]
    done = subprocess.run(
        [*command, "dataset.particles=none.star", "dataset=custom", f"output={tmp_path / 'out'}"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "would run code that is not Hydra's" in done.stderr
    assert not harm.exists()


def test_a_glob_over_a_folder_of_yaml_is_written_out(tmp_path, harm, environment):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    text = yaml.safe_dump({"hydra": HYDRA["a callback"]}).replace("COMMAND", harm.command)
    (tmp_path / "conf" / "experiment" / "theirs.yaml").write_text(f"# @package _global_\n{text}")
    command = [sys.executable, "-m", "drgn.train", "-m", "--config-dir", "conf", "experiment=glob(the*)"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "write out the choices" in done.stderr
    assert not harm.exists()
