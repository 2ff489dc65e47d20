"""Modules that are given pixels as one sequence, and the map's size beside it, against their definitions, window by window."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from test_tlc_zoo import WINDOW, C, attended, each, image, linear, local, made, mean
from torch import Tensor, nn

from basicsr.tlc import convert

CONVERTED: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, Tensor], Tensor]]] = {}


def tokens_of(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H*W, C)"""
    return x.flatten(2).transpose(1, 2)


def map_of(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, H*W, C) -> (N, C, H, W)"""
    return x.transpose(1, 2).unflatten(2, size)


class Around(nn.Module):
    """A net around a block of tokens, which is told the size in some way; torch.fx cannot follow the net itself."""

    def __init__(self, block: nn.Module, tell: Callable[[int, int], tuple[tuple, dict]]) -> None:
        super().__init__()
        self.block, self.tell = block, tell

    def forward(self, x: Tensor) -> Tensor:
        args, kwargs = self.tell(*map(int, x.shape[2:]))
        return map_of(self.block(tokens_of(x), *args, **kwargs), x.shape[2:])


def two(h: int, w: int) -> tuple[tuple, dict]:
    return (h, w), {}


def pair(h: int, w: int) -> tuple[tuple, dict]:
    return ((h, w),), {}


def local_by_hand(version: Callable[[nn.Module, Tensor], Tensor], tell: Callable[[int, int], tuple[tuple, dict]] | None = two):
    """`version` of a module inside of `Around`, as a map; or of a net as it is, where it is told nothing."""

    def register(kind: type[nn.Module]) -> type[nn.Module]:
        if tell is None:
            CONVERTED[kind.__name__] = (kind, version)
        else:
            CONVERTED[kind.__name__] = (lambda: Around(kind(), tell), lambda m, x: version(m.block, x))
        return kind

    return register


# Sizes as arguments --------------------------------------------------------------------------------------------------


@local_by_hand(lambda m, x: x * m.gate[1](mean(x)).sigmoid())
class ViewedGate(nn.Module):
    """A pool on the map that a view makes of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(C, C, 1))

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        B, L, C = x.shape
        assert L == H * W, "input feature has wrong size"
        y = x.transpose(1, 2).view(B, C, H, W)
        y = y * torch.sigmoid(self.gate(y))
        return y.view(B, C, L).transpose(1, 2)


