import pytest
import torch

from drgn.errors import InputError
from drgn.models import nuisance
from drgn.models.nuisance import VARIABLES, Independence
from drgn.physics.rotations import random_rotations


def taken(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    parameters = torch.zeros(n, 9)
    parameters[:, :2] = 8000 + 22000 * torch.rand(n, 1, generator=generator)
    return {
        "rotation": random_rotations(n, generator).float(),
        "shift_px": torch.randn(n, 2, generator=generator),
        "ctf_parameters": parameters,
    }


def measured(known, zdim=2, variables=VARIABLES, weight=1.0):
    penalty = Independence(zdim=zdim, variables=variables, weight=weight)
    penalty.measure(known)
    return penalty


def test_the_functions_are_white():
    known = taken(3000)
    features = measured(known).features(known).double()
    assert features.shape == (3000, 27)
    torch.testing.assert_close(features.mean(0), torch.zeros(27).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(features.T @ features / 3000, torch.eye(27).double(), atol=1e-2, rtol=0)


def test_what_does_not_vary_is_left_out():
    known = taken(500)
    known["shift_px"] = torch.zeros(500, 2)
    features = measured(known, variables=["shift", "defocus"]).features(known)
    assert features.isfinite().all()
    assert int((features.std(0) > 0.5).sum()) == 3


def test_value_and_gradient_are_those_of_the_squared_correlation(monkeypatch):
    monkeypatch.setattr(nuisance, "_HORIZON", 1)  # so that a batch is all that is known
    known = taken(400)
    penalty = measured(known, weight=7.0)
    features = penalty.features(known)
    mean = torch.randn(400, 2, generator=torch.Generator().manual_seed(1))
    mean[:, 0] += features[:, 20]
    one, two = mean.clone().requires_grad_(), mean.clone().requires_grad_()
    found = penalty.penalty(one, features)
    scaled = (two - two.mean(0)) / two.std(0, correction=0)
    expected = 7.0 * (scaled.T @ features / 400).square().sum()
    torch.testing.assert_close(found, expected.detach().expand(400))
    found.mean().backward()
    expected.backward()
    torch.testing.assert_close(one.grad, two.grad, atol=1e-5, rtol=1e-3)


def test_small_batches_take_a_latent_off_a_variable():
    known = taken(2000)
    penalty = measured(known, zdim=1, variables=["defocus"], weight=10.0)
    features = penalty.features(known)
    state = torch.randn(2000, 1, generator=torch.Generator().manual_seed(2))
    z = (state + features[:, 2:3]).requires_grad_()  # follows the defocus as much as the state
    optimizer = torch.optim.SGD([z], lr=0.1)
    order = torch.Generator().manual_seed(3)
    for _ in range(4000):
        rows = torch.randint(2000, (16,), generator=order)
        optimizer.zero_grad()
        penalty.penalty(z[rows], features[rows]).mean().backward()
        optimizer.step()

    def correlation(a, b):
        return float(torch.corrcoef(torch.cat([a, b], dim=1).T)[0, 1])

    assert abs(correlation(z.detach(), features[:, 2:3])) < 0.15  # from 0.7
    assert correlation(z.detach(), state) > 0.9


def test_there_is_none_outside_training():
    known = taken(50)
    penalty = measured(known).eval()
    assert penalty.penalty(torch.ones(50, 2), penalty.features(known)).tolist() == [0.0] * 50
    assert penalty.correlation.abs().max() == 0


def test_wrong_options_are_told():
    with pytest.raises(InputError, match=r"nuisance\.variables=\['ice'\]: expected some of view"):
        Independence(zdim=1, variables=["ice"], weight=1.0)
    with pytest.raises(InputError, match=r"nuisance\.weight=-1"):
        Independence(zdim=1, variables=["view"], weight=-1.0)


@pytest.mark.parametrize("options", [("latent=none",), ("latent=posterior", "warmstart=linear")])
def test_a_latent_that_is_not_trained_is_refused(make_model, options):
    with pytest.raises(InputError, match="needs a latent that is trained"):
        make_model(*options, "nuisance=independent")


def test_the_model_adds_it_to_what_is_minimised(make_model, batch):
    model = make_model("nuisance=independent", "latent.zdim=2")
    model.nuisance.measure(batch)
    loss = model.loss(batch)
    assert (loss.total - loss.reconstruction - 0.5 * loss.kl).abs().max() > 0
    with torch.no_grad():
        held_out = model.eval().loss(batch)
    torch.testing.assert_close(held_out.total, held_out.reconstruction + 0.5 * held_out.kl)


def test_poses_that_are_searched_are_no_nuisance_that_is_known(make_model):
    options = ("pose=search", "warmstart=subspace", "latent.zdim=2", "nuisance=independent")
    with pytest.raises(InputError, match=r"needs poses that are known: with pose=search give nuisance\."):
        make_model(*options)
    make_model(*options, "nuisance.variables=[defocus]")
