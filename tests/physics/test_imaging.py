"""The forward model as a whole: where a point lands, and what comes back from an image."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from drgn.physics import fourier
from drgn.physics.grids import half_lattice
from drgn.physics.imaging import (
    Multiplied,
    fold,
    information,
    matched_filter,
    multiplier,
    observe,
    slice_coordinates,
    transfer,
    whitened_residual,
    with_noise,
)
from drgn.physics.phantoms import GaussianPhantom
from drgn.physics.rotations import from_quaternion, random_rotations

PIXEL_A = 3.0
# 90 degrees of phase shift and no defocus: a perfect phase plate, CTF = sqrt(1 - w^2) everywhere
PLATE = [0.0, 0.0, 0.0, 90.0, 300.0, 0.0, 0.1, 0.0, 1.0]
DEFOCUSED = [15000.0, 13000.0, 30.0, 0.0, 300.0, 2.7, 0.1, 0.0, 1.0]


def _point(centre_A, sigma_A=6.0):
    one = torch.ones(1, dtype=torch.float64)
    return GaussianPhantom(torch.tensor([centre_A], dtype=torch.float64), one * sigma_A, one)


def _model(phantom, rotation, shift_px, parameters, size):
    """Return lattice, slices, CTF, phase of images of a phantom."""
    lattice = half_lattice(size, 2)
    frequencies = lattice.frequencies.double()
    n = len(rotation)
    contrast, phase = transfer(
        frequencies,
        torch.full((n,), PIXEL_A, dtype=torch.float64),
        torch.tensor(parameters, dtype=torch.float64).expand(n, 9),
        shift_px,
    )
    return lattice, phantom.fourier(slice_coordinates(frequencies / PIXEL_A, rotation)), contrast, phase


@pytest.mark.parametrize("size", [48, 49])
def test_a_point_lands_at_R_r_minus_the_shift_and_is_bright(size):
    rotation = random_rotations(8, torch.Generator().manual_seed(0))
    shift_px = 6 * torch.rand(8, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 3
    centre = (24.0, -9.0, 15.0)
    lattice, slices, contrast, phase = _model(_point(centre), rotation, shift_px, PLATE, size)
    image = fourier.ifft(lattice.scatter(observe(slices, contrast, phase)), 2).real
    expected = (rotation @ torch.tensor(centre).double())[:, :2] / PIXEL_A - shift_px
    image = (image - image.amax((1, 2), keepdim=True) / 2).clamp_min(0)  # the spot alone
    axis = torch.arange(size, dtype=torch.float64) - size // 2
    mass = image.sum((1, 2))
    x, y = (image * axis).sum((1, 2)) / mass, (image * axis[:, None]).sum((1, 2)) / mass
    torch.testing.assert_close(torch.stack([x, y], dim=1), expected, atol=0.06, rtol=0)


def test_slice_coordinates_are_the_plane_turned_back():
    rotation = random_rotations(3, torch.Generator().manual_seed(0))
    plane = half_lattice(8, 2).frequencies.double()
    coordinates = slice_coordinates(plane, rotation)
    k3 = torch.nn.functional.pad(plane, (0, 1))
    for i in range(3):
        torch.testing.assert_close(coordinates[i], (rotation[i].T @ k3.T).T)
    torch.testing.assert_close(coordinates.norm(dim=-1), plane.norm(dim=-1).expand(3, -1))


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: sum(x * x for x in q) > 1e-3))
def test_fold_obeys_friedels_law(q):
    rotation = from_quaternion(torch.tensor([q], dtype=torch.float64))
    coordinates = slice_coordinates(half_lattice(8, 2).frequencies.double(), rotation)
    phantom = GaussianPhantom(
        torch.tensor([[1.0, 0.5, -0.25], [-0.7, 0.2, 0.9]], dtype=torch.float64),
        torch.full((2,), 0.3, dtype=torch.float64),
        torch.tensor([1.0, 2.0], dtype=torch.float64),
    )
    folded, sign = fold(coordinates)
    assert (folded[..., 2] >= 0).all()
    assert set(sign.unique().tolist()) <= {1.0, -1.0}
    values = phantom.fourier(folded)
    torch.testing.assert_close(torch.complex(values.real, values.imag * sign), phantom.fourier(coordinates))


def test_fold_keeps_single_precision():
    folded, sign = fold(torch.tensor([[0.1, -0.2, -0.3]]))
    assert folded.dtype == sign.dtype == torch.float32
    torch.testing.assert_close(folded, torch.tensor([[-0.1, 0.2, 0.3]]))
    assert sign.tolist() == [-1.0]


def test_transfer_uses_each_images_own_pixel_size():
    frequencies = half_lattice(16, 2).frequencies.double()
    parameters = torch.tensor([DEFOCUSED, DEFOCUSED], dtype=torch.float64)
    shift = torch.zeros(2, 2, dtype=torch.float64)
    both, _ = transfer(frequencies, torch.tensor([2.0, 3.0]).double(), parameters, shift)
    # the same spatial frequency in 1/A has the same CTF
    rescaled, _ = transfer(frequencies * 1.5, torch.tensor([3.0, 3.0]).double(), parameters, shift)
    torch.testing.assert_close(both[0], rescaled[0])
    assert not torch.allclose(both[0], both[1])


def _images(premultiplied, noise, seed=0):
    """Return image, slices, CTF, phase and the flag of four images whose noise has the given size."""
    generator = torch.Generator().manual_seed(seed)
    rotation = random_rotations(4, generator)
    shift = 4 * torch.rand(4, 2, generator=generator, dtype=torch.float64)
    _, slices, contrast, phase = _model(_point((24.0, -9.0, 15.0), 3.0), rotation, shift, DEFOCUSED, 64)
    image = observe(slices, contrast, phase)
    image = image + noise * torch.randn(image.shape, dtype=image.dtype, generator=generator)
    if premultiplied:
        image = image * contrast
    factor = contrast if premultiplied else torch.ones_like(contrast)
    return image, slices, contrast, phase, Multiplied(factor, factor.abs())


@pytest.mark.parametrize("premultiplied", [False, True])
def test_the_true_model_leaves_no_residual(premultiplied):
    residual = whitened_residual(*_images(premultiplied, noise=0.0))
    assert residual.abs().max() < 1e-12


@pytest.mark.parametrize("premultiplied", [False, True])
def test_the_residual_is_white_noise_of_variance_one(premultiplied):
    image, slices, contrast, phase, flag = _images(premultiplied, noise=1.0)
    residual = whitened_residual(image, slices, contrast, phase, flag)
    strong = contrast.abs() > 0.5
    assert residual[strong].abs().square().mean().item() == pytest.approx(1.0, abs=0.05)
    weak = contrast.abs() < 0.05
    if premultiplied:  # nothing is divided by a vanishing CTF
        assert residual[weak].abs().square().mean() < 0.2
    else:
        assert residual[weak].abs().square().mean().item() == pytest.approx(1.0, abs=0.25)


def test_a_mixed_batch_treats_each_image_by_its_own_flag():
    plain, slices, contrast, phase, _ = _images(premultiplied=False, noise=0.0)
    multiplied = _images(premultiplied=True, noise=0.0)[0]
    flag = torch.tensor([False, True, False, True])
    image = torch.where(flag[:, None], multiplied, plain)
    factors = (torch.where(f[:, None], contrast, 1.0) for f in (flag, ~flag))
    right, wrong = (Multiplied(factor, factor.abs()) for factor in factors)
    assert whitened_residual(image, slices, contrast, phase, right).abs().max() < 1e-12
    assert whitened_residual(image, slices, contrast, phase, wrong).abs().max() > 0.1


@pytest.mark.parametrize("premultiplied", [False, True])
def test_matched_filter_centres_the_image_and_squares_its_ctf(premultiplied):
    image, slices, contrast, phase, flag = _images(premultiplied, noise=0.0)
    filtered = matched_filter(image, contrast, phase, flag)
    seen = flag.factor.abs() >= 0.1  # less is not divided by
    torch.testing.assert_close(filtered[seen], (slices * contrast.square())[seen])
    assert (filtered[~seen].abs() <= (slices * contrast.square())[~seen].abs()).all()
    weight = information(contrast, flag)  # which knows what is not divided by
    torch.testing.assert_close(filtered, slices * weight)
    if not premultiplied:
        assert torch.equal(weight, contrast.square())


def test_a_phase_flipped_image_is_its_recorded_one_times_the_sign_of_the_ctf():
    image, slices, contrast, phase, _ = _images(premultiplied=False, noise=0.0)
    frequencies = half_lattice(64, 2).frequencies.double()
    pixel_A = torch.full((4,), PIXEL_A, dtype=torch.float64)
    yes, no = torch.ones(4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool)
    parameters = torch.tensor(DEFOCUSED, dtype=torch.float64).expand(4, -1)
    sign = multiplier(frequencies, pixel_A, parameters, no, yes)
    assert set(sign.unique().tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(sign, multiplier(frequencies, pixel_A, parameters, yes, no).sign())
    signed = with_noise(sign, frequencies, pixel_A, parameters, no, torch.full((4,), 200.0))
    assert (signed.noise == 1).all()  # noise times a sign is noise: there are no zeros
    residual = whitened_residual(image * sign, slices, contrast, phase, signed)
    assert residual.abs().max() < 1e-12
    one = Multiplied(torch.ones_like(sign), torch.ones_like(sign))
    torch.testing.assert_close(
        matched_filter(image * sign, contrast, phase, signed),
        matched_filter(image, contrast, phase, one),
    )
    assert torch.equal(information(contrast, signed), contrast.square())