@local_by_hand(lambda m, x: x + linear(x * mean(x).sigmoid(), m.proj))
class ViewedMean(nn.Module):
    """The mean is the block's own."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(C, C)

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        b, _, c = x.shape
        y = x.permute(0, 2, 1).reshape(b, c, H, W)
        y = y * y.mean((2, 3), keepdim=True).sigmoid()
        return x + self.proj(y.flatten(2).permute(0, 2, 1))


def _gated_depthwise(m: nn.Module, x: Tensor) -> Tensor:
    y = m.conv(x)
    return x + linear(y * linear(mean(y), m.fc).sigmoid(), m.proj)


class _Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.proj = nn.Conv2d(C, C, 3, padding=1, groups=C), nn.Linear(C, C), nn.Linear(C, C)

    def gated(self, x: Tensor, h: int, w: int) -> Tensor:
        y = self.conv(x.transpose(1, 2).unflatten(2, (h, w)))
        y = y * self.fc(y.mean((2, 3))).sigmoid()[..., None, None]
        return x + self.proj(y.flatten(2).transpose(1, 2))


@local_by_hand(_gated_depthwise, pair)
class SizeAsTuple(_Depthwise):
    def forward(self, x: Tensor, x_size: tuple[int, int]) -> Tensor:
        h, w = x_size
        return self.gated(x, h, w)


@local_by_hand(_gated_depthwise, lambda h, w: ((torch.Size((h, w)),), {}))
class SizeAsShape(_Depthwise):
    def forward(self, x: Tensor, x_size: torch.Size) -> Tensor:
        assert x.shape[1] == x_size.numel()
        assert len(x_size) == 2
        return self.gated(x, x_size[0], x_size[1])


@local_by_hand(_gated_depthwise, lambda h, w: (([h, w],), {}))
class SizeAsList(_Depthwise):
    def forward(self, x: Tensor, size: list[int]) -> Tensor:
        return self.gated(x, *size)


@local_by_hand(_gated_depthwise, lambda h, w: ((), {"sizes": {"h": h, "w": w}}))
class SizeAsDict(_Depthwise):
    def forward(self, x: Tensor, sizes: dict[str, int]) -> Tensor:
        return self.gated(x, sizes["h"], sizes["w"])


@local_by_hand(_gated_depthwise, lambda h, w: ((), {"h": h, "w": w}))
class SizeAsKeywords(_Depthwise):
    def forward(self, x: Tensor, *, h: int, w: int, scale: int = 1) -> Tensor:
        return self.gated(x, h, w)


@local_by_hand(_gated_depthwise, lambda h, w: ((h,), {}))
class OneSide(_Depthwise):
    """The other side follows."""

    def forward(self, x: Tensor, h: int) -> Tensor:
        return self.gated(x, h, x.shape[1] // h)


@local_by_hand(_gated_depthwise, lambda h, w: ((2 * h, 2 * w), {}))
class SizeOfTheImage(_Depthwise):
    """Twice the size of its map."""

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        return self.gated(x, height // 2, width // 2)


@local_by_hand(_gated_depthwise, lambda h, w: ((w, h, h * w), {}))
class SidesTheOtherWay(_Depthwise):
    def forward(self, x: Tensor, w: int, h: int, n: int) -> Tensor:
        assert x.shape[1] == n
        return self.gated(x, h, w)


class WholeShape(_Depthwise):
    """The shape of its map as it was, with batch and channels."""

    def forward(self, x: Tensor, shape: torch.Size) -> Tensor:
        b, c, h, w = shape
        y = self.conv(x.transpose(1, 2).reshape(b, c, h, w))
        y = y * self.fc(y.mean((2, 3)).view(b, c)).sigmoid().view(b, c, 1, 1)
        return x + self.proj(y.view(b, c, h * w).transpose(1, 2))


class _AroundShape(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = WholeShape()

    def forward(self, x: Tensor) -> Tensor:
        return map_of(self.block(tokens_of(x), torch.Size(map(int, x.shape))), x.shape[2:])


CONVERTED["WholeShape"] = (_AroundShape, lambda m, x: _gated_depthwise(m.block, x))


class BatchAsArgument(_Depthwise):
    def forward(self, x: Tensor, B: int, H: int, W: int) -> Tensor:
        y = self.conv(x.view(B, H, W, C).permute(0, 3, 1, 2))
        y = y * self.fc(y.mean((2, 3))).sigmoid()[..., None, None]
        return x + self.proj(y.permute(0, 2, 3, 1).reshape(B, H * W, C))


class _AroundBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = BatchAsArgument()

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = map(int, x.shape)
        return map_of(self.block(tokens_of(x), b, h, w), x.shape[2:])


CONVERTED["BatchAsArgument"] = (_AroundBatch, lambda m, x: _gated_depthwise(m.block, x))


class SizeOnAttributes(_Depthwise):
    """Its parent sets them."""

    h = w = None

    def forward(self, x: Tensor) -> Tensor:
        return self.gated(x, self.h, self.w)


class _AroundAttributes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = SizeOnAttributes()

    def forward(self, x: Tensor) -> Tensor:
        self.block.h, self.block.w = x.shape[2:]
        return map_of(self.block(tokens_of(x)), x.shape[2:])


CONVERTED["SizeOnAttributes"] = (_AroundAttributes, lambda m, x: _gated_depthwise(m.block, x))


class SizeOnAPair(_Depthwise):
    def __init__(self) -> None:
        super().__init__()
        self.resolution = [8, 8]  # of the patches

    def forward(self, x: Tensor) -> Tensor:
        h, w = self.resolution
        return self.gated(x, h, w)


class _AroundPair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = SizeOnAPair()

    def forward(self, x: Tensor) -> Tensor:
        self.block.resolution = [*x.shape[2:]]
        return map_of(self.block(tokens_of(x)), x.shape[2:])


CONVERTED["SizeOnAPair"] = (_AroundPair, lambda m, x: _gated_depthwise(m.block, x))


def _token_attention(m: nn.Module, x: Tensor) -> Tensor:
    q, k, v = (y.unflatten(1, (2, -1)) for y in linear(x, m.qkv).chunk(3, 1))
    return linear(attended(q, k, v, m.temperature), m.proj)


class _TokenAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj, self.temperature = nn.Linear(C, 3 * C), nn.Linear(C, C), nn.Parameter(torch.ones(2, 1, 1))


@local_by_hand(_token_attention)
class ChannelAttention(_TokenAttention):
    """Attention between channels in a transformer of tokens."""

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        B, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, 2, C // 2).permute(2, 0, 3, 4, 1)
        attn = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * self.temperature).softmax(dim=-1)
        return self.proj((attn @ v).permute(0, 3, 1, 2).reshape(B, N, C))


@local_by_hand(_token_attention, pair)
class ChannelAttentionTransposed(_TokenAttention):
    def forward(self, x: Tensor, x_size: tuple[int, int]) -> Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, 2, C // 2).permute(2, 0, 3, 1, 4)
        q, k, v = (y.transpose(-2, -1) for y in qkv.unbind(0))
        q, k = F.normalize(q, dim=-1, p=2), F.normalize(k, dim=-1, p=2)
        attn = ((q @ k.transpose(-2, -1)) * self.temperature).softmax(-1)
        return self.proj((attn @ v).flatten(1, 2).transpose(1, 2))


@local_by_hand(_token_attention, None)
class AttentionOnTokensOfAMap(_TokenAttention):
    """It has the map itself."""

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).chunk(3, -1)
        q, k, v = (y.view(b, h * w, 2, c // 2).permute(0, 2, 3, 1) for y in (q, k, v))
        attn = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * self.temperature).softmax(-1)
        y = (attn @ v).permute(0, 3, 1, 2).reshape(b, h * w, c)
        return self.proj(y).transpose(1, 2).view(b, c, h, w)


# Statistics of tokens, and vectors that meet tokens ------------------------------------------------------------------


@local_by_hand(lambda m, x: x * linear(mean(x), m.fc).sigmoid())
class TokenGate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(C, C)

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        return x * self.fc(x.mean(1, keepdim=True)).sigmoid()


@local_by_hand(lambda m, x: x * linear(linear(mean(x), m.fc[0]).relu(), m.fc[2]).sigmoid(), pair)
class TokenGateUnsqueezed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(C, 3), nn.ReLU(), nn.Linear(3, C))

    def forward(self, x: Tensor, x_size: tuple[int, int]) -> Tensor:
        return torch.sigmoid(self.fc(torch.mean(x, dim=1))).unsqueeze(1).expand_as(x) * x


@local_by_hand(lambda m, x: x * linear(mean(x), m.fc).sigmoid())
class TokenPool(nn.Module):
    """Its pool is a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.fc = nn.AdaptiveAvgPool1d(1), nn.Linear(C, C)

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        y = self.pool(x.transpose(1, 2)).squeeze(-1)
        return x * self.fc(y).sigmoid()[:, None, :]


