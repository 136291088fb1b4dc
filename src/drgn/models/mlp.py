"""Fully connected networks."""

from collections.abc import Callable

from torch import Tensor, nn

from drgn.errors import InputError
from drgn.models import blocks


class ResidualMLP(nn.Module):
    """ReLU network whose hidden layers add to their input; "width x layers" in the paper's notation (P11).

    Parameters
    ----------
    in_dim, out_dim
        Widths of input and output.
    hidden_dim, layers
        Width and number of the hidden layers.
    """

    def __init__(self, *, in_dim: int, hidden_dim: int, layers: int, out_dim: int) -> None:
        super().__init__()
        if hidden_dim < 1:
            raise InputError(f"model.hidden_dim={hidden_dim}: expected at least 1")
        self.first = nn.Linear(in_dim, hidden_dim)
        self.hidden = nn.ModuleList(nn.Linear(hidden_dim, hidden_dim) for _ in range(layers))
        self.last = nn.Linear(hidden_dim, out_dim)

    def forward(
        self, x: Tensor, offset: Tensor | None = None, encoding: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Map (..., in_dim) to (..., out_dim).

        Parameters
        ----------
        x
            (N, P, in_dim), or (..., in_dim) without an offset; before the encoding where there is one.
        offset
            (N, hidden_dim), added before the first ReLU to the P rows of each of the N.
        encoding
            What x goes through first.
        """
        if blocks.suits(x):
            if encoding is not None and x.requires_grad:
                x, encoding = encoding(x), None
            rows = x if offset is not None else x.reshape(1, -1, x.shape[-1])
            layers = [(layer.weight, layer.bias) for layer in (self.first, *self.hidden, self.last)]
            return blocks.network(rows, offset, layers, encoding).view(*x.shape[:-1], -1)
        x = self.first(x if encoding is None else encoding(x))
        if offset is not None:
            x = x + offset.unsqueeze(-2)
        x = x.relu()
        for layer in self.hidden:
            x = (x + layer(x)).relu()
        return self.last(x)
