import pytest
import torch

from drgn.models.losses import BetaKL


@pytest.mark.parametrize(
    ("zdim", "beta", "expected"),
    [(4, None, 0.25), (1, None, 1.0), (0, None, 1.0), (10, 2.5, 2.5), (10, 0.0, 0.0)],
)
def test_beta(zdim, beta, expected):
    assert BetaKL(zdim=zdim, beta=beta).weight(0) == expected
    assert BetaKL(zdim=zdim, beta=beta).weight(10**12) == expected


@pytest.mark.parametrize(
    ("images_seen", "expected"), [(0, 0.0), (25, 0.5), (50, 1.0), (99, 1.98), (100, 2.0), (10_000, 2.0)]
)
def test_beta_rises_over_the_first_images(images_seen, expected):
    assert BetaKL(zdim=3, beta=2.0, warmup_images=100).weight(images_seen) == pytest.approx(expected)


def test_the_parts_by_hand():
    residual = torch.tensor([[3 + 4j, 1j], [0, 1]])
    loss = BetaKL(zdim=2)(residual, torch.tensor([2.0, 6.0]), 0)
    assert loss.reconstruction.tolist() == [26.0, 1.0]
    assert loss.kl.tolist() == [2.0, 6.0]
    assert loss.total.tolist() == [27.0, 4.0]
    early = BetaKL(zdim=2, warmup_images=10)(residual, torch.tensor([2.0, 6.0]), 5)
    assert early.total.tolist() == [26.5, 2.5]


def test_without_a_latent_there_is_no_kl():
    loss = BetaKL(zdim=0)(torch.tensor([[2j]]), None, 0)
    assert loss.total.tolist() == loss.reconstruction.tolist() == [4.0]
    assert loss.kl.tolist() == [0.0]
