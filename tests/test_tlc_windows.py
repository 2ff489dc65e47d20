"""Modules that run in windows that cover their maps, against loops over the windows in float64; which are refused, and why."""

import copy
import math
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from test_tlc_blended import hats
from test_tlc_zoo import each
from torch import Tensor, nn

from basicsr.archs import build_network
from basicsr.commands import words
from basicsr.commands.parser import Parser
from basicsr.errors import UserError
from basicsr.tlc import convert, revert

C = 4

# Modules that look at a whole map ------------------------------------------------------------------------------------


class Attention(nn.Module):
    """One head over pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.project = nn.Conv2d(C, 3 * C, 3, padding=1), nn.Conv2d(C, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        q, k, v = self.qkv(x).flatten(2).chunk(3, 1)
        return x + self.project((v @ (q.transpose(1, 2) @ k).softmax(-1).transpose(1, 2)).view(n, c, h, w))


class Whole(Attention):
    """The same, with a branch that nobody can follow: it runs in windows as a whole."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] > 1 << 20:
            return x
        return super().forward(x)


class Rows(nn.Module):
    """Attention along rows, with channels last."""

    def forward(self, x: Tensor) -> Tensor:  # (N, H, W, C)
        return F.scaled_dot_product_attention(x, x, x)


class Spectrum(nn.Module):
    """A gate that multiplies the spectrum."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Conv2d(2 * C, 2 * C, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.fft.rfft2(x, norm="ortho")
        real, imaginary = self.gate(torch.cat([y.real, y.imag], 1)).chunk(2, 1)
        return torch.fft.irfft2(torch.complex(real, imaginary), s=x.shape[-2:], norm="ortho")


class Scan(nn.Module):
    """A state that decays from pixel to pixel, row by row."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        decay = torch.arange(h * w, dtype=x.dtype, device=x.device).mul(0.05).clamp(max=20).exp()
        return ((x.flatten(2) * decay).cumsum(-1) / decay).view(n, c, h, w)


class Grid(nn.Module):
    """A linear layer over 4x4 parts that grow with the map, as in MAXIM."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        parts = x.view(n, c, 4, h // 4, 4, w // 4).permute(0, 1, 3, 5, 2, 4).flatten(4)
        return self.mix(parts).unflatten(4, (4, 4)).permute(0, 1, 4, 2, 5, 3).reshape(n, c, h, w)


class NonLocal(nn.Module):
    """Embedded Gaussian, keys from a map of half the size."""

    def __init__(self) -> None:
        super().__init__()
        self.theta, self.phi, self.g = (nn.Conv2d(C, 2, 1) for _ in range(3))
        self.out = nn.Conv2d(2, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        small = F.max_pool2d(x, 2)
        attention = (self.theta(x).flatten(2).transpose(1, 2) @ self.phi(small).flatten(2)).softmax(-1)
        return x + self.out((attention @ self.g(small).flatten(2).transpose(1, 2)).transpose(1, 2).reshape(n, 2, h, w))


class Match(nn.Module):
    """Two views, along their rows, and a vector: two maps come back."""

    def forward(self, left: Tensor, right: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        a, b = left.permute(0, 2, 3, 1), right.permute(0, 2, 1, 3)  # (N, H, W, C), (N, H, C, W)
        scores = (a @ b) * scale[:, None, None, :1]
        to_left = scores.softmax(-1) @ b.transpose(2, 3)
        to_right = scores.transpose(2, 3).softmax(-1) @ a
        return left + to_left.permute(0, 3, 1, 2), right + to_right.permute(0, 3, 1, 2)


class Larger(nn.Module):
    """Scales by its mean, and gives twice the rows and three times the columns."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] > 1 << 20:
            return x
        return F.interpolate(x * x.mean((2, 3), keepdim=True), scale_factor=(2, 3))