@local_by_hand(lambda m, x: x * m.conv(mean(x).flatten(2)).view_as(x).sigmoid())
class TokenPoolSequence(nn.Module):
    """Its pool is in a sequence, and sees channels first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(C, C, 1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool1d(1), self.conv, nn.Sigmoid())

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        return (x.mT * self.gate(x.mT)).mT


@local_by_hand(lambda m, x: x * mean(x).sigmoid())
class TokenFunctionalPool(nn.Module):
    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        return x * F.adaptive_avg_pool1d(x.permute(0, 2, 1), 1).permute(0, 2, 1).sigmoid()


@local_by_hand(lambda m, x: x * mean(x).sigmoid() + each(x, lambda crop: crop.amax((2, 3))))
class TokenWholePools(nn.Module):
    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        y = x.transpose(1, 2)
        gate = F.avg_pool1d(y, H * W).sigmoid()
        return (y * gate + F.max_pool1d(y, y.shape[-1])).transpose(1, 2)


@local_by_hand(lambda m, x: x * mean(x).sigmoid())
class TokenSizesInFunctions(nn.Module):
    """Sizes go to functions of torch that are written in C++."""

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        B, N, C = x.shape
        y = torch.narrow(torch.reshape(x.mT, (B, C, H, W)), 2, 0, H)
        gate = torch.sigmoid(torch.mean(y, (2, 3)))
        return torch.reshape(y, (B, C, H * W)).mT * torch.broadcast_to(gate[:, None], (B, N, C))


@local_by_hand(lambda m, x: x - each(x, lambda crop: crop.amax((2, 3))) / (each(x, lambda crop: crop.std((2, 3))) + 1))
class TokenStatistics(nn.Module):
    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        return x - x.amax(1, keepdim=True) / (x.std(1, keepdim=True) + 1)


@local_by_hand(lambda m, x: (x - mean(x)) / (each(x, lambda crop: crop.var((2, 3), unbiased=False)) + 1e-5).sqrt())
class TokenNorm(nn.Module):
    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        mu, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
        return (x - mu) / torch.sqrt(var + 1e-5)


@local_by_hand(lambda m, x: x * mean(x))
class TokenSum(nn.Module):
    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        return x * (x.sum(1, keepdim=True) / (H * W))


@local_by_hand(lambda m, x: x * mean(x))
class TokenSumOverLength(nn.Module):
    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        return x * (x.sum(1) / x.shape[1])[:, None]


@local_by_hand(lambda m, x: x + linear(torch.cat([x, mean(x)], 1), m.mix))
class TokenCat(nn.Module):
    """The mean is repeated for each token, and put beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(2 * C, C)

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        n = x.shape[1]
        return x + self.mix(torch.cat([x, x.mean(1, keepdim=True).expand(-1, n, -1)], -1))


