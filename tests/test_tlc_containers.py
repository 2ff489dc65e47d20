"""Statistics that cross containers: modules that are given lists, tuples and dicts of maps, and return them; each against its
definition, window by window."""

import copy
import operator
import pickle
import warnings
from collections.abc import Callable
from functools import reduce
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from test_tlc_zoo import WINDOW, C, each, image, linear, local, made, mean
from torch import Tensor, nn

CONVERTED: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, Tensor], Tensor]]] = {}


def local_by_hand(version: Callable[[nn.Module, Tensor], Tensor]):
    def register(kind: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        CONVERTED[kind.__name__] = (kind, version)
        return kind

    return register


# Lists: selective kernels (Li et al., CVPR 2019), in the ways in which restorers have them -----------------------------


class Selective(nn.Module):
    """Weights of three maps, which `forward` is given in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.Conv2d(C, 3, 1), nn.PReLU())
        self.fcs = nn.ModuleList(nn.Conv2d(3, C, 1) for _ in range(3))

    def by_hand(self, maps: list[Tensor]) -> Tensor:
        z = self.squeeze(mean(sum(maps)))
        weights = torch.stack([fc(z) for fc in self.fcs], 1).softmax(1)
        return (torch.stack(maps, 1) * weights).sum(1)


class Branches(nn.Module):
    """Hands three maps to another module."""

    def __init__(self, fuse: nn.Module) -> None:
        super().__init__()
        self.convs, self.fuse = nn.ModuleList(nn.Conv2d(C, C, 3, padding=1) for _ in range(3)), fuse

    def forward(self, x: Tensor) -> Tensor:
        return self.fuse([conv(x) for conv in self.convs])

    def by_hand(self, x: Tensor) -> Tensor:
        return self.fuse.by_hand([conv(x) for conv in self.convs])


def fused(kind: type[nn.Module], around: type[Branches] = Branches) -> None:
    def build() -> nn.Module:
        return around(kind())

    build.__name__ = kind.__name__
    local_by_hand(around.by_hand)(build)


class Viewed(Selective):
    """The maps are joined, and viewed as a stack."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.softmax = nn.AdaptiveAvgPool2d(1), nn.Softmax(dim=1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        n, c, h, w = maps[0].shape
        stacked = torch.cat(maps, dim=1).view(n, len(maps), c, h, w)
        z = self.squeeze(self.pool(torch.sum(stacked, dim=1)))
        weights = torch.cat([fc(z) for fc in self.fcs], dim=1).view(n, len(maps), c, 1, 1)
        return torch.sum(stacked * self.softmax(weights), dim=1)


class Zipped(Selective):
    def forward(self, maps: list[Tensor]) -> Tensor:
        z = self.squeeze(reduce(operator.add, maps).mean((2, 3), keepdim=True))
        weights = torch.stack([fc(z) for fc in self.fcs]).softmax(0)
        return sum(x * weight for x, weight in zip(maps, weights, strict=True))


class ByExponents(Selective):
    def forward(self, maps: list[Tensor]) -> Tensor:
        z = self.squeeze(F.adaptive_avg_pool2d(sum(maps), 1))
        weights = [fc(z).exp() for fc in self.fcs]
        total, out = sum(weights), torch.zeros_like(maps[0])
        for i, x in enumerate(maps):
            out += x * (weights[i] / total)
        return out


class PoolInSequence(Selective):
    """The pool is in one sequence with what follows on it, and its output is viewed as vectors outside."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(C, 3, 1), nn.ReLU(), nn.Conv2d(3, 3 * C, 1))

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        n, c = maps[0].shape[:2]
        weights = self.mlp(sum(maps)).view(n, len(maps), c, 1, 1).softmax(1)
        return (torch.stack([*maps], 1) * weights).sum(1)

    def by_hand(self, maps: list[Tensor]) -> Tensor:
        weights = self.mlp[1:](mean(sum(maps))).unflatten(1, (3, C)).softmax(1)
        return (torch.stack(maps, 1) * weights).sum(1)


class Flattened(Selective):
    """Vectors, by a sequence in a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(C, 3 * C))

    def forward(self, maps: list[Tensor]) -> Tensor:
        first, *others = self.mlp(sum(maps)).sigmoid().chunk(len(maps), 1)
        maps = list(maps)
        while others:
            maps[0] = maps[0] + maps.pop() * others.pop()[:, :, None, None]
        return maps[0] * first[..., None, None]

    def by_hand(self, maps: list[Tensor]) -> Tensor:
        first, *others = linear(mean(sum(maps)), self.mlp[1]).sigmoid().chunk(3, 1)
        return (maps[0] + sum(x * y for x, y in zip(maps[1:], others, strict=True))) * first


