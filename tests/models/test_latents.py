import pytest
import torch
from torch.distributions import Normal, kl_divergence

from drgn.models.encoders import Observation
from drgn.models.latents import Posterior, TableLatent, pooled


def alone(mean, logvar):
    """Return the posterior of images that each show a particle of its own."""
    return Posterior(mean, logvar, torch.arange(len(mean)), torch.arange(len(mean)))


def test_kl_is_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    mean, logvar = torch.randn(2, 6, 4, generator=generator)
    expected = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(alone(mean, logvar).kl(), expected)
    assert alone(torch.zeros(1, 3), torch.zeros(1, 3)).kl().item() == 0


def test_the_kl_of_a_particle_is_counted_once():
    mean, logvar = torch.tensor([[1.0], [1.0], [2.0], [1.0]]), torch.zeros(4, 1)
    kl = Posterior(mean, logvar, torch.tensor([1, 1, 0, 1]), torch.tensor([7, 7, 2, 7])).kl()
    torch.testing.assert_close(kl, torch.tensor([0.5 / 3, 0.5 / 3, 2.0, 0.5 / 3]))


def test_draws_have_the_moments_of_the_posterior():
    torch.manual_seed(0)
    mean, logvar = torch.tensor([1.0, -2.0]), torch.tensor([0.0, -3.0])
    n = 40_000
    draws = alone(mean.expand(n, 2), logvar.expand(n, 2)).sample(3)
    torch.testing.assert_close(draws.mean(0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(draws.std(0), (0.5 * logvar).exp(), atol=0, rtol=0.02)
    assert abs(torch.corrcoef(draws.T)[0, 1]) < 0.02


def test_draws_are_differentiable_in_mean_and_variance():
    mean, logvar = torch.zeros(3, 2, requires_grad=True), torch.zeros(3, 2, requires_grad=True)
    torch.manual_seed(0)
    draw = alone(mean, logvar).sample(3)
    draw.sum().backward()
    torch.testing.assert_close(mean.grad, torch.ones(3, 2))
    torch.testing.assert_close(logvar.grad, 0.5 * draw.detach())  # d exp(logvar / 2) e / d logvar at 0


def test_images_of_one_particle_are_the_product_of_their_posteriors():
    mean = torch.tensor([[0.0], [5.0], [3.0]])
    logvar = torch.tensor([[1.0], [4.0], [0.5]]).log()
    posterior = pooled(mean, logvar, torch.tensor([9, 2, 9]))
    # precisions 1 and 2 add up to 3; the mean is (1 x 0 + 2 x 3) / 3
    torch.testing.assert_close(posterior.mean, torch.tensor([[2.0], [5.0], [2.0]]))
    torch.testing.assert_close(posterior.logvar.exp(), torch.tensor([[1 / 3], [4.0], [1 / 3]]))
    assert posterior.particle[0] == posterior.particle[2] != posterior.particle[1]


def test_a_table_answers_by_particle_alone():
    table = TableLatent(n_particles=9, zdim=2)
    groups, nothing = torch.tensor([4, 0, 4]), torch.empty(3, 0)
    posterior = table(Observation(torch.arange(3), groups, nothing, nothing, nothing))
    assert torch.equal(posterior.mean, table.mean.weight[groups])
    assert torch.equal(posterior.logvar, table.logvar.weight[groups])
    assert posterior.kl()[0] == posterior.kl()[2]


def test_a_table_starts_close_to_the_origin_and_apart():
    table = TableLatent(n_particles=5000, zdim=2)
    assert table.mean.weight.std().item() == pytest.approx(0.01, rel=0.05)
