"""A share of the frequencies, drawn anew in each step, stands for all of them without bias."""

import pytest
import torch

from drgn.models.reconstructor import drawn


def test_drawn_frequencies_ascend_and_are_equally_likely():
    torch.manual_seed(0)
    counts = torch.zeros(37)
    for _ in range(4000):
        pixels = drawn(37, 0.3)
        assert len(pixels) == 11
        assert (pixels.diff() >= 0).all()
        counts += torch.bincount(pixels, minlength=37)
    expected = 4000 * 11 / 37
    assert (counts / expected - 1).abs().max() < 0.12  # 4 standard deviations


def test_every_radius_has_its_share_in_every_draw():
    for _ in range(20):
        assert ((drawn(1000, 0.2) < 500).sum() - 100).abs() <= 1


@pytest.mark.parametrize("overrides", [(), ("warmstart=subspace", "warmstart.modes=2"), ("latent=none",)])
def test_the_mean_of_many_draws_is_the_loss_and_the_gradient_of_all(make_model, batch, overrides):
    model = make_model(*overrides).eval()  # the latent is its mean
    if model.basis is not None:
        model.basis.density.normal_(generator=torch.Generator().manual_seed(0))
        torch.nn.init.normal_(model.decoder.network.last.weight, std=0.1)

    def loss_and_gradient(share):
        model.zero_grad()
        loss = model.loss(batch, share=share)
        loss.total.sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        return loss.reconstruction.detach(), loss.kl.detach(), gradient

    exact = loss_and_gradient(1.0)
    torch.manual_seed(0)
    n = 300
    draws = [torch.stack(part) for part in zip(*(loss_and_gradient(0.3) for _ in range(n)), strict=True)]
    for part, whole in zip(draws, exact, strict=True):
        error = (part.var(0).sum() / n).sqrt()
        assert (part.mean(0) - whole).norm() <= 2 * error + 1e-5 * whole.norm()
        # a factor that is wrong by a third would be seen
        assert whole.norm() == 0 or 6 * error < whole.norm()
    assert torch.equal(draws[1][0], exact[1]), "the latent is inferred from the whole image"
    assert draws[0].std(0).min() > 0
