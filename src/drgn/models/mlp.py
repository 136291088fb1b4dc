"""Fully connected networks."""

from torch import Tensor, nn


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
        self.first = nn.Linear(in_dim, hidden_dim)
        self.hidden = nn.ModuleList(nn.Linear(hidden_dim, hidden_dim) for _ in range(layers))
        self.last = nn.Linear(hidden_dim, out_dim)

    def forward(self, x: Tensor, offset: Tensor | None = None) -> Tensor:
        """Map (..., in_dim) to (..., out_dim); `offset` is added before the first ReLU."""
        x = self.first(x)
        if offset is not None:
            x = x + offset
        x = x.relu()
        for layer in self.hidden:
            x = (x + layer(x)).relu()
        return self.last(x)