class ByEquation(Selective):
    """The weights meet the maps in an equation, and a part of them in a product of matrices."""

    def forward(self, maps: list[Tensor]) -> Tensor:
        z = self.squeeze(sum(maps).mean((2, 3), keepdim=True))
        weights = torch.stack([fc(z) for fc in self.fcs], 1).softmax(1).flatten(2)
        stacked = torch.stack(maps, 1)
        first = torch.einsum("nkc,nkchw->nchw", weights[:, :2], stacked[:, :2])
        return first + (stacked[:, 2, ..., None] @ weights[:, 2, :, None, None, None]).squeeze(-1)


for kind in (Viewed, Zipped, ByExponents, PoolInSequence, Flattened, ByEquation):
    fused(kind)


class Unpacked(Selective):
    """What a forward collects, besides options by name."""

    def forward(self, first: Tensor, *maps: Tensor, power: float, **named: Tensor) -> dict[str, Tensor]:
        maps = [first, *maps, *named.values()]
        z = self.squeeze(sum(maps).mean((2, 3), keepdim=True)) * power
        weights = torch.stack([fc(z) for fc in self.fcs], 1)
        weights = weights.softmax(1).unbind(1)
        return {"map": sum(x * y for x, y in zip(maps, weights, strict=True)), "power": power}


class UnpackedBranches(Branches):
    def forward(self, x: Tensor) -> Tensor:
        first, second, third = (conv(x) for conv in self.convs)
        return self.fuse(first, second, power=1.0, last=third)["map"]


fused(Unpacked, UnpackedBranches)


