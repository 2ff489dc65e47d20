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
