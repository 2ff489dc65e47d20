"""Families of patterns beside those of the zoo: strips, weighted means; each against its definition, window by window."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from test_tlc_zoo import (
    WINDOW,
    C,
    ChannelGate,
    along_columns,
    along_rows,
    each,
    image,
    linear,
    local,
    made,
    mean,
    normed,
    weighted,
)
from torch import Tensor, nn

from basicsr.tlc.local.weighted import local_weighted_mean

CONVERTED: dict[str, tuple[type[nn.Module], Callable[[nn.Module, Tensor], Tensor]]] = {}


def local_by_hand(version: Callable[[nn.Module, Tensor], Tensor]):
    def register(kind: type[nn.Module]) -> type[nn.Module]:
        CONVERTED[kind.__name__] = (kind, version)
        return kind

    return register


# Strips --------------------------------------------------------------------------------------------------------------


def _strip_layers(m: nn.Module, x: Tensor) -> Tensor:
    return x * m.rows[2](m.rows[1](along_rows(x))).sigmoid() + m.columns[1](along_columns(x))


@local_by_hand(_strip_layers)
class StripLayers(nn.Module):
    """Strip pooling (Hou et al., CVPR 2020) with layers; a convolution along the strip follows."""

    def __init__(self) -> None:
        super().__init__()
        along = nn.Conv2d(C, C, (3, 1), padding=(1, 0))
        self.rows = nn.Sequential(nn.AdaptiveAvgPool2d((None, 1)), nn.Conv2d(C, C, 1), along)
        self.columns = nn.Sequential(nn.AdaptiveAvgPool2d((1, None)), nn.Conv2d(C, C, (1, 5), padding=(0, 2)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.rows(x).sigmoid() + self.columns(x)


@local_by_hand(lambda m, x: x * (along_rows(x).sigmoid() * along_columns(x)))
class StripsMeet(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (x.mean(3, keepdim=True).sigmoid() * x.mean(2, keepdim=True))


def _dropped(m: nn.Module, x: Tensor) -> Tensor:
    strips = along_columns(x).transpose(1, 2)  # (N, H, C, W): a strip for each row
    return x * m.conv(strips.flatten(0, 1)).unflatten(0, strips.shape[:2]).transpose(1, 2)


@local_by_hand(_dropped)
class StripDropped(nn.Module):
    """Without the dimension of the rows; a one-dimensional convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(C, C, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(x.mean(2)).unsqueeze(2)


@local_by_hand(lambda m, x: x * m.conv(along_columns(x)).sigmoid() + m.conv(along_rows(x)))
class StripsReshaped(nn.Module):
    """One layout for both kinds of strips, which are told their length."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(C, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        rows, columns = x.mean(3).view(n, c, h, 1), x.mean(2).view(n, c, 1, w).permute(0, 1, 3, 2)
        return x * self.conv(columns).permute(0, 1, 3, 2).sigmoid() + self.conv(rows)


@local_by_hand(lambda m, x: x * F.conv2d(along_rows(x), m.conv.weight[..., 1:2], m.conv.bias, padding=(1, 0)))
class StripAcross(nn.Module):
    """The convolution reaches over the strip's side, where there is nothing, and not into the strips of other positions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(C, C, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(x.mean(3, keepdim=True))


@local_by_hand(
    lambda m, x: (
        x * each(x, lambda crop: crop.amax((2, 3)), (1, WINDOW[1])) - x / each(x, lambda crop: crop.std((2, 3)), (WINDOW[0], 1))
    )
)
class StripKinds(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.amax(3, keepdim=True) - x / x.std(2, keepdim=True)


@local_by_hand(lambda m, x: x * (along_rows(x) + mean(x)))
class StripAndMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (x.mean(3, keepdim=True) + x.mean((2, 3), keepdim=True))


@local_by_hand(lambda m, x: x * mean(m.conv(x)).sigmoid())
class SizesOfAnotherMap(nn.Module):
    """The number of pixels is asked of a map as large as the one that is summed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(C, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x * (self.conv(x).view(n, c, h * w).sum(2) / (h * w)).sigmoid().view(n, c, 1, 1)


# Weighted means ------------------------------------------------------------------------------------------------------


@local_by_hand(lambda m, x: x + m.add(weighted(m.mask(x), x)))
class Context(nn.Module):
    """Its products have more dimensions than they need; layers follow."""

    def __init__(self) -> None:
        super().__init__()
        self.mask, self.softmax = nn.Conv2d(C, 1, 1, bias=False), nn.Softmax(dim=2)
        self.add = nn.Sequential(nn.Conv2d(C, C, 1), nn.LeakyReLU(0.2), nn.Conv2d(C, C, 1))

    def pooled(self, x: Tensor) -> Tensor:
        n, c, h, w = x.size()
        flat = x.view(n, c, h * w).unsqueeze(1)  # (N, 1, C, H*W)
        mask = self.softmax(self.mask(x).view(n, 1, h * w)).unsqueeze(3)  # (N, 1, H*W, 1)
        return torch.matmul(flat, mask).view(n, c, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.add(self.pooled(x))


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.masks, self.mix = nn.Conv2d(C, 3, 1), nn.Linear(3 * C, C)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.masks(x).flatten(2).softmax(-1) @ x.flatten(2).mT  # (N, 3, C)
        return x + self.mix(tokens.flatten(1))[..., None, None]

    def by_hand(self, x: Tensor) -> Tensor:
        tokens = torch.cat([weighted(mask, x) for mask in self.masks(x).split(1, 1)], 1)
        return x + self.mix(tokens.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


local_by_hand(Tokens.by_hand)(Tokens)


@local_by_hand(lambda m, x: x * weighted(m.mask(x), x.relu()))
class SummedProduct(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mask = nn.Conv2d(C, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        weights = F.softmax(self.mask(x).view(n, 1, -1), dim=-1).view(n, 1, h, w)
        return x * (x.relu() * weights).sum((2, 3), keepdim=True)


def _spatial(m: nn.Module, x: Tensor) -> Tensor:
    return x - each(x, lambda crop: (crop.flatten(2).softmax(-1) * crop.flatten(2)).sum(-1))


@local_by_hand(_spatial)
class SoftMaximum(nn.Module):
    """A mask for each channel, of its own."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        return x - (flat * flat.softmax(2)).sum(2)[..., None, None]


# Channels and pixels -------------------------------------------------------------------------------------------------


@local_by_hand(lambda m, x: normed(x, 2))
class GroupsByHand(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        groups = x.view(n, 2, c // 2, h, w)
        mu = groups.mean((2, 3, 4), keepdim=True)
        variance = ((groups - mu) ** 2).mean((2, 3, 4), keepdim=True)
        return ((groups - mu) / (variance + 1e-5).sqrt()).view(n, c, h, w)


@local_by_hand(lambda m, x: normed(x, 2))
class GroupsFlattened(nn.Module):
    """Statistics of rows that hold a group's channels and pixels; brought back to the map's layout."""

    def forward(self, x: Tensor) -> Tensor:
        n, c = x.shape[:2]
        rows = x.reshape(n, 2, -1)
        variance, mu = torch.var_mean(rows, -1, unbiased=False)
        mu, variance = (y.repeat_interleave(c // 2, 1)[..., None, None] for y in (mu, variance))
        return (x - mu) / torch.sqrt(variance + 1e-5)


@local_by_hand(lambda m, x: normed(x, 2))
class GroupsInRows(nn.Module):
    """The rows themselves are normalised, channels and pixels in one dimension."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.view(x.shape[0], 2, -1)
        mu, variance = rows.mean(-1, keepdim=True), rows.var(-1, keepdim=True, unbiased=False)
        return ((rows - mu) / (variance + 1e-5).sqrt()).view(x.shape)


@local_by_hand(lambda m, x: normed(x, 1) + normed(x, C))
class LayerNorms(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[1:]) + F.layer_norm(x, x.shape[2:])


def _all_kinds(m: nn.Module, x: Tensor) -> Tensor:
    largest, spread = (each(x, f) for f in (lambda c: c.amax((1, 2, 3))[:, None], lambda c: c.flatten(1).std(1)[:, None]))
    return x * largest.sigmoid() + x / spread


@local_by_hand(_all_kinds)
class KindsOfAll(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.amax((1, 2, 3), keepdim=True).sigmoid() + x / x.std((1, 2, 3), keepdim=True)


def _layers(m: nn.Module, x: Tensor) -> Tensor:
    layers = x.unflatten(1, (2, -1))
    weights = linear(mean(x).unflatten(1, (2, -1)).mean(2), m.fc).softmax(1)
    return (layers * weights.unsqueeze(2)).flatten(1, 2)


@local_by_hand(_layers)
class Layers(nn.Module):
    """(N, L, C, H, W) as L rows of C * H * W."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        layers = x.view(n, 2, c // 2, h, w)
        weights = self.fc(layers.view(n, 2, -1).mean(-1)).softmax(-1)
        return (layers * weights.view(n, 2, 1, 1, 1)).view(n, c, h, w)


@pytest.mark.parametrize("name", CONVERTED)
def test_local_as_by_hand(name: str):
    kind, by_hand = CONVERTED[name]
    module, x = made(kind), image()
    keys = list(module.state_dict())
    with torch.no_grad():
        plain, want = module(x), by_hand(module, x)
        net = local(module)
        got = net(x)
        assert (got - want).abs().max() <= 1e-10 * want.abs().max()
        assert (got - plain).abs().max() > 1e-3 * plain.abs().max()
        torch.testing.assert_close(torch.cat([net(one[None]) for one in x]), got, rtol=1e-11, atol=1e-11)
        for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert torch.equal(other(x), got)
        torch.testing.assert_close(net.train()(x), plain, rtol=1e-10, atol=1e-10)
    assert net.tlc_report.left_alone == ()
    assert {row.window for row in net.tlc_report.converted} == {WINDOW}
    assert list(net.state_dict()) == keys


@pytest.mark.parametrize("name", CONVERTED)
def test_windows_that_cover_the_map_change_nothing(name: str):
    module, x = made(CONVERTED[name][0]), image()
    with torch.no_grad():
        want = module(x)
        net = local(module, base_size=99)
        torch.testing.assert_close(net(x), want, rtol=1e-10, atol=1e-10)
    assert net.tlc_report.covers((9, 13))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", [StripLayers, StripDropped, StripAndMean, Context, Tokens, SoftMaximum, ChannelGate])
def test_traces_are_of_any_size_and_compilers_follow(kind: type[nn.Module]):
    net, x = local(made(kind)), image()
    with torch.no_grad():
        traced = torch.jit.trace(net, x, check_trace=False)
        for size in ((9, 13), (11, 17), (5, 6), (4, 3), (24, 7)):
            torch.testing.assert_close(traced(image(size)), net(image(size)), rtol=1e-9, atol=1e-9)
        torch._dynamo.reset()
        compiled = torch.compile(net, backend="eager", fullgraph=True, dynamic=False)
        torch.testing.assert_close(compiled(x), net(x), rtol=1e-12, atol=1e-12)


def test_strips_that_are_joined_are_reported():
    """As coordinate attention has it: the convolution sees rows and columns as one sequence."""

    class Joined(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            h, w = x.shape[2:]
            rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True)
            rows, columns = torch.cat([rows, columns.transpose(2, 3)], 2).sigmoid().split([h, w], 2)
            return x * rows * columns.transpose(2, 3)

    module, x = made(Joined), image()
    want = module(x)
    report = local(module).tlc_report
    assert report.converted == ()
    assert all("rows and of columns are joined" in row.reason for row in report.left_alone)
    assert {row.operation for row in report.left_alone} == {"mean"}
    assert torch.equal(module(x), want)


class StripsAttend(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean(3, keepdim=True).softmax(2)


class StripsSummed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean(3, keepdim=True).amax(2, keepdim=True)


class StripsTurned(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x.transpose(2, 3) * x.mean(3, keepdim=True).transpose(2, 3)).transpose(2, 3) + x.flip(3) * x.mean(
            2, keepdim=True
        )


class StripTimesLength(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (x.mean(3, keepdim=True) * x.shape[3])


class MaskTurned(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        mask = x[:, :1].transpose(2, 3).flatten(2).softmax(-1)
        return x + (x.flatten(2) @ mask.mT)[..., None]


class DeviationsOfOthers(nn.Module):
    """Squared deviations from the mean of all channels, and their mean for each."""

    def forward(self, x: Tensor) -> Tensor:
        return x * ((x - x.mean((1, 2, 3), keepdim=True)) ** 2).mean((2, 3), keepdim=True)


class MeanOfSamples(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean((0, 2, 3), keepdim=True)


class MaskMirrored(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        mask = x[:, :1].flip(3).flatten(2).softmax(-1)
        return x + (x.flatten(2) @ mask.mT)[..., None]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (StripsAttend, "looks at all of them"),
        (StripsSummed, "looks at all of them"),
        (StripsTurned, ""),
        (StripTimesLength, "combined with the map's size"),
        (MaskTurned, ""),
        (DeviationsOfOthers, "windows that cover the map"),
        (MeanOfSamples, "windows that cover the map"),
        (MaskMirrored, ""),
    ],
)
def test_what_has_no_local_form_is_reported(kind: type[nn.Module], says: str):
    module, x = made(kind), image()
    net = local(module)
    assert net.tlc_report.converted == ()
    assert any(says in row.reason for row in net.tlc_report.left_alone)
    assert torch.equal(net(x), made(kind)(x))


@pytest.mark.parametrize("exclude", ["*:weighted mean", "*:_softmax"])
def test_an_excluded_weighted_mean_stays(exclude: str):
    module, x = made(Context), image()
    net = local(module, exclude=exclude)
    assert net.tlc_report.converted == ()
    assert {row.reason for row in net.tlc_report.left_alone} == {f"excluded by {exclude!r}"}
    assert torch.equal(net(x), made(Context)(x))


def test_an_excluded_strip_pool_stays():
    net, x = local(made(StripLayers), exclude="columns*"), image()
    assert [row.path for row in net.tlc_report.left_alone] == ["columns.0"]
    want = x * net.rows[2](net.rows[1](along_rows(x))).sigmoid() + net.columns(x)
    assert (net(x) - want).abs().max() <= 1e-10 * want.abs().max()


@pytest.mark.parametrize("spike", [None, 800.0, -800.0, 2500.0])
def test_logits_that_are_far_apart(spike: float | None):
    """Weights vanish in float64 beside those of another window, and not in their own."""
    torch.manual_seed(2)
    x = image()
    x[:, 0] = torch.rand(x[:, 0].shape, dtype=torch.float64) * 100 - 50
    if spike:
        x[:, 0, 3, 4], x[0, 0, 6, 1] = spike, spike / 2
    module = made(Context)
    with torch.no_grad():
        module.mask.weight.copy_(torch.eye(1, C)[..., None, None])
        plain, got = module(x), local(module)(x)
        want = x + module.add(weighted(x[:, :1], x))
    assert plain.isfinite().all()
    assert (got - want).abs().max() <= 1e-11 * want.abs().max()
    assert ((got - want).abs() <= 1e-9 * want.abs().clamp(min=1)).all()


@pytest.mark.parametrize(
    ("size", "window"), [((9, 13), (4, 5)), ((8, 12), (4, 3)), ((9, 13), (9, 4)), ((3, 3), (5, 5)), ((1, 9), (3, 4))]
)
def test_groups_masks_and_layouts(size: tuple, window: tuple):
    torch.manual_seed(0)
    logits, values = 9 * torch.randn(2, 2, 3, *size).double(), torch.randn(2, 2, 4, *size).double()
    flat = logits.flatten(3)
    got = local_weighted_mean(flat, 3, values, (3, 4), size, 2, False, window).expand(-1, -1, -1, -1, *size)
    for g in range(2):
        for m in range(3):
            both = torch.cat([logits[:, g, m : m + 1], values[:, g]], 1)
            want = each(both, lambda c: (c[:, :1].flatten(2).softmax(-1) * c[:, 1:].flatten(2)).sum(-1), window)
            torch.testing.assert_close(got[:, g, m], want, rtol=1e-11, atol=1e-11)
    turned = local_weighted_mean(flat.mT, 2, values.flatten(3), (3,), size, 2, True, window)
    torch.testing.assert_close(turned.expand(-1, -1, -1, -1, *size), got.transpose(2, 3), rtol=0, atol=0)
    assert local_weighted_mean(flat.half(), 3, values.half(), (3, 4), size, 2, False, window).dtype == torch.float16


def test_weighted_means_have_gradients_and_take_what_is_not_finite():
    net, x = local(made(Context)), image()
    x[0, 0, 3, 3] = 900
    x.requires_grad_()
    net(x).square().mean().backward()
    assert x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())
    logits = torch.zeros(1, 1, 1, 9 * 13)
    for value in (torch.nan, torch.inf, -torch.inf):
        logits[..., 0] = value
        out = local_weighted_mean(logits, 3, torch.ones(1, 1, 1, 9, 13), (3, 4), (9, 13), 1, False, (3, 3))
        assert out[..., 5:, :].isfinite().all()
        assert out[..., 0, 0].isfinite() == (value < 0)