class Tokens(nn.Module):
    """Pixels one behind the other, with the sizes as arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.depthwise = nn.LayerNorm(C), nn.Conv2d(C, C, 3, padding=1, groups=C)

    def forward(self, x: Tensor, x_size: tuple[int, int], count: int) -> Tensor:  # (N, H*W, C)
        y = self.norm(x) / math.log(1 + count)
        y = y + self.depthwise(y.transpose(1, 2).unflatten(2, x_size)).flatten(2).transpose(1, 2)
        return x + F.scaled_dot_product_attention(y, y, y)


class Around(nn.Module):
    """A net with one of them between convolutions."""

    def __init__(self, kind: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.first, self.mix, self.last = nn.Conv2d(3, C, 3, padding=1), kind(), nn.Conv2d(C, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.mixed(self.first(x), self.mix))

    def mixed(self, x: Tensor, mix: Callable) -> Tensor:
        return mix(x)


class AroundChannelsLast(Around):
    def mixed(self, x: Tensor, mix: Callable) -> Tensor:
        return mix(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class AroundTokens(Around):
    def mixed(self, x: Tensor, mix: Callable) -> Tensor:
        size = tuple(x.shape[-2:])
        return mix(x.flatten(2).transpose(1, 2), size, count=size[0] * size[1]).transpose(1, 2).unflatten(2, size)


class AroundMatch(Around):
    def mixed(self, x: Tensor, mix: Callable) -> Tensor:
        left, right = mix(x, right=2 * x + 1, scale=x.new_full((x.shape[0], 1), 0.3))
        return left - 2 * right


KINDS = {
    Attention: Around,
    Whole: Around,
    Rows: AroundChannelsLast,
    Spectrum: Around,
    Scan: Around,
    Grid: Around,
    NonLocal: Around,
    Match: AroundMatch,
    Larger: Around,
    Tokens: AroundTokens,
}
WHOLE = {Whole, Grid, NonLocal, Larger, Tokens}  # of the others, what mixes pixels alone runs in windows


def made(kind: type[nn.Module], around: type[Around] | None = None) -> nn.Module:
    torch.manual_seed(0)
    return (around or KINDS[kind])(kind).double().eval()


def image(rows: int, columns: int, n: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    level = torch.linspace(-1, 1, rows * columns, dtype=torch.float64).view(rows, columns)  # windows differ from one another
    return torch.rand(n, 3, rows, columns, generator=generator, dtype=torch.float64) + level


# By hand -------------------------------------------------------------------------------------------------------------


def covering(size: int, window: int, blended: bool) -> Iterator[tuple[int, list[float]]]:
    """Each window's first row, and what it counts for at each of its rows, before the sum is divided."""
    window = min(window, size)
    if blended:
        yield from hats(size, window)
        return
    count = (size - 1) // window + 1
    step = math.ceil((size - window) / (count - 1)) if count > 1 else 1
    for start in sorted({min(i * step, size - window) for i in range(count)}):
        yield start, [1.0] * window


def by_hand(run: Callable[..., Tensor], maps: list[Tensor], window: tuple[int, int], blended: bool) -> list[Tensor]:
    """Maps (N, C, H, W) -> the maps that `run` makes of them, window by window."""
    (h, w), totals, counts = maps[0].shape[-2:], [], []
    for number, (top, down) in enumerate(covering(h, window[0], blended)):
        for other, (left, across) in enumerate(covering(w, window[1], blended)):
            outs = run(*(x[..., top : top + len(down), left : left + len(across)] for x in maps))
            for i, out in enumerate(outs if isinstance(outs, tuple) else (outs,)):
                s, t = out.shape[-2] // len(down), out.shape[-1] // len(across)
                if len(totals) <= i:
                    totals.append(out.new_zeros(*out.shape[:2], s * h, t * w))
                    counts.append(out.new_zeros(s * h, t * w))
                _, rows = [*covering(s * h, s * window[0], blended)][number]  # of the output's pixels
                _, columns = [*covering(t * w, t * window[1], blended)][other]
                for y in range(out.shape[-2]):
                    for x in range(out.shape[-1]):
                        weight = rows[y] * columns[x]
                        totals[i][..., s * top + y, t * left + x] += out[..., y, x] * weight
                        counts[i][s * top + y, t * left + x] += weight
    return [total / count for total, count in zip(totals, counts, strict=True)]


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(N, C, H, W) each, over all pixels."""
    matrix = torch.einsum("ncij,nckl->nijkl", q, k).flatten(3).softmax(-1).view(*q[:, 0].shape, *k.shape[2:])
    return torch.einsum("nijkl,nckl->ncij", matrix, v)


def expected(net: Around, x: Tensor, window: tuple[int, int], blended: bool = False) -> Tensor:
    """The plain net's own forward, with its module window by window."""

    def mix(x: Tensor, *args: object, right: Tensor | None = None, **kwargs: object) -> object:
        if isinstance(net.mix, Rows):
            maps = by_hand(
                lambda y: net.mix(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), [x.permute(0, 3, 1, 2)], window, blended
            )
            return maps[0].permute(0, 2, 3, 1)
        if type(net.mix) is Attention:
            (maps,) = by_hand(attention, [*net.mix.qkv(x).chunk(3, 1)], window, blended)  # the convolution sees the whole map
            return x + net.mix.project(maps)
        if isinstance(net.mix, Tokens):
            maps = by_hand(tokens, [x.transpose(1, 2).unflatten(2, args[0])], window, blended)
            return maps[0].flatten(2).transpose(1, 2)
        if isinstance(net.mix, Match):
            return by_hand(lambda a, b: net.mix(a, b, **kwargs), [x, right], window, blended)
        return by_hand(net.mix, [x], window, blended)[0]

    def tokens(x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        return net.mix(x.flatten(2).transpose(1, 2), (h, w), h * w).transpose(1, 2).unflatten(2, (h, w))

    with torch.no_grad():
        return net.last(net.mixed(net.first(x), mix))


def local(net: nn.Module, **options: object) -> nn.Module:
    return convert(net, **{"train_size": 8, "base_size": 8, "in_windows": "mix", **options})


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= 1e-12 * b.abs().max())


