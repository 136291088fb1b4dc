import pytest
import torch

from drgn.errors import InputError
from drgn.models.encoders import BackProjectingEncoder, MLPEncoder, Observation
from drgn.physics import imaging, slices
from drgn.physics.grids import half_lattice
from drgn.physics.rotations import from_euler, random_rotations

BOX = 16


def seen(rotation, seed=0, n=None):
    """Return random images in single precision in the given orientations."""
    n, generator = len(rotation), torch.Generator().manual_seed(seed)
    pixels = len(half_lattice(BOX, 2))
    return Observation(
        row=torch.arange(n),
        group=torch.arange(n),
        centred=torch.randn(n, pixels, dtype=torch.complex64, generator=generator),
        weight=torch.rand(n, pixels, generator=generator),
        rotation=rotation.float(),
    )


def encoder(radius_px=8.0, box_size=BOX):
    torch.manual_seed(0)
    return BackProjectingEncoder(box_size=box_size, zdim=3, hidden_dim=16, layers=1, radius_px=radius_px)


def quarter_turn(observation):
    """Turn image and pose together by 90 degrees in the plane of the image: the same observation."""
    lattice = half_lattice(BOX, 2)
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])

    def turned(values):
        transform = lattice.scatter(values)
        # F'(k) = F(turn^-1 k): axes [y, x], the origin at the element D // 2
        moved = torch.rot90(transform[:, 1:, 1:], -1, (-2, -1))
        out = torch.zeros_like(transform)
        out[:, 1:, 1:] = moved
        return lattice.gather(out)

    return Observation(
        row=observation.row,
        group=observation.group,
        centred=turned(observation.centred),
        weight=turned(observation.weight.to(torch.complex64)).real,
        rotation=turn @ observation.rotation,
    )


def test_the_turned_observation_is_of_the_same_volume():
    # a check of `quarter_turn` itself: an image of a volume, turned, is its image in the turned pose
    generator = torch.Generator().manual_seed(1)
    volume = torch.randn(8, 8, 8, generator=generator)
    transform = slices.padded_transform(torch.nn.functional.pad(volume, (4,) * 6))
    rotation = random_rotations(5, generator).float()
    plane = half_lattice(BOX, 2).frequencies

    def images(r):  # an even box has no voxel at +Nyquist to interpolate with
        inside = plane.norm(dim=1) < 0.45
        return slices.extract(transform, imaging.slice_coordinates(plane, r)) * inside

    start = seen(rotation)._replace(centred=images(rotation))
    turned = quarter_turn(start)
    torch.testing.assert_close(turned.centred, images(turned.rotation), atol=1e-3, rtol=1e-3)
    assert (turned.centred - start.centred).abs().max() > 1


@pytest.mark.parametrize("tilt_deg", [0.0, 0.5, 37.0, 90.0, 180.0])
def test_features_do_not_depend_on_the_rotation_in_the_plane(tilt_deg):
    rotation = from_euler(torch.tensor([[20.0, tilt_deg, 50.0], [0.0, tilt_deg, 0.0]]))
    observation = seen(rotation)
    features = encoder().features(observation)
    torch.testing.assert_close(encoder().features(quarter_turn(observation)), features, atol=1e-4, rtol=1e-4)
    assert features.abs().max() > 0.1


@pytest.mark.parametrize("radius_px", [8.0, 5.0, 3.5])
@pytest.mark.parametrize("tilted", [True, False])
def test_features_are_what_back_projection_adds_up(radius_px, tilted):
    rotation = (
        random_rotations(3, torch.Generator().manual_seed(2)) if tilted else torch.eye(3).expand(3, 3, 3)
    )
    model, observation = encoder(radius_px), seen(rotation)
    n, size = len(model.frequencies), model.grid_size
    assert n == int((half_lattice(BOX, 2).frequencies.norm(dim=1) * BOX < radius_px).sum())
    lattice = half_lattice(size, 3, radius_px)
    for i, features in enumerate(model.features(observation)):
        coordinates = half_lattice(BOX, 2).frequencies[:n] @ observation.rotation[i, :2] * BOX / size
        total, weight = slices.insert(
            observation.centred[i, :n], observation.weight[i, :n], coordinates, size
        )
        torch.testing.assert_close(
            torch.complex(features[:, 0], features[:, 1]), lattice.gather(total), atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(features[:, 2], lattice.gather(weight), atol=1e-5, rtol=1e-4)


def test_high_frequencies_are_not_looked_at():
    observation = seen(random_rotations(2, torch.Generator().manual_seed(0)))
    model = encoder(radius_px=5.0)
    n = len(model.frequencies)
    other = observation.centred.clone()
    other[:, n:] = 100.0
    assert torch.equal(model.features(observation._replace(centred=other)), model.features(observation))


def test_a_radius_beyond_the_image_is_its_nyquist():
    assert encoder(radius_px=50.0).grid_size == encoder(radius_px=8.0).grid_size
    assert len(encoder(radius_px=50.0).frequencies) == len(half_lattice(BOX, 2))


def test_features_are_of_order_one_for_noise_of_variance_one():
    rotation = random_rotations(64, torch.Generator().manual_seed(0))
    features = 8 * encoder(radius_px=8.0).features(seen(rotation))
    assert 0.3 < features[..., :2].std() < 5


def test_the_mlp_encoder_scales_its_input_by_signal_and_noise():
    amplitude = torch.tensor([0.0, 3.0])
    model = MLPEncoder(amplitude=amplitude, zdim=1, hidden_dim=4, layers=1)
    torch.testing.assert_close(model.scale, torch.tensor([1.0, 10**-0.5]))


@pytest.mark.parametrize("radius_px", [-2.0, 0.0, 1.0, float("nan")])
def test_a_radius_without_frequencies_is_refused(radius_px):
    with pytest.raises(InputError, match=r"^model\.encoder\.radius_px=\S+: expected more than 1$"):
        encoder(radius_px)
    assert encoder(1.5).n_voxels > 1
