"""The wheel is complete: alone in an environment of its own, it trains the toy set."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from drgn import CONF

ROOT = Path(__file__).parents[1]


def run(*words: str | Path, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    result = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Install the wheel into an environment that sees this one's libraries, but not its drgn."""
    folder = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        folder / "bin/python",
        "install",
        "--no-deps",
        wheel,
        cwd=folder,
    )
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def test_the_wheel_holds_every_file(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"drgn/conf/{p.relative_to(CONF).as_posix()}" for p in CONF.rglob("*.yaml")} <= names
    source = ROOT / "src"
    assert {p.relative_to(source).as_posix() for p in source.rglob("*.py")} <= names
    static = source / "drgn" / "explorer" / "static"
    assert {p.relative_to(source).as_posix() for p in static.rglob("*") if p.is_file()} <= names
    assert not [name for name in names if name.startswith(("tests", "conf/")) or "__pycache__" in name]
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_alone_trains_the_toy_set(installed, tmp_path):
    where = run(installed / "python", "-c", "import drgn; print(drgn.__file__, drgn.CONF)", cwd=tmp_path)
    assert where.count(str(installed.parent)) == 2
    small = [
        "dataset.simulate.n_particles=64",
        "dataset.simulate.box_size=32",
        "dataset.simulate.pixel_size_A=6",
        "model=128x3",
    ]
    run(
        installed / "drgn",
        "train",
        *small,
        "epochs=1",
        "trainer=cpu",
        "analyze=false",
        "output=run",
        cwd=tmp_path,
    )
    assert (tmp_path / "run" / "config.yaml").is_file()
    assert list((tmp_path / "run" / "checkpoints").glob("*.ckpt"))
