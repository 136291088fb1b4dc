"""Fixtures that every test folder may use."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the file whose tests take minutes, so that no process ends alone with them."""
    items.sort(key=lambda item: item.path.name != "test_foreign.py")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of small real inputs, which are not part of the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real test inputs are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Return the environment of a program that imports this drgn wherever it is started, on one core."""
    import drgn

    path = [str(Path(drgn.__file__).parents[1]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, path))}


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the star file of 300 simulated images of 16 px, 12 A each; truth.csv and maps/ lie beside it."""
    from drgn.command import compose
    from drgn.simulate import simulate

    options = compose("simulate", ["n_particles=300", "box_size=16", "pixel_size_A=12", "snr=1"])
    return simulate(**{**options, "output": tmp_path_factory.mktemp("toy")})


@pytest.fixture(scope="session")
def tiny(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return options of drgn train that make it a matter of a second."""
    return [
        "dataset=custom",
        f"dataset.particles={toy}",
        f"dataset.cache={tmp_path_factory.mktemp('prepared')}",
        "dataset.batch_size=32",
        "dataset.heldout_fraction=0.2",
        "model=128x3",
        "model.hidden_dim=32",
        "trainer=cpu",
        "trainer.precision=32-true",
        "trainer.log_every_n_steps=2",
        "optimizer.lr=0.002",
        "schedule=constant",
        "epochs=1",
        "analyze=false",
    ]


@pytest.fixture(scope="session")
def train_tiny(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Overrides of drgn train -> the folder of a run made in this process with the options `tiny`."""
    from drgn.command import bind, compose
    from drgn.train import train

    def make(*overrides: str, output: Path | None = None) -> Path:
        output = output or tmp_path_factory.mktemp("run")
        latent = [] if any(o.startswith("latent=none") for o in overrides) else ["latent.zdim=2"]
        own_model = any(o.startswith("model=") for o in overrides)  # its size and start go with it
        options = [o for o in tiny if not (own_model and o.startswith("model"))]
        if not own_model and not any(o.startswith("warmstart=") for o in overrides):
            options.append("warmstart=none")
        train(**bind(train, compose("train", [*options, *latent, *overrides, f"output={output}"])))
        return output

    return make


@pytest.fixture(scope="session")
def trained(train_tiny: Callable[..., Path]) -> Path:
    """Return the folder of a run of one epoch with a latent of two dimensions; tests must not write to it."""
    return train_tiny()


@pytest.fixture(scope="session")
def relion() -> Callable[..., None]:
    """Return a function that runs a RELION program in a folder."""
    programs = ("relion_project", "relion_reconstruct")
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        reason = f"RELION is not on PATH: {', '.join(missing)}"
        if os.environ.get("DRGN_REQUIRE_RELION") == "1":
            pytest.fail(reason)
        pytest.skip(reason)

    def run(folder: Path, *command: str) -> None:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    """Yield a headless Chromium with software WebGL; `browser.new_context(...).new_page()` makes a page."""
    program = shutil.which("chromium")
    if program is None:
        reason = "Chromium is not on PATH"
        if os.environ.get("DRGN_REQUIRE_CHROMIUM") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
        )
        yield opened
        opened.close()
