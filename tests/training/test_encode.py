"""What is said of images that cannot be used."""

from types import SimpleNamespace

import numpy as np
import torch

from drgn.training.encode import Encoded, complete


def test_an_image_that_cannot_be_used_has_the_latent_of_its_particle_or_the_prior():
    """Images 1 and 3 cannot be used: 1 shows the particle that 0 shows, and 3 alone its own."""
    z = np.array([[1.0, 2.0], [9.0, 9.0], [3.0, 4.0], [9.0, 9.0]], np.float32)
    encoded = Encoded(z=z, logvar=-z, reconstruction_loss=np.array([1.1, 0.0, 1.3, 0.0], np.float32))
    rejected = np.array([False, True, False, True])
    complete(encoded, SimpleNamespace(rejected=rejected, group=torch.tensor([5, 5, 0, 2])))
    assert encoded.z.tolist() == [[1, 2], [1, 2], [3, 4], [0, 0]]
    assert encoded.logvar.tolist() == [[-1, -2], [-1, -2], [-3, -4], [0, 0]]
    assert encoded.reconstruction_loss.tolist() == np.array([1.1, 1.3, 1.3, 1.3], np.float32).tolist()
