"""What every component that conf/ offers must do: a new YAML is tested without a line here."""

import copy
import io

import pytest
import torch

from drgn.hints import groups
from drgn.models.encoders import Observation
from drgn.models.latents import Posterior
from drgn.physics import imaging

CHOICES = groups("train")
ENCODINGS, DECODERS = CHOICES["model/encoding"], CHOICES["model/decoder"]
ENCODERS = CHOICES["model/encoder"]
# posterior is what the volumes of a warm start infer, and has no part of its own
LATENTS = [choice for choice in CHOICES["latent"] if choice != "posterior"]
Z = 3


def of_latent(choice):
    return [f"latent={choice}", *([] if choice == "none" else [f"latent.zdim={Z}"])]


MODELS = [
    *([f"model/encoding={e}", f"model/decoder={d}", *of_latent("vae")] for e in ENCODINGS for d in DECODERS),
    *([f"model/encoder={e}", *of_latent("vae")] for e in ENCODERS),
    *(of_latent(choice) for choice in LATENTS),
]
each_model = pytest.mark.parametrize("overrides", MODELS, ids=" ".join)


def observation(model, batch):
    """Return what the latent of a model is shown of a batch."""
    seen = []
    handle = model.latent.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    model.posterior(batch)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("choice", ENCODINGS)
def test_an_encoding_gives_out_dim_numbers_in_single_precision(make_model, choice):
    encoding = make_model(f"model/encoding={choice}").decoder.encoding
    coordinates = torch.rand(2, 5, 3) - 0.5
    expected = encoding(coordinates)
    assert expected.shape == (2, 5, encoding.out_dim)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = encoding(coordinates)
    assert out.dtype == torch.float32
    assert torch.equal(out, expected)
    torch.testing.assert_close(encoding(coordinates[1, 2:3]), expected[1, 2:3], atol=1e-5, rtol=0)


@pytest.mark.parametrize("choice", ENCODINGS)
def test_an_encoding_tells_neighbouring_frequencies_apart(make_model, choice):
    encoding = make_model(f"model/encoding={choice}").decoder.encoding
    axis = torch.arange(-8, 8) / 16
    grid = encoding(torch.cartesian_prod(axis, axis, axis[8:]))
    distance = torch.cdist(grid[::7], grid)
    distance[torch.arange(len(grid[::7])), torch.arange(len(grid))[::7]] = torch.inf
    assert distance.min() > 0.05


@pytest.mark.parametrize("choice", DECODERS)
def test_a_decoder_answers_each_image_by_its_own_latent(make_model, choice):
    decoder = make_model(f"model/decoder={choice}", *of_latent("vae")).decoder
    k, z = (torch.rand(4, 9, 3) - 0.5).abs(), torch.randn(4, Z)
    out = decoder(k, z)
    assert out.shape == (4, 9, 2)
    torch.testing.assert_close(decoder(k[2:3], z[2:3]), out[2:3])
    torch.testing.assert_close(decoder(k[:, 3:5], z), out[:, 3:5])
    assert (decoder(k, z.flip(0)) - out).abs().max() > 1e-4


@pytest.mark.parametrize("choice", DECODERS)
def test_a_decoder_works_without_a_latent(make_model, choice):
    decoder = make_model(f"model/decoder={choice}", "latent=none").decoder
    assert decoder(torch.rand(4, 9, 3), None).shape == (4, 9, 2)


@pytest.mark.parametrize("choice", ENCODERS)
def test_an_encoder_reads_each_image_alone(make_model, batch, choice):
    model = make_model(f"model/encoder={choice}", *of_latent("vae"))
    seen = observation(model, batch)
    mean, logvar = model.latent.encoder(seen)
    assert mean.shape == logvar.shape == (4, Z)
    for i in range(4):
        alone = model.latent.encoder(
            Observation(*(None if part is None else part[i : i + 1] for part in seen))
        )
        torch.testing.assert_close(alone[0], mean[i : i + 1])
        torch.testing.assert_close(alone[1], logvar[i : i + 1])
    assert (mean[0] - mean[1]).abs().max() > 1e-4


@pytest.mark.parametrize("choice", ENCODERS)
@pytest.mark.parametrize("size", [0.0, 1e6])
def test_an_encoder_gives_a_usable_posterior_for_any_image(make_model, batch, choice, size):
    batch["image"] *= size
    posterior = make_model(f"model/encoder={choice}", *of_latent("vae")).posterior(batch)
    assert posterior.kl().isfinite().all()
    assert posterior.sample(0).isfinite().all()


@pytest.mark.parametrize("choice", LATENTS)
def test_a_latent_gives_a_posterior_of_its_dimension_or_none(make_model, batch, choice):
    model = make_model(*of_latent(choice))
    assert model.zdim == model.latent.zdim == (0 if choice == "none" else Z)
    posterior = model.posterior(batch)
    if model.zdim == 0:
        assert posterior is None
    else:
        assert isinstance(posterior, Posterior)
        assert posterior.mean.shape == posterior.logvar.shape == (4, Z)