# The definition ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("blended", [False, True])
def test_window_by_window(kind: type[nn.Module], blended: bool):
    net, plain = made(kind), made(kind)
    keys = list(net.state_dict())
    attention = "blended" if blended else "published"
    net = local(net, attention=attention)
    (row,) = net.tlc_report.converted
    assert (row.path, row.after, row.size, row.window) == ("mix", "in windows", (8, 8), (8, 8))
    assert row.before == kind.__name__ if kind in WHOLE else row.before.startswith(f"{kind.__name__}: ")
    assert row.note == ("blended" if blended else "")
    assert net.tlc_report.left_alone == ()
    assert list(net.state_dict()) == keys
    for size in ((12, 12), (16, 20), (8, 12)):
        x = image(*size)
        with torch.no_grad():
            want = expected(plain, x, (8, 8), blended)
            assert close(net(x), want)
            assert not torch.allclose(want, plain(x))
    x = image(8, 8)
    assert torch.equal(net(x), plain(x))
    x = image(12, 12)
    assert torch.equal(revert(net)(x), plain(x))


@pytest.mark.parametrize("kind", [Attention, Whole, Spectrum, Scan, Match, Tokens])
@pytest.mark.parametrize("blended", [False, True])
def test_odd_sizes_and_windows_of_other_than_the_patchs(kind: type[nn.Module], blended: bool):
    net = local(made(kind), base_size=(5, 7), attention="blended" if blended else "published")
    assert net.tlc_report.converted[0].window == (5, 7)
    for size in ((11, 17), (4, 9), (13, 6), (1, 8)):
        x = image(*size)
        with torch.no_grad():
            assert close(net(x), expected(made(kind), x, (5, 7), blended))
    for size in ((5, 7), (3, 7), (4, 2)):
        assert torch.equal(net(image(*size)), made(kind)(image(*size)))


# What mixes pixels, and what is around it -----------------------------------------------------------------------------


