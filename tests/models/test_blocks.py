"""The network in blocks is the plain network: values and all gradients."""

import pytest
import torch

from drgn.models import blocks
from drgn.models.encodings import GaussianEncoding
from drgn.models.mlp import ResidualMLP


def run(network, x, offset, encoding, in_blocks, monkeypatch):
    with monkeypatch.context() as patch:
        if not in_blocks:
            patch.setattr(blocks, "suits", lambda x: False)
        network.zero_grad()
        leaves = [t.clone().requires_grad_(g) for t, g in ((x, encoding is None), (offset, True))]
        out = network(leaves[0], leaves[1], encoding)
        generator = torch.Generator().manual_seed(1)
        (out.float() * torch.randn(out.shape, generator=generator)).sum().backward()
        gradients = [p.grad for p in network.parameters()] + [t.grad for t in leaves if t.requires_grad]
    return out.detach(), gradients


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize(("images", "pixels", "rows"), [(7, 50, 120), (3, 300, 128), (1, 400, 2048)])
def test_values_and_gradients(images, pixels, rows, encoded, threads, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(blocks, "_ROWS", rows)
    encoding = GaussianEncoding(box_size=8) if encoded else None
    network = ResidualMLP(in_dim=24, hidden_dim=32, layers=3, out_dim=2)
    x, offset = torch.randn(images, pixels, 3 if encoded else 24), torch.randn(images, 32)
    assert blocks.suits(x)
    expected, gradients = run(network, x, offset, encoding, False, monkeypatch)
    out, same = run(network, x, offset, encoding, True, monkeypatch)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(same, gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-6 * float(b.abs().max()) + 1e-6)
    assert torch.get_num_threads() == threads
    again = run(network, x, offset, encoding, True, monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip([out, *same], [again[0], *again[1]], strict=True))
    with torch.no_grad():
        torch.testing.assert_close(network(x, offset, encoding), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_same_rows_for_several_offsets(threads, mode):
    network = ResidualMLP(in_dim=24, hidden_dim=32, layers=2, out_dim=2)
    encoding = GaussianEncoding(box_size=8)
    x, offset = torch.randn(900, 3), torch.randn(5, 32)
    with mode():
        together = network(x.expand(5, -1, -1), offset, encoding)
        torch.testing.assert_close(together, network(x.repeat(5, 1, 1), offset, encoding))


def test_in_bfloat16_it_is_as_near_to_float32_as_the_plain_network(monkeypatch):
    torch.manual_seed(0)
    network = ResidualMLP(in_dim=24, hidden_dim=32, layers=3, out_dim=2)
    x, offset = torch.randn(5, 400, 24), torch.randn(5, 32)
    exact = run(network, x, offset, None, False, monkeypatch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = run(network, x, offset, None, False, monkeypatch)
        ours = run(network, x, offset, None, True, monkeypatch)
    assert ours[0].dtype == torch.bfloat16
    assert {g.dtype for g in ours[1]} == {torch.float32}
    for a, b, c in zip([ours[0], *ours[1]], [plain[0], *plain[1]], [exact[0], *exact[1]], strict=True):
        assert (a - c).norm() < 1.5 * (b - c).norm() + 1e-3 * c.norm()


def test_leading_axes_without_an_offset(monkeypatch):
    network = ResidualMLP(in_dim=3, hidden_dim=8, layers=1, out_dim=2)
    x = torch.randn(4, 5, 60, 3)
    out = network(x)
    monkeypatch.setattr(blocks, "suits", lambda x: False)
    torch.testing.assert_close(out, network(x), rtol=1e-5, atol=1e-6)


def test_few_rows_double_precision_and_other_devices_take_the_plain_network():
    assert not blocks.suits(torch.zeros(2, 8))
    assert not blocks.suits(torch.zeros(500, 8, dtype=torch.float64))
    assert not blocks.suits(torch.zeros(500, 8, device="meta"))


def test_each_thread_takes_operations_alone_and_the_others_keep_their_number(threads):
    if threads == 1:
        assert list(blocks._on_threads(lambda part: list(part), 3)) == [[0, 1, 2]]
        return
    seen = list(blocks._on_threads(lambda part: (list(part), torch.get_num_threads()), 3))
    assert seen == [([0], 1), ([1, 2], 1)]
    assert torch.get_num_threads() == 2
