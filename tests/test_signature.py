"""The signature is the schema: what fits is passed on, what does not is told in one sentence."""

import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest

from drgn.errors import InputError
from drgn.signature import bind, build, resolve

GEOMETRIC = "drgn.models.encodings.GeometricEncoding"


def verb(
    *,
    count: int,
    rate: float,
    name: str,
    on: bool,
    file: Path | None,
    rows: list[int] | None,
    mode: Literal["a", "b"],
    group: Mapping[str, Any] | None = None,
) -> None: ...


GOOD = {"count": 3, "rate": 0.5, "name": "x", "on": True, "file": None, "rows": None, "mode": "a"}


def test_values_that_fit_are_converted():
    given = {
        **GOOD,
        "count": 1e5,
        "rate": 2,
        "name": 2026,
        "file": "~/a.star",
        "rows": [1, 2],
        "group": {"a": 1},
    }
    bound = bind(verb, given)
    assert bound == {**given, "count": 100_000, "rate": 2.0, "name": "2026", "file": Path.home() / "a.star"}
    assert type(bound["count"]) is int
    assert type(bound["rate"]) is float


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("count", "abc", "a whole number"),
        ("count", 1.5, "a whole number"),
        ("count", True, "a whole number"),
        ("count", None, "a whole number"),
        ("rate", "fast", "a number"),
        ("rate", False, "a number"),
        ("name", [1], "a text"),
        ("on", 1, "true or false"),
        ("on", "yes", "true or false"),
        ("file", 1.5, "a path or null"),
        ("rows", 3, "a list like [a whole number] or null"),
        ("rows", ["a"], "a list like [a whole number] or null"),
        ("mode", "c", "one of a, b"),
        ("group", 3, "a group of options or null"),
    ],
)
def test_a_wrong_type_is_one_sentence(key, value, expected):
    with pytest.raises(InputError) as error:
        bind(verb, {**GOOD, key: value}, key="part")
    assert str(error.value).startswith(f"part.{key}=")
    assert str(error.value).endswith(f"expected {expected}.")


def test_unknown_and_missing_keys_are_named():
    with pytest.raises(InputError, match=r"^part\.raet is not an option of verb; did you mean rate\?$"):
        bind(verb, {**GOOD, "raet": 1}, key="part")
    with pytest.raises(
        InputError, match=r"^count has no value: give it as count=\.\.\. \(a whole number\)\.$"
    ):
        bind(verb, {k: v for k, v in GOOD.items() if k != "count"})
    with pytest.raises(InputError, match=r"^file has no value: give it as file=\.\.\. \(a path or null\)\.$"):
        bind(verb, {**GOOD, "file": "???"})


def test_build_passes_runtime_values_only_where_they_are_wanted():
    encoding = build({"_target_": GEOMETRIC}, box_size=32, zdim=8, n_pixels=100)
    assert encoding.out_dim == 96
    with pytest.raises(InputError, match="box_size has no value"):
        build({"_target_": GEOMETRIC}, zdim=8)


def test_build_builds_nodes_inside_nodes():
    node = {
        "_target_": "drgn.models.decoders.PositionalDecoder",
        "hidden_dim": 16,
        "layers": 1,
        "encoding": {"_target_": GEOMETRIC, "wavelength_factor": 2},
    }
    decoder = build(node, key="model.decoder", box_size=16, zdim=2)
    assert decoder.encoding.out_dim == 48
    node["encoding"]["wavelength_factor"] = "long"
    with pytest.raises(
        InputError, match=r"^model\.decoder\.encoding\.wavelength_factor=long: expected a number\.$"
    ):
        build(node, key="model.decoder", box_size=16, zdim=2)


def test_a_partial_node_waits_for_the_rest():
    waiting = build({"_target_": "torch.optim.Adam", "_partial_": True, "lr": 1, "betas": [0.9, 0.95]})
    assert isinstance(waiting, functools.partial)
    assert waiting.keywords == {"lr": 1.0, "betas": (0.9, 0.95)}
    with pytest.raises(InputError, match=r"^optimizer\.lrr is not an option of Adam; did you mean lr\?$"):
        build({"_target_": "torch.optim.Adam", "_partial_": True, "lrr": 1}, key="optimizer")


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "system",
        "torchvision.x.Y",
        "drgnx.Y",
        "torch.hub.load",
    ],
)
def test_a_target_outside_the_trusted_modules_is_refused(target):
    with pytest.raises(InputError, match=rf"^model\._target_={target} is (outside|not a class)"):
        build({"_target_": target}, key="model")


def test_a_target_that_is_not_there_is_named():
    with pytest.raises(InputError, match=r"^model\._target_=drgn\.models\.none\.X: there is no such"):
        resolve("drgn.models.none.X", key="model")
    with pytest.raises(InputError, match=r"^_target_=drgn\.models\.decoders\.X: there is no such"):
        resolve("drgn.models.decoders.X")
    with pytest.raises(InputError, match=r"^model needs a _target_"):
        build({"hidden_dim": 3}, key="model")


def test_trust_admits_a_module_and_its_defects_keep_their_traceback(tmp_path, monkeypatch):
    (tmp_path / "trusted_part.py").write_text(
        "class Part:\n    def __init__(self, *, width: int): self.width = width\n"
    )
    (tmp_path / "broken_part.py").write_text("import a_library_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    node = {"_target_": "trusted_part.Part", "width": 3}
    with pytest.raises(InputError, match=r"add trust=\[trusted_part\]\.$"):
        build(node)
    assert "trusted_part" not in sys.modules
    assert build(node, trust=["trusted_part"]).width == 3
    with pytest.raises(ModuleNotFoundError, match="a_library_that_is_not_there"):
        build({"_target_": "broken_part.Part"}, trust=["broken_part"])
