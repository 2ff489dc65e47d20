"""What two of the nets really share: padding at the edge of a net, working in tiles, the supervised attention module."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import pairwise, product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.kernels import accelerates, activated, channel_mean_layer, convolved, gated, pointwise, replicate, triton_version

Shapes = dict[str, tuple[int, ...]]  # state-dict key to shape
Region = tuple[slice, slice]  # rows and columns of a map
_CPU_TILE = 1 << 19  # elements of the widest map of a tile, for each thread: what a core's cache holds
_LARGE_TILE = 1 << 31  # bytes of it elsewhere: a whole photograph, mostly
_GPU_SHARE = 16  # on a GPU it may be one part in so many of the memory, where that is more, and two at most
_COUNTABLE = (1 << 31) - 1  # elements that torch's own convolutions take


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """(N, C, H, W) padded with zeros on the right and bottom to a multiple of `multiple`; 0 turns it off."""
    if multiple == 0:
        return x
    h, w = x.shape[-2:]
    right, bottom = ((size + multiple - 1) // multiple * multiple - size for size in (w, h))  # no `%`: it exports badly
    return F.pad(x, (0, right, 0, bottom))


def crop_like(x: Tensor, image: Tensor) -> Tensor:
    """Undo `pad_to_multiple`: the top left corner of x in the size of `image`."""
    return x[..., : image.shape[-2], : image.shape[-1]]


def like_weights(image: Tensor, conv: nn.Conv2d) -> Tensor:
    """An image in the type of the weights that see it first. It stays float32 itself, to be added to what the net makes."""
    return image.to(conv.weight.dtype)


def runs_whole(x: Tensor) -> bool:
    """Whether a map is worked on in one piece: autograd keeps every piece anyway, and a compiler or exporter sees no loop."""
    return torch.is_grad_enabled() or x.is_meta or torch.jit.is_tracing() or torch.compiler.is_compiling()


def fits_gpu(x: Tensor, channels: int) -> bool:
    """Whether x (N, C, H, W) is on a GPU that takes a map of that size with so many channels in one piece."""
    return accelerates(x) and x[:, :1].numel() * channels <= _most(x)


def by_tiles(
    function: Callable[..., Tensor],
    *maps: Tensor,
    channels: int,
    halo: int = 0,
    region: Region | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """function(*maps, inner), worked out tile by tile, so that its wide intermediate maps stay small and in the cache.

    Args:
        function: takes the same part of every map, with `halo` pixels more on each side where the map has them, and `inner`,
            an index that leaves those pixels out; returns (N, C', h, w) without them.
        maps: (N, C, H, W). A smaller one is replicated at its borders (TLC's padding); one of 1x1 is handed over as it is, and
            so are all on a GPU that takes the map in one piece: `gated` needs no padding.
        channels: of the widest map that `function` makes.
        region: rows and columns of the result; all of them when None.
        out: where tiles of its type are written if there are several, such as one of the maps when there is no halo; fresh
            memory when None.

    Returns:
        (N, C', rows, columns), in the layout of what `function` returns.
    """
    size = maps[0].shape[-2:]
    if region is None and runs_whole(maps[0]):
        return function(*(_part(x, size) for x in maps), (...,))
    rows, columns = region or (slice(0, size[0]), slice(0, size[1]))
    tile = size if runs_whole(maps[0]) or fits_gpu(maps[0], channels) else _tile(maps[0], channels)
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    for (row, row_inner, row_core), (column, column_inner, column_core) in product(
        _cuts(rows, size[0], tile[0], halo), _cuts(columns, size[1], tile[1], halo)
    ):
        part = function(*(_part(x, size, row, column) for x in maps), (..., row_inner, column_inner))
        if part.shape[-2:] == shape:  # the only one
            return part
        if out is None or out.dtype != part.dtype:
            layout = torch.channels_last if part.stride(1) == 1 else torch.contiguous_format
            out = torch.empty((*part.shape[:2], *shape), dtype=part.dtype, device=part.device, memory_format=layout)
        out[..., row_core, column_core] = part
    return out


def _part(x: Tensor, size: torch.Size, rows: slice | None = None, columns: slice | None = None) -> Tensor:
    """Rows and columns (all when None) of x, as if its borders were replicated up to `size`."""
    if x.shape[-2:] == (1, 1):
        return x
    if x.shape[-2:] == size:
        return x if rows is None else x[..., rows, columns]
    rows, columns = rows or slice(0, size[0]), columns or slice(0, size[1])
    if accelerates(x) and (rows, columns) == (slice(0, size[0]), slice(0, size[1])):
        return x
    cuts, pads = [], []
    for whole, length, part in zip(size, x.shape[-2:], (rows, columns), strict=True):
        start, stop = part.start - (whole - length) // 2, part.stop - (whole - length) // 2
        cut = slice(min(max(start, 0), length - 1), max(min(stop, length), 1))
        cuts.append(cut)
        pads.append((cut.start - start, stop - cut.stop))
    return replicate(x[(..., *cuts)], (*pads[1], *pads[0]))


def _tile(x: Tensor, channels: int) -> tuple[int, int]:
    """Rows and columns: on a GPU whole rows, which kernels take as they lie; elsewhere squares, whose halo is small."""
    pixels = _most(x) // (channels * x.shape[0])
    if accelerates(x):
        return max(16, pixels // x.shape[-1]), x.shape[-1]
    side = max(16, math.isqrt(pixels))
    return side, side


def _most(x: Tensor) -> int:
    """Elements of the widest map that is made of x, or of a part of it, in one piece."""
    if x.is_cuda:
        share = _memory(x.device) // _GPU_SHARE
        most = max(share, min(_LARGE_TILE, 2 * share)) // x.dtype.itemsize
        by_kernels = x.dtype.itemsize == 2 and x.stride(1) == 1 and triton_version("pointwise", x)
        return most if by_kernels else min(most, _COUNTABLE)
    if x.device.type == "cpu" and not accelerates(x):
        return _CPU_TILE * torch.get_num_threads()
    return _LARGE_TILE // x.dtype.itemsize


@lru_cache
def _memory(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).total_memory


def _cuts(part: slice, size: int, side: int, halo: int) -> Iterator[tuple[slice, slice, slice]]:
    """Pieces of about `side` of a part of `size` rows: with their halo, without it counted from there, and from the part."""
    length = part.stop - part.start
    count = -(-length // side)
    for start, stop in pairwise(part.start + length * i // count for i in range(count + 1)):
        first, last = max(0, start - halo), min(size, stop + halo)
        yield slice(first, last), slice(start - first, stop - first), slice(start - part.start, stop - part.start)


def run_blocks(blocks: Iterable[nn.Module], x: Tensor) -> Tensor:
    """The blocks one after the other; unlike nn.Sequential, it lets go of the first one's input."""
    for block in blocks:
        x = block(x)
    return x


def add(x: Tensor, y: Tensor) -> Tensor:
    """x + y; where nobody records it, in the memory of x, which must be the caller's own.

    A trace is the same with and without autograd: `torch.jit.trace` compares the two.
    """
    return x + y if torch.is_grad_enabled() or torch.jit.is_tracing() else x.add_(y)


class ChannelGate(nn.Module):
    """(N, C, H, W) -> (N, C, 1, 1): a pooling over the whole map, a global operation, then layers that see single pixels.

    Args:
        parts: the pooling and the layers after it, by name.
    """

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def layers(self) -> tuple[nn.Module, nn.Module, list[nn.Module]]:
        """The pooling, the first layer after it, the others."""
        pool, *parts = self.children()
        first, *others = (layer for part in parts for layer in (part if isinstance(part, nn.Sequential) else (part,)))
        return pool, first, others

    def squeezed(self, x: Tensor) -> Tensor:
        """What the pooling and the first layer make of x: (N, S, 1, 1)."""
        pool, first, _ = self.layers()
        if accelerates(x) and isinstance(pool, nn.AdaptiveAvgPool2d) and isinstance(first, nn.Conv2d):
            return channel_mean_layer(x, first)
        return _through(first, pool(x))

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeezed(x)
        for layer in self.layers()[2]:
            x = _through(layer, x)
        return x


def _through(layer: nn.Module, x: Tensor) -> Tensor:
    return pointwise(x, layer) if isinstance(layer, nn.Conv2d) and accelerates(x) else layer(x)


class PixelShuffle(nn.PixelShuffle):
    """nn.PixelShuffle that leaves channels_last maps so on a GPU, too: (N, r^2 C, H, W) -> (N, C, r H, r W)."""

    def forward(self, input: Tensor) -> Tensor:
        if not accelerates(input) or input.stride(1) != 1:
            return super().forward(input)
        r = self.upscale_factor
        pixels = input.permute(0, 2, 3, 1).unflatten(-1, (-1, r, r))  # (N, H, W, C, r, r)
        return pixels.permute(0, 1, 4, 2, 5, 3).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


class PixelUnshuffle(nn.PixelUnshuffle):
    """nn.PixelUnshuffle that leaves channels_last maps so on a GPU, too: (N, C, r H, r W) -> (N, r^2 C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        if not accelerates(input) or input.stride(1) != 1:
            return super().forward(input)
        r = self.downscale_factor
        blocks = input.permute(0, 2, 3, 1).unflatten(1, (-1, r)).unflatten(3, (-1, r))  # (N, H, r, W, r, C)
        return blocks.permute(0, 1, 3, 5, 2, 4).flatten(3).permute(0, 3, 1, 2)


def autocast_off(x: Tensor) -> contextlib.AbstractContextManager:
    """Precision as given, for sums; the meta device knows no autocast."""
    return contextlib.nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


class SAM(nn.Module):
    """Supervised attention module (MPRNet, figure 4): a stage's image, and its features gated by that image."""

    def __init__(self, channels: int, image_channels: int, kernel_size: int, bias: bool) -> None:
        super().__init__()
        pad = kernel_size // 2
        self.conv1 = nn.Conv2d(channels, channels, kernel_size, padding=pad, bias=bias)
        self.conv2 = nn.Conv2d(channels, image_channels, kernel_size, padding=pad, bias=bias)
        self.conv3 = nn.Conv2d(image_channels, channels, kernel_size, padding=pad, bias=bias)

    def forward(self, x: Tensor, image: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (N, C, H, W), image (N, 3, H, W) -> gated features like x, the stage's restored image.

        Args: out: where the features are to lie, such as some channels of a map.
        """
        restored = activated(*convolved(self.conv2, x), added=[(image, None)])
        feature = activated(*convolved(self.conv1, x))
        attention = activated(*convolved(self.conv3, like_weights(restored, self.conv3)))
        if accelerates(x):
            return gated(feature, attention, x, sigmoid=True, out=out), restored
        y = by_tiles(_gate, x, feature, attention, channels=x.shape[1])
        return y if out is None else out.copy_(y), restored


def _gate(x: Tensor, feature: Tensor, attention: Tensor, inner: tuple) -> Tensor:
    return gated(feature, attention, x, sigmoid=True)


def count_blocks(shapes: Shapes, prefix: str) -> int:
    """How many numbered children (`prefix.0.`, `prefix.1.`, ...) a state dict has."""
    start = prefix + "."
    return len({key[len(start) :].split(".")[0] for key in shapes if key.startswith(start)})