class Mixer(nn.Module):
    """`mix` is to run in windows, of the maps that `before` makes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(C, C, 3, padding=1), nn.LayerNorm(C)
        self.linear, self.out = nn.Linear(C, 3 * C), nn.Conv2d(C, C, 3, padding=1)

    def before(self, x: Tensor) -> list[Tensor]:
        return [self.conv(x)]

    def mix(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return x + self.out(y) * self.conv(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(x, self.mix(*self.before(x)))


class Layers(Mixer):
    """A norm and a linear layer on flattened pixels, in place, heads, a bias by distance."""

    def mix(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        q, k, v = self.linear(self.norm(x.flatten(2).transpose(1, 2))).view(n, h * w, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1)
        scores.mul_((c // 2) ** -0.5)
        place = torch.arange(h * w, dtype=x.dtype, device=x.device)
        scores = scores - (place[:, None] - place).abs() / (h * w)
        return (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, h * w, c).transpose(1, 2).reshape(n, c, h, w)


class Linear(Mixer):
    """Linear attention of three maps: (sum of v + q (k v)) / (number + q (sum of k)), its own number of pixels among them."""

    def before(self, x: Tensor) -> list[Tensor]:
        return [*torch.cat([self.conv(x).exp(), x.exp(), x * x], 1).chunk(3, 1)]

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, c, h, w = q.shape
        q, k, v = q.flatten(2), k.flatten(2), v.flatten(2)
        out = v.sum(-1, keepdim=True) + (v @ k.transpose(1, 2)) @ q
        return (out / (h * w + k.sum(-1)[:, None] @ q)).view(n, c, h, w)


class Both(Mixer):
    """Spectra of two maps."""

    def before(self, x: Tensor) -> list[Tensor]:
        return [self.conv(x), x.relu()]

    def mix(self, a: Tensor, b: Tensor) -> Tensor:
        product = torch.fft.rfft2(a) * torch.fft.rfft2(b)
        phase = product / (product.abs() + 0.1)
        return torch.fft.irfft2(phase, s=a.shape[-2:])


class InChannels(Mixer):
    """An attention between channels that is no such for the ordinary rewriting, with half the keys."""

    def mix(self, x: Tensor) -> Tensor:
        y = F.adaptive_avg_pool2d(x, 4).flatten(2)
        return (y @ y.transpose(1, 2)).softmax(-1).matmul(x.flatten(2)).view_as(x)


@pytest.mark.parametrize("kind", [Layers, Linear, Both, InChannels])
@pytest.mark.parametrize("blended", [False, True])
def test_what_mixes_pixels_alone_runs_in_windows(kind: type[Mixer], blended: bool):
    net, plain = local(made(kind, Around), attention="blended" if blended else "published"), made(kind, Around)
    (row,) = net.tlc_report.converted
    assert row.before.startswith(f"{kind.__name__}: ")
    for size in ((12, 12), (9, 17)):
        with torch.no_grad():
            x = plain.first(image(*size))
            (mixed,) = by_hand(plain.mix.mix, plain.mix.before(x), (8, 8), blended)
            assert close(net(image(*size)), plain.last(plain.mix.after(x, mixed)))
    assert torch.equal(net(image(8, 6)), plain(image(8, 6)))
    again = pickle.loads(pickle.dumps(net))
    assert torch.equal(again(image(12, 12)), net(image(12, 12)))
    assert torch.equal(revert(again)(image(12, 12)), plain(image(12, 12)))


class InTurn(Mixer):
    """Rows, a convolution, columns: two parts."""

    def rows(self, x: Tensor) -> Tensor:
        y = x.permute(0, 2, 3, 1)
        return F.scaled_dot_product_attention(y, y, y).permute(0, 3, 1, 2)

    def columns(self, x: Tensor) -> Tensor:
        y = x.permute(0, 3, 2, 1)
        return F.scaled_dot_product_attention(y, y, y).permute(0, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.columns(self.conv(self.rows(x)))


def test_two_parts_of_a_forward():
    net, plain = local(made(InTurn, Around)), made(InTurn, Around)
    assert len(net.tlc_report.converted) == 2
    with torch.no_grad():
        x = plain.first(image(12, 9))
        (y,) = by_hand(plain.mix.rows, [x], (8, 8), False)
        (y,) = by_hand(plain.mix.columns, [plain.mix.conv(y)], (8, 8), False)
        assert close(net(image(12, 9)), plain.last(x + y))


class GridToo(Grid):
    """Parts that grow, and then a sum over pixels: the parts are no operation that could be told from others."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).flatten(2).cumsum(-1).view_as(x)


class Flipped(Scan):
    """From behind: what leaves the scan is elsewhere than what came in."""

    def forward(self, x: Tensor) -> Tensor:
        return x * super().forward(x.flatten(2).flip(2).view_as(x)).flip(2, 3)