@local_by_hand(lambda m, x: x + linear(torch.cat([x, mean(x)], 1), m.mix))
class TokenRepeat(TokenCat):
    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        return x + self.mix(torch.cat([x, x.mean(1)[:, None].repeat(1, H * W, 1)], -1))


@local_by_hand(lambda m, x: x * linear(mean(x), m.fc).sigmoid())
class HeadsOfTokens(nn.Module):
    """Its tokens in heads, (N, heads, H*W, C / heads)."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(C, C)

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        b, n, c = x.shape
        gate = self.fc(x.mean(1)).sigmoid().view(b, 2, 1, c // 2)
        y = x.view(b, n, 2, c // 2).permute(0, 2, 1, 3)
        return (y * gate).permute(0, 2, 1, 3).reshape(b, n, c)


@local_by_hand(lambda m, x: x * m.gate[2](m.gate[1](mean(m.conv(x)))).sigmoid())
class GateOfTheMapOnTokens(nn.Module):
    """A gate (N, C, 1, 1) of the map, viewed as (N, 1, C), on tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(C, C, 3, padding=1, groups=C)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(C, 3, 1), nn.Conv2d(3, C, 1))

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        B, _, C = x.shape
        y = self.conv(x.transpose(-2, -1).contiguous().view(B, C, H, W))
        gate = self.gate(y).permute(0, 2, 3, 1).contiguous().view(B, 1, C)
        return x * torch.sigmoid(gate)


def _interacting(m: nn.Module, x: Tensor) -> Tensor:
    q, k, v = (y.unflatten(1, (2, -1)) for y in linear(x, m.qkv).chunk(3, 1))
    y, near = attended(q, k, v, m.temperature), m.conv(v.flatten(1, 2))
    gate = m.channels[1](mean(near)).sigmoid()
    return linear(y * gate + near * m.pixels(y).sigmoid(), m.proj)


@local_by_hand(_interacting)
class Interacting(_TokenAttention):
    """Attention and a convolution, each gated by the other: by channels, and by pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pixels = nn.Conv2d(C, C, 3, padding=1, groups=C), nn.Conv2d(C, 1, 1)
        self.channels = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(C, C, 1))

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, 2, C // 2).permute(2, 0, 3, 1, 4)
        q, k, v = (y.transpose(-2, -1) for y in (qkv[0], qkv[1], qkv[2]))
        near = self.conv(v.reshape(B, C, N).contiguous().view(B, C, H, W))
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        attn = (q @ k.transpose(-2, -1) * self.temperature).softmax(dim=-1)
        y = (attn @ v).permute(0, 3, 1, 2).reshape(B, N, C)
        pixels = self.pixels(y.transpose(-2, -1).contiguous().view(B, C, H, W))
        pixels = pixels.permute(0, 2, 3, 1).contiguous().view(B, N, 1)
        channels = self.channels(near).permute(0, 2, 3, 1).contiguous().view(B, 1, C)
        near = near.permute(0, 2, 3, 1).contiguous().view(B, N, C)
        return self.proj(y * torch.sigmoid(channels) + near * torch.sigmoid(pixels))


@local_by_hand(lambda m, x: x * m.fc(mean(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2).sigmoid(), None)
class FlattenedMap(nn.Module):
    """(N, C, 1) times the flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(C, C)

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(2)
        return (self.fc(x.mean((2, 3))).sigmoid().unsqueeze(-1) * y).view_as(x)


@local_by_hand(lambda m, x: x * linear(mean(x), m.inner.fc).sigmoid(), None)
class GateWithoutSize(nn.Module):
    """The inner module has tokens alone, the outer one the map."""

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(C, C)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.fc(x.mean(1, keepdim=True)).sigmoid()

    def __init__(self) -> None:
        super().__init__()
        self.inner = self.Inner()

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return self.inner(x.flatten(2).transpose(1, 2)).transpose(1, 2).view(b, c, h, w)


