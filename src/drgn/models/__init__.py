"""Neural networks and the model they make up, as plain `torch.nn.Module`s.

Shapes in this package: B images, P frequencies of an image's half lattice, Z latent dimensions, D box size.
Complex values travel through networks as a last axis of two (real, imaginary).
"""