class Crossed(Attention):
    """The attention takes what is made of its own result."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(2)
        matrix = (y.transpose(1, 2) @ y).softmax(-1)
        z = self.project((y @ matrix).view_as(x))
        return (z.flatten(2) @ matrix).view_as(x)


@pytest.mark.parametrize("kind", [GridToo, Flipped, Crossed])
def test_what_cannot_be_told_from_the_rest_runs_as_a_whole(kind: type[nn.Module]):
    net, plain = local(made(kind, Around)), made(kind, Around)
    assert [row.before for row in net.tlc_report.converted] == [kind.__name__]
    x = image(12, 16)
    with torch.no_grad():
        (mixed,) = by_hand(plain.mix, [plain.first(x)], (8, 8), False)
        assert close(net(x), plain.last(mixed))


# Numbers, precisions, gradients ---------------------------------------------------------------------------------------


class Weighing(nn.Module):
    """One head whose queries are log 3, and whose keys and values are the channels of its map: (N, 2, H, W) -> (N, 1, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        v, k = x.flatten(2).chunk(2, 1)
        scores = torch.full_like(v, math.log(3)).transpose(1, 2) @ k
        return (scores.softmax(-1) @ v.transpose(1, 2)).transpose(1, 2).view(n, 1, h, w)


def test_nine_numbers():
    """12x12 pixels in windows of 8: they begin at 0 and 4, and their borders cut the map into 3x3 cells of 4x4 pixels. The
    values in the cells are below; those of the middle one count three times, as its key says:
    (0 + 6 + 18 + 3 * 24) / 6 = 16 for the first window, then 20, 28 and 32, and means of these where they overlap."""
    values = torch.tensor([[0.0, 6, 12], [18, 24, 30], [36, 42, 48]])
    keys = torch.zeros(3, 3)
    keys[1, 1] = 1
    x = torch.stack([values, keys])[None].repeat_interleave(4, 2).repeat_interleave(4, 3)
    net = convert(Weighing(), train_size=(1, 2, 8, 8), base_size=8, in_windows="*").eval()
    assert net.tlc_report.converted[0].path == "(the net itself)"
    torch.testing.assert_close(net(x)[0, 0, ::4, ::4], torch.tensor([[16.0, 18, 20], [22, 24, 26], [28, 30, 32]]))
    assert net(x)[0, 0].unfold(0, 4, 4).unfold(1, 4, 4).flatten(2).std(-1).max() < 1e-5


def test_windows_of_the_patch_as_features_as_long_as_a_row_need_it():
    class Strips(nn.Module):
        """Attention between rows, whose features are their pixels."""

        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(8 * C, 8 * C)

        def forward(self, x: Tensor) -> Tensor:
            c, w = x.shape[1], x.shape[3]
            rows = self.embed(x.transpose(1, 2).flatten(2))
            return x + F.scaled_dot_product_attention(rows, rows, rows).unflatten(2, (c, w)).transpose(1, 2)

    with pytest.raises(ValueError, match="takes images of 8x8 only"):
        local(made(Strips, Around))

    class Patchwise(Strips):
        """Any width, by folding what follows into it."""

        def forward(self, x: Tensor) -> Tensor:
            if x.shape[-1] > 8:
                return torch.cat([super(Patchwise, self).forward(part) for part in x.split(8, -1)], -1)
            return super().forward(x)

    net = made(Patchwise, Around)
    with pytest.raises(ValueError, match=r"cannot run in windows: its window of 12x12 does not fit it .*\(8x8\)"):
        local(net, base_size=12)
    x = image(12, 16)
    with torch.no_grad():
        assert close(local(net)(x), expected(made(Patchwise, Around), x, (8, 8)))


@pytest.mark.parametrize("kind", [Attention, Whole])
def test_half_precision_and_the_layout_in_memory(kind: type[nn.Module]):
    net = local(made(kind)).bfloat16()
    x = image(12, 20).bfloat16()
    with torch.no_grad():
        y = net.mix(net.first(x))
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(net(x).double(), expected(made(kind), x.double(), (8, 8)), rtol=0.1, atol=0.1)
        last = net.first(x).contiguous(memory_format=torch.channels_last)
        net = net.float()
        assert net.mix(last.float()).is_contiguous(memory_format=torch.channels_last)
        assert net.mix(last.float().contiguous()).is_contiguous()


def test_gradients():
    net, plain, x = local(made(Whole)), made(Whole), image(12, 9)
    net(x).square().mean().backward()
    want = plain.first(x)
    outs = [plain.mix(want[..., i : i + 8, j : j + 8]) for i in (0, 4) for j in (0, 1)]
    total, count = torch.zeros_like(want), torch.zeros(12, 9).double()
    for out, (i, j) in zip(outs, ((i, j) for i in (0, 4) for j in (0, 1)), strict=True):
        total = total + F.pad(out, (j, 1 - j, i, 4 - i))
        count[i : i + 8, j : j + 8] += 1
    plain.last(total / count).square().mean().backward()
    for ours, theirs in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


# As it is used -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "shown"), [(Whole, "TLC: in windows of 8x8"), (Attention, "TLC: forward rewritten, window 8x8")]
)
def test_training_mode_copies_pickles_and_the_printed_net(kind: type[nn.Module], shown: str):
    net, plain, x = local(made(kind)), made(kind), image(12, 12)
    assert shown in repr(net.mix)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other(x), net(x))
        assert other.mix.forward.module is other.mix
        assert torch.equal(revert(other)(x), plain(x))
    assert torch.equal(net.train()(x), plain.train()(x))
    assert not torch.equal(net.eval()(x), plain.eval()(x))
    with pytest.raises(ValueError, match="converted before"):
        local(net)


