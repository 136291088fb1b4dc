"""Local resolution of a map that is sharper on one side."""

import torch

from drgn.physics import masks
from drgn.physics.local_resolution import local_resolution

SIZE, PIXEL_A = 48, 3.0


def noise(seed):
    return torch.randn((SIZE,) * 3, generator=torch.Generator().manual_seed(seed))


def test_each_side_has_its_resolution():
    # the same in both maps up to 20 A on the left and up to 9 A on the right, noise beyond
    signal = noise(0)
    right = torch.zeros((SIZE,) * 3)
    right[:, :, SIZE // 2 :] = 1

    def half(seed):
        mine = noise(seed)
        coarse, fine = (
            masks.low_pass(signal, PIXEL_A, d) + mine - masks.low_pass(mine, PIXEL_A, d) for d in (20.0, 9.0)
        )
        return coarse * (1 - right) + fine * right

    found = local_resolution(half(1), half(2), PIXEL_A, window_A=40.0)
    near = slice(10, -10)
    left_A = found[near, near, 6:14].median()
    right_A = found[near, near, -14:-6].median()
    assert 17 < left_A < 23
    assert 8 < right_A < 10.5
    alone = local_resolution(noise(3), noise(4), PIXEL_A, window_A=40.0)
    assert alone.median() > SIZE * PIXEL_A / 4  # nothing in common
