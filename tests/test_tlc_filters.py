"""Dynamic filters: kernels that a statistic makes, applied to the neighbourhood of each pixel; against their definition.

A kernel is that of the window around a position, and so are the weights that the position's neighbourhood is summed up with.
"""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from test_tlc_zoo import WINDOW, C, along_columns, along_rows, image, linear, local, made, mean
from torch import Tensor, nn

K, G = 3, 2  # side of the kernels, and groups of channels that share one

CONVERTED: dict[str, tuple[type[nn.Module], Callable[[nn.Module, Tensor], Tensor]]] = {}


def filtered(x: Tensor, kernels: Tensor, dilation: int = 1, mode: str = "reflect") -> Tensor:
    """x (N, C, H, W), kernels (N, G, K*K, H, W): of each position its own, over neighbours that are padded by reflection."""
    h, w = x.shape[2:]
    reach = dilation * (K // 2)
    padded = F.pad(x, [reach] * 4, mode="reflect") if mode == "reflect" else F.pad(x, [reach] * 4)
    groups = padded.unflatten(1, (kernels.shape[1], -1))
    total = torch.zeros_like(x).unflatten(1, (kernels.shape[1], -1))
    for i in range(K):
        for j in range(K):
            top, left = i * dilation, j * dilation
            total += groups[..., top : top + h, left : left + w] * kernels[:, :, K * i + j].unsqueeze(2)
    return total.flatten(1, 2)


def batch_normed(x: Tensor, layer: nn.BatchNorm2d) -> Tensor:
    return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps)


