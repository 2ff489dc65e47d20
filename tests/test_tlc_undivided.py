"""Sums that are divided by the map's size: directly they are means, elsewhere no window may take their place."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.tlc import convert

SIZE = {"train_size": (1, 4, 16, 24), "base_size": (20, 28)}
Forward = Callable[[Tensor], Tensor]


def sum_of(x: Tensor) -> Tensor:
    return x.sum((2, 3), keepdim=True)


def module(forward: Forward) -> nn.Module:
    class Made(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return forward(x)

    return Made().eval()


ELSEWHERE: dict[str, Forward] = {
    "the product": lambda x: x * sum_of(x) / (x.shape[2] * x.shape[3]),
    "before": lambda x: x * sum_of(x / (x.shape[2] * x.shape[3])),
    "one side after the other": lambda x: x * sum_of(x) / x.shape[2] / x.shape[3],
    "pixels of a flat map": lambda x: x * sum_of(x) / x.flatten(2).shape[-1],
    "elements of a channel": lambda x: x * sum_of(x) / x[0, 0].numel(),
    "a norm": lambda x: x * x.norm(dim=(2, 3), keepdim=True) / (x.shape[2] * x.shape[3]) ** 0.5,
    "another norm": lambda x: x * torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True) / math.sqrt(x.shape[2] * x.shape[3]),
    "a mean": lambda x: x * x.mean((2, 3), keepdim=True) * (x.shape[2] * x.shape[3]),
    "a number as a tensor": lambda x: x * sum_of(x) * torch.full((), 1 / (x.shape[2] * x.shape[3]), device=x.device),
    "a view of it": lambda x: x * sum_of(x) * torch.full((1,), 1 / (x.shape[2] * x.shape[3]), device=x.device).view(1, 1, 1, 1),
    "a pool": lambda x: x * F.adaptive_avg_pool2d(x, 1) * (x.shape[2] * x.shape[3]),
    "a strip": lambda x: x * x.sum(3, keepdim=True) / x.shape[3],
}


@pytest.mark.parametrize("where", ELSEWHERE)
def test_division_elsewhere_is_reported(where):
    net = module(ELSEWHERE[where])
    x = torch.rand(1, 4, 40, 56, dtype=torch.float64)
    plain = net(x)
    report = convert(net, **SIZE).tlc_report
    assert not report.converted
    assert "divide the sum itself" in report.left_alone[0].reason
    assert torch.equal(net(x), plain)


def test_constants_of_a_statistics_shape_scale_nothing():
    def at_least(x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        return x * torch.maximum(mean, torch.full_like(mean, 0.1))

    net = convert(module(at_least), **SIZE)
    assert len(net.tlc_report.converted) == 1
    x = torch.rand(1, 4, 40, 56, dtype=torch.float64) - 0.4
    around = x[..., 11:31, 15:43].mean((2, 3))  # of row 20 and column 28
    torch.testing.assert_close(net(x)[..., 20, 28], x[..., 20, 28] * around.clamp(min=0.1))


def test_directly_divided_it_is_a_mean_and_undivided_a_sum():
    ones = torch.ones(1, 4, 40, 56, dtype=torch.float64)
    mean = convert(module(lambda x: x * (sum_of(x) / (x.shape[2] * x.shape[3]))), **SIZE)
    raw = convert(module(lambda x: x * sum_of(x)), **SIZE)
    torch.testing.assert_close(mean(ones), ones)
    torch.testing.assert_close(raw(ones), ones * 20 * 28)


def test_a_sum_that_is_handed_out_is_reported():
    class Total(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return sum_of(x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.total, self.mix = Total(), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.mix(self.total(x) / (x.shape[2] * x.shape[3]))

    report = convert(Net().eval(), **SIZE).tlc_report
    assert not report.converted
    assert "its sum is handed out" in report.left_alone[0].reason


def test_a_vector_times_a_matrix_without_a_batch():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(4, 4, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return x * (x.mean((2, 3)) @ self.weight)[:, :, None, None]

    net, x = Net().eval(), torch.rand(2, 4, 40, 56, dtype=torch.float64)
    convert(net, **SIZE)
    assert len(net.tlc_report.converted) == 1
    gate = x[..., 5:25, 9:37].mean((2, 3)) @ net.weight  # of the window around row 14, column 22: rows 5 to 24, columns 9 to 36
    torch.testing.assert_close(net(x)[..., 14, 22], x[..., 14, 22] * gate)


class Weights(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).softmax(-1).view_as(x)


@pytest.mark.parametrize(
    "weigh",
    [
        lambda x: F.softmin(x.flatten(2), -1).view_as(x),
        lambda x: x.softmax(2).softmax(3),
        lambda x: F.normalize(x.sigmoid().flatten(2), p=1, dim=2).view_as(x),
        Weights(),
    ],
)
def test_weights_of_the_whole_map_are_not_summed_up_in_windows(weigh):
    net = module(lambda x: x + sum_of(weigh(x) * x)) if not isinstance(weigh, nn.Module) else Weighted(weigh).eval()
    x = torch.rand(1, 4, 40, 56, dtype=torch.float64)
    plain = net(x)
    report = convert(net, **SIZE).tlc_report
    assert not report.converted
    assert any("looking at the whole map" in row.reason for row in report.left_alone)
    assert torch.equal(net(x), plain)


class Weighted(nn.Module):
    def __init__(self, weigh: nn.Module) -> None:
        super().__init__()
        self.weigh = weigh

    def forward(self, x: Tensor) -> Tensor:
        return x + sum_of(self.weigh(x) * x)


class Sum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * sum_of(x)


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool, self.mix = nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mix(self.pool(x))


class Normed(nn.Module):
    """The module around one that holds a statistic knows the map's size."""

    def __init__(self, part: nn.Module, after: bool, tensor: bool) -> None:
        super().__init__()
        self.part, self.after, self.tensor = part, after, tensor

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2] * x.shape[3]
        size = torch.tensor(float(size)) if self.tensor else size
        return self.part(x) / size if self.after else self.part(x / size)


