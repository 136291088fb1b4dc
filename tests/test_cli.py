"""The command line: `drgn VERB` = `python -m drgn.VERB`, instant help, one sentence for a mistake."""

import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

import drgn
from drgn import CONF
from drgn.cli import VERBS
from drgn.command import compose
from drgn.errors import InputError
from drgn.hints import leaves

HEAVY = {
    "hydra",
    "matplotlib",
    "numpy",
    "omegaconf",
    "pandas",
    "pytorch_lightning",
    "scipy",
    "sklearn",
    "torch",
}
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(drgn.__file__).parents[1])}

# a verb with the name, and so the options, of `train`, that says what it was called with
FAKE = '''"""The help of the verb."""
import sys
from pathlib import Path
from drgn.command import command

def train(
    *, dataset, model, latent, pose, loss, nuisance, warmstart, half_sets, optimizer, schedule, pixels,
    trainer, logger, callbacks, output: Path, seed: int, epochs: int, memory_GB, resume, checkpoint_minutes,
    analyze, plan, trust,
) -> None:
    if epochs == 13:
        raise ValueError("a defect")
    if epochs == 14:
        raise KeyboardInterrupt
    if epochs == 15:
        raise BrokenPipeError("of a reader")
    print("called", epochs, latent.get("zdim"), output, *sys.argv[1:], sep="|")

main = command(train)
if __name__ == "__main__":
    main()
'''


def run(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)


@pytest.fixture
def fake(tmp_path):
    """Return a function that runs the fake verb in an empty folder."""
    (tmp_path / "fake.py").write_text(FAKE)
    return lambda *words: run("-m", "fake", *words, cwd=tmp_path)


def composed(verb):
    """Compose with a value for what the shipped YAML leaves to the person."""
    text = (CONF / f"{verb}.yaml").read_text()
    return compose(verb, [f"{name}=x" for name in re.findall(r"^(\w+): \?\?\?", text, flags=re.MULTILINE)])


def test_the_program_lists_its_verbs():
    result = run("-m", "drgn", "--help")
    assert result.returncode == 0
    assert re.findall(
        r"^  (\w+) +\w", result.stdout.split("verbs:")[1].split("first")[0], re.MULTILINE
    ) == list(VERBS)
    assert run("-m", "drgn", "--version").stdout == f"drgn {drgn.__version__}\n"


def test_an_unknown_verb_is_one_sentence():
    result = run("-m", "drgn", "trian")
    assert (result.returncode, result.stderr) == (2, "drgn: trian is not a verb; did you mean train?\n")


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_the_docstring_and_the_options(verb):
    short, long = run("-m", "drgn", verb, "--help"), run("-m", f"drgn.{verb}", "-h")
    assert short.returncode == long.returncode == 0
    assert short.stdout == long.stdout
    assert f"drgn {verb}" in short.stdout, "the docstring has examples"
    for name in composed(verb):
        assert re.search(rf"^  ({name}:|{name}  )", short.stdout, re.MULTILINE), name


def test_help_tells_the_options_of_the_default_groups_by_their_full_names():
    """So that `drgn train --help | grep sign` finds how the sign of the data is given."""
    said = run("-m", "drgn", "train", "--help").stdout
    for name, value in leaves(compose("train")):
        group = name.partition(".")[0]
        if "_target_" in name or "_partial_" in name or group == "hydra" or name.count(".") != 1:
            continue
        assert re.search(rf"^  {re.escape(name)}:", said, re.MULTILINE), (name, value)
    lines = said.splitlines()
    at = lines.index("  dataset.data_sign: null")
    assert lines[at - 1].startswith("  # +1: protein bright")
    assert "  model.encoder.radius_px: 8.0" in lines