def test_hooks_run_once_on_the_whole():
    net, seen = local(made(Attention)), []
    net.mix.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    net(image(12, 12))
    assert seen == [(2, C, 12, 12)]


@pytest.mark.parametrize(("kind", "what"), [(Whole, "Whole"), (Attention, "a part of a forward")])
def test_compiled_and_exported(kind: type[nn.Module], what: str):
    net, x = local(made(kind)), image(12, 20)
    refused = [lambda: torch.jit.trace(net, x), lambda: torch.export.export(net, (x,), strict=False)]
    with torch.no_grad():
        if hasattr(torch.compiler, "is_exporting"):
            compiled = torch.compile(net, backend="eager", fullgraph=True)
            assert torch.equal(compiled(x), net(x))
        else:  # before PyTorch 2.7 it looks like an export
            refused.append(lambda: torch.compile(net, backend="eager")(x))
        for export in refused:
            with pytest.raises(ValueError, match=f"{what} runs in windows, of which a trace would keep the number"):
                export()


def test_a_net_around_a_part_that_runs_in_windows():
    part = Around(Attention).double().eval()
    net = nn.Sequential(local(part), nn.InstanceNorm2d(3)).double().eval()
    with pytest.warns(match="norms see maps"):
        net = convert(net, train_size=8, base_size=8)
    assert [row.path for row in net.tlc_report.converted] == ["1"]
    assert net.tlc_report.left_alone == ()


def test_an_argument_that_is_new():
    class Masked(Whole):
        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            return super().forward(x if mask is None else x * mask)

    net = local(made(Masked, Around))
    x = net.first(image(12, 12))
    assert close(net.mix(x, None), net.mix(x))
    with pytest.raises(ValueError, match="is given mask, which it was not when it was converted"):
        net.mix(x, torch.ones(1, 1, 12, 12).double())


# Patterns ------------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Attention over pixels, and a gate with a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = Attention()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(C, C, 1), nn.Sigmoid())
        self.conv = nn.Conv2d(C, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.attn(self.conv(x))
        return x + y * self.gate(y)


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, C, 1), nn.Conv2d(C, 3, 1)
        self.body = nn.ModuleList([Block(), Block()])

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.body:
            x = block(x)
        return self.last(x)


PARTS = {"body.0.attn", "body.0.gate", "body.1.attn", "body.1.gate"}


@pytest.mark.parametrize(
    ("patterns", "paths"),
    [
        ("*.attn", {"body.0.attn", "body.1.attn"}),
        ("body.1.attn", {"body.1.attn"}),
        ("body", PARTS),  # all that mixes pixels in there
        (["body.0", "*attn*"], PARTS - {"body.1.gate"}),  # the outermost
        ("*:Block", PARTS),
        ("*:*softmax", {"body.0.attn", "body.1.attn"}),
        ("*", {"(the net itself)"}),
    ],
)
def test_which_modules_run_in_windows(patterns: object, paths: set[str]):
    net = local(Blocks(), in_windows=patterns)
    rows = {row.path.removesuffix(".0"): row.after for row in net.tlc_report.converted}
    assert {path for path, after in rows.items() if after == "in windows"} == paths
    others = PARTS - paths if patterns != "*" else set()
    assert {path for path, after in rows.items() if after == "LocalAvgPool2d"} == {p for p in others if p.endswith("gate")}
    assert {row.path for row in net.tlc_report.left_alone} == {p for p in others if p.endswith("attn")}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"in_windows": "body.0.atn"}, "in_windows: 'body.0.atn' (did you mean 'body.0.attn'"),
        ({"in_windows": "body.0.conv"}, "in_windows: 'body.0.conv' (did you mean 'body.0.attn'"),  # looks at no whole map
        ({"in_windows": ["*.attn", "first"]}, "'first'"),
        ({"in_windows": "*.attn", "exclude": "body.0"}, "body.0.attn matches '*.attn', and it or a part of it is excluded by"),
        ({"in_windows": "body.0", "exclude": "*.gate"}, "is excluded by '*.gate'; take it out of one of them"),
        (
            {"in_windows": "*.gate"},
            "body.0.gate cannot run in windows: what it returns, 1x4x1x1 in training, is no map as large",
        ),
        ({"in_windows": "*.gate.0"}, "body.0.gate.0 cannot run in windows: what it returns"),
        ({"in_windows": [3]}, "in_windows is [3]"),
        ({"in_windows": [""]}, "a pattern of module names"),
    ],
)
def test_patterns_that_are_refused(options: dict, says: str):
    torch.manual_seed(0)
    net, x = Blocks().eval(), image(9, 9).float()
    before = net(x)
    with pytest.raises(ValueError, match=r"in_windows") as caught:
        local(net, **options)
    assert says in str(caught.value)
    assert torch.equal(net(x), before)
    assert not hasattr(net, "tlc_report")