@pytest.mark.parametrize("part", [Sum, Pooled])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("tensor", [False, True])
def test_division_by_the_module_around_it_is_reported(part, after, tensor):
    net, x = Normed(part(), after, tensor).double().eval(), torch.rand(1, 4, 40, 56, dtype=torch.float64)
    plain = net(x)
    (row,) = convert(net, **SIZE).tlc_report.left_alone
    assert not net.tlc_report.converted
    assert row.path.startswith("part")
    assert "a map is scaled by its size" in row.reason
    assert __file__ in row.reason
    assert torch.equal(net(x), plain)


class Counted(nn.Module):
    """Another module counts the pixels."""

    def __init__(self, count: nn.Module) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        return x * (sum_of(x) / self.count(x))


class Count(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor(float(x.shape[2] * x.shape[3]))


def test_division_by_a_tensor_that_another_module_makes_is_reported():
    net, x = Counted(Count()).eval(), torch.rand(1, 4, 40, 56, dtype=torch.float64)
    plain = net(x)
    (row,) = convert(net, **SIZE).tlc_report.left_alone
    assert "a map is scaled by its size" in row.reason
    assert torch.equal(net(x), plain)


class Dotted(nn.Module):
    """Attention of all pixels, divided by their number, as in non-local networks (Wang et al., CVPR 2018)."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(2)
        return (y @ (y.mT @ y / y.shape[-1])).view_as(x)


def test_division_of_products_of_maps_has_nothing_to_do_with_means():
    net, x = nn.Sequential(Pooled(), Dotted(), Pooled()).double().eval(), torch.rand(1, 4, 40, 56, dtype=torch.float64)
    report = convert(net, **SIZE).tlc_report
    assert [row.path for row in report.converted] == ["0.pool", "2.pool"]
    assert {row.path for row in report.left_alone} == {"1"}
    x = x * net[0].mix(box(x))
    x = net[1](x)
    assert (net[2](x) - x * net[2].mix(box(x))).abs().max() < 1e-10


def linear(x: Tensor) -> Tensor:
    """Attention between channels, its matrix as it is: sums over pixels."""
    y = x.flatten(2)
    return (y @ y.mT @ y).view_as(x)


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: linear(x) / (x.shape[2] * x.shape[3]),
        lambda x: linear(x / (x.shape[2] * x.shape[3]) ** 0.5),
        lambda x: linear(x).mul(1 / x.flatten(2).shape[-1]),
    ],
)
def test_matrices_of_sums_that_are_divided_elsewhere_are_reported(forward: Forward):
    net, x = module(forward), torch.rand(1, 4, 40, 56, dtype=torch.float64)
    plain = net(x)
    report = convert(net, **SIZE).tlc_report
    assert not report.converted
    assert any("a map is scaled by its size" in row.reason for row in report.left_alone)
    assert torch.equal(net(x), plain)


def test_matrices_that_are_divided_themselves_are_means():
    def divided(x: Tensor) -> Tensor:
        y = x.flatten(2)
        return ((y @ y.mT / y.shape[-1]) @ y).view_as(x)

    net, x = module(divided), torch.ones(1, 4, 40, 56, dtype=torch.float64)
    assert convert(net, **SIZE).tlc_report.converted
    torch.testing.assert_close(net(x), 4 * x)


def box(x: Tensor) -> Tensor:
    """Means of the windows of 20x28 inside a map of 40x56, the outermost repeated."""
    means = F.avg_pool2d(x, (20, 28), stride=1)
    return F.pad(means, (13, 14, 9, 10), mode="replicate")


# A statistic that becomes local, and one of the same map that does not.
MIXED: dict[str, Callable[[Callable, Tensor], Tensor]] = {
    "of what the maximum scales": lambda mean, x: x * mean(x / x.max()),
    "times the maximum": lambda mean, x: x * mean(x) * x.max(),
    "over the maximum": lambda mean, x: x / x.abs().max() * mean(x),
    "and the maximum": lambda mean, x: x * (mean(x) + x.max()).sigmoid(),
    "of sums": lambda mean, x: x * mean(x.cumsum(-1)),
    "of weights": lambda mean, x: x * mean(x.flatten(2).softmax(-1).view_as(x)),
    "of shares": lambda mean, x: x * mean(F.normalize(x.flatten(2), p=1, dim=2).view_as(x)),
    "less the median": lambda mean, x: x * mean(x - x.flatten(2).median(2).values[..., None, None]).tanh(),
}


@pytest.mark.parametrize("mixture", MIXED)
@pytest.mark.parametrize("by_hand", [False, True])
def test_what_is_combined_with_a_global_operation_stays(mixture, by_hand):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.AdaptiveAvgPool2d(1)

        def forward(self, x: Tensor) -> Tensor:
            mean = (lambda y: y.mean((2, 3), keepdim=True)) if by_hand else self.pool
            return MIXED[mixture](mean, x)

    net, x = Net().eval(), torch.rand(1, 4, 40, 56, dtype=torch.float64)
    plain = net(x)
    report = convert(net, **SIZE).tlc_report
    assert not report.converted
    assert any("which stays global" in row.reason and __file__ in row.reason for row in report.left_alone)
    assert torch.equal(net(x), plain)


def test_what_the_user_excludes_is_no_reason():
    net = convert(module(lambda x: x * x.mean((2, 3), keepdim=True) * x.max()), **SIZE, exclude="*:max")
    x = torch.rand(1, 4, 40, 56, dtype=torch.float64)
    torch.testing.assert_close(net(x), x * box(x) * x.max())


class Mixing(nn.Module):
    """Attention over pixels, in a module of its own or not."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(2)
        return (y @ (y.mT @ y).softmax(-1).mT).view_as(x)


class Gated(nn.Module):
    def __init__(self, apart: bool, of_the_output: bool) -> None:
        super().__init__()
        self.mixing = Mixing()
        self.apart, self.of_the_output = apart, of_the_output

    def forward(self, x: Tensor) -> Tensor:
        y = self.mixing(x) if self.apart else Mixing.forward(self.mixing, x)
        return x + y * (y if self.of_the_output else x).mean((2, 3), keepdim=True).sigmoid()


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("of_the_output", [False, True])
def test_gates_beside_attention_that_stays_are_local(apart, of_the_output):
    """What attention hands out is a map as any other, wherever its weights were looked up."""
    net, x = Gated(apart, of_the_output).double().eval(), torch.rand(1, 4, 40, 56, dtype=torch.float64)
    y = net.mixing(x)
    report = convert(net, **SIZE).tlc_report
    assert [row.before for row in report.converted] == ["Gated: mean"]
    assert any("softmax" in row.operation for row in report.left_alone)
    torch.testing.assert_close(net(x), x + y * box(y if of_the_output else x).sigmoid(), rtol=1e-10, atol=1e-10)