@pytest.mark.parametrize("words", [["--help"], ["epochs=2"]])
def test_a_reader_that_has_gone_is_no_defect(fake, tmp_path, words):
    program = [sys.executable, "-m", "fake", *words]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(program, cwd=tmp_path, env=ENVIRONMENT, **pipe) as process:
        process.stdout.close()  # before anything is written
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_another_broken_pipe_is_a_defect(fake):
    defect = fake("epochs=15")
    assert (defect.returncode, defect.stderr.splitlines()[-1]) == (1, "BrokenPipeError: of a reader")


@pytest.mark.parametrize(
    "words", [["-c", "import drgn"], ["-m", "drgn", "--help"], ["-m", "drgn", "train", "--help"]]
)
def test_nothing_heavy_is_imported_for_help(words):
    result = run("-X", "importtime", *words)
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in result.stderr.splitlines()}
    assert "drgn" in imported
    assert not imported & HEAVY
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        run(*words)
        seconds.append(time.perf_counter() - start)
    assert statistics.median(seconds) < 2  # 0.1 on an idle machine


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["epoch=3"], "epoch is not an option of train; did you mean epochs?"),
        (["zdim=3"], "zdim is not an option of train; did you mean latent.zdim?"),
        (["latent.zdin=3"], "latent.zdin is not an option of train; did you mean latent.zdim?"),
        (["+colour=red"], "colour is not an option of train"),
        (["~colour"], "colour is not an option of train"),
        (["epochs=abc"], "epochs=abc: expected a whole number."),
        (["seed=[1]"], "seed=[1]: expected a whole number."),
        (["epochs=???"], "epochs has no value: give it as epochs=... (a whole number)."),
        (["dataset=custom"], "dataset.particles has no value: give it as dataset.particles=..."),
        (
            ["model=9x9"],
            "model=9x9 is not there; there are 1024x10, 1024x3, 128x3, 256x3, 512x3, classes, linear.",
        ),
        (
            ["model=1024"],
            "model=1024 is not there; there are 1024x10, 1024x3, 128x3, 256x3, 512x3, classes, linear.",
        ),
        (["model/encoding=gausian"], "model/encoding=gausian is not there; did you mean gaussian?"),
        (["modl/encoding=gaussian"], "modl/encoding is not an option of train; did you mean model/encoding"),
        (["optimiser=adam"], "optimiser is not an option of train; did you mean optimizer?"),
        (["--epochs", "3"], "--epochs is not a flag; options are written without dashes: epochs=VALUE."),
        (["particles.star"], "particles.star is not an option; options are written key=value"),
        (["dataset.particles=a(1).star"], "dataset.particles=a(1).star cannot be read; quote a value"),
        (["seed=1,2"], "seed=1,2: write seed=[1,2] for a list, or add -m for one run each."),
        (["optimizer.lr=${rate}"], "optimizer.lr: Interpolation key 'rate' not found."),
        (["--config-dir", "nowhere"], "Additional config directory"),
    ],
)
def test_a_mistake_is_one_sentence(fake, words, sentence):
    result = fake(*words)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"drgn train: {sentence}")
    assert result.stderr.count("\n") == 1


def test_a_python_caller_gets_the_same_sentences():
    with pytest.raises(InputError, match=r"^epoch is not an option of train; did you mean epochs"):
        compose("train", ["epoch=3"])
    with pytest.raises(InputError, match=r"^model=9x9 is not there"):
        compose("train", ["model=9x9"])
    with pytest.raises(InputError, match=r"^dataset\.particles has no value"):
        compose("train", ["dataset=custom"])
    with pytest.raises(InputError, match=r"^train is not an option"):
        compose("train", ["train"])


def test_a_defect_keeps_its_traceback_and_an_interrupt_is_one_line(fake):
    defect = fake("epochs=13")
    assert defect.returncode == 1
    assert defect.stderr.endswith("ValueError: a defect\n")
    assert "Traceback" in defect.stderr
    interrupt = fake("epochs=14")
    assert (interrupt.returncode, interrupt.stderr) == (130, "drgn train: interrupted\n")


