"""Nets that ask a 1x1 output for its size: what they make of the answer must not change when a map takes its place."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.tlc import convert

Forward = Callable[[nn.Module, Tensor], Tensor]
ROW, COLUMN = 14, 22  # whose window of 20x28 is rows 5 to 24 and columns 9 to 36


class Gated(nn.Module):
    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.pool, self.mix, self.own = nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), forward

    def forward(self, x: Tensor) -> Tensor:
        return self.own(self, x)


class Window(nn.Module):
    """The pool's output at the position that is looked at, whatever it is given."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.mean = x[..., 5:25, 9:37].mean((2, 3), keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.mean


def branch(net: nn.Module, x: Tensor) -> Tensor:
    y = net.pool(x)
    return x * net.mix(y).sigmoid() if y.shape[-1] == 1 else x + y


def scaled(net: nn.Module, x: Tensor) -> Tensor:
    y = net.pool(x)
    return x * y / (y.shape[2] * y.shape[3])


def factory(net: nn.Module, x: Tensor) -> Tensor:
    y = net.pool(x)
    return x * y * torch.linspace(0, 1, y.shape[2] + 1, dtype=x.dtype)[1]


def steps(net: nn.Module, x: Tensor) -> Tensor:
    y = net.pool(x)
    return x * (y + torch.arange(y.shape[2])[None, None, :, None])


def counted(net: nn.Module, x: Tensor) -> Tensor:
    y = net.pool(x)
    return x * y if y.numel() == x.shape[0] * x.shape[1] else x


def enlarged(net: nn.Module, x: Tensor) -> Tensor:
    y = net.pool(x)
    return x * (y if y.shape[2:] == x.shape[2:] else F.interpolate(y, size=x.shape[2:]))


ASKING = {f.__name__: f for f in (branch, scaled, factory, steps, counted, enlarged)}
ASKING["a part of it"] = lambda net, x: x * net.pool(x)[:, :, :1, :1]


@pytest.mark.parametrize("name", ASKING)
def test_the_answer_is_as_it_was(name):
    """Converted exactly, or left as it was."""
    torch.manual_seed(0)
    x = torch.rand(1, 4, 40, 56, dtype=torch.float64)
    net = Gated(ASKING[name]).double().eval()
    local, at_position = copy.deepcopy(net), copy.deepcopy(net)
    convert(local, train_size=(1, 4, 16, 24), base_size=(20, 28))
    at_position.pool = Window(x)
    with torch.no_grad():
        wanted = at_position(x) if local.tlc_report.converted else net(x)
        torch.testing.assert_close(local(x)[..., ROW, COLUMN], wanted[..., ROW, COLUMN], rtol=1e-12, atol=1e-12)
    assert local.tlc_report.converted or local.tlc_report.left_alone


def test_enlarging_to_the_image_is_no_question():
    net = Gated(enlarged).eval()
    assert convert(net, train_size=(1, 4, 16, 24), base_size=(20, 28)).tlc_report.converted
