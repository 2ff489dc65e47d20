"""Positions mean the same: what is converted equals the definition at single positions, and all else is reported.

The definition, by this file's own code: what a module makes of one pixel, when each of its global statistics is that of the
window around this pixel, cropped out of the map. Where the pixel is in a map (flipped, say) a tiny change of it shows.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from basicsr.tlc import convert

C, TRAIN, BASE, SIZE = 4, (16, 16), (10, 8), (16, 24)
POSITIONS = ((0, 0), (15, 23), (0, 22), (4, 7), (8, 13), (11, 3), (15, 1))
aten = torch.ops.aten


# The definition --------------------------------------------------------------------------------------------------------


class Nowhere(Exception):
    """No place of a map is that of the pixel alone: in a spectrum, where pixels were added to others."""


class Unrun(Exception):
    """The plain module does not run."""


class Source(NamedTuple):
    """A map that a statistic is taken of, and its rows' and columns' dimensions."""

    x: Tensor
    dims: tuple[int, int]


class Statistics(TorchDispatchMode):
    """Notes the maps of all global statistics; where `at` says so, takes them of the window around that place instead.

    Args:
        at: for each statistic in order, (row, column) in its map, by sample. trained: these maps in training.
    """

    def __init__(self, at: list[list[tuple[int, int]]] | None = None, trained: list[Source] | None = None) -> None:
        super().__init__()
        self.sources: list[Source] = []
        self.at, self.trained = at, trained

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        packet = function.overloadpacket
        if packet is aten.native_group_norm:
            n, groups, eps = args[3], args[6], args[7]
            x = args[0].reshape(n, groups, -1, *args[0].shape[2:])
            mean, variance = self._moments(x, (3, 4), 2)
            y = ((x - mean) / (variance + eps).sqrt()).reshape(args[0].shape)
            weight, bias = (1 if p is None else p.view(-1, 1, 1) for p in args[1:3])
            return y * weight + (0 if args[2] is None else bias), mean, variance
        if packet is aten.native_batch_norm and args[5]:
            mean, variance = self._moments(args[0], (2, 3))
            y = (args[0] - mean) / (variance + args[7]).sqrt()
            weight, bias = (1 if p is None else p.view(-1, 1, 1) for p in args[1:3])
            return y * weight + (0 if args[2] is None else bias), mean, variance
        dims = args[1] if packet in (aten.mean, aten.sum, aten.amax, aten.var) and len(args) > 1 else None
        dims = tuple(sorted(dim % args[0].ndim for dim in dims)) if isinstance(dims, (list, tuple)) else ()
        if len(dims) == 2 and args[0].ndim == 4:
            return function(self._window(args[0], dims), *args[1:], **kwargs)
        if dims in ((2,), (3,)) and args[0].ndim == 4:
            return function(self._window(args[0], (2, 3), dims), *args[1:], **kwargs)
        return function(*args, **kwargs)

    def _moments(self, x: Tensor, dims: tuple[int, int], *more: int) -> tuple[Tensor, Tensor]:
        crop = self._window(x, dims)
        return crop.mean((*dims, *more), keepdim=True), crop.var((*dims, *more), correction=0, keepdim=True)

    def _window(self, x: Tensor, dims: tuple[int, int], over: tuple[int, ...] | None = None) -> Tensor:
        """over: the one of both that a mean of rows or of columns is taken over."""
        over = over or dims
        self.sources.append(Source(x, dims))
        if self.at is None:
            return x
        crops = []
        for sample, at in zip(x.split(1), self.at[len(self.sources) - 1], strict=True):
            for dim, place, base, train in zip(dims, at, BASE, TRAIN, strict=True):
                if dim not in over:
                    continue
                full, trained = x.shape[dim], self.trained[len(self.sources) - 1].x.shape[dim]
                window = min(max(1, trained * base // train), full)
                count = full - window + 1
                sample = sample.narrow(dim, min(max(place - (full - count) // 2, 0), count - 1), window)
            crops.append(sample)
        return torch.cat(crops)


def places_of(before: Tensor, after: Tensor, dims: tuple[int, int]) -> list[tuple[int, int]]:
    """Where two maps differ most, by sample."""
    change = (after - before).abs().movedim(dims, (-2, -1)).flatten(1, -3).sum(1)
    found = []
    for sample in change:
        (first, second), (index, _) = sample.flatten().topk(2)
        if first < 1.5 * second:
            raise Nowhere
        found.append(divmod(int(index), change.shape[-1]))
    return found


def defined(module: nn.Module, x: Tensor, position: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """What the definition makes of a pixel, (N, C), and where in the output it is."""
    changed = x.clone()
    changed[..., position[0], position[1]] += 1e-6
    with Statistics() as trained:
        module(x.new_zeros(1, C, *TRAIN))
    with Statistics() as plain:
        before = module(x)
    with Statistics() as other:
        after = module(changed)
    at = [places_of(a.x, b.x, a.dims) for a, b in zip(plain.sources, other.sources, strict=True)]
    row, column = places_of(before, after, (2, 3))[0]
    with Statistics(at, trained.sources):
        return module(x)[..., row, column], (row, column)


def decide(build: Callable[[], nn.Module]) -> str:
    """'converted', exactly, or 'reported', and as it was."""
    torch.manual_seed(0)
    plain = build().double().eval()
    x = torch.randn(2, C, *SIZE, dtype=torch.float64)
    with torch.no_grad():
        try:
            want = plain(x)
        except RuntimeError as error:
            raise Unrun from error
        local = convert(copy.deepcopy(plain), train_size=(1, C, *TRAIN), base_size=BASE)
        got = local(x)
        if not local.tlc_report.converted:
            assert [row for row in local.tlc_report.left_alone if "did not run" not in row.reason]
            assert torch.equal(got, want)
            return "reported"
        for position in POSITIONS:
            value, (row, column) = defined(plain, x, position)
            error = (got[..., row, column] - value).abs().max() / value.abs().max()
            assert error < 1e-9, f"{error:.1e} at {position}: {local.tlc_report}"
    return "converted"


# Modules ---------------------------------------------------------------------------------------------------------------


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool, self.norm = nn.AdaptiveAvgPool2d(1), nn.InstanceNorm2d(C, affine=True)
        self.conv, self.fc = nn.Conv2d(C, C, 1), nn.Linear(C, C)
        nn.init.normal_(self.norm.weight)

    def gate(self, x: Tensor) -> Tensor:
        """By a rule."""
        return self.conv(self.pool(x)).sigmoid()

    def gate_by_hand(self, x: Tensor) -> Tensor:
        """By a rewritten forward."""
        return self.fc(x.mean((2, 3))).sigmoid()[..., None, None]


def amplitude(x: Tensor) -> Tensor:
    return torch.fft.fft2(x).abs()


def shifted(x: Tensor, by: int) -> Tensor:
    """Zeros come in."""
    return F.pad(x, (by, -by, 0, 0))


def warped(x: Tensor) -> Tensor:
    """Mirrored."""
    n, _, h, w = x.shape
    columns, rows = torch.linspace(1, -1, w, device=x.device), torch.linspace(-1, 1, h, device=x.device)
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).to(x.dtype)
    return F.grid_sample(x, grid.expand(n, h, w, 2), align_corners=True)


def sorted_back(x: Tensor, gate: Tensor) -> Tensor:
    values, order = x.flatten(2).sort(-1)
    return (values.view(x.shape) * gate).flatten(2).gather(-1, order.argsort(-1)).view(x.shape)


def flip_index(x: Tensor) -> Tensor:
    return torch.arange(x.shape[-1] - 1, -1, -1, device=x.device)


def spectrum(x: Tensor, gate: Callable[[Tensor], Tensor]) -> Tensor:
    """Real and imaginary part, as channels."""
    y = torch.fft.rfft2(x)
    y = torch.complex(gate(y.real), gate(y.imag))
    return torch.fft.irfft2(y, s=x.shape[-2:])


# Statistics of pixels that meet other pixels, or none of the image: never converted.
REPORTED: dict[str, Callable[[Parts, Tensor, Callable], Tensor]] = {
    "a gate of a spectrum": lambda m, x, g: torch.fft.ifft2(g(x) * torch.fft.fft2(x)).abs(),
    "a gate of half a spectrum": lambda m, x, g: torch.fft.irfft2(g(x) * torch.fft.rfft2(x), s=x.shape[-2:]),
    "a gate of rows' spectra": lambda m, x, g: torch.fft.ifft(g(x) * torch.fft.fft(x, dim=-1), dim=-1).real,
    "a gate of columns' spectra": lambda m, x, g: torch.fft.irfft(g(x) * torch.fft.rfft(x, dim=2), n=x.shape[2], dim=2),
    "a gate of an inverse spectrum": lambda m, x, g: torch.fft.fft2(g(x) * torch.fft.ifft2(x)).real,
    "a gate of a centred spectrum": lambda m, x, g: (
        torch.fft.ifft2(torch.fft.ifftshift(g(x) * torch.fft.fftshift(torch.fft.fft2(x)))).real
    ),
    "a gate of amplitudes": lambda m, x, g: x * g(amplitude(x)),
    "a gate of phases": lambda m, x, g: x * g(torch.fft.fft2(x).angle()),
    "a gate of squared spectra": lambda m, x, g: x * g(torch.fft.rfft2(x).real.square()),
    "a spectrum that is normalised": lambda m, x, g: spectrum(x, m.norm),
    "a spectrum that is gated by itself": lambda m, x, g: spectrum(x, lambda y: y * g(y)),
    "amplitudes and pixels": lambda m, x, g: x * g(x + amplitude(x)),
    "flipped": lambda m, x, g: (x.flip(-1) * g(x)).flip(-1),
    "flipped rows": lambda m, x, g: (x.flip(2) * g(x)).flip(2),
    "flipped both": lambda m, x, g: (x.flip(2, 3) * g(x)).flip(2, 3),
    "a gate of the flipped": lambda m, x, g: x * g(x.flip(-1)),
    "flipped by an index": lambda m, x, g: (x[..., flip_index(x)] * g(x))[..., flip_index(x)],
    "flipped by index_select": lambda m, x, g: x.index_select(3, flip_index(x)) * g(x),
    "flipped by gather": lambda m, x, g: x.gather(3, flip_index(x).expand(x.shape)) * g(x),
    "flipped by a matrix": lambda m, x, g: (x @ torch.eye(x.shape[-1], dtype=x.dtype, device=x.device).flip(0)) * g(x),
    "transformed by matrices": lambda m, x, g: (y := matrix(x, 2)).mT @ ((y @ x @ matrix(x, 3)) * g(x)) @ matrix(x, 3).mT,
    "transformed along rows": lambda m, x, g: ((x @ matrix(x, 3)) * g(x).expand_as(x)) @ matrix(x, 3).mT,
    "flipped by sampling": lambda m, x, g: warped(warped(x) * g(x)),
    "flipped and expanded": lambda m, x, g: (x.flip(-1) * g(x).expand_as(x)).flip(-1),
    "turned after it was expanded": lambda m, x, g: x * g(x).expand_as(x).flip(-1).sigmoid(),
    "flipped and concatenated": lambda m, x, g: (
        torch.cat([x.flip(-1), g(x).expand(-1, -1, *x.shape[2:])], 1).unflatten(1, (2, C)).prod(1).flip(-1)
    ),
    "flipped and resized": lambda m, x, g: (x.flip(-1) * F.interpolate(g(x), size=x.shape[2:])).flip(-1),
    "rolled": lambda m, x, g: (x.roll(3, 2) * g(x)).roll(-3, 2),
    "rolled both": lambda m, x, g: (x.roll((3, 4), (2, 3)) * g(x)).roll((-3, -4), (2, 3)),
    "rolled, all pixels": lambda m, x, g: (x.roll(5) * g(x)).roll(-5),
    "rolled to the other half": lambda m, x, g: (x.roll(x.shape[2] // 2, 2) * g(x)).roll(-(x.shape[2] // 2), 2),
    "shifted": lambda m, x, g: shifted(shifted(x, 3) * g(x), -3),
    "shifted by an assignment": lambda m, x, g: assigned(x) * g(x),
    "rolled by concatenation": lambda m, x, g: torch.cat([x[..., 3:], x[..., :3]], 3) * g(x),
    "a map of amplitudes": lambda m, x, g: x * g(torch.fft.ifft2(amplitude(x)).real),
    "a map of phases": lambda m, x, g: x * g(torch.fft.irfft2(torch.exp(1j * torch.fft.rfft2(x).angle()), s=x.shape[-2:])),
    "sorted": lambda m, x, g: sorted_back(x, g(x)),
    "a gate of the sorted": lambda m, x, g: x * g(x.sort(-1).values),
    "sorted rows": lambda m, x, g: x.sort(2).values * g(x),
    "the largest": lambda m, x, g: x.topk(x.shape[-1], -1).values * g(x),
    "cumulated sorted": lambda m, x, g: x * g(x.sort(-1).values.cumsum(-1)),
    "transposed": lambda m, x, g: (x.transpose(2, 3) * g(x)).transpose(2, 3),
    "permuted": lambda m, x, g: (x.permute(0, 1, 3, 2) * g(x)).permute(0, 1, 3, 2),
    "transposed tokens": lambda m, x, g: (x.mT.flatten(2) * g(x).flatten(2)).unflatten(2, (x.shape[3], x.shape[2])).mT,
    "transposed pixels as the map": lambda m, x, g: x.mT.reshape(x.shape) * g(x),
    "turned": lambda m, x, g: (x.rot90(1, (2, 3)) * g(x)).rot90(-1, (2, 3)),
    "turned twice": lambda m, x, g: (x.rot90(2, (2, 3)) * g(x)).rot90(2, (2, 3)),
    "a norm of the transposed": lambda m, x, g: m.norm(x.mT).mT,
    "pixels in blocks as rows": lambda m, x, g: x.unflatten(2, (-1, 2)).transpose(2, 3).flatten(2, 3) * g(x),
    "far pixels side by side": lambda m, x, g: x.unflatten(3, (2, -1)).transpose(3, 4).flatten(3) * g(x),
    "a half of the channels flipped": lambda m, x, g: torch.cat([x[:, :2].flip(-1), x[:, 2:]], 1) * g(x),
    "copies along the channels": lambda m, x, g: (torch.cat([x, x.flip(-1)], 1).unflatten(1, (2, C)) * g(x).unsqueeze(1)).sum(
        1
    ),
    "copies along the batch": lambda m, x, g: (torch.cat([x, x.flip(-1)], 0) * torch.cat([g(x), g(x)], 0)).chunk(2)[1].flip(-1),
    "a gate of one copy": lambda m, x, g: torch.cat([x, x.flip(-1)], 0).chunk(2)[1] * g(x),
}


def matrix(x: Tensor, dim: int) -> Tensor:
    """A transform along rows or columns."""
    index = torch.arange(x.shape[dim], dtype=x.dtype, device=x.device)
    return torch.cos((2 * index[:, None] + 1) * index * torch.pi / (2 * x.shape[dim]))


def assigned(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[..., 3:] = x[..., :-3]
    return y


# The same for statistics that modules compute by themselves.
BY_HAND: dict[str, Callable[[Parts, Tensor, Callable], Tensor]] = {
    "a flipped strip": lambda m, x, g: x * x.mean(2, keepdim=True).flip(-1).sigmoid(),
    "a strip of the flipped": lambda m, x, g: x * x.flip(-1).mean(2, keepdim=True).sigmoid(),
    "a strip of a spectrum": lambda m, x, g: x * amplitude(x).mean(3, keepdim=True).sigmoid(),
    "weights of flipped pixels": lambda m, x, g: (
        x + (x.flatten(2) @ m.conv(x)[:, :1].flip(-1).flatten(2).softmax(-1).mT).unsqueeze(-1)
    ),
    "weights of transposed pixels": lambda m, x, g: (
        x + (x.flatten(2) @ m.conv(x)[:, :1].mT.flatten(2).softmax(-1).mT).unsqueeze(-1)
    ),
    "queries of flipped pixels": lambda m, x, g: attention(x.flip(-1), x, x),
    "keys of rolled pixels": lambda m, x, g: attention(x, x.roll(2, 2), x),
    "values of transposed pixels": lambda m, x, g: attention(x, x, x.mT.reshape(x.shape)),
    "attention of transposed pixels": lambda m, x, g: attention(x.mT, x.mT, x.mT).mT,
    "attention of spectra": lambda m, x, g: attention(amplitude(x), amplitude(x), amplitude(x)),
    "a norm of amplitudes": lambda m, x, g: F.instance_norm(amplitude(x)),
    "groups of amplitudes": lambda m, x, g: F.group_norm(amplitude(x), 2),
    "a centred spectrum": lambda m, x, g: (a := amplitude(x)) - a.mean((2, 3), keepdim=True),
}


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    a, b = (F.normalize(y.flatten(2), dim=-1) for y in (q, k))
    return ((a @ b.mT).softmax(-1) @ v.flatten(2)).view(v.shape)


# The same places: converted.
CONVERTED: dict[str, Callable[[Parts, Tensor, Callable], Tensor]] = {
    "plain": lambda m, x, g: x * g(x),
    "expanded": lambda m, x, g: x * g(x).expand_as(x),
    "both flipped": lambda m, x, g: ((y := x.flip(-1)) * g(y)).flip(-1),
    "both rolled": lambda m, x, g: ((y := x.roll((-3, 2), (2, 3))) * g(y)).roll((3, -2), (2, 3)),
    "both sampled before": lambda m, x, g: x.flip(-1).flip(-1) * g(x),
    "a flipped norm": lambda m, x, g: m.norm(x.flip(2)).flip(2),
    "rolled there and back": lambda m, x, g: x.roll(5, 3).roll(-2, 3).roll(-3, 3) * g(x),
    "turned there and back": lambda m, x, g: x.flip(2).flip(3).flip(2).flip(3) * g(x),
    "a transform before": lambda m, x, g: torch.fft.ifft2(torch.fft.fft2(x) * 2).real * g(x),
    "a real transform before": lambda m, x, g: torch.fft.irfft2(torch.fft.rfft2(x) * 2, s=x.shape[-2:]) * g(x),
    "transposed there and back": lambda m, x, g: (2 * x.mT).mT * g(x),
    "channels last": lambda m, x, g: (x.permute(0, 2, 3, 1) * g(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "padded and cropped": lambda m, x, g: F.pad(x, (2, 2, 1, 1), mode="reflect")[..., 1:-1, 2:-2] * g(x),
    "padded in a circle": lambda m, x, g: F.pad(x, (1, 1, 1, 1), mode="circular")[..., 1:-1, 1:-1] * g(x),
    "shuffled there and back": lambda m, x, g: F.pixel_shuffle(F.pixel_unshuffle(x, 2) * 2, 2) * g(x),
    "windows there and back": lambda m, x, g: F.fold(F.unfold(x, 4, stride=4), x.shape[2:], 4, stride=4) * g(x),
    "every second row": lambda m, x, g: (y := x[..., ::2, :]) * g(y),
    "assigned": lambda m, x, g: halves(x) * g(x),
    "copies, each by its own": lambda m, x, g: ((y := torch.cat([x, x.flip(-1)], 0)) * g(y)).chunk(2)[1].flip(-1),
    "parts put together": lambda m, x, g: torch.cat([x[..., :5], x[..., 5:]], 3) * g(x),
    "kernels by position": lambda m, x, g: (x + kernels(x) / 99) * g(x),
    "windows of two scales": lambda m, x, g: (x + two_scales(x) / 9) * g(x),
    "gated and then flipped": lambda m, x, g: (x * g(x)).flip(-1),
    "gated and then transformed": lambda m, x, g: torch.fft.ifft2(torch.fft.fft2(x * g(x))).real,
}


def kernels(x: Tensor) -> Tensor:
    """Each pixel's neighbours, mixed by a matrix of its own; channels in two groups."""
    n, c, h, w = x.shape
    matrices = x.flatten(2).mT @ torch.linspace(-1, 1, c * 2 * 2 * 18, dtype=x.dtype, device=x.device).view(c, -1)
    neighbours = F.unfold(x, 3, padding=1).view(n, 2, 18, h * w).permute(0, 3, 1, 2)
    y = matrices.view(n, h * w, 2, 2, 18) @ neighbours.unsqueeze(-1)
    return y.reshape(n, h * w, c).mT.reshape(x.shape)


