"""Volume decoders: from frequencies and a latent to the volume's Fourier transform."""

from torch import Tensor, nn

from drgn.models.mlp import ResidualMLP


class PositionalDecoder(nn.Module):
    """MLP on positionally encoded frequencies and the latent, V(k, z) (P1, P10).

    Any module with this constructor's `zdim` and this `forward` is a decoder; `box_size` and `encoding` are
    passed to constructors that ask for them.

    Parameters
    ----------
    encoding
        Module from (..., 3) to (..., out_dim).
    zdim
        Z; 0 for a homogeneous model.
    hidden_dim, layers
        Size of the network.
    """

    def __init__(self, *, encoding: nn.Module, zdim: int, hidden_dim: int, layers: int) -> None:
        super().__init__()
        self.encoding = encoding
        width = int(encoding.out_dim)  # type: ignore[arg-type]
        self.network = ResidualMLP(in_dim=width, hidden_dim=hidden_dim, layers=layers, out_dim=2)
        # the latent's share of the first layer, once per image and not once per pixel
        self.condition = nn.Linear(zdim, hidden_dim, bias=False) if zdim else None

    def forward(self, coordinates: Tensor, z: Tensor | None) -> Tensor:
        """Evaluate V.

        Parameters
        ----------
        coordinates
            (B, P, 3), cycles per pixel, in the half space z >= 0.
        z
            (B, Z), or None when zdim is 0.

        Returns
        -------
        Tensor
            (B, P, 2), real and imaginary part.
        """
        offset = None
        if self.condition is not None and z is not None:
            offset = self.condition(z)
        return self.network(coordinates, offset, self.encoding)