def _stacked(m: nn.Module, x: Tensor) -> Tensor:
    for block in m.blocks:
        x = x * linear(mean(x), block.gate.fc).sigmoid() + x
    return x


class _Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(C, C)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean(1, keepdim=True)).sigmoid()


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = _Gate()

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        return self.gate(x) + x


@local_by_hand(_stacked)
class Stacked(nn.Module):
    """Blocks that are told the size, around gates that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block() for _ in range(2))

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        for block in self.blocks:
            x = block(x, H, W)
        return x


@local_by_hand(lambda m, x: x * mean(x).sigmoid())
class ReducedInSteps(nn.Module):
    """Rows and columns of tokens that were given a grid, one after the other."""

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        y = x.unflatten(1, (H, W))
        return x * y.mean(1).mean(1).sigmoid().unsqueeze(1)


# As transformers have them ----------------------------------------------------------------------------------------------


def _response_normed(m: nn.Module, x: Tensor) -> Tensor:
    g = each(x, lambda crop: crop.square().sum((2, 3)).sqrt())
    return x + x * (g / (g.mean(1, keepdim=True) + 1e-6)) * m.gamma[:, None, None]


@local_by_hand(_response_normed)
class TokenResponseNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(C))

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        g = torch.norm(x, p=2, dim=1, keepdim=True)
        return x + self.gamma * (x * (g / (g.mean(dim=-1, keepdim=True) + 1e-6)))


def _mixed(m: nn.Module, x: Tensor) -> Tensor:
    y = F.gelu(m.depthwise.conv(linear(x, m.first)))
    return linear(y * mean(y), m.last)


@local_by_hand(_mixed)
class MixFeedForward(nn.Module):
    """A module inside is told the size, too."""

    class Depthwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(C, C, 3, padding=1, groups=C)

        def forward(self, x: Tensor, H: int, W: int) -> Tensor:
            B, _, C = x.shape
            return self.conv(x.transpose(1, 2).view(B, C, H, W)).flatten(2).transpose(1, 2)

    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.first, self.last = self.Depthwise(), nn.Linear(C, C), nn.Linear(C, C)

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        y = F.gelu(self.depthwise(self.first(x), H, W))
        return self.last(y * y.mean(1, keepdim=True))


@local_by_hand(lambda m, x: x * (linear(mean(x), m.fc) + linear(each(x, lambda crop: crop.amax((2, 3))), m.fc)).sigmoid())
class TokenMeanAndMaximum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(C, C)

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        return x * torch.sigmoid(self.fc(x.mean(1)) + self.fc(x.max(dim=1)[0])).unsqueeze(1)


@local_by_hand(lambda m, x: x * linear(mean(x), m.fc).sigmoid())
class TokenEquation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(C, C)

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        return torch.einsum("bnc,bc->bnc", x, self.fc(x.mean(1)).sigmoid())


@local_by_hand(lambda m, x: x * mean(x).softmax(1))
class HeadsAmongSamples(nn.Module):
    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        B, N, C = x.shape
        gate = x.mean(1).softmax(-1).view(B * 2, 1, C // 2)
        y = x.view(B, N, 2, C // 2).permute(0, 2, 1, 3).reshape(B * 2, N, C // 2)
        return (y * gate).view(B, 2, N, C // 2).permute(0, 2, 1, 3).reshape(B, N, C)


@local_by_hand(lambda m, x: x * linear(mean(x), m.fc).sigmoid())
class BackAndForth(nn.Module):
    """To a map, to channels first, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(C, C)

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        B, _, C = x.size()
        y = x.view(B, H, W, C).permute(0, 3, 1, 2).contiguous()
        gate = y.view(B, C, -1).mean(-1).view(B, 1, C)
        return y.permute(0, 2, 3, 1).reshape(B, H * W, C) * torch.sigmoid(self.fc(gate))


def _selected(m: nn.Module, x: Tensor) -> Tensor:
    weights = torch.stack([linear(mean(x), fc) for fc in m.fcs]).softmax(0)
    return weights[0] * x + weights[1] * m.conv(x)