class Filter(nn.Module):
    """What its kinds share: kernels of a 1x1 convolution of the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(C, G * K * K, 1, bias=False)
        self.fc = nn.Linear(C, G * K * K)

    def kernels(self, x: Tensor) -> Tensor:
        """By hand, before the activation."""
        return self.conv(mean(x)).unflatten(1, (G, K * K))


def local_by_hand(version: Callable[[nn.Module, Tensor], Tensor]):
    def register(kind: type[nn.Module]) -> type[nn.Module]:
        CONVERTED[kind.__name__] = (kind, version)
        return kind

    return register


def _normed(m: nn.Module, x: Tensor) -> Tensor:
    low = filtered(x, batch_normed(m.conv(mean(x)), m.norm).unflatten(1, (G, K * K)).softmax(2))
    return low * m.low + (x - low) * (m.high + 1)


@local_by_hand(_normed)
class LowPass(Filter):
    """A low-pass filter with softmax, and what it leaves; its views keep the numbers of rows and columns of the pooled map."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.norm, self.act = nn.AdaptiveAvgPool2d((1, 1)), nn.BatchNorm2d(G * K * K), nn.Softmax(dim=-2)
        self.pad = nn.ReflectionPad2d(K // 2)
        self.low, self.high = nn.Parameter(torch.zeros(C, 1, 1)), nn.Parameter(torch.zeros(C, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        whole = x
        weights = self.norm(self.conv(self.pool(x)))
        n, c, h, w = x.shape
        x = F.unfold(self.pad(x), kernel_size=K).reshape(n, G, c // G, K**2, h * w)
        n, c1, p, q = weights.shape
        weights = weights.reshape(n, c1 // K**2, K**2, p * q).unsqueeze(2)
        low = torch.sum(x * self.act(weights), dim=3).reshape(n, c, h, w)
        return low * self.low + (whole - low) * (self.high + 1.0)


@local_by_hand(lambda m, x: filtered(x, m.kernels(x).tanh()))
class Tanh(Filter):
    """The pool is a function; views of another order."""

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.size()
        weights = torch.tanh(self.conv(F.adaptive_avg_pool2d(x, 1))).view(b, G, 1, K * K, 1)
        patches = F.unfold(F.pad(x, (1, 1, 1, 1), mode="reflect"), (K, K)).view(b, G, c // G, K * K, -1)
        return (patches * weights).sum(-2).view(b, c, h, w)


@local_by_hand(lambda m, x: filtered(x, linear(mean(x), m.fc).unflatten(1, (G, K * K)).softmax(2), mode="zeros"))
class OfALinear(Filter):
    """The kernel by nn.Linear, unfold pads itself, spread over a map of patches."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        weights = self.fc(x.mean(dim=[-2, -1])).view(n, G, K * K).softmax(-1)
        patches = F.unfold(x, K, padding=K // 2).view(n, G, c // G, K * K, h, w)
        return (patches * weights[:, :, None, :, None, None]).sum(dim=3).flatten(1, 2)


@local_by_hand(lambda m, x: filtered(x, m.kernels(x).softmax(2), dilation=2))
class Dilated(Filter):
    def __init__(self) -> None:
        super().__init__()
        self.unfold, self.pad = nn.Unfold(K, dilation=2), nn.ReflectionPad2d(2)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.conv(x.mean((2, 3), keepdim=True)).flatten(1).unflatten(1, (G, 1, K * K, 1)).softmax(3)
        patches = self.unfold(self.pad(x)).unflatten(1, (G, C // G, K * K))
        return torch.mul(weights, patches).sum(3).reshape(x.shape)


@local_by_hand(lambda m, x: filtered(x, m.kernels(x), mode="zeros"))
class Matrices(Filter):
    """A product of matrices, the kernel on the left."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        weights = self.conv(F.adaptive_avg_pool2d(x, 1)).view(n, G, 1, 1, K * K)
        patches = F.unfold(x, K, padding=1).view(n, G, c // G, K * K, h * w)
        return torch.matmul(weights, patches).view(n, c, h, w)


@local_by_hand(lambda m, x: filtered(x, m.kernels(x).softmax(2), mode="zeros"))
class MatricesOfPixels(Filter):
    """The kernel on the right, and pixels before channels."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        weights = self.conv(x.mean((2, 3), keepdim=True)).view(n, G, K * K).softmax(-1).view(n, G, 1, K * K, 1)
        patches = F.unfold(x, K, padding=1).view(n, G, c // G, K * K, h * w).transpose(-1, -2)
        return (patches @ weights).squeeze(-1).reshape(n, c, h, w)


@local_by_hand(lambda m, x: filtered(x, m.kernels(x).sigmoid(), mode="zeros"))
class ByEquation(Filter):
    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        weights = self.conv(x.mean((2, 3), keepdim=True)).view(n, G, K * K).sigmoid()
        patches = F.unfold(x, K, padding=1).view(n, G, c // G, K * K, h * w)
        return torch.einsum("bgk,bgckp->bgcp", weights, patches).reshape(n, c, h, w)


@local_by_hand(lambda m, x: filtered(x, m.kernels(x).softmax(2), mode="zeros"))
class TokensFirst(Filter):
    """Patches with pixels first, (N, H*W, C*K*K)."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        weights = self.conv(x.mean((2, 3), keepdim=True)).view(n, 1, G, 1, K * K).softmax(-1)
        patches = F.unfold(x, K, padding=1).permute(0, 2, 1).view(n, h * w, G, c // G, K * K)
        return (patches * weights).sum(-1).flatten(2).permute(0, 2, 1).view(n, c, h, w)


def _residual(m: nn.Module, x: Tensor) -> Tensor:
    y = F.pad(x, [K // 2] * 4, mode="reflect")
    return x - filtered(x, m.kernels(y[..., 1:-1, 1:-1]).softmax(2))


@local_by_hand(_residual)
class HighPass(Filter):
    """Inside another module, which takes off what it finds."""

    class Low(Filter):
        def forward(self, x: Tensor) -> Tensor:
            n, c, h, w = x.shape
            weights = self.conv(F.adaptive_avg_pool2d(x, 1)).view(n, G, 1, K * K, 1).softmax(3)
            patches = F.unfold(F.pad(x, [K // 2] * 4, mode="reflect"), K).view(n, G, -1, K * K, h * w)
            return (weights * patches).sum(3).view(n, c, h, w)

    def __init__(self) -> None:
        super().__init__()
        self.low = self.Low()
        self.conv = self.low.conv

    def forward(self, x: Tensor) -> Tensor:
        return x - self.low(x)


@local_by_hand(lambda m, x: filtered(x, m.kernels(x).tanh()))
class OfItsOwnModule(Filter):
    """The kernel's module hands out a vector."""

    class Kernel(nn.Module):
        def __init__(self, conv: nn.Module) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv, nn.Tanh(), nn.Flatten())

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x).view(-1, G, K * K)

    def __init__(self) -> None:
        super().__init__()
        self.kernel = self.Kernel(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        patches = F.unfold(F.pad(x, [1] * 4, mode="reflect"), K).view(n, G, c // G, K**2, h * w)
        return (patches * self.kernel(x)[:, :, None, :, None]).sum(3).view(n, c, h, w)


def _far(m: nn.Module, x: Tensor) -> Tensor:
    y = filtered(x, linear(mean(x), m.fc).unflatten(1, (G, K * K)).softmax(2), dilation=7)
    return x + y


@local_by_hand(_far)
class FarNeighbours(Filter):
    """It reaches over seven pixels, and cannot be tried out on maps of six rows."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        weights = self.fc(x.mean((2, 3))).view(n, G, 1, K * K, 1).softmax(3)
        patches = F.unfold(F.pad(x, [7] * 4, mode="reflect"), K, dilation=7).view(n, G, c // G, K * K, h * w)
        return x + (patches * weights).sum(3).view(n, c, h, w)


def _pyramid(m: nn.Module, x: Tensor) -> Tensor:
    for conv, dilation in zip(m.convs, (1, 2), strict=True):
        x = x + filtered(x, conv(mean(x)).unflatten(1, (G, K * K)).tanh(), dilation)
    return x


@local_by_hand(_pyramid)
class Blocks(nn.Module):
    """Filters of several dilations, one after the other, each a module."""

    class Block(nn.Module):
        def __init__(self, conv: nn.Module, dilation: int) -> None:
            super().__init__()
            self.conv, self.dilation = conv, dilation

        def forward(self, x: Tensor) -> Tensor:
            n, c, h, w = x.shape
            weights = self.conv(F.adaptive_avg_pool2d(x, 1)).tanh().view(n, G, K * K, 1).unsqueeze(2)
            reach = self.dilation * (K - 1) // 2
            padded = F.pad(x, (reach, reach, reach, reach), mode="reflect")
            patches = F.unfold(padded, K, dilation=self.dilation).view(n, G, c // G, K * K, h * w)
            return x + (patches * weights).sum(3).reshape(n, c, h, w)

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(C, G * K * K, 1) for _ in range(2))
        self.blocks = nn.Sequential(*(self.Block(conv, dilation) for conv, dilation in zip(self.convs, (1, 2), strict=True)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


def _strips(m: nn.Module, x: Tensor) -> Tensor:
    """A kernel along the columns of each position, of the mean of its row; and along the rows."""
    h, w = x.shape[2:]
    rows, columns = F.pad(x, (0, 0, 1, 1), mode="reflect"), F.pad(x, (1, 1, 0, 0), mode="reflect")
    down, across = m.down(mean(x)).unflatten(1, (G, K)).tanh(), m.across(mean(x)).unflatten(1, (G, K)).tanh()
    y = sum(rows[:, :, i : i + h].unflatten(1, (G, -1)) * down[:, :, i].unsqueeze(2) for i in range(K))
    z = sum(columns[..., i : i + w].unflatten(1, (G, -1)) * across[:, :, i].unsqueeze(2) for i in range(K))
    return (y + z).flatten(1, 2)


@local_by_hand(_strips)
class Strips(nn.Module):
    """Filters along columns and along rows."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.across = nn.Conv2d(C, G * K, 1), nn.Conv2d(C, G * K, 1)

    def along(self, x: Tensor, conv: nn.Module, size: tuple[int, int], padding: list[int]) -> Tensor:
        n, c, h, w = x.shape
        weights = torch.tanh(conv(F.adaptive_avg_pool2d(x, 1)))
        n, c1, p, q = weights.shape
        weights = weights.reshape(n, c1 // K, K, p * q).unsqueeze(2)
        patches = F.unfold(F.pad(x, padding, mode="reflect"), size).reshape(n, G, c // G, K, h * w)
        return torch.sum(patches * weights, dim=3).reshape(n, c, h, w)

    def forward(self, x: Tensor) -> Tensor:
        return self.along(x, self.down, (K, 1), [0, 0, 1, 1]) + self.along(x, self.across, (1, K), [1, 1, 0, 0])


@local_by_hand(lambda m, x: (x - along_rows(x)) * m.low + along_rows(x) * m.high + (x - along_columns(x)) * m.other)
class StripMeans(nn.Module):
    """What rows and columns have in common, and the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.columns = nn.AdaptiveAvgPool2d((None, 1)), nn.AdaptiveAvgPool2d((1, None))
        for name in ("low", "high", "other"):
            self.register_parameter(name, nn.Parameter(torch.zeros(C, 1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        common = self.rows(x)
        return (x - common) * self.low + common * self.high + (x - self.columns(x)) * self.other


@local_by_hand(lambda m, x: filtered(x, m.kernels(x).softmax(2), mode="zeros"))
class UnfoldedTwice(Filter):
    """Neighbourhoods by Tensor.unfold."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        weights = self.conv(F.adaptive_avg_pool2d(x, 1)).view(n, G, 1, 1, 1, K * K).softmax(-1)
        patches = F.pad(x, [1] * 4).unfold(2, K, 1).unfold(3, K, 1).reshape(n, G, c // G, h, w, K * K)
        return (patches * weights).sum(-1).view(n, c, h, w)


@pytest.mark.parametrize("name", CONVERTED)
def test_local_as_by_hand(name: str):
    kind, by_hand = CONVERTED[name]
    module, x = made(kind), image()
    keys = list(module.state_dict())
    with torch.no_grad():
        plain, want = module(x), by_hand(module, x)
        net = local(module)
        got = net(x)
        assert net.tlc_report.left_alone == ()
        assert {row.window for row in net.tlc_report.converted} == {WINDOW}
        assert (got - want).abs().max() <= 1e-10 * want.abs().max()
        assert (got - plain).abs().max() > 1e-3 * plain.abs().max()
        torch.testing.assert_close(torch.cat([net(one[None]) for one in x]), got, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(local(made(kind), base_size=99)(x), plain, rtol=1e-10, atol=1e-10)
        for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert torch.equal(other(x), got)
        torch.testing.assert_close(net.train()(x), made(kind).train()(x), rtol=1e-10, atol=1e-10)
    assert list(net.state_dict()) == keys


class Shifted(Filter):
    """Each neighbour is a map that was moved, and meets the kernel of its own position."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        weights = self.conv(F.adaptive_avg_pool2d(x, 1)).tanh().view(n, G, K * K, 1, 1)
        padded = F.pad(x, [1] * 4).view(n, G, c // G, h + 2, w + 2)
        places = [(i, j) for i in range(K) for j in range(K)]
        found = [padded[..., i : i + h, j : j + w] * weights[:, :, k].unsqueeze(2) for k, (i, j) in enumerate(places)]
        return sum(found).reshape(n, c, h, w)


class GroupedConvolution(Filter):
    """The samples are groups of one convolution, whose kernels cannot differ from pixel to pixel."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        weights = self.conv(F.adaptive_avg_pool2d(x, 1)).view(n, G, K * K).softmax(-1)
        weights = weights.repeat_interleave(c // G, 1).view(n * c, 1, K, K)
        return F.conv2d(x.reshape(1, n * c, h, w), weights, padding=1, groups=n * c).view(n, c, h, w)


@pytest.mark.parametrize(("kind", "why"), [(Shifted, "pixels are elsewhere"), (GroupedConvolution, "does not work on a map")])
def test_what_has_no_local_form_is_reported(kind: type[nn.Module], why: str):
    module, x = made(kind), image()
    net = local(module)
    assert net.tlc_report.converted == ()
    assert [why in row.reason for row in net.tlc_report.left_alone] == [True]
    assert torch.equal(net(x), made(kind)(x))
