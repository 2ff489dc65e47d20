"""Statistics that are written into tensors, and hooks around them; what a net is given besides the image; what it returns."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.tlc import convert

C, SIZE = 4, {"train_size": (1, 4, 16, 24), "base_size": (10, 14)}


def box(x: Tensor) -> Tensor:
    """Means of the windows of 10x14 inside a map of 24x32, the outermost repeated."""
    means = F.avg_pool2d(x, (10, 14), stride=1)
    return F.pad(means, (6, 7, 4, 5), mode="replicate")


def image() -> Tensor:
    return torch.randn(2, C, 24, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Pooled(nn.Module):
    def __init__(self, write: Callable[[Tensor, Tensor], Tensor], by_hand: bool) -> None:
        super().__init__()
        self.write, self.pool = write, None if by_hand else nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.write(x, x.mean((2, 3), keepdim=True) if self.pool is None else self.pool(x))


def into(made: Callable[[Tensor], Tensor], index: object) -> Callable[[Tensor, Tensor], Tensor]:
    def write(x: Tensor, mean: Tensor) -> Tensor:
        z = made(x)
        z[index] = mean
        return z

    return write


def one(x: Tensor) -> Tensor:
    return torch.zeros(x.shape[0], C, 1, 1, dtype=x.dtype, device=x.device)


WRITTEN = {
    "all": into(one, slice(None)),
    "all dimensions": into(one, (slice(None), ...)),
    "a map": into(torch.zeros_like, ...),
    "copied": lambda x, mean: one(x).copy_(mean),
    "copied to a map": lambda x, mean: torch.empty_like(x).copy_(mean),
}


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("written", WRITTEN)
def test_what_is_written_into_tensors_is_local(written: str, by_hand: bool):
    net, x = convert(Pooled(WRITTEN[written], by_hand).eval(), **SIZE), image()
    assert len(net.tlc_report.converted) == 1
    assert net.tlc_report.left_alone == ()
    assert (net(x) - x * box(x)).abs().max() < 1e-12


MASKED = {
    "where": lambda x: torch.where(x > x.mean((2, 3), keepdim=True), x, 0.5 * x),
    "filled": lambda x: x.masked_fill(x <= x.mean((2, 3), keepdim=True), 0) + 0.5 * x.masked_fill(x > x.mean((2, 3), True), 0),
    "written": lambda x: masked(x),
}


def masked(x: Tensor) -> Tensor:
    y = x.clone()
    y[x <= x.mean((2, 3), keepdim=True)] *= 0.5
    return y


@pytest.mark.parametrize("how", MASKED)
def test_comparisons_with_a_statistic_are_local(how: str):
    class Masked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return MASKED[how](x)

    net, x = convert(Masked().eval(), **SIZE), image()
    assert {row.after for row in net.tlc_report.converted} == {"local mean"}
    assert torch.equal(net(x), torch.where(x > box(x), x, 0.5 * x))


def test_a_wrong_threshold_is_right_at_most_pixels_and_seen_at_some():
    """The mean is over the samples, where positions would be samples, too."""

    class Masked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            largest = x.amax((2, 3))
            threshold = largest - 0.5 * largest.mean(0, keepdim=True)
            return torch.where(x > threshold[..., None, None], x, 0.5 * x)

    net, x = Masked().eval(), image()
    plain = net(x)
    assert convert(net, **SIZE).tlc_report.converted == ()
    assert torch.equal(net(x), plain)


def test_out_is_said():
    class Out(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            made = one(x)
            torch.mean(x, (2, 3), keepdim=True, out=made)
            return x * made

    (row,) = convert(Out().eval(), **SIZE).tlc_report.left_alone
    assert row.operation == "mean"
    assert row.reason.startswith("its forward has results written into a tensor by out=; use what the function returns")


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("outer", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_hooks_do_what_they_did(by_hand: bool, outer: bool, before: bool):
    net, x = nn.Sequential(Pooled(lambda x, mean: mean, by_hand), nn.Identity()).eval(), image()
    part = net if outer else net[0]
    if before:
        part.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    else:
        part.register_forward_hook(lambda module, args, out: out * 4)
    assert len(convert(net, **SIZE).tlc_report.converted) == 1
    assert (net(x) - 4 * x * box(x)).abs().max() < 1e-12


def test_a_hook_before_a_pool():
    net, x = Pooled(lambda x, mean: mean, by_hand=False).eval(), image()
    net.pool.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    assert len(convert(net, **SIZE).tlc_report.converted) == 1
    assert (net(x) - 2 * x * box(x)).abs().max() < 1e-12


class Beside(nn.Module):
    def __init__(self, by_hand: bool) -> None:
        super().__init__()
        self.pool = None if by_hand else nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return x * (other.mean((2, 3), keepdim=True) if self.pool is None else self.pool(other))


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize(
    "other",
    [
        lambda x: x[:, :1],
        lambda x: F.max_pool2d(x, 3, 1, 1).mean(1, keepdim=True),
        lambda x: torch.zeros(1, 1, *x.shape[2:]),
        torch.zeros_like,
    ],
)
def test_maps_beside_the_image_are_where_it_is(other: Callable[[Tensor], Tensor], by_hand: bool):
    net, x = Beside(by_hand).eval(), image()
    convert(net, **SIZE, inputs=lambda image: (image, other(image)))
    assert len(net.tlc_report.converted) == 1
    beside = other(x).double() + x[:, :1]
    assert (net(x, beside) - x * box(beside)).abs().max() < 1e-12


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("other", [lambda x: x.flip(-1), lambda x: F.pad(x, (3, -3)), lambda x: torch.fft.fft2(x).abs()])
def test_maps_beside_the_image_that_are_elsewhere(other: Callable[[Tensor], Tensor], by_hand: bool):
    report = convert(Beside(by_hand).eval(), **SIZE, inputs=lambda image: (image, other(image))).tlc_report
    assert report.converted == ()
    assert len(report.left_alone) == 1


@pytest.mark.parametrize("by_hand", [False, True])
def test_what_is_returned_beside_a_map_is_no_map_itself(by_hand: bool):
    class Both(Pooled):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            gate = x.mean((2, 3), keepdim=True) if self.pool is None else self.pool(x)
            return x * gate, gate

    (row,) = convert(Both(lambda x, mean: mean, by_hand).eval(), **SIZE).tlc_report.left_alone
    assert "nothing to do" not in row.reason
    assert "returns it, too" in row.reason