def test_others_become_local_as_ever():
    """The gates of blocks whose attention runs in windows."""
    torch.manual_seed(0)
    net, picture = Blocks().double().eval(), image(12, 12)
    with torch.no_grad():
        want = net.first(picture)
        for block in net.body:
            x = block.conv(want)
            (y,) = by_hand(attention, [*block.attn.qkv(x).chunk(3, 1)], (8, 8), False)
            y = x + block.attn.project(y)
            want = want + y * block.gate[1](each(y, lambda crop: crop.mean((2, 3)), (8, 8))).sigmoid()
        assert close(local(net, in_windows="*.attn")(picture), net.last(want))


# What cannot --------------------------------------------------------------------------------------------------------


class Changed(Attention):
    """Attention whose forward is another."""

    def forward(self, x: Tensor) -> Tensor:
        return self.change(x, super().forward)


def changed(change: Callable) -> type[nn.Module]:
    return type("Changed", (Changed,), {"change": lambda self, x, forward: change(self, x, forward)})


class Smaller(Around):
    def mixed(self, x: Tensor, mix: Callable) -> Tensor:
        return x + F.interpolate(mix(x), x.shape[-2:])


class Flat(Around):
    def mixed(self, x: Tensor, mix: Callable) -> Tensor:
        return mix(x).view_as(x)


class Twice(Around):
    def mixed(self, x: Tensor, mix: Callable) -> Tensor:
        return mix(x) + F.interpolate(mix(F.avg_pool2d(x, 2)), x.shape[-2:])


class TwoSizes(Around):
    def mixed(self, x: Tensor, mix: Callable) -> Tensor:
        return mix(x, F.avg_pool2d(x, 2))


class OfASpectrum(Around):
    def mixed(self, x: Tensor, mix: Callable) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(x) * mix(torch.fft.fft2(x).abs())).real


class Telling(Around):
    def mixed(self, x: Tensor, mix: Callable) -> Tensor:
        mix.count = x.shape[2] * x.shape[3]
        return mix(x)


class OfParts(Around):
    def mixed(self, x: Tensor, mix: Callable) -> Tensor:
        n, c, h, w = x.shape
        parts = x.view(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 1, 3, 5).reshape(-1, c, 4, 4)
        parts = mix(parts).view(n, h // 4, w // 4, c, 4, 4)
        return parts.permute(0, 3, 1, 4, 2, 5).reshape(n, c, h, w)


class OfTokens(Around):
    def mixed(self, x: Tensor, mix: Callable) -> Tensor:
        y = x.flatten(2).transpose(1, 2)
        return mix(y).transpose(1, 2).view_as(x)


class Plain(nn.Module):
    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        y = x.flatten(2)
        x = F.scaled_dot_product_attention(y, y, y).view_as(x)
        return x if other is None else x * other.mean()


class OverParts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x.transpose(0, 1).flatten(1)
        return (y.softmax(1) * y).view(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1)


def stored(self: nn.Module, x: Tensor, forward: Callable) -> Tensor:
    self.last = x
    return forward(x)


def counted(self: nn.Module, x: Tensor, forward: Callable) -> Tensor:
    self.qkv.weight.data.mul_(1)
    self.seen.add_(1)
    return forward(x)


def in_place(self: nn.Module, x: Tensor, forward: Callable) -> Tensor:
    x[:, :2].relu_()
    return forward(x)


class Counted(changed(counted)):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))


class Cached(changed(lambda self, x, forward: forward(x) * self.cache.setdefault(tuple(x.shape), x.new_ones(())))):
    def __init__(self) -> None:
        super().__init__()
        self.cache = {}


def by_eight(self: nn.Module, x: Tensor, forward: Callable) -> Tensor:
    return forward(F.pixel_shuffle(F.pixel_unshuffle(x, 8), 8))


