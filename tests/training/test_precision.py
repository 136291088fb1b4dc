import pytest
import torch

from drgn.training import precision


def test_the_choice_is_one_that_lightning_knows_and_is_explained():
    name, said = precision.choose(torch.device("cpu"))
    assert name in ("32-true", "bf16-mixed")
    assert "bfloat16" in said
    assert said.count("ms") == 2


@pytest.mark.parametrize(("half", "expected"), [(0.5, "bf16-mixed"), (0.95, "32-true"), (3.0, "32-true")])
def test_bfloat16_must_be_clearly_faster(monkeypatch, half, expected):
    monkeypatch.setattr(precision, "_seconds", lambda _, dtype: half if dtype == torch.bfloat16 else 1.0)
    assert precision.choose(torch.device("cpu"))[0] == expected