@local_by_hand(_selected)
class TokenSelection(nn.Module):
    """Selective kernels of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fcs = nn.Conv2d(C, C, 3, padding=1), nn.ModuleList(nn.Linear(C, C) for _ in range(2))

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        y = self.conv(x.transpose(1, 2).unflatten(2, (H, W))).flatten(2).transpose(1, 2)
        weights = torch.stack([fc(x.mean(1)) for fc in self.fcs], 1).softmax(1)
        return (torch.stack([x, y], 1) * weights.unsqueeze(2)).sum(1)


# Tests ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONVERTED)
def test_local_as_by_hand(name: str):
    kind, by_hand = CONVERTED[name]
    module, x = made(kind), image()
    keys = list(module.state_dict())
    with torch.no_grad():
        plain, want = module(x), by_hand(module, x)
        net = local(module)
        got = net(x)
        assert net.tlc_report.left_alone == ()
        assert {row.window for row in net.tlc_report.converted} == {WINDOW}
        assert (got - want).abs().max() <= 1e-10 * want.abs().max()
        assert (got - plain).abs().max() > 1e-3 * plain.abs().max()
        torch.testing.assert_close(torch.cat([net(one[None]) for one in x]), got, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(local(made(kind), base_size=99)(x), plain, rtol=1e-10, atol=1e-10)
        for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))) if "<locals>" not in repr(kind) else ():
            assert torch.equal(other(x), got)
        torch.testing.assert_close(net.train()(x), plain, rtol=1e-10, atol=1e-10)
    assert list(net.state_dict()) == keys


class _Held(nn.Module):
    """What it holds is set by its parent before each call; found as it is here it would be another function."""

    def __init__(self) -> None:
        super().__init__()
        self.factor, self.mask, self.squared = 1, None, False

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class _Setting(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        self.block.factor, self.block.mask, self.block.squared = 3, x.sigmoid(), True
        return self.block(x)


class HeldNumber(_Held):
    def forward(self, x: Tensor) -> Tensor:
        return x * (self.factor * x.mean((2, 3), keepdim=True)).sigmoid()


class HeldMap(_Held):
    def forward(self, x: Tensor) -> Tensor:
        y = x if self.mask is None else x * self.mask
        return y * y.mean((2, 3), keepdim=True).sigmoid()


@pytest.mark.parametrize("kind", [HeldNumber, HeldMap])
def test_what_a_parent_sets_is_not_what_was_found_in_the_beginning(kind: type[nn.Module]):
    x = image()
    plain = _Setting(kind().double())(x)
    net = local(_Setting(kind().double()).eval())
    (row,) = net.tlc_report.left_alone
    assert "its mask is set from outside of its forward" in row.reason
    assert torch.equal(net(x), plain)


def test_a_number_that_is_set_from_outside_is_read():
    class Setting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = HeldNumber()

        def forward(self, x: Tensor) -> Tensor:
            self.block.factor = 3
            return self.block(x)

    x, net = image(), local(Setting().double().eval())
    assert net.tlc_report.left_alone == ()
    want = x * (3 * mean(x)).sigmoid()
    assert (net(x) - want).abs().max() <= 1e-10 * want.abs().max()


class Padded(nn.Module):
    """It is told how many rows are missing to a multiple of seven: no side of its map, and no part of one."""

    def __init__(self) -> None:
        super().__init__()
        self.block = self.Block()

    class Block(nn.Module):
        def forward(self, x: Tensor, rows: int) -> Tensor:
            y = x * x.mean((2, 3), keepdim=True).sigmoid()
            return F.pad(y, (0, 0, 0, rows))

    def forward(self, x: Tensor) -> Tensor:
        h = int(x.shape[2])
        return self.block(x, -h % 7)[..., :h, :]


def test_numbers_that_are_no_size_are_tried_out_as_the_larger_image_has_them():
    x, net = image(), local(Padded().double().eval())
    assert net.tlc_report.left_alone == ()
    want = x * mean(x).sigmoid()
    assert (net(x) - want).abs().max() <= 1e-10 * want.abs().max()


@pytest.mark.parametrize("name", ["SizeAsTuple", "TokenGate", "HeadsAmongSamples", "BatchAsArgument", "TokenSelection"])
def test_an_empty_batch(name: str):
    module, x = made(CONVERTED[name][0]), image()[:0]
    with torch.no_grad():
        assert local(module)(x).shape == x.shape


def test_sizes_that_are_one_pixel_beside_a_multiple():
    """Even and odd rows of a map, which are to be as many: of an image, so many that one more is not one more of both."""

    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(C, C, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            y = y[..., ::2, :] - y[..., 1::2, :]
            return y * y.mean((2, 3), keepdim=True)

    report = convert(Halves(), train_size=(1, C, 9, 9)).tlc_report
    assert [row.size for row in report.converted] == [(4, 8)]
    assert report.left_alone == ()