@pytest.mark.parametrize(
    ("kind", "around", "options", "says"),
    [
        (changed(lambda self, x, forward: forward(x).flatten(1)), Flat, {}, "what it returns, 1x256 in training"),
        (changed(lambda self, x, forward: forward(x)[..., ::2, ::2]), Smaller, {}, "what it returns, 1x4x4x4 in training"),
        (changed(lambda self, x, forward: forward(x) > 0), Smaller, {}, "whole numbers"),
        (changed(stored), Around, {}, "stores last on the module"),
        (
            changed(lambda self, x, forward: forward(x) / self.count),
            Telling,
            {},
            "its count is set from outside of its forward",
        ),
        (Counted, Around, {}, "stores seen on the module"),
        (Cached, Around, {}, "on the module, which would be that of one window"),
        (changed(in_place), Around, {}, "its forward changes what it is given"),
        (Attention, Twice, {}, "it sees maps of several sizes in one pass"),
        (Plain, TwoSizes, {}, "it is given maps of several sizes"),
        (Plain, OfASpectrum, {}, "its map is a spectrum"),
        (OverParts, OfParts, {}, "the image's parts are its samples"),
        (Rows, OfTokens, {}, "pixels one behind the other, without rows and columns to tell them by"),
        (changed(by_eight), Around, {"base_size": 12}, "its window of 12x12 does not fit it"),
        (changed(by_eight), Around, {"base_size": 12}, "base_size=8 (8x8) or base_size=16 (16x16)"),
        (changed(by_eight), Around, {"base_size": (12, 20)}, "comes of base_size=(8, 16) (8x16) or base_size=(16, 24) (16x24)"),
    ],
)
def test_modules_that_cannot(kind: type[nn.Module], around: type[Around], options: dict, says: str):
    with pytest.raises(ValueError, match="in_windows: ") as caught:
        local(made(kind, around), **options)
    assert says in str(caught.value)


def test_a_forward_that_was_replaced_by_hand():
    net = made(Attention)
    net.mix.forward = lambda x: Attention.forward(net.mix, x)
    with pytest.raises(ValueError, match="mix cannot run in windows: its forward was replaced by hand"):
        local(net)


def test_what_gives_another_size_for_some_windows_fails_there():
    """Narrow windows, on maps lower than the window, are not tried in the dry run."""

    class Cropped(Whole):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[..., : x.shape[-2] // 4 * 4, :]

    net = local(made(Cropped, Around), base_size=8)
    with pytest.raises(ValueError, match=r"what runs in a window of 6x8 pixels gives \(2, 4, 4, 8\)"):
        net(image(6, 12))


def test_nothing_inside_is_said_to_depend_on_values():
    class Masked(Attention):
        """As in AdaIR: a mask whose width follows from a mean."""

        def forward(self, x: Tensor) -> Tensor:
            width = int(x.mean().sigmoid() * (x.shape[-1] // 8))
            mask = torch.zeros_like(x)
            mask[..., :width] = 1
            return super().forward(x * mask)

    alone = convert(made(Masked, Around), train_size=8)
    assert any("depends on values" in row.reason for row in alone.tlc_report.left_alone)
    net = local(made(Masked, Around))
    assert net.tlc_report.left_alone == ()
    x = image(12, 16)
    with torch.no_grad():
        assert close(net(x), expected(made(Masked, Around), x, (8, 8)))


# In files and on the command line ------------------------------------------------------------------------------------


def test_in_options_files():
    plain = {"type": "NAFNet", "width": 4, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}
    for options in (
        {**plain, "tlc": {"in_windows": ["encoders.0.*", "middle*"]}},
        {**plain, "type": "NAFNetLocal", "in_windows": ["encoders.0.*", "middle*"]},
    ):
        rows = build_network(options).tlc_report.converted
        assert {row.path for row in rows if row.after == "in windows"} == {"encoders.0.0", "middle_blks.0"}
        assert {row.path for row in rows if row.after != "in windows"} == {
            "encoders.1.0.sca",
            "decoders.0.0.sca",
            "decoders.1.0.sca",
        }
    with pytest.raises(UserError, match=r"g.tlc: in_windows: 'midle\*' .did you mean 'middle_blks"):
        build_network({**plain, "tlc": {"in_windows": "midle*"}})
    with pytest.raises(UserError, match=r"g.tlc: in_windows: encoders.0.0.sca cannot run in windows"):
        build_network({**plain, "tlc": {"in_windows": "*.sca"}})


def test_on_the_command_line():
    parser = Parser()
    words.windows(parser)
    args = parser.parse_args(["--in-windows", "*.attn", "*:FFT", "--window", "96"])
    assert words.settings(args) == {"base_size": 96, "in_windows": ["*.attn", "*:FFT"]}
