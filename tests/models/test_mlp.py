import pytest
import torch

from drgn.errors import InputError
from drgn.models.mlp import ResidualMLP


def _set(layer, weight, bias):
    with torch.no_grad():
        layer.weight.fill_(weight)
        layer.bias.fill_(bias)


def test_by_hand():
    network = ResidualMLP(in_dim=1, hidden_dim=1, layers=2, out_dim=1)
    _set(network.first, 2.0, 1.0)
    _set(network.hidden[0], -3.0, 4.0)
    _set(network.hidden[1], 0.5, 0.0)
    _set(network.last, 10.0, -1.0)
    # x = 1: relu(3) = 3 -> relu(3 - 9 + 4) = 0 -> 0 -> -1
    # x = 0: relu(1) = 1 -> relu(1 - 3 + 4) = 2 -> relu(2 + 1) = 3 -> 29
    # x = -1: relu(-1) = 0 -> relu(4) = 4 -> 6 -> 59
    out = network(torch.tensor([[1.0], [0.0], [-1.0]]))
    assert out.flatten().tolist() == [-1.0, 29.0, 59.0]
    # an offset of 1 makes x = -1 the same as x = -1/2: 1 - 1 + 1 = 1 after the first layer, as x = 0
    assert network(torch.tensor([[[-1.0]]]), torch.tensor([[2.0]])).item() == 29.0


@pytest.mark.parametrize(("width", "layers"), [(128, 3), (16, 10)])
def test_the_size_is_width_x_hidden_layers(width, layers):
    network = ResidualMLP(in_dim=5, hidden_dim=width, layers=layers, out_dim=2)
    expected = (5 + 1) * width + layers * (width + 1) * width + (width + 1) * 2
    assert sum(p.numel() for p in network.parameters()) == expected


def test_leading_axes_are_kept_and_an_offset_spreads_over_them():
    network = ResidualMLP(in_dim=3, hidden_dim=8, layers=1, out_dim=2)
    x, offset = torch.randn(4, 7, 3), torch.randn(4, 8)
    out = network(x, offset)
    assert out.shape == (4, 7, 2)
    torch.testing.assert_close(out[2, 5], network(x[2:3, 5:6], offset[2:3])[0, 0])


def test_a_network_has_a_width():
    with pytest.raises(InputError, match=r"^model\.hidden_dim=0: expected at least 1$"):
        ResidualMLP(in_dim=1, hidden_dim=0, layers=1, out_dim=1)
