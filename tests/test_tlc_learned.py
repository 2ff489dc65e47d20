"""Learned maps, summed with weights that a statistic makes and stretched to the image: each position has weights of its own."""

import copy
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from test_tlc_zoo import each, made
from torch import Tensor, nn

from basicsr.tlc import convert

CHANNELS, WINDOW, SIZE = 8, (10, 12), (20, 26)
CONVERTED: dict[str, type["Prompt"]] = {}


class Prompt(nn.Module):
    """Five maps of 6 channels (PromptIR, Potlapalli et al., NeurIPS 2023)."""

    options: ClassVar[dict[str, object]] = {"mode": "bilinear"}

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.maps = nn.Linear(CHANNELS, 5), nn.Parameter(torch.rand(1, 5, 6, 8, 8))
        self.conv = nn.Conv2d(6, 6, 3, padding=1, bias=False)

    def weights(self, x: Tensor) -> Tensor:
        return F.softmax(self.linear(x.mean(dim=(-2, -1))), dim=1)

    def prompt(self, weights: Tensor, n: int) -> Tensor:
        """(N, 5) -> (N, 6, 8, 8)"""
        return (weights[..., None, None, None] * self.maps).sum(1)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        return self.conv(F.interpolate(self.prompt(self.weights(x), n), (h, w), **self.options))

    def by_hand(self, x: Tensor) -> Tensor:
        mean = each(x, lambda crop: crop.mean((2, 3)), WINDOW)
        weights = self.weights(mean.permute(0, 2, 3, 1).reshape(-1, CHANNELS, 1, 1)).reshape(len(x), *SIZE, 5)
        stretched = [F.interpolate(self.maps[:, i], SIZE, **self.options) for i in range(5)]
        return self.conv(sum(weights[..., i].unsqueeze(1) * part for i, part in enumerate(stretched)))


def converted(kind: type[Prompt]) -> type[Prompt]:
    CONVERTED[kind.__name__] = kind
    return kind


@converted
class Indexed(Prompt):
    pass


@converted
class Repeated(Prompt):
    """As its authors write it."""

    def prompt(self, weights: Tensor, n: int) -> Tensor:
        maps = self.maps.unsqueeze(0).repeat(n, 1, 1, 1, 1, 1).squeeze(1)
        return torch.sum(weights.unsqueeze(-1).unsqueeze(-1).unsqueeze(-1) * maps, dim=1)


@converted
class Viewed(Prompt):
    options: ClassVar[dict[str, object]] = {"mode": "bicubic", "align_corners": False}

    def prompt(self, weights: Tensor, n: int) -> Tensor:
        return (self.maps.expand(n, -1, -1, -1, -1) * weights.view(n, 5, 1, 1, 1)).sum(dim=1)


@converted
class Summed(Prompt):
    options: ClassVar[dict[str, object]] = {"mode": "nearest"}

    def prompt(self, weights: Tensor, n: int) -> Tensor:
        return torch.einsum("nk,kchw->nchw", weights, self.maps[0])


@converted
class Product(Prompt):
    options: ClassVar[dict[str, object]] = {"mode": "bilinear", "align_corners": True}

    def prompt(self, weights: Tensor, n: int) -> Tensor:
        return (weights @ self.maps.view(5, -1)).view(n, 6, 8, 8)


@converted
class Batched(Prompt):
    def prompt(self, weights: Tensor, n: int) -> Tensor:
        return torch.bmm(weights.unsqueeze(1), self.maps.view(1, 5, -1).expand(n, -1, -1)).view(-1, 6, 8, 8) / 2 * 2


@converted
class OneByOne(Prompt):
    def prompt(self, weights: Tensor, n: int) -> Tensor:
        total = 0
        for i in range(5):
            total = total + weights[:, i].view(n, 1, 1, 1) * self.maps[:, i]
        return total


@converted
class Convolved(Prompt):
    """The weights keep their rows and columns, of one."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.linear = nn.AdaptiveAvgPool2d(1), nn.Conv2d(CHANNELS, 5, 1)

    def weights(self, x: Tensor) -> Tensor:
        return self.linear(self.pool(x)).softmax(1)

    def prompt(self, weights: Tensor, n: int) -> Tensor:
        return (weights.unsqueeze(2) * self.maps).sum(1)


@converted
class Inside(Prompt):
    """The map is met outside of the module that makes the prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = Repeated()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.generator(x)], 1)

    def by_hand(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.generator.by_hand(x)], 1)


def image() -> Tensor:
    torch.manual_seed(1)
    level = torch.linspace(-2, 2, SIZE[0] * SIZE[1], dtype=torch.float64).view(SIZE)
    return torch.randn(2, CHANNELS, *SIZE, dtype=torch.float64) + level


def local(module: nn.Module, base: object = WINDOW) -> nn.Module:
    return convert(copy.deepcopy(module), train_size=(1, CHANNELS, 16, 16), base_size=base)


@pytest.mark.parametrize("name", CONVERTED)
def test_local_as_by_hand(name: str):
    module, x = made(CONVERTED[name]), image()
    with torch.no_grad():
        plain, want = module(x), module.by_hand(x)
        net = local(module)
        got = net(x)
        torch.testing.assert_close(torch.cat([net(one[None]) for one in x]), got, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(local(module, 99)(x), plain, rtol=1e-10, atol=1e-10)
    assert [row.window for row in net.tlc_report.converted] == [WINDOW]
    (row,) = net.tlc_report.left_alone
    assert row.reason.startswith("its learned map of 8x8 is stretched to the image's size")
    assert (got - want).abs().max() <= 1e-10 * want.abs().max()
    assert (got - plain).abs().max() > 1e-3 * plain.abs().max()


class Bent(Prompt):
    """The sum is no longer one."""

    def prompt(self, weights: Tensor, n: int) -> Tensor:
        return (super().prompt(weights, n) - 1).relu()


class Moved(Prompt):
    """The prompt meets the map mirrored, outside."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = Repeated()

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(-1)[:, :6] * self.generator(x)


@pytest.mark.parametrize("kind", [Bent, Moved])
def test_reported(kind: type[Prompt]):
    module, x = made(kind), image()
    with torch.no_grad():
        net = local(module)
        assert torch.equal(net(x), module(x))
    assert net.tlc_report.converted == ()
    assert any(row.operation == "mean" for row in net.tlc_report.left_alone)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_traced_for_maps_of_any_size():
    net, x = local(made(Repeated)), image()
    with torch.no_grad():
        traced = torch.jit.trace(net, x, check_trace=False)
        torch.testing.assert_close(traced(x[..., :18, :22]), net(x[..., :18, :22]), rtol=1e-10, atol=1e-10)
