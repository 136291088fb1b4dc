"""Two reconstructors that share nothing which could make their noise agree."""

import pytest
import torch

from drgn.errors import InputError
from drgn.models.classes import Classes
from drgn.models.halves import Halves
from drgn.models.modes import LinearModes

WAYS = [
    ["warmstart=subspace", "warmstart.modes=3", "latent.zdim=2"],
    ["latent.zdim=2", "warmstart=none"],
    ["latent=none"],
    ["latent=table", "latent.zdim=2", "warmstart=subspace"],
]
each_way = pytest.mark.parametrize("words", WAYS, ids=" ".join)
HALF = torch.tensor([1, 0, 0, 1])


@pytest.fixture
def made(make_model, batch):
    """Words -> a model with volumes where it has a basis, and a batch of both halves."""

    def make(words):
        model = make_model("half_sets=random", *words)
        for basis in model.bases:
            basis.density.normal_(generator=torch.Generator().manual_seed(len(words)))
        return model, {**batch, "half": HALF}

    return make


def own(model, number):
    """Parameters of one half alone."""
    one, two = ({id(p): p for p in part.parameters()} for part in model.reconstructors)
    mine, other = (one, two) if number == 0 else (two, one)
    return [p for key, p in mine.items() if key not in other]


@each_way
def test_images_of_one_half_give_the_other_no_gradient(made, words):
    model, batch = made(words)
    for number in (0, 1):
        model.zero_grad()
        loss = model.loss(batch).total
        loss[number == HALF].sum().backward()
        for p in own(model, 1 - number):
            assert p.grad is None or (p.grad == 0).all()
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in own(model, number))


@each_way
def test_decoders_and_with_a_basis_encoders_are_apart(made, words):
    model, _ = made(words)
    one, two = ({id(p) for p in part.parameters()} for part in model.reconstructors)
    shared = {name for name, p in model.named_parameters() if id(p) in one & two}
    allowed = {"subspace": ("parts.0.basis.",), "table": ("parts.0.basis.", "parts.0.latent.")}
    start = "subspace" if words[0].startswith("warmstart") else "table" if "table" in words[0] else None
    assert all(name.startswith(allowed.get(start, ("parts.0.latent.",))) for name in shared)
    decoders = [part.decoder.state_dict() for part in model.reconstructors]
    assert not torch.equal(decoders[0]["network.first.weight"], decoders[1]["network.first.weight"])
    for part in model.reconstructors:
        assert all(id(p) not in one & two for p in part.decoder.parameters())


@each_way
def test_each_image_is_predicted_by_its_half(made, words):
    model, batch = made(words)
    model.eval()
    with torch.no_grad():
        found, loss = model(batch), model.loss(batch)
        for i, number in enumerate(HALF):
            single = {name: value[i : i + 1] for name, value in batch.items()}
            part = model.reconstructors[number]
            expected, of_image = part(single), part.loss(single)
            torch.testing.assert_close(found.image[i], expected.image[0])
            torch.testing.assert_close(loss.total[i], of_image.total[0])
            if found.posterior is not None:
                torch.testing.assert_close(found.posterior.mean[i], expected.posterior.mean[0])
        z = None if not model.zdim else torch.randn(2, model.zdim)
        halves = list(model.half_volumes(z))
        for mean, (one, two) in zip(model.volumes(z), halves, strict=True):
            torch.testing.assert_close(mean, (one + two) / 2)
    if "latent=none" in words:
        assert len(halves) == 1


def test_images_of_one_particle_share_its_latent(made):
    model, batch = made(WAYS[1])
    batch["group"] = torch.tensor([5, 2, 2, 5])
    posterior = model.eval().posterior(batch)
    first = posterior.particle
    assert first[0] == first[3] != first[1] == first[2]
    torch.testing.assert_close(posterior.mean[0], posterior.mean[3])
    # a particle's divergence is shared out over its images
    whole = 0.5 * (posterior.mean**2 + posterior.logvar.exp() - posterior.logvar - 1).sum(1)
    torch.testing.assert_close(posterior.kl(), whole / 2)