def two_scales(x: Tensor) -> Tensor:
    """The pixels of windows attend to those of the same windows at half the resolution."""
    n, c, h, w = x.shape

    def windows(y: Tensor, side: int) -> Tensor:
        cut = y.view(n, c, y.shape[2] // side, side, y.shape[3] // side, side)
        return cut.permute(0, 2, 4, 3, 5, 1).reshape(-1, side * side, c)

    q, k = windows(x, 4), windows(F.avg_pool2d(x, 2), 2)
    y = (q @ k.mT).softmax(-1) @ k
    return y.view(n, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(x.shape)


def halves(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :2], y[:, 2:] = x[:, :2], 2 * x[:, 2:]
    return y


def module_of(forward: Callable, gate: str) -> nn.Module:
    def run(self: Parts, x: Tensor) -> Tensor:
        return forward(self, x, getattr(self, gate))

    return type("Case", (Parts,), {"forward": run})()


@pytest.mark.parametrize("gate", ["gate", "gate_by_hand"])
@pytest.mark.parametrize("name", REPORTED)
def test_other_places_are_reported(name: str, gate: str):
    assert decide(lambda: module_of(REPORTED[name], gate)) == "reported"


@pytest.mark.parametrize("name", BY_HAND)
def test_other_places_by_hand_are_reported(name: str):
    assert decide(lambda: module_of(BY_HAND[name], "gate")) == "reported"


@pytest.mark.parametrize("gate", ["gate", "gate_by_hand"])
@pytest.mark.parametrize("name", CONVERTED)
def test_the_same_places_are_converted(name: str, gate: str):
    assert decide(lambda: module_of(CONVERTED[name], gate)) == "converted"


class Twice(nn.Module):
    """A module that runs on a map, and again on another one."""

    def __init__(self, other: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.other, self.part = other, module_of(lambda m, x, g: x * g(x), "gate_by_hand")

    def forward(self, x: Tensor) -> Tensor:
        return self.part(self.other(self.part(x)))


@pytest.mark.parametrize("other", [amplitude, lambda x: x + amplitude(x), lambda x: x.sort(-1).values])
def test_a_module_whose_second_map_is_elsewhere_is_reported(other: Callable[[Tensor], Tensor]):
    assert decide(lambda: Twice(other)) == "reported"


def test_a_module_that_runs_twice_is_converted():
    net = convert(Twice(lambda x: 2 * x).double().eval(), train_size=(1, C, *TRAIN), base_size=BASE)
    x, part = torch.randn(1, C, *SIZE, dtype=torch.float64), net.part

    def gated(y: Tensor) -> Tensor:
        """Windows of 10x8 inside the map, the outermost repeated."""
        means = F.pad(F.avg_pool2d(y, (10, 8), stride=1), (3, 4, 4, 5), mode="replicate")
        return y * part.fc(means.movedim(1, -1)).movedim(-1, 1).sigmoid()

    assert (net(x) - gated(2 * gated(x))).abs().max() < 1e-12


class Crossed(nn.Module):
    """What was joined, and is cut apart again, is where it was: strips, as in coordinate attention; tokens."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.conv, self.gate = how, nn.Conv2d(C, C, 1), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        if self.how == "strips":
            both = self.conv(torch.cat([x.amax(3, keepdim=True), x.amax(2, keepdim=True).mT], 2))
            rows, columns = both.split([h, w], 2)
            x = x * rows.sigmoid() * columns.mT.sigmoid()
        elif self.how == "tokens":
            tokens = torch.cat([self.conv.weight[None, :, :, 0, 0].expand(n, -1, -1), x.flatten(2).mT], 1)
            x = tokens.tanh()[:, c:].mT.reshape(n, c, h, w)
        elif self.how == "beside another map":
            x = (torch.cat([x, x], 2) * F.interpolate(x, scale_factor=(2, 1)))[:, :, :h]
        else:  # some rows of both
            x = torch.cat([x, x.flip(2)], 2)[:, :, 3 : 3 + h]
        return x * self.gate(x)


@pytest.mark.parametrize("how", ["strips", "tokens", "rows of both", "beside another map"])
def test_what_was_joined_and_is_cut_apart_is_where_it_was(how):
    net = convert(Crossed(how).double().eval(), train_size=TRAIN, base_size=BASE)
    became = [row.path for row in net.tlc_report.converted]
    assert became == (["gate"] if how in ("strips", "tokens") else [])
    if became:
        seen = []
        net.gate.register_forward_hook(lambda module, args, out: seen.append((args[0], out)))
        net(torch.rand(1, C, *SIZE, dtype=torch.float64))
        ((x, out),) = seen
        around = x[..., 4 : 4 + BASE[0], 10 : 10 + BASE[1]]
        assert torch.allclose(out[..., 8, 13], around.mean((2, 3)), rtol=0, atol=1e-12)
