"""The compiled loops against plain formulas."""

import numpy as np
import pytest
import torch

from drgn.physics import insertion, voxels
from drgn.physics.rotations import random_rotations
from drgn.physics.slices import corners

RADIUS, VOLUMES, IMAGES = 5, 3, 4


@pytest.fixture
def example():
    rng = np.random.default_rng(0)
    grid = voxels.half_grid(RADIUS, 2 * VOLUMES)
    grid[:] = rng.normal(size=grid.shape)
    # the plane z = 0 of a real volume's transform is its own mate
    voxels.complete_plane(grid, conjugate=True)
    angle = np.linspace(0, 2 * np.pi, 30, endpoint=False)
    coordinates = np.stack([np.cos(angle), np.sin(angle)], axis=1) * rng.uniform(0, RADIUS, (30, 1))
    rotation = random_rotations(IMAGES, torch.Generator().manual_seed(0)).float().numpy()
    centred = (rng.normal(size=(IMAGES, 30)) + 1j * rng.normal(size=(IMAGES, 30))).astype(np.complex64)
    weight = rng.uniform(size=(IMAGES, 30)).astype(np.float32)
    return grid, rotation, coordinates.astype(np.float32), centred, weight


def whole(grid):
    """Complete transforms (A, n, n, n), origin in the middle, with their Friedel mates."""
    values = torch.view_as_complex(torch.from_numpy(grid).unflatten(-1, (-1, 2)))
    size = 2 * RADIUS + 5
    out = torch.zeros(values.shape[-1], size, size, size, dtype=torch.complex64)
    middle = RADIUS + 2
    for z in range(-(RADIUS + 1), RADIUS + 2):
        plane = values[abs(z), :-1, :-1]
        if z < 0:
            plane = plane.flip((0, 1)).conj()
        out[:, middle + z, 1:-1, 1:-1] = plane.permute(2, 0, 1)
    return out


def slices(grid, rotation, coordinates):
    full = whole(grid)
    size = full.shape[-1]
    plane = torch.from_numpy(coordinates)
    where = (plane @ torch.from_numpy(rotation)[:, :2, :]).reshape(-1, 3) / size
    index, share = corners(where, size)
    values = torch.stack([(volume.flatten()[index] * share).sum(0) for volume in full], dim=-1)
    return values.unflatten(0, (len(rotation), -1))  # (B, P, A)


def test_statistics_are_those_of_the_slices(example):
    grid, rotation, coordinates, centred, weight = example
    gram, overlap = voxels.statistics(*example)
    s = slices(grid, rotation, coordinates)
    weighted = s.conj() * torch.from_numpy(weight).unsqueeze(-1)
    torch.testing.assert_close(
        torch.from_numpy(gram), torch.einsum("bpi,bpj->bij", weighted, s).real, atol=2e-4, rtol=1e-4
    )
    expected = (s.conj() * torch.from_numpy(centred).unsqueeze(-1)).real.sum(1)
    torch.testing.assert_close(torch.from_numpy(overlap), expected, atol=2e-4, rtol=1e-4)


def test_normal_equations_are_the_adjoint(example):
    """<slice of x, y> = <x, inserted y>, with every voxel counted with its mate."""
    grid, rotation, coordinates, centred, weight = example
    rng = np.random.default_rng(1)
    first = rng.normal(size=(IMAGES, VOLUMES)).astype(np.float32)
    second = rng.normal(size=(IMAGES, VOLUMES * (VOLUMES + 1) // 2)).astype(np.float32)
    right = voxels.half_grid(RADIUS, 2 * VOLUMES)
    left = voxels.half_grid(RADIUS, VOLUMES * (VOLUMES + 1) // 2)
    voxels.add_normal_equations(right, left, rotation, coordinates, centred, weight, first, second)
    s = slices(grid, rotation, coordinates)
    expected = (
        (s.conj() * torch.from_numpy(centred).unsqueeze(-1)).real.sum(1) * torch.from_numpy(first)
    ).sum()
    assert (right * grid).sum() == pytest.approx(float(expected), rel=1e-3)
    # the weights of a sample's corners sum to 1
    np.testing.assert_allclose(left.sum((0, 1, 2)), (weight.sum(1, keepdims=True) * second).sum(0), rtol=1e-3)


def test_a_plane_is_completed_by_its_mates():
    grid = voxels.half_grid(2, 2)
    grid[0, 3 + 1, 3 + 2] = [1.0, 5.0]
    voxels.complete_plane(grid, conjugate=True)
    assert grid[0, 3 - 1, 3 - 2].tolist() == [1.0, -5.0]
    assert grid[0, 3 + 1, 3 + 2].tolist() == [1.0, 5.0]


def test_images_of_one_volume_are_added_as_those_of_many(example):
    _, rotation, coordinates, centred, weight = example
    one = np.ones((IMAGES, 1), np.float32)
    sums = [(voxels.half_grid(RADIUS, 2), voxels.half_grid(RADIUS, 1)) for _ in range(2)]
    voxels.add_normal_equations(*sums[0], rotation, coordinates, centred, weight, one, one)
    voxels.add_images(*sums[1], rotation, coordinates, centred, weight)
    for general, quick in zip(*sums, strict=True):
        np.testing.assert_allclose(quick, general, atol=1e-5)
        assert np.abs(general).max() > 0.1


def test_torch_inserts_as_the_compiled_loop_does(example):
    """One image volume, whichever program adds: what a GPU runs is checked on the CPU."""
    _, rotation, coordinates, centred, weight = example
    grids = [voxels.half_grid(RADIUS, channels) for channels in (2, 1)]
    voxels.add_images(*grids, rotation, coordinates, centred, weight)
    others = [torch.zeros(grid.shape) for grid in grids]
    arrays = (torch.from_numpy(part) for part in (rotation, coordinates, centred, weight))
    insertion.add_images(*others, *arrays)
    for grid, other in zip(grids, others, strict=True):
        np.testing.assert_allclose(other.numpy(), grid, atol=1e-5)
