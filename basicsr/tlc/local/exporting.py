"""The local operations of functional.py and attention.py for a net that is being exported: the map's size stays an unknown.

A trace keeps tensors and forgets Python: an `if` on a map's size, a loop over its windows, would hold for the size of the
example alone. Here every decision is arithmetic on tensors of positions, and every window a gather. Results and precision are
the same. What is lost are the savings: maps are worked on whole, and windows that overlap are computed one by one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from basicsr.tlc.local import Size

_is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # new in PyTorch 2.7


def tracing() -> bool:
    """Whether torch.jit.trace, torch.onnx.export or torch.export is recording."""
    return torch.jit.is_tracing() or _is_exporting()


def local_mean(x: Tensor, window: Size, max_stride: Size | None) -> Tensor:
    """functional.local_mean, (N, C, H, W) or (C, H, W) -> the same shape, also when the window covers the map."""
    return _box_mean(x.double(), window, max_stride).to(x.dtype)


def local_group_norm(
    x: Tensor,
    groups: int,
    window: Size,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    max_stride: Size | None,
) -> Tensor:
    """functional.local_group_norm."""
    limit = torch.finfo(x.dtype).max
    sizes = [x.shape[dim] for dim in range(x.ndim)]  # one by one: a trace takes a slice of the shape for constants
    maps = x.double().reshape(*sizes[:-3], groups, -1, *sizes[-2:])
    centred = maps - maps.mean((-3, -2, -1), keepdim=True)
    mean = _box_mean(centred.mean(-3), window, max_stride)
    variance = (_box_mean(centred.square().mean(-3), window, max_stride) - mean.square()).clamp(min=0)
    out = (centred - mean.unsqueeze(-3)) * torch.rsqrt(variance + eps).unsqueeze(-3)
    out = out.reshape(sizes).clamp(-limit, limit).to(x.dtype)
    out = out if weight is None else out * weight.to(x.dtype).view(-1, 1, 1)
    return out if bias is None else out + bias.to(x.dtype).view(-1, 1, 1)


def box_sum(x: Tensor, window: Size) -> Tensor:
    """(..., H, W) -> the same shape: sums over the window around each position, borders replicated, by additions alone."""
    return _by_doubling(_by_doubling(x, window[0], -2, 0.0), window[1], -1, 0.0)


def box_max(x: Tensor, window: Size) -> Tensor:
    """The same for maxima."""
    return _by_doubling(_by_doubling(x, window[0], -2, -torch.inf), window[1], -1, -torch.inf)


def local_channel_attention(
    q: Tensor, k: Tensor, v: Tensor, temperature: Tensor | float, window: Size, project_out: Tensor | None, blended: bool
) -> Tensor:
    """attention.local_channel_attention: q, k, v (N, heads, C, H, W) -> (N, out, H, W)."""
    n, heads, c = q.shape[:3]
    rows, columns = _Cover(q, -2, window[0], blended), _Cover(q, -1, window[1], blended)

    def windows(x: Tensor) -> Tensor:
        x = x.index_select(-2, rows.members).index_select(-1, columns.members)
        x = x.reshape(n, heads, c, rows.count, rows.length, columns.count, columns.length).permute(0, 3, 5, 1, 2, 4, 6)
        return x.reshape(n, rows.count * columns.count, heads, c, rows.length * columns.length)

    q, k, v = windows(q), windows(k), windows(v)
    if v.dtype.itemsize < 4:  # half sums overflow
        q, k = q.float(), k.float()
    norms = [x.square().sum(-1).clamp(min=1e-24).sqrt() for x in (q, k)]
    cosines = q @ k.transpose(-2, -1) / (norms[0][..., :, None] * norms[1][..., None, :])
    attention = (cosines * temperature).softmax(dim=-1)  # (N, windows, heads, C, C)
    if project_out is not None:  # folded into the matrices, which are smaller than the map
        attention = project_out.to(attention.dtype).view(-1, heads, c).transpose(0, 1) @ attention  # (..., heads, out, C)
        out = attention.transpose(-3, -2).flatten(-2).to(v.dtype) @ v.flatten(2, 3)  # (N, windows, out, k1*k2)
    else:
        out = (attention.to(v.dtype) @ v).flatten(2, 3)
    out = out.reshape(n, rows.count, columns.count, -1, rows.length, columns.length).permute(0, 3, 1, 4, 2, 5)
    out = out.reshape(n, -1, rows.count * rows.length, columns.count * columns.length)
    return columns.average(rows.average(out))


def window_sums(labels: list[str], out: str, maps: list[Tensor], cover: tuple) -> Tensor:
    """sums.window_sums of maps as they are, whose rows are R and columns S."""
    parts = []
    for x, own in zip(maps, labels, strict=True):
        rows, columns = (_Cover(x, own.index(name), cover[1][side], cover[2]) for side, name in enumerate("RS"))
        x = x.movedim((own.index("R"), own.index("S")), (-2, -1))
        parts.append(_gathered(x, rows, columns))
    inputs = ",".join(own.replace("R", "").replace("S", "") + "YRZS" for own in labels)
    return torch.einsum(f"{inputs}->YZ{out}", *parts).flatten(0, 2)


def applied(matrices: Tensor, values: Tensor, cover: tuple) -> Tensor:
    """sums: (windows * N, ..., K, C), (N, ..., C, H, W) -> (N, ..., K, H, W)."""
    rows, columns = (_Cover(values, dim, cover[1][dim], cover[2]) for dim in (-2, -1))
    x = _gathered(values, rows, columns).movedim((-4, -2), (0, 1))  # (rows, columns, N, ..., C, k1, k2)
    matrices = matrices.reshape(rows.count, columns.count, values.shape[0], *matrices.shape[1:]).to(x.dtype)
    out = (matrices @ x.flatten(-2)).unflatten(-1, (rows.length, columns.length)).movedim((0, 1), (-4, -2))
    out = out.reshape(*out.shape[:-4], rows.count * rows.length, columns.count * columns.length)
    return columns.average(rows.average(out))


def window_count(cover: tuple) -> int:
    return _number(*(cover[i][0] for i in (0, 1)), cover[2]) * _number(*(cover[i][1] for i in (0, 1)), cover[2])


def capped(size: int, window: int) -> int:
    if isinstance(size, int):  # so are compiled sizes; PyTorch 2.4 compiles no sym_min
        return min(size, window)
    return size.clamp(max=window) if isinstance(size, Tensor) else torch.sym_min(size, window)


def _number(size: int, window: int, blended: bool) -> int:
    """Windows along one side. torch.export tells a size of 1 from all others, so that one window more, the last one again,
    keeps the size unknown."""
    gaps = (2 * (size - capped(size, window)) + window - 1) // window if blended else (size - 1) // window
    return gaps + (2 if _is_exporting() else 1)


def _gathered(x: Tensor, rows: "_Cover", columns: "_Cover") -> Tensor:
    """(..., H, W) -> (..., windows, k1, windows, k2)."""
    x = x.index_select(-2, rows.members).index_select(-1, columns.members)
    return x.reshape(*x.shape[:-2], rows.count, rows.length, columns.count, columns.length)


class _Cover:
    """The windows that cover one side of a map, attention.window_starts or blended_starts. A position hears two at most."""

    def __init__(self, x: Tensor, dim: int, window: int, blended: bool) -> None:
        size = x.shape[dim]
        self.dim = dim
        self.length, self.count = capped(size, window), _number(size, window, blended)
        position, inside, number = _up_to(x, size), _up_to(x, self.length), _up_to(x, self.count)
        room, count = position[-1] - inside[-1], number[-1] + 1
        if blended:
            starts = torch.minimum(number * window // 2, room)
            centres = 2 * starts + inside[-1]  # times two, as positions below
            passed = (centres <= 2 * position[:, None]).sum(1)
            first, last = (passed - 1).clamp(min=0), torch.minimum(passed, count - 1)
            gap = (centres[last] - centres[first]).clamp(min=1)
            self.share = ((2 * position - centres[first]) / gap).clamp(0, 1)
        else:
            gaps = (position[-1] // window).clamp(min=1)
            starts = torch.minimum(number * ((room + gaps - 1) // gaps), room)
            first = (starts + inside[-1] < position[:, None]).sum(1)  # of the windows that a position lies in
            last = (starts <= position[:, None]).sum(1) - 1
            self.share = None
        self.members = (starts[:, None] + inside).flatten()  # (count * length,) positions
        # A window that counts for nothing may begin right behind the position.
        self.places = [i * (inside[-1] + 1) + (position - starts[i]).clamp(min=0) for i in (first, last)]

    def average(self, x: Tensor) -> Tensor:
        """Values for every member of every window -> for every position, the mean over its windows or their blend."""
        first, last = (x.index_select(self.dim, places) for places in self.places)
        if self.share is None:
            return (first + last) / 2
        share = self.share.to(x.dtype)
        return first + (last - first) * (share[:, None] if self.dim == -2 else share)


def _up_to(x: Tensor, size: int) -> Tensor:
    """0, 1, ..., size - 1 on the device of x: TorchScript remembers what device `arange` was told, but not where `to` goes."""
    return torch.arange(size).to(x[..., :1].long())


def _box_mean(x: Tensor, window: Size, max_stride: Size | None) -> Tensor:
    """(..., H, W) -> the same shape, borders replicated."""
    sides = [_up_to(x, x.shape[dim]) for dim in (-2, -1)]
    plans = [_sliding(position, k) for position, k in zip(sides, window, strict=True)]
    if max_stride is not None:
        covered = (sides[0][-1] < window[0]) & (sides[1][-1] < window[1])
        strided = [_strided(position, k, r) for position, k, r in zip(sides, window, max_stride, strict=True)]
        plans = [
            tuple(torch.where(covered, a, b) for a, b in zip(exact, fast, strict=True))
            for exact, fast in zip(plans, strided, strict=True)
        ]
        x = x.index_select(-2, plans[0][2]).index_select(-1, plans[1][2])
    for dim, (first, behind, _) in zip((-1, -2), reversed(plans), strict=True):
        sums = F.pad(x, (1, 0) if dim == -1 else (0, 0, 1, 0)).cumsum(dim)
        total = sums.index_select(dim, behind) - sums.index_select(dim, first)
        x = total / (behind[0] - first[0])
    return x


def _by_doubling(x: Tensor, window: int, dim: int, neutral: float) -> Tensor:
    """Sums, or maxima, over the window around each row: those of 1, 2, 4, ... rows, put together to as many as it has."""
    first, _, _ = _sliding(_up_to(x, x.shape[dim]), window)
    x = F.pad(x.movedim(dim, -1), (0, window), value=neutral)  # a window larger than the map is the map
    join, out, behind, length = (torch.maximum if neutral else torch.add), None, 0, 1
    while length <= window:
        if window & length:
            part = x.index_select(-1, first + behind)
            out, behind = part if out is None else join(out, part), behind + length
        x = join(x, F.pad(x[..., length:], (0, length), value=neutral))
        length *= 2
    return out.movedim(-1, dim)


def _sliding(position: Tensor, window: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each position the first row of its window, and the row behind it; and the rows that are looked at, all of them."""
    size = position[-1] + 1
    length = size.clamp(max=window)
    first = torch.minimum((position - (length - 1) // 2).clamp(min=0), size - length)
    return first, first + length, position


def _strided(position: Tensor, window: int, max_stride: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same for `fast_imp`, among the rows that it keeps: every r-th, followed by some that no window reaches."""
    size = position[-1] + 1
    stride = torch.ones_like(size)
    for r in (2, 3, 4, 5):
        stride = torch.where(size % r == 0, min(r, max_stride), stride)
    count = (size - 1) // stride + 1
    length = torch.minimum(count - 1, window // stride).clamp(min=1)
    one = count == 1
    covered = torch.where(one, 1, count - length) * stride  # rows that have a value of their own
    own = torch.minimum((position - (size - covered) // 2).clamp(min=0), covered - 1) // stride
    first = torch.where(one, own, own + 1)
    return first, first + length, torch.minimum(position * stride, size - 1)
