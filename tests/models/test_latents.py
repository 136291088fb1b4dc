import pytest
import torch
from torch.distributions import Normal, kl_divergence

from drgn.models.encoders import Observation
from drgn.models.latents import Posterior, TableLatent


def test_kl_is_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    mean, logvar = torch.randn(2, 6, 4, generator=generator)
    expected = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(Posterior(mean, logvar).kl(), expected)
    assert Posterior(torch.zeros(1, 3), torch.zeros(1, 3)).kl().item() == 0


def test_draws_have_the_moments_of_the_posterior():
    torch.manual_seed(0)
    mean, logvar = torch.tensor([1.0, -2.0]), torch.tensor([0.0, -3.0])
    n = 40_000
    draws = Posterior(mean.expand(n, 2), logvar.expand(n, 2)).sample()
    torch.testing.assert_close(draws.mean(0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(draws.std(0), (0.5 * logvar).exp(), atol=0, rtol=0.02)
    assert abs(torch.corrcoef(draws.T)[0, 1]) < 0.02


def test_draws_are_differentiable_in_mean_and_variance():
    mean, logvar = torch.zeros(3, 2, requires_grad=True), torch.zeros(3, 2, requires_grad=True)
    torch.manual_seed(0)
    draw = Posterior(mean, logvar).sample()
    draw.sum().backward()
    torch.testing.assert_close(mean.grad, torch.ones(3, 2))
    torch.testing.assert_close(logvar.grad, 0.5 * draw.detach())  # d exp(logvar / 2) e / d logvar at 0


def test_a_table_answers_by_row_alone():
    table = TableLatent(n_particles=9, zdim=2)
    rows = torch.tensor([4, 0, 4])
    nothing = torch.empty(3, 0)
    posterior = table(Observation(rows, nothing, nothing, nothing))
    assert torch.equal(posterior.mean, table.mean.weight[rows])
    assert torch.equal(posterior.logvar, table.logvar.weight[rows])


def test_a_table_starts_close_to_the_origin_and_apart():
    table = TableLatent(n_particles=5000, zdim=2)
    assert table.mean.weight.std().item() == pytest.approx(0.01, rel=0.05)