@local_by_hand(lambda m, x: sum(x * m.conv(mean(x)).sigmoid() for x in (x, -x)) + mean(x).sigmoid())
class InPlace(nn.Module):
    """Of two names for one tensor both have its new value."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(C, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = None
        for y in (x, -x):
            gate = self.conv(y.mean((2, 3), keepdim=True))
            same = gate
            gate.sigmoid_()
            out = y * same if out is None else out.add_(y.mul(gate))
        z = x.mean((2, 3), keepdim=True)
        torch.sigmoid_(z)
        return out + z


# Vectors across modules: one makes them, others take them along with maps ----------------------------------------------


class Weights(nn.Module):
    """Of each operation in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.mlp = nn.AdaptiveAvgPool2d(1), nn.Sequential(nn.Linear(C, 5), nn.ReLU(), nn.Linear(5, 6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(x)
        return self.mlp(y.view(-1, C)).view(-1, 2, 3)


class Step(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.operations = nn.ModuleList(nn.Conv2d(C, C, k, padding=k // 2, groups=C) for k in (1, 3, 5))
        self.out = nn.Conv2d(3 * C, C, 1)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        found = [op(x) * w.view([-1, 1, 1, 1]) for w, op in zip(weights.transpose(1, 0), self.operations, strict=True)]
        return self.out(torch.cat(found, dim=1))


class Steps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Step() for _ in range(2))

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = F.relu(layer(x, weights[:, i, :]) + x)
        return x


class Mixture(nn.Module):
    """Operations by attention (Suganuma et al., CVPR 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.weights, self.steps = Weights(), Steps()

    def forward(self, x: Tensor) -> Tensor:
        return self.steps(x, F.softmax(self.weights(x), dim=-1))

    def by_hand(self, x: Tensor) -> Tensor:
        y = linear(linear(mean(x), self.weights.mlp[0]).relu(), self.weights.mlp[2])
        y = y.unflatten(1, (2, 3)).softmax(2)
        for i, layer in enumerate(self.steps.layers):
            found = [op(x) * y[:, i, j, None] for j, op in enumerate(layer.operations)]
            x = (layer.out(torch.cat(found, 1)) + x).relu()
        return x


class Mixtures(nn.Module):
    """The second weights are of what the first ones have made, in one forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layer for _ in range(2) for layer in (Weights(), Steps()))

    def forward(self, x: Tensor) -> Tensor:
        weights = None
        for layer in self.layers:
            if isinstance(layer, Weights):
                weights = layer(x).softmax(-1)
            else:
                x = layer(x, weights)
        return x

    def by_hand(self, x: Tensor) -> Tensor:
        for weights, steps in (self.layers[:2], self.layers[2:]):
            part = Mixture()
            part.weights, part.steps = weights, steps
            x = part.by_hand(x)
        return x


local_by_hand(Mixture.by_hand)(Mixture)
local_by_hand(Mixtures.by_hand)(Mixtures)


class Modulated(NamedTuple):
    map: Tensor
    vector: Tensor


class Modulation(nn.Module):
    """It takes along a map and a vector, and returns both."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.conv = nn.Linear(C, 2 * C), nn.Conv2d(C, C, 3, padding=1)

    def forward(self, both: list[Tensor]) -> list[Tensor]:
        x, vector = both
        scale, shift = self.kernel(vector).view(-1, 2 * C, 1, 1).chunk(2, dim=1)
        return [x + self.conv(x * scale + shift), vector]

    def by_hand(self, x: Tensor, vector: Tensor) -> Tensor:
        scale, shift = linear(vector, self.kernel).chunk(2, 1)
        return x + self.conv(x * scale + shift)


class Described(nn.Module):
    """A map that is gated by its vector, and that vector."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(C, C)

    def forward(self, x: Tensor) -> Modulated:
        vector = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return Modulated(x * vector.sigmoid()[..., None, None], vector)


class Modulations(nn.Module):
    """One of the blocks also runs elsewhere, on a vector that is no statistic."""

    def __init__(self) -> None:
        super().__init__()
        self.describe, self.blocks = Described(), nn.Sequential(Modulation(), Modulation())
        self.alone, self.vector = nn.Sequential(self.blocks[1]), nn.Parameter(torch.ones(1, C))

    def forward(self, x: Tensor) -> Tensor:
        found = self.describe(x)
        y, _ = self.blocks([found.map, found.vector])
        return self.alone([y, self.vector])[0]

    def by_hand(self, x: Tensor) -> Tensor:
        vector = linear(mean(x), self.describe.fc)
        y = x * vector.sigmoid()
        for block in self.blocks:
            y = block.by_hand(y, vector)
        return self.blocks[1]([y, self.vector])[0]


local_by_hand(Modulations.by_hand)(Modulations)


class Expert(nn.Module):
    """It takes a part of the weights by name, and has a statistic of its own, of the map that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(C, C, 3, padding=1), nn.Linear(C, C)

    def forward(self, x: Tensor, *, weight: Tensor, **options: float) -> Tensor:
        gate = self.fc(x.mean((2, 3))).view(-1, C, 1, 1)
        return self.conv(x) * gate * weight.reshape(-1, 1, 1, 1) * options["scale"]


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = nn.Sequential(nn.Conv2d(C, C, 1), Weights()), nn.ModuleList(Expert() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.router(x)[:, 0].softmax(-1)
        found = [expert(x, weight=w, scale=0.5) for expert, w in zip(self.experts, weights.split(1, 1), strict=True)]
        return torch.stack(found, -1).sum(-1)

    def by_hand(self, x: Tensor) -> Tensor:
        mlp = self.router[1].mlp
        weights = linear(linear(mean(self.router[0](x)), mlp[0]).relu(), mlp[2])[:, :3].softmax(1)
        found = [e.conv(x) * linear(mean(x), e.fc) * weights[:, i, None] for i, e in enumerate(self.experts)]
        return sum(found) / 2


local_by_hand(Experts.by_hand)(Experts)


class Rows(nn.Module):
    """Of experts, channels and pixels in one dimension, whose sum is a product of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = Weights(), nn.ModuleList(nn.Conv2d(C, C, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.router(x)[:, :1].softmax(-1)
        return torch.bmm(weights, torch.stack([expert(x) for expert in self.experts], 1).flatten(2)).view(x.shape)

    def by_hand(self, x: Tensor) -> Tensor:
        weights = linear(linear(mean(x), self.router.mlp[0]).relu(), self.router.mlp[2])[:, :3].softmax(1)
        return sum(expert(x) * weights[:, i, None] for i, expert in enumerate(self.experts))


local_by_hand(Rows.by_hand)(Rows)


@local_by_hand(lambda m, x: (x + mean(x) + 1) * (x + mean(x)))
class Written(nn.Module):
    """What is written into a tensor is a copy: what works in place there does not change the original."""

    def forward(self, x: Tensor) -> Tensor:
        y, z = x + x.mean((2, 3), keepdim=True), torch.empty_like(x)
        z[...] = y
        z.add_(1)
        return z * y


@local_by_hand(lambda m, x: F.max_pool2d(x, 3, 1, 1) * mean(x).sigmoid())
class Dispatched(nn.Module):
    """Its pool is one of two functions, chosen by its arguments, that have no name of their own."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, 1, 1) * x.mean((2, 3), keepdim=True).sigmoid()


# A map, and what was taken out of it, which comes back in the module around: rescaled layer norms (Song et al., TIP 2023)


class Rescaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(1, C, 1, 1)), nn.Parameter(torch.zeros(1, C, 1, 1))
        self.scale, self.shift = nn.Conv2d(1, C, 1), nn.Conv2d(1, C, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu = torch.mean(x, dim=(1, 2, 3), keepdim=True)
        sigma = torch.sqrt((x - mu).pow(2).mean(dim=(1, 2, 3), keepdim=True) + 1e-5)
        return (x - mu) / sigma * self.weight + self.bias, self.scale(sigma.detach()), self.shift(mu.detach())

    def by_hand(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, variance = (each(x, lambda c, f=f: f(c.flatten(1), 1)[:, None]) for f in (torch.mean, _variance))
        sigma = (variance + 1e-5).sqrt()
        return (x - mu) / sigma * self.weight + self.bias, self.scale(sigma), self.shift(mu)


def _variance(x: Tensor, dim: int) -> Tensor:
    return x.var(dim, unbiased=False)


class RescaledInADict(Rescaled):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        n, c, h, w = x.size()
        mu = x.flatten(1).mean(1).view(n, 1, 1, 1)
        sigma = (((x - mu) ** 2).sum((1, 2, 3), keepdim=True) / (c * h * w) + 1e-5).sqrt()
        return {"map": (x - mu) / sigma * self.weight + self.bias, "scale": self.scale(sigma), "shift": self.shift(mu)}


class RescaledBlock(nn.Module):
    def __init__(self, norm: type[Rescaled] = Rescaled, padding_mode: str = "reflect") -> None:
        super().__init__()
        self.norm, self.body = norm(), nn.Conv2d(C, C, 3, padding=1, padding_mode=padding_mode)

    def forward(self, x: Tensor) -> Tensor:
        found = self.norm(x)
        y, scale, shift = found.values() if isinstance(found, dict) else found
        return x + self.body(y) * scale + shift

    def by_hand(self, x: Tensor) -> Tensor:
        y, scale, shift = self.norm.by_hand(x)
        return x + self.body(y) * scale + shift


local_by_hand(RescaledBlock.by_hand)(RescaledBlock)


class RescaledTwice(nn.Module):
    """The second norm is given a map that statistics of the first have come into; both have windows of their own map."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.block = Rescaled(), RescaledBlock(RescaledInADict)

    def forward(self, x: Tensor) -> Tensor:
        y, scale, shift = self.first(x)
        return self.block(x + y.relu() * scale + shift) - x

    def by_hand(self, x: Tensor) -> Tensor:
        y, scale, shift = self.first.by_hand(x)
        return self.block.by_hand(x + y.relu() * scale + shift) - x


class RescaledInOne(RescaledBlock):
    """The same in one forward, by one module that runs twice."""

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            y, scale, shift = self.norm(x)
            x = x + self.body(y) * scale + shift
        return x

    def by_hand(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = super().by_hand(x)
        return x


local_by_hand(RescaledTwice.by_hand)(RescaledTwice)
local_by_hand(RescaledInOne.by_hand)(RescaledInOne)


def test_statistics_over_channels_are_norms_to_borders():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        local(made(RescaledBlock))
    with pytest.warns(UserWarning, match="zero-padded borders"):
        local(made(lambda: RescaledBlock(padding_mode="zeros")))


@pytest.mark.parametrize("name", CONVERTED)
def test_local_as_by_hand(name: str):
    kind, by_hand = CONVERTED[name]
    module, x = made(kind), image()
    keys = list(module.state_dict())
    with torch.no_grad():
        plain, want = module(x), by_hand(module, x)
        net = local(module)
        got = net(x)
        assert net.tlc_report.left_alone == (), net.tlc_report
        assert {row.window for row in net.tlc_report.converted} == {WINDOW}
        assert (got - want).abs().max() <= 1e-10 * want.abs().max()
        assert (got - plain).abs().max() > 1e-3 * plain.abs().max()
        torch.testing.assert_close(torch.cat([net(one[None]) for one in x]), got, rtol=1e-11, atol=1e-11)
        for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert torch.equal(other(x), got)
        torch.testing.assert_close(net.train()(x), plain, rtol=1e-10, atol=1e-10)
        covered = local(made(kind), base_size=99)(x)
        torch.testing.assert_close(covered, plain, rtol=1e-10, atol=1e-10)
    assert list(net.state_dict()) == keys


def test_other_arguments_than_those_of_the_conversion_are_refused():
    net, maps = local(made(lambda: UnpackedBranches(Unpacked()))), [image() for _ in range(4)]
    net.fuse(maps[0], maps[1], power=1.0, last=maps[2])
    for wrong in (
        lambda: net.fuse(*maps, power=1.0),
        lambda: net.fuse(*maps[:2], power=2.0, last=maps[2]),
        lambda: net.fuse(*maps[:2], power=1.0, another=maps[2]),
    ):
        with pytest.raises(ValueError, match="when TLC rewrote this forward"):
            wrong()


class Replaces(Selective):
    def forward(self, maps: list[Tensor]) -> Tensor:
        maps[0] = maps[0] * self.fcs[0](self.squeeze(maps[0].mean((2, 3), keepdim=True)))
        return sum(maps)


class Empties(Selective):
    def forward(self, maps: list[Tensor]) -> Tensor:
        x = maps.pop()
        return x * self.fcs[0](self.squeeze(x.mean((2, 3), keepdim=True)))


@pytest.mark.parametrize("kind", [Replaces, Empties])
def test_lists_that_a_forward_changes_are_reported(kind: type[nn.Module]):
    module, x = made(lambda: Branches(kind())), image()
    want = module(x)
    report = local(module).tlc_report
    assert report.converted == ()
    assert ["changes the list" in row.reason for row in report.left_alone] == [True]
    assert torch.equal(module(x), want)


class Descriptor(nn.Module):
    """One vector for maps of two sizes, as networks have it that describe the whole image."""

    def __init__(self) -> None:
        super().__init__()
        self.describe, self.blocks = Described(), nn.ModuleList(Modulation() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        vector = self.describe(x).vector
        y, _ = self.blocks[0]([x, vector])
        z, _ = self.blocks[1]([F.avg_pool2d(y, 2), vector])
        return y + F.interpolate(z, scale_factor=2)


def test_vectors_for_maps_of_several_sizes_are_reported():
    module, x = made(Descriptor), image((8, 12))
    want = module(x)
    report = local(module).tlc_report
    assert report.converted == ()
    assert ["a map of another size" in row.reason for row in report.left_alone] == [True]
    assert torch.equal(module(x), want)
