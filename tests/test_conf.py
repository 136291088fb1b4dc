"""Every YAML of conf/ composes, and every component that it names takes what it is given."""

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from drgn import CONF
from drgn.cli import VERBS
from drgn.command import compose
from drgn.hints import groups
from drgn.signature import bind, resolve

CHOICES = [(group, choice) for group, choices in groups("train").items() for choice in choices]
# what the program supplies to the components: see drgn/train.py
RUNTIME = ("amplitude", "box_size", "encoder", "encoding", "max_epochs", "n_particles", "zdim")


def function_of(verb: str) -> Callable[..., Any]:
    return getattr(importlib.import_module(f"drgn.{verb}"), verb)


def composed(verb: str, *overrides: str) -> dict[str, Any]:
    """Compose with a value for what the shipped YAML leaves to the person."""
    text = (CONF / f"{verb}.yaml").read_text()
    needed = [f"{name}=x.star" for name in re.findall(r"^(\w+): \?\?\?", text, flags=re.MULTILINE)]
    if "dataset=custom" in overrides:
        needed.append("dataset.particles=x.star")
    return compose(verb, [*overrides, *needed])


def nodes(options: Any, key: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Walk through nested options; yields the mappings with a _target_."""
    if isinstance(options, dict):
        if "_target_" in options:
            yield key, options
        for name, value in options.items():
            yield from nodes(value, f"{key}.{name}" if key else name)


def bind_components(options: dict[str, Any]) -> int:
    """Bind every node, as drgn.signature.build would but without constructing; returns how many there are."""
    found = list(nodes(options))
    for key, node in found:
        target = resolve(node["_target_"], key=key)
        given = {
            name: value for name, value in node.items() if name not in ("_target_", "_partial_", "simulate")
        }
        if given.get("precision") == "auto":  # drgn.train measures which it is
            given["precision"] = "32-true"
        if isinstance(given.get("strategy"), dict):  # a node of its own, which is built first
            given["strategy"] = "ddp"
        bind(target, given, key=key, partial="_partial_" in node, runtime=dict.fromkeys(RUNTIME))
    return len(found)


@pytest.mark.parametrize("verb", VERBS)
def test_the_yaml_of_a_verb_fits_its_signature(verb):
    bound = bind(function_of(verb), composed(verb))
    parameters = inspect.signature(function_of(verb)).parameters
    assert set(bound) == set(parameters)
    assert all(p.kind == p.KEYWORD_ONLY for p in parameters.values())
    defaults = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
    assert defaults == {name: bound[name] for name in defaults}, "a YAML is the one home of a default"


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_of_a_verb_has_a_comment(verb):
    lines = (CONF / f"{verb}.yaml").read_text().splitlines()
    options = [i for i, line in enumerate(lines) if re.match(r"[a-z]\w*:", line)]
    bare = [lines[i] for i in options if not lines[i - 1].startswith("# ")]
    assert [line.split(":")[0] for line in bare if not line.startswith(("defaults:", "hydra:"))] == []


@pytest.mark.parametrize(("group", "choice"), [c for c in CHOICES if c[0] not in ("experiment", "sweep")])
def test_a_choice_composes_and_binds(group, choice):
    options = composed("train", f"{group}={choice}")
    bind(function_of("train"), options)
    assert bind_components(options) >= 9


@pytest.mark.parametrize("choice", groups("train")["experiment"])
def test_an_experiment_composes_and_binds(choice):
    header = (CONF / "experiment" / f"{choice}.yaml").read_text()
    if choice == "paper":  # the part that the paper's runs share
        options = composed("train", f"experiment={choice}")
    else:
        assert re.findall(r"^# (\w+) +\S", header, flags=re.MULTILINE)[:4] == [
            "source",
            "command",
            "cost",
            "expected",
        ]
        options = compose("train", [f"experiment={choice}"])
    bind(function_of("train"), options)
    assert bind_components(options) >= 9


def test_the_experiments_are_those_of_the_paper():
    def of(choice: str, *overrides: str) -> tuple[Any, ...]:
        o = compose("train", [f"experiment={choice}", *overrides])
        size = f"{o['model']['decoder']['hidden_dim']}x{o['model']['decoder']['layers']}"
        encoder = f"{o['model']['encoder']['hidden_dim']}x{o['model']['encoder']['layers']}"
        assert o["optimizer"]["lr"] == 1e-4
        assert o["dataset"]["batch_size"] == 8
        assert o["loss"]["beta"] is None
        assert o["model"]["encoding"]["_target_"].endswith("GeometricEncoding")
        return (
            o["dataset"]["name"],
            o["dataset"]["box_size"],
            encoder,
            size,
            o["latent"].get("zdim"),
            o["epochs"],
        )

    assert of("simulated_uniform") == ("simulated_uniform", None, "256x3", "512x5", 1, 100)
    assert of("homogeneous_10049") == ("empiar10049", None, "1024x3", "1024x3", None, 50)
    assert of("homogeneous_10028", "model=128x3") == ("empiar10028", None, "128x3", "128x3", None, 50)
    assert of("empiar10049") == ("empiar10049", None, "1024x3", "1024x3", 10, 25)
    assert of("empiar10028_pilot") == ("empiar10028", 128, "256x3", "256x3", 10, 50)
    assert of("empiar10028_main") == ("empiar10028", 256, "1024x3", "1024x3", 10, 25)
    assert of("empiar10076_pilot_1d") == ("empiar10076", 128, "256x3", "256x3", 1, 50)
    assert of("empiar10076_pilot") == ("empiar10076", 128, "256x3", "256x3", 10, 50)
    assert of("empiar10076_main") == ("empiar10076", 256, "1024x3", "1024x3", 10, 50)
    assert of("empiar10076_main_zdim8") == ("empiar10076", 256, "1024x3", "1024x3", 8, 50)
    assert of("empiar10180_pilot") == ("empiar10180", 128, "256x3", "256x3", 10, 50)
    assert of("empiar10180_main") == ("empiar10180", 256, "1024x3", "1024x3", 10, 50)


@pytest.mark.parametrize("choice", groups("train")["sweep"])
def test_a_sweep_is_a_multirun_of_options_that_compose(choice):
    from hydra import compose as compose_all
    from hydra import initialize_config_dir

    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        hydra = compose_all("train", overrides=[f"sweep={choice}"], return_hydra_config=True).hydra
    assert hydra.mode.name == "MULTIRUN"
    for key, values in hydra.sweeper.params.items():
        for value in str(values).split(","):
            bind_components(composed("train", f"{key}={value}"))


def test_a_model_is_put_together_from_its_groups():
    options = compose(
        "train", ["model=1024x10", "model/encoding=geometric_low", "latent=table", "loss.beta=2"]
    )
    assert options["model"]["decoder"]["hidden_dim"] == options["model"]["encoder"]["hidden_dim"] == 1024
    assert options["model"]["decoder"]["layers"] == 10
    assert options["model"]["encoding"]["wavelength_factor"] == pytest.approx(6.2831853)
    assert options["latent"]["_target_"] == "drgn.models.latents.TableLatent"
    assert options["loss"]["beta"] == 2


def test_the_images_of_a_dataset_are_looked_for_in_DRGN_DATA(monkeypatch):
    assert compose("train", ["dataset=empiar10076"])["dataset"]["poses"] == "data/empiar10076/poses.pkl"
    monkeypatch.setenv("DRGN_DATA", "/disk")
    dataset = compose("train", ["dataset=empiar10076"])["dataset"]
    assert dataset["poses"] == "/disk/empiar10076/poses.pkl"
    assert "/disk/empiar10076" in dataset["download"]