@each_model
def test_images_of_one_particle_share_a_latent(make_model, batch, overrides):
    model = make_model(*overrides)
    batch["group"] = torch.tensor([5, 3, 5, 5])
    posterior = model.posterior(batch)
    if posterior is None:
        return
    draw = posterior.sample(0)
    for values in (posterior.mean, posterior.logvar, draw):
        assert torch.equal(values[[0, 2]], values[[2, 3]])
    assert not torch.equal(draw[0], draw[1])
    order = torch.tensor([2, 1, 3, 0])
    other = model.posterior({name: value[order] for name, value in batch.items()})
    torch.testing.assert_close(other.mean, posterior.mean[order])
    torch.testing.assert_close(other.logvar, posterior.logvar[order])
    alone = model.posterior({name: value[1:2] for name, value in batch.items()})
    torch.testing.assert_close(alone.mean, posterior.mean[1:2])
    torch.testing.assert_close(alone.logvar, posterior.logvar[1:2])


@each_model
def test_results_are_in_single_precision_under_autocast(make_model, batch, overrides):
    model = make_model(*overrides).eval()
    exact = model.loss(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction, loss = model(batch), model.loss(batch)
    assert prediction.image.dtype == prediction.residual.dtype == torch.complex64
    assert {part.dtype for part in loss} == {torch.float32}
    if prediction.posterior is not None:
        assert {part.dtype for part in prediction.posterior[:2]} == {torch.float32}
    for part, reference in zip(loss, exact, strict=True):
        torch.testing.assert_close(part, reference, rtol=0.02, atol=0.02)


@each_model
def test_the_gradient_reaches_every_parameter(make_model, batch, overrides):
    model = make_model(*overrides)
    model.loss(batch).total.sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    used = {"latent.encoder", "decoder"} if "table" not in overrides[0] else {"latent.mean", "decoder"}
    assert [name for name in without if name.startswith(tuple(used))] == []
    assert without == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


@each_model
def test_weights_survive_the_disk(make_model, batch, overrides):
    model = make_model(*overrides, seed=1).eval()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = make_model(*overrides, seed=2).eval()
    assert not torch.equal(other(batch).image, model(batch).image)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(batch).image, model(batch).image)
    assert torch.equal(other.volume(*latent_of(other)), model.volume(*latent_of(model)))


def latent_of(model):
    return (None,) if model.zdim == 0 else (torch.linspace(-1, 1, model.zdim),)


@each_model
def test_a_seed_decides_everything(make_model, batch, overrides):
    losses = []
    for seed in (5, 5, 6):
        model = make_model(*overrides, seed=seed)
        losses.append(model.loss(batch).total)  # draws a latent
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])


@each_model
def test_a_volume_is_a_finite_real_box(make_model, batch, overrides):
    model = make_model(*overrides)
    before = copy.deepcopy(model.state_dict())
    volume = model.volume(*latent_of(model))
    assert volume.shape == (16, 16, 16)
    assert volume.dtype == torch.float32
    assert volume.isfinite().all()
    assert volume.std() > 0
    assert not volume.requires_grad
    torch.testing.assert_close(model.volume(*latent_of(model), chunk=100), volume)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_images_of_other_pixels_see_the_volume_at_its_own_frequencies(make_model, batch):
    model = make_model().eval()
    alike = model(batch)
    ones = model({**batch, "frequency_scale": torch.ones(4)})
    torch.testing.assert_close(ones.image, alike.image, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ones.posterior.mean, alike.posterior.mean, rtol=1e-4, atol=1e-5)
    # an image whose pixel is larger than the volume's reaches less far into its transform
    scale = torch.tensor([1.0, 0.9, 0.95, 1.0])
    scaled = model({**batch, "frequency_scale": scale})
    z = scaled.posterior.mean
    coordinates = imaging.slice_coordinates(model.frequencies, batch["rotation"]) * scale[:, None, None]
    slices_ = model._decoded(*imaging.fold(coordinates), model._amplitude_at(coordinates), z)
    contrast, phase = model._transfer(batch, batch["shift_px"])
    expected = imaging.observe(slices_, contrast * model._multiplied(batch).factor, phase)
    torch.testing.assert_close(scaled.image, expected, rtol=1e-4, atol=1e-4)
    changed = (scaled.posterior.mean - alike.posterior.mean).abs().amax(1)
    assert changed[[0, 3]].max() < 1e-5 < changed[[1, 2]].min(), (
        "the encoder puts the image at its own frequencies"
    )


@each_model
def test_volumes_made_together_are_those_made_one_by_one(make_model, overrides):
    model = make_model(*overrides)
    if model.zdim == 0:
        (together,) = model.volumes(None)
        torch.testing.assert_close(together, model.volume(None))
        return
    z = torch.randn(3, model.zdim)
    assert list(model.volumes(z[:0])) == []
    for volume, one in zip(model.volumes(z), z, strict=True):
        alone = model.volume(one)
        torch.testing.assert_close(volume, alone, rtol=1e-4, atol=1e-5 * float(alone.abs().max()))