def test_a_batch_of_one_half_reaches_every_weight(made):
    """Processes that train together wait for the gradients of all."""
    model, batch = made(WAYS[0])
    loss = model.loss({**batch, "half": torch.zeros(4, dtype=torch.int64)})
    loss.total.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert all((p.grad == 0).all() for p in own(model, 1))


def test_a_table_alone_would_not_bring_latents_together(make_model):
    with pytest.raises(InputError, match="latent=table with half_sets needs volumes"):
        make_model("half_sets=given", "latent=table", "latent.zdim=2", "warmstart=none")
    assert isinstance(make_model("half_sets=given", "latent=none"), Halves)


def test_modes_are_turned_onto_those_of_the_other_half():
    torch.manual_seed(0)
    one, two = (LinearModes(box_size=32, zdim=4) for _ in range(2))
    one.density.normal_()
    turn, _ = torch.linalg.qr(torch.randn(4, 4))
    two.density[0] = 7.0  # the mean stays
    two.density[1:] = torch.einsum("ij,jzyx->izyx", turn, one.density[1:])
    two.turn_onto(one)
    torch.testing.assert_close(two.density[1:], one.density[1:], atol=1e-4, rtol=0)
    assert (two.density[0] == 7).all()


def test_nothing_of_high_resolution_decides_the_turn():
    """Noise of the other half beyond eight Fourier pixels does not change the turn."""
    torch.manual_seed(0)
    one, two, again = (LinearModes(box_size=32, zdim=3) for _ in range(3))
    wave = torch.cos(torch.arange(one.side) * (2 * torch.pi * 10 / one.side))
    one.density.normal_()
    two.density.normal_()
    again.load_state_dict(two.state_dict())
    two.turn_onto(one)
    one.density += 100 * wave
    again.turn_onto(one)
    torch.testing.assert_close(again.density, two.density, atol=1e-2, rtol=0)
    one.density *= -1
    again.turn_onto(one)
    assert (again.density[1:] - two.density[1:]).abs().max() > 1


def test_classes_are_put_in_the_order_of_the_other_half():
    torch.manual_seed(0)
    one, two = (Classes(box_size=32, zdim=3) for _ in range(2))
    one.density.normal_()
    order = torch.tensor([2, 0, 1])
    two.density.copy_(one.density[order])
    two.share.copy_(torch.tensor([0.2, 0.5, 0.3]))
    two.turn_onto(one)
    torch.testing.assert_close(two.density, one.density)
    torch.testing.assert_close(two.share, torch.tensor([0.5, 0.3, 0.2]))


def test_what_a_decoder_says_lies_in_its_own_frame(make_model):
    """A constant in Fourier space is a point at the decoder's origin, and the frame turns about it."""
    model = make_model("latent=none", seed=0)

    class Wave(torch.nn.Module):
        def forward(self, coordinates, z):
            phase = 2 * torch.pi * 3 * coordinates[..., 0]  # a point at x = 3
            return torch.stack([phase.cos(), -phase.sin()], dim=-1)

    model.decoder = Wave()
    quarter = torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    places = []
    for turn, origin in ((None, None), (torch.eye(3), torch.tensor([2.0, 0, -1])), (quarter, torch.zeros(3))):
        model.place_decoder(turn, origin)
        volume = model.volume(None)
        z, y, x = (int(i) - 8 for i in torch.unravel_index(volume.argmax(), volume.shape))
        places.append((x, y, z))
    assert places == [(3, 0, 0), (5, 0, -1), (0, -3, 0)]


def test_the_frames_of_two_halves_are_apart(make_model):
    one, two = make_model("half_sets=random", "latent=none").reconstructors
    assert (one.origin_px - two.origin_px).norm() == pytest.approx(16 / 6)
    assert not torch.allclose(one.turn, two.turn, atol=0.1)
    assert not any("turn" in name or "origin" in name for name in one.state_dict())