def test_options_arrive_and_leave_nothing_behind(fake, tmp_path):
    result = fake("epochs=2", "latent.zdim=3", "output='a b'")
    assert result.stderr == ""
    # the arguments are those that a further process of a distributed run is started with
    assert result.stdout == 'called|2|3|a b|epochs=2|latent.zdim=3|output="a b"\n'
    assert {p.name for p in tmp_path.iterdir()} - {"__pycache__"} == {"fake.py"}


def test_a_multirun_gives_each_job_its_own_folder_and_arguments(fake):
    result = fake("epochs=2", "-m", "latent.zdim=2,4", "output=out")  # -m may stand anywhere
    assert [line for line in result.stdout.splitlines() if line.startswith("called")] == [
        'called|2|2|out/0|epochs=2|latent.zdim=2|output="out/0"',
        'called|2|4|out/1|epochs=2|latent.zdim=4|output="out/1"',
    ]
    swept = fake("sweep=zdim", "output=out")
    assert 'called|20|16|out/4|latent.zdim=16|output="out/4"' in re.sub(
        r"epochs\|\d+", "epochs|20", swept.stdout
    )
    failed = fake("-m", "epochs=2,abc")
    assert failed.returncode == 2
    assert failed.stderr == "drgn train: epochs=abc: expected a whole number.\n"
    folders = {line.split("|")[3] for line in fake("-m", "seed=1,2").stdout.splitlines() if "called" in line}
    assert len(folders) == 2


def test_a_conf_folder_of_ones_own_adds_choices(fake, tmp_path):
    folder = tmp_path / "my" / "latent"
    folder.mkdir(parents=True)
    (folder / "wide.yaml").write_text("_target_: mine.Wide\nzdim: 77\n")
    result = fake("--config-dir", "my", "latent=wide", "output=o")
    assert result.stdout == 'called|20|77|o|--config-dir|my|latent=wide|output="o"\n'.replace(
        "|20|", f"|{compose('train')['epochs']}|"
    )
    assert "did you mean wide?" in fake("--config-dir", "my", "latent=wode").stderr
    assert (
        "latent.zdimm is not an option of train; did you mean latent.zdim?"
        in fake("--config-dir", "my", "latent=wide", "latent.zdimm=3").stderr
    )
    assert "zdim: 77" in fake("--config-dir", "my", "latent=wide", "--cfg", "job").stdout


@pytest.mark.full
def test_the_processes_of_a_distributed_sweep_belong_to_their_own_job(tmp_path):
    body = """
    import pytorch_lightning as pl
    from pytorch_lightning.demos.boring_classes import BoringModel
    trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp", fast_dev_run=True, logger=False)
    trainer.fit(BoringModel())
    Path(f"zdim{latent['zdim']}_process{trainer.global_rank}").write_text(str(output))
"""
    start, end = FAKE.index("    if epochs == 13"), FAKE.index("main = command")
    (tmp_path / "fake.py").write_text(FAKE[:start] + body + FAKE[end:])
    result = run("-m", "fake", "-m", "latent.zdim=2,4", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    folder = {p.name: p.read_text() for p in tmp_path.glob("zdim*")}
    assert len(folder) == 4
    assert folder["zdim2_process0"] == folder["zdim2_process1"]
    assert folder["zdim4_process0"] == folder["zdim4_process1"] != folder["zdim2_process0"]


@pytest.mark.parametrize("number", ["10028", "10049", "10076", "10180"])
def test_absent_images_are_told_in_one_sentence(number, tmp_path):
    sizes = {"10028": "54.6 GB", "10049": "16.0 GB", "10076": "54.0 GB", "10180": "134 GB"}
    result = run("-m", "drgn.train", f"dataset=empiar{number}", "model=1024x3", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    for part in (
        f"EMPIAR-{number}",
        sizes[number],
        f"data/empiar{number}",
        "dataset.particles=",
        "DRGN_DATA=",
    ):
        assert part in result.stderr
