"""A zoo of modules as foreign nets have them: converted ones against local versions written by hand, the others reported.

The hand-written versions take each statistic of one cropped window after the other, with torch's own operations in float64.
"""

import copy
import importlib
import importlib.util
import inspect
import math
import pickle
import re
import sys
import time
import types
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.tlc import convert, rule
from basicsr.tlc.local.functional import local_group_norm
from basicsr.tlc.local.statistics import local_max, local_norm, local_statistic, local_sum

C, TRAIN, BASE, WINDOW = 4, (1, 4, 8, 8), (5, 6), (5, 6)  # the modules see the image itself
SIZE = (9, 13)  # of the test maps
Windows = Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]


# By hand -------------------------------------------------------------------------------------------------------------


def starts(size: int, window: int) -> list[int]:
    """The first row of the window around each row: inside the map, the outermost ones repeated."""
    count = size - window + 1
    return [min(max(row - (size - count) // 2, 0), count - 1) for row in range(size)]


def each(x: Tensor, statistic: Callable[[Tensor], Tensor], window: tuple[int, int] = WINDOW) -> Tensor:
    """(N, C, H, W) -> (N, K, H, W): statistic((N, C, k1, k2)) -> (N, K) of the window around each pixel."""
    k1, k2 = min(window[0], x.shape[-2]), min(window[1], x.shape[-1])
    rows = [
        torch.stack([statistic(x[..., i : i + k1, j : j + k2]) for j in starts(x.shape[-1], k2)], -1)
        for i in starts(x.shape[-2], k1)
    ]
    return torch.stack(rows, -2)


def mean(x: Tensor) -> Tensor:
    return each(x, lambda crop: crop.mean((2, 3)))


def along_rows(x: Tensor) -> Tensor:
    """Of the window's columns in each row alone."""
    return each(x, lambda crop: crop.mean((2, 3)), (1, WINDOW[1]))


def along_columns(x: Tensor) -> Tensor:
    return each(x, lambda crop: crop.mean((2, 3)), (WINDOW[0], 1))


def weighted(logits: Tensor, x: Tensor) -> Tensor:
    """logits (N, 1, H, W): the mean of x, weighted by the softmax over the window's pixels."""

    def statistic(crop: Tensor) -> Tensor:
        flat = crop.flatten(2)
        return (flat[:, :1].softmax(-1) * flat[:, 1:]).sum(-1)

    return each(torch.cat([logits, x], 1), statistic)


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """nn.Linear over channels."""
    return layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def normed(x: Tensor, groups: int, eps: float = 1e-5) -> Tensor:
    """Group norm, without affine parameters."""

    def statistics(crop: Tensor) -> Tensor:
        parts = crop.unflatten(1, (groups, -1)).flatten(2)
        return torch.cat([parts.mean(2), parts.var(2, unbiased=False)], 1)

    mu, variance = each(x, statistics).chunk(2, 1)
    repeats = x.shape[1] // groups
    return (x - mu.repeat_interleave(repeats, 1)) / (variance.repeat_interleave(repeats, 1) + eps).sqrt()


def attended(q: Tensor, k: Tensor, v: Tensor, temperature: Tensor | float) -> Tensor:
    """q, k, v (N, heads, C, H, W): attention in one covering window after the other, averaged where they overlap."""
    total, count = torch.zeros_like(v), torch.zeros_like(v)
    tops, lefts = ([0, 4], [0, 4, 7])  # windows of 5x6 that cover 9x13, as tlc.md spreads them
    for top in tops:
        for left in lefts:
            place = (..., slice(top, top + 5), slice(left, left + 6))
            a, b, c = (x[place].flatten(3) for x in (q, k, v))
            matrix = (F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).transpose(-2, -1) * temperature).softmax(-1)
            total[place] += (matrix @ c).unflatten(-1, (5, 6))
            count[place] += 1
    assert count.min() == 1
    return (total / count).flatten(1, 2)


def windows(function: Callable[..., Tensor], *maps: Tensor) -> Tensor:
    """A function of maps (..., 9, 13), in one covering window after the other, averaged where they overlap."""
    total, count = 0, 0
    for top in (0, 4):
        for left in (0, 4, 7):
            place = (..., slice(top, top + 5), slice(left, left + 6))
            out = function(*(x[place].contiguous() for x in maps))
            pads = (left, 7 - left, top, 4 - top)
            total, count = total + F.pad(out, pads), count + F.pad(torch.ones_like(out), pads)
    return total / count


def gram(q: Tensor, k: Tensor) -> Tensor:
    """(..., C, h, w) -> (..., C, C)"""
    return torch.einsum("...ahw,...bhw->...ab", q, k)


# Modules that become local -------------------------------------------------------------------------------------------

CONVERTED: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, Tensor], Tensor]]] = {}


def local_by_hand(version: Callable[[nn.Module, Tensor], Tensor]):
    def register(kind: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        CONVERTED[kind.__name__] = (kind, version)
        return kind

    return register


@local_by_hand(lambda m, x: x * m.gate[1](mean(x)))
class Pool(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(C, C, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


@local_by_hand(lambda m, x: x * mean(x).sigmoid())
class PoolPair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d((1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.pool(x).sigmoid()


@local_by_hand(lambda m, x: normed(x, C) * m[1].weight.view(-1, 1, 1) + m[1].bias.view(-1, 1, 1))
def InstanceNormAffine() -> nn.Module:
    return nn.Sequential(nn.Identity(), nn.InstanceNorm2d(C, affine=True))


@local_by_hand(lambda m, x: normed(x, C, 1e-3))
def InstanceNormPlain() -> nn.Module:
    return nn.Sequential(nn.InstanceNorm2d(C, eps=1e-3))


@local_by_hand(lambda m, x: normed(x, 2) * m[0].weight.view(-1, 1, 1) + m[0].bias.view(-1, 1, 1))
def GroupNorm() -> nn.Module:
    return nn.Sequential(nn.GroupNorm(2, C))


@local_by_hand(lambda m, x: normed(x, 1))
def GroupNormOfAll() -> nn.Module:
    return nn.Sequential(nn.GroupNorm(1, C, affine=False))


@local_by_hand(lambda m, x: x * m.conv(mean(x)))
class MeanKept(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(C, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(x.mean((2, 3), keepdim=True))


@local_by_hand(lambda m, x: x + mean(x).tanh())
class MeanDropped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + x.mean((-2, -1)).tanh()[:, :, None, None]


@local_by_hand(lambda m, x: x * ~(x > 0) * mean(x))
class MeanMasked(nn.Module):
    """`~` wants bools."""

    def forward(self, x: Tensor) -> Tensor:
        return x * ~(x > 0) * x.mean((2, 3), keepdim=True)


@local_by_hand(lambda m, x: x * mean(x))
class MeanFunction(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.mul(x, torch.mean(x, dim=[2, 3], keepdim=True))


@local_by_hand(lambda m, x: x * mean(x))
class MeanTwice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean(-1, keepdim=True).mean(-2, keepdim=True)


@local_by_hand(lambda m, x: x * mean(x))
class MeanOfFlattened(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        b, c, *_ = x.shape
        return x * x.view(b, c, -1).mean(2).view(b, c, 1, 1)


@local_by_hand(lambda m, x: x * mean(x))
class SumOverPixels(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (x.sum((2, 3), keepdim=True) / (x.size(2) * x.size(3)))


@local_by_hand(lambda m, x: x * mean(x.relu()))
class FunctionalPool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * F.adaptive_avg_pool2d(F.relu(x), 1)


@local_by_hand(lambda m, x: x * m.conv(mean(x)))
class WholeAvgPool(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(C, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(F.avg_pool2d(x, kernel_size=x.size()[2:]))


@local_by_hand(lambda m, x: x / (each(x, lambda crop: crop.var((2, 3))) + 1))
class Variance(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / (x.var((2, 3), keepdim=True) + 1)


@local_by_hand(lambda m, x: x / each(x, lambda crop: crop.std((2, 3), unbiased=False)))
class Deviation(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / torch.std(x, dim=(2, 3), unbiased=False, keepdim=True)


@local_by_hand(lambda m, x: x - each(x, lambda crop: crop.amax((2, 3))))
class Maximum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - F.adaptive_max_pool2d(x, 1)


def _stretched(m: nn.Module, x: Tensor) -> Tensor:
    low, high = each(x, lambda crop: crop.amin((2, 3))), each(x, lambda crop: crop.amax((2, 3)))
    return (x - low) / (high - low)


@local_by_hand(_stretched)
class MinimumAndMaximum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        return (x - low) / (high - low)


@local_by_hand(_stretched)
class MinimumAndMaximumInSteps(nn.Module):
    """With their places, which nobody wants."""

    def forward(self, x: Tensor) -> Tensor:
        n, c = x.shape[:2]
        low = torch.min(x.view(n, c, -1), dim=2, keepdim=True)[0].unsqueeze(-1)
        high = x.flatten(2).max(-1).values.view(n, c, 1, 1)
        return (x - low) / (high - low)


@local_by_hand(lambda m, x: normed(x, C) * m.weight.view(-1, 1, 1))
class FunctionalInstanceNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(C))

    def forward(self, x: Tensor) -> Tensor:
        return F.instance_norm(x, weight=self.weight)


@local_by_hand(lambda m, x: x + normed(x, 2))
class FunctionalGroupNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + F.group_norm(x, 2)


@local_by_hand(lambda m, x: normed(x, C, 1e-6))
class NormByHand(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        mu = x.mean((2, 3), keepdim=True)
        sigma = (x - mu).pow(2).mean((2, 3), keepdim=True)
        return (x - mu) / torch.sqrt(sigma + 1e-6)


@local_by_hand(lambda m, x: x * linear(linear(mean(x), m.fc[0]).relu(), m.fc[2]).sigmoid())
class SqueezeExcite(nn.Module):
    """Hu et al., CVPR 2018, as most nets write it."""

    def __init__(self) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(nn.Linear(C, 3), nn.ReLU(inplace=True), nn.Linear(3, C), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        y = self.avg_pool(x).view(b, c)
        y = self.fc(y).view(b, c, 1, 1)
        return x * y.expand_as(x)


@local_by_hand(lambda m, x: x * linear(mean(x), m.fc).sigmoid())
class SqueezeExciteMean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(C, C)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean((2, 3))).sigmoid().unsqueeze(-1).unsqueeze(-1)


@local_by_hand(lambda m, x: x * linear(linear(mean(x), m.se[2]).relu(), m.se[4]).sigmoid())
class SqueezeExciteSequence(nn.Module):
    """The vector is made inside a sequence, and used outside."""

    def __init__(self) -> None:
        super().__init__()
        layers = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(C, 3), nn.ReLU(), nn.Linear(3, C), nn.Sigmoid())
        self.se = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.se(x)[..., None, None]


class GlobalPool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


@local_by_hand(lambda m, x: x * linear(mean(x), m.fc).sigmoid())
class SqueezeExciteOwnPool(nn.Module):
    """The pool is a module of the user's that hands out a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.fc = GlobalPool(), nn.Linear(C, C)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc(self.pool(x)))[:, :, None, None]


def _eca(m: nn.Module, x: Tensor) -> Tensor:
    y = mean(x)  # (N, C, H, W): a convolution along C at each position
    y = m.conv(y.permute(0, 2, 3, 1).reshape(-1, 1, C)).view(x.shape[0], *SIZE, C).permute(0, 3, 1, 2)
    return x * y.sigmoid()


@local_by_hand(_eca)
class EfficientChannelAttention(nn.Module):
    """ECA-Net (Wang et al., CVPR 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.conv = nn.AdaptiveAvgPool2d(1), nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.pool(x).squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        return x * y.sigmoid()


def _cbam(m: nn.Module, x: Tensor) -> Tensor:
    gate = sum(linear(linear(y, m.mlp[1]).relu(), m.mlp[3]) for y in (mean(x), each(x, lambda crop: crop.amax((2, 3)))))
    return x * gate.sigmoid()


@local_by_hand(_cbam)
class ChannelGate(nn.Module):
    """CBAM (Woo et al., ECCV 2018): means and maxima through the same layers."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Flatten(), nn.Linear(C, 3), nn.ReLU(), nn.Linear(3, C))

    def forward(self, x: Tensor) -> Tensor:
        total = None
        for pool in (F.avg_pool2d, F.max_pool2d):
            pooled = pool(x, (x.size(2), x.size(3)), stride=(x.size(2), x.size(3)))
            total = self.mlp(pooled) if total is None else total + self.mlp(pooled)
        return x * torch.sigmoid(total).unsqueeze(2).unsqueeze(3).expand_as(x)


def _contrast(m: nn.Module, x: Tensor) -> Tensor:
    return x * m.conv(each(x, lambda crop: crop.std((2, 3), unbiased=False)) + mean(x)).sigmoid()


def mean_channels(x: Tensor) -> Tensor:
    return x.sum(3, keepdim=True).sum(2, keepdim=True) / (x.size(2) * x.size(3))


def stdv_channels(x: Tensor) -> Tensor:
    centred = x - mean_channels(x)
    return (centred.pow(2).sum(3, keepdim=True).sum(2, keepdim=True) / (x.size(2) * x.size(3))).pow(0.5)


@local_by_hand(_contrast)
class ContrastAttention(nn.Module):
    """CCA of IMDN (Hui et al., ACM MM 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.contrast, self.pool, self.conv = stdv_channels, nn.AdaptiveAvgPool2d(1), nn.Conv2d(C, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(self.contrast(x) + self.pool(x)).sigmoid()


@local_by_hand(
    lambda m, x: x * ((x - mean(x)).square() / (4 * (each(x, lambda c: c.var((2, 3))) + 1e-4)) + 0.5).sigmoid(),
)
class SimAM(nn.Module):
    """SimAM (Yang et al., ICML 2021)."""

    def forward(self, x: Tensor) -> Tensor:
        _, _, h, w = x.size()
        n = w * h - 1
        squares = (x - x.mean(dim=[2, 3], keepdim=True)).pow(2)
        return x * torch.sigmoid(squares / (4 * (squares.sum(dim=[2, 3], keepdim=True) / n + 1e-4)) + 0.5)


def _response_norm(m: nn.Module, x: Tensor) -> Tensor:
    norm = each(x, lambda crop: crop.square().sum((2, 3)).sqrt())
    gamma, beta = m.gamma.view(1, C, 1, 1), m.beta.view(1, C, 1, 1)
    return gamma * x * norm / (norm.mean(1, keepdim=True) + 1e-6) + beta + x


@local_by_hand(_response_norm)
class ResponseNorm(nn.Module):
    """GRN of ConvNeXt V2 (Woo et al., CVPR 2023), whose maps are channels-last."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.randn(1, 1, 1, C)), nn.Parameter(torch.randn(1, 1, 1, C))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def norm(self, x: Tensor) -> Tensor:
        gx = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        return self.gamma * (x * (gx / (gx.mean(dim=-1, keepdim=True) + 1e-6))) + self.beta + x


@local_by_hand(_response_norm)
class ResponseNormFirst(ResponseNorm):
    def forward(self, x: Tensor) -> Tensor:
        gx = x.norm(p=2, dim=(2, 3), keepdim=True)
        nx = gx / (gx.mean(dim=1, keepdim=True) + 1e-6)
        return torch.addcmul(self.beta.view(1, -1, 1, 1), self.gamma.view(1, -1, 1, 1), x * nx) + x


@local_by_hand(lambda m, x: torch.cat([x, m.conv(mean(x)).relu()], 1))
class ImagePooling(nn.Module):
    """ASPP of DeepLab v3 (Chen et al., 2017): the mean is spread over the map by interpolation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(C, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.relu(self.conv(F.adaptive_avg_pool2d(x, (1, 1))))
        return torch.cat([x, F.interpolate(pooled, size=x.shape[-2:], mode="bilinear", align_corners=False)], 1)


def _modulated(m: nn.Module, x: Tensor) -> Tensor:
    style = torch.cat([mean(x), each(x, lambda crop: crop.std((2, 3)))], 1)
    scale, shift = linear(style, m.fc).chunk(2, 1)
    return x * scale + shift


@local_by_hand(_modulated)
class Modulated(nn.Module):
    """Two statistics make one vector."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * C, 2 * C)

    def forward(self, x: Tensor) -> Tensor:
        style = torch.cat([x.mean((2, 3)), x.std((2, 3))], dim=1)
        scale, shift = self.fc(style).chunk(2, dim=1)
        return x * scale[:, :, None, None] + shift[:, :, None, None]


@local_by_hand(lambda m, x: x + m.after(x * mean(m.before(x)).sigmoid()))
class Between(nn.Module):
    """Convolutions before and behind; an argument that is left at its default."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = (nn.Conv2d(C, C, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
        y = self.before(x)
        if mask is not None:
            y = y * mask
        y = y.mean((2, 3), keepdim=True).mul_(scale)
        return x + self.after(x * torch.sigmoid(y))


@local_by_hand(lambda m, x: x * F.conv2d(mean(x), m.conv.weight[:, :, 1:2, 1:2], m.conv.bias))
class Mixing(nn.Module):
    """A 3x3 convolution of the mean, which must not mix the positions of a map of means."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.conv = nn.AdaptiveAvgPool2d(1), nn.Conv2d(C, C, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(self.pool(x))


class NormAndActivation(nn.GroupNorm):
    """timm's GroupNormAct: a forward of its own around that of the layer."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


@local_by_hand(lambda m, x: (normed(x, 2) * m[0].weight.view(-1, 1, 1) + m[0].bias.view(-1, 1, 1)).relu())
def GroupNormSubclass() -> nn.Module:
    return nn.Sequential(NormAndActivation(2, C))


class HalvedPool(nn.AdaptiveAvgPool2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


@local_by_hand(lambda m, x: x * mean(x) / 2)
class PoolSubclass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool = HalvedPool(1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.pool(x)


@local_by_hand(lambda m, x: x * (2 * mean(x)).sigmoid())
def PoolWithHook() -> nn.Module:
    module = PoolPair()
    module.pool.register_forward_hook(lambda layer, args, output: 2 * output)
    return module


@local_by_hand(lambda m, x: x * linear(mean(x), m.fc))
class PoolChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(C, C)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(self.pool(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@local_by_hand(lambda m, x: x * linear(mean(x), m.fc))
class PoolPermutedAndFlattened(PoolChannelsLast):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(self.pool(x).permute(0, 2, 3, 1).flatten(1))[:, :, None, None]


@local_by_hand(lambda m, x: x * (mean(x).softmax(1) + F.normalize(mean(x), dim=1)))
class PoolOverChannels(PoolPair):
    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(x)
        return x * (y.transpose(1, 3).softmax(-1).transpose(1, 3) + F.normalize(y, dim=1))


def _grouped(m: nn.Module, x: Tensor) -> Tensor:
    y = mean(x).unflatten(1, (2, -1))  # at each position by itself
    return x * ((y - y.mean(2, keepdim=True)) / (y.var(2, unbiased=False, keepdim=True) + 1e-5).sqrt()).flatten(1, 2)


@local_by_hand(_grouped)
class PoolGroupNormed(PoolPair):
    def forward(self, x: Tensor) -> Tensor:
        return x * F.group_norm(self.pool(x), 2)


def _global_context(m: nn.Module, x: Tensor) -> Tensor:
    y = F.layer_norm(m.add[0](mean(x)).permute(0, 2, 3, 1), (3,)).permute(0, 3, 1, 2)
    return x + m.add[3]((y * m.add[1].weight + m.add[1].bias).relu())


@local_by_hand(_global_context)
class AverageContext(nn.Module):
    """GCNet with average pooling: a norm of (channels, 1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.add = nn.Sequential(nn.Conv2d(C, 3, 1), nn.LayerNorm([3, 1, 1]), nn.ReLU(), nn.Conv2d(3, C, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.add(self.pool(x))


@local_by_hand(lambda m, x: x * m.conv(mean(x)))
class PoolNormedWeights(nn.Module):
    """The convolution's weights, which are 1x1 outputs, too, are not what the pool is followed by."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.conv = nn.AdaptiveAvgPool2d(1), nn.utils.parametrizations.weight_norm(nn.Conv2d(C, C, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(self.pool(x))


class Transposed(nn.Module):
    """MDTA (Zamir et al., CVPR 2022) and its kin."""

    def __init__(self, temperature: bool = True) -> None:
        super().__init__()
        self.num_heads = 2
        self.temperature = nn.Parameter(0.5 + torch.rand(2, 1, 1)) if temperature else 1.0
        self.qkv = nn.Conv2d(C, 3 * C, 1)
        self.qkv_dwconv = nn.Conv2d(3 * C, 3 * C, 3, padding=1, groups=3 * C)
        self.project_out = nn.Conv2d(C, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv_dwconv(self.qkv(x)).chunk(3, dim=1)
        q, k, v = (y.reshape(b, self.num_heads, c // self.num_heads, h * w) for y in (q, k, v))
        q = torch.nn.functional.normalize(q, dim=-1)
        k = torch.nn.functional.normalize(k, dim=-1)
        attn = (q @ k.transpose(-2, -1)) * self.temperature
        attn = attn.softmax(dim=-1)
        return self.project_out((attn @ v).reshape(b, c, h, w))

    def by_hand(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv_dwconv(self.qkv(x)).view(x.shape[0], 3, 2, C // 2, *SIZE).unbind(1)
        return self.project_out(attended(q, k, v, self.temperature))


@local_by_hand(Transposed.by_hand)
class RestormerAttention(Transposed):
    """With temperature, as Restormer, PromptIR and X-Restormer have it."""


@local_by_hand(Transposed.by_hand)
def NoTemperature() -> nn.Module:
    return Transposed(temperature=False)


def _scaled_by_hand(m: nn.Module, x: Tensor) -> Tensor:
    q, k, v = (layer(x).unsqueeze(1) for layer in (m.q, m.k, m.v))
    return x + attended(q, k, v, C**-0.5 * m.rescale)


@local_by_hand(_scaled_by_hand)
class SingleHead(nn.Module):
    """No heads, projections of its own, the scale on the other side; batched products and a softmax layer."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Conv2d(C, C, 1) for _ in range(3))
        self.rescale = nn.Parameter(torch.tensor(2.0))
        self.softmax, self.drop = nn.Softmax(dim=-1), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        q = F.normalize(self.q(x).flatten(2), p=2, dim=2) * C**-0.5
        k = F.normalize(self.k(x).flatten(2), p=2, dim=2).permute(0, 2, 1)
        attention = self.drop(self.softmax(self.rescale * torch.bmm(q, k)))
        return x + torch.bmm(attention, self.v(x).flatten(2)).view(x.shape)


class CrossCovariance(nn.Module):
    """XCA of XCiT (El-Nouby et al., NeurIPS 2021): it is given tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 2
        self.temperature = nn.Parameter(0.5 + torch.rand(2, 1, 1))
        self.qkv, self.proj = nn.Linear(C, 3 * C), nn.Linear(C, C)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 4, 1)
        q, k, v = qkv.unbind(0)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        attention = ((q @ k.transpose(-2, -1)) * self.temperature).softmax(dim=-1)
        return self.proj((attention @ v).permute(0, 3, 1, 2).reshape(b, n, c))


def _cross_by_hand(m: nn.Module, x: Tensor) -> Tensor:
    y = m.norm(x.permute(0, 2, 3, 1))
    q, k, v = m.attention.qkv(y).permute(0, 3, 1, 2).reshape(x.shape[0], 3, 2, C // 2, *SIZE).unbind(1)
    return x + linear(attended(q, k, v, m.attention.temperature), m.attention.proj)


@local_by_hand(_cross_by_hand)
class CrossCovarianceBlock(nn.Module):
    """The map's rows and columns are known around the attention only."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(C), CrossCovariance()

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return x + self.attention(self.norm(tokens)).transpose(1, 2).reshape(x.shape)


def _crossed(m: nn.Module, x: Tensor) -> Tensor:
    q, (k, v) = m.q(x), m.kv(-x).chunk(2, 1)
    return attended(*(y.unflatten(1, (2, -1)) for y in (q, k, v)), m.cross.temperature)


class CrossOfTwo(nn.Module):
    """Attention between two maps, which asserts what it is given and counts its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.temperature = 2, nn.Parameter(torch.ones(2, 1, 1))

    def forward(self, q: Tensor, kv: Tensor) -> Tensor:
        k, v = kv[:, : q.shape[1]], kv[:, q.shape[1] :]
        assert q.shape == k.shape, "maps of one size"
        assert all(a == b for a, b in zip(k.shape, v.shape, strict=True))
        n, c, h, w = q.shape
        assert not c % self.heads
        assert c == 4
        size = (n, self.heads, int(c / self.heads), h * w)
        q, k, v = (torch.cat([y[:, i : i + 1] for i in range(c)], 1).reshape(size) for y in (q, k, v))
        matrix = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)) * self.temperature
        return (matrix.softmax(-1) @ v + torch.zeros(size[:3], device=q.device)[..., None]).reshape(n, c, h, w)


@local_by_hand(_crossed)
class Crossed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.cross = nn.Conv2d(C, C, 1), nn.Conv2d(C, 2 * C, 1), CrossOfTwo()

    def forward(self, x: Tensor) -> Tensor:
        return self.cross(self.q(x), self.kv(-x))


def _created(m: nn.Module, x: Tensor) -> Tensor:
    rows, columns = torch.linspace(0, 1, x.shape[2]).view(-1, 1), torch.arange(x.shape[3])
    return x * (mean(x) + torch.tensor([1.0, 1, 3, 1]).view(-1, 1, 1)) + (rows + columns) + torch.ones(x.shape[-2:])


@local_by_hand(_created)
class Created(nn.Module):
    """Tensors made of sizes, and of nothing."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = x.mean((2, 3), keepdim=True) + torch.full((n, c, 1, 1), 1.0, dtype=x.dtype) + torch.zeros(c, 1, 1)
        y = y + torch.eye(c)[2].view(-1, 1, 1) * torch.tensor(2.0)
        rows, columns = torch.linspace(0, 1, h, device=x.device).view(h, 1), torch.arange(w, device=x.device)
        return x * y + (rows + columns) + torch.ones(h, w, dtype=x.dtype, device=x.device)


def _assigned(m: nn.Module, x: Tensor) -> Tensor:
    y = torch.cat([mean(x)[:, :2], 2 * x[:, 2:]], 1)
    return x * mean(x) + y.masked_fill(y > 1, 1)


@local_by_hand(_assigned)
class Assigned(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y, z = x.mean((2, 3), keepdim=True), torch.empty_like(x)
        z[:, 2:] = x[:, 2:]
        z[:, 2:] *= 2
        z[:, :2] = y[:, :2]
        z[z > 1] = 1
        return x * y + z


@local_by_hand(lambda m, x: windows(lambda crop: torch.einsum("nab,nbhw->nahw", gram(crop, crop).softmax(-1), crop), x))
class Einsum(nn.Module):
    """Attention between channels in another notation."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        scores = torch.einsum("bcn,bdn->bcd", flat, flat)
        return torch.einsum("bcd,bdn->bcn", scores.softmax(-1), flat).view(x.shape)


@local_by_hand(lambda m, x: windows(lambda crop: torch.einsum("nab,nbhw->nahw", gram(crop, crop).softmax(-1), crop), x))
class Unscaled(nn.Module):
    """Attention between channels that are not normalised."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        matrix = flat @ flat.transpose(1, 2)
        return (matrix.softmax(-1) @ flat).view(x.shape)


@local_by_hand(lambda m, x: x * along_rows(x).sigmoid() * along_columns(x).sigmoid())
class Coordinates(nn.Module):
    """Coordinate attention (Hou et al., CVPR 2021), whose strips stay apart: means along rows and along columns."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.mean(3, keepdim=True)
        columns = F.adaptive_avg_pool2d(x, (1, None))
        return x * rows.sigmoid() * columns.sigmoid()


@local_by_hand(lambda m, x: x + weighted(m.mask(x), x))
class GlobalContext(nn.Module):
    """GCNet (Cao et al., ICCV-W 2019): a weighted mean."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = nn.Conv2d(C, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.mask(x).flatten(2)
        weights = weights.softmax(-1)
        return x + (x.flatten(2) @ weights.transpose(1, 2))[..., None]


def made(kind: Callable[[], nn.Module]) -> nn.Module:
    """In float64, with parameters that are neither zero nor one."""
    torch.manual_seed(0)
    module = kind().double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.2 + torch.randn_like(parameter))
    return module


def image(size: tuple[int, int] = SIZE) -> Tensor:
    """Windows differ from one another."""
    torch.manual_seed(1)
    level = torch.linspace(-2, 2, size[0] * size[1], dtype=torch.float64).view(size)
    return torch.randn(2, C, *size, dtype=torch.float64) * level.exp() + level


def local(module: nn.Module, **options: object) -> nn.Module:
    return convert(module, train_size=TRAIN, **{"base_size": BASE, **options})


def test_the_zoo_is_large():
    assert len(CONVERTED) >= 25
    assert len(GLOBAL) >= 12
    assert len(LOCAL) >= 10


@pytest.mark.parametrize("name", CONVERTED)
def test_local_as_by_hand(name: str):
    kind, by_hand = CONVERTED[name]
    module, x = made(kind), image()
    keys, parameters = list(module.state_dict()), list(module.parameters())
    state, submodules = copy.deepcopy(module.state_dict()), [path for path, _ in module.named_modules()]
    with torch.no_grad():
        plain, want = module(x), by_hand(module, x)
        net = local(module)
        got = net(x)
    assert net.tlc_report.left_alone == ()
    assert net.tlc_report.converted
    assert {row.window for row in net.tlc_report.converted} == {WINDOW}
    assert (got - want).abs().max() <= 1e-10 * want.abs().max()
    assert (got - plain).abs().max() > 1e-3 * plain.abs().max()
    # the same parameters under the same names; loading both ways; training performs the global operation
    assert list(net.state_dict()) == keys
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert [path for path, _ in net.named_modules()] == submodules
    made(kind).load_state_dict(net.state_dict())
    net.load_state_dict(state)
    if not any(isinstance(part, nn.Dropout) for part in net.modules()):
        torch.testing.assert_close(net.train()(x), plain, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", CONVERTED)
def test_detected(name: str):
    """What has no rule and cannot be rewritten would be reported: the dry run sees each of them."""
    module = made(CONVERTED[name][0])
    ruled = [part for part in module.modules() if rules().rule_for(part)]
    assert ruled or probe().probe(module, TRAIN, set()).global_ops


def rules():
    return importlib.import_module("basicsr.tlc.rules")


def probe():
    return importlib.import_module("basicsr.tlc.dryrun.probe")


@pytest.mark.parametrize("name", CONVERTED)
def test_windows_that_cover_the_map_change_nothing(name: str):
    module, x = made(CONVERTED[name][0]), image()
    with torch.no_grad():
        want = module(x)
        got = local(module, base_size=99)(x)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["SqueezeExcite", "ChannelGate", "ResponseNorm", "RestormerAttention", "Between"])
def test_copies_pickles_batches_and_half_precision(name: str):
    net, x = local(made(CONVERTED[name][0])), image()
    with torch.no_grad():
        want = net(x)
        for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert torch.equal(other(x), want)
            next(other.parameters(), torch.ones(1)).data.zero_()  # it works on parameters of its own
            assert torch.equal(net(x), want)
        torch.testing.assert_close(torch.cat([net(one[None]) for one in x]), want, rtol=1e-12, atol=1e-12)
        low = net.bfloat16()(x.bfloat16())
    assert low.dtype == torch.bfloat16
    assert (low.double() - want).abs().mean() < 0.05 * want.std()


@pytest.mark.parametrize("name", ["SqueezeExcite", "ResponseNorm", "SqueezeExciteSequence", "SingleHead"])
def test_compiled(name: str):
    net, x = local(made(CONVERTED[name][0])), image()
    with torch.no_grad():
        want = net(x)
        torch._dynamo.reset()
        whole = name != "SingleHead" or hasattr(torch.compiler, "is_exporting")  # PyTorch 2.4 breaks at sizes
        got = torch.compile(net, backend="eager", fullgraph=whole, dynamic=False)(x)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
        if hasattr(torch.compiler, "is_exporting"):  # PyTorch 2.7
            exported = torch.export.export(net, (x,)).module()(x)
            torch.testing.assert_close(exported, want, rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_traced():
    net, x = local(made(SqueezeExcite)), image()
    with torch.no_grad():
        traced = torch.jit.trace(net, x, check_trace=False)
        torch.testing.assert_close(traced(x), net(x), rtol=1e-10, atol=1e-10)


def test_rewritten_forwards_train():
    net, x = local(made(SqueezeExcite)), image()
    net(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_fast_imp_reaches_statistics_and_not_maxima():
    with pytest.warns(UserWarning, match="maxima"):
        net = convert(made(ChannelGate), train_size=(1, C, 40, 40), fast_imp=True)
    notes = {row.before: row.note for row in net.tlc_report.converted}
    assert notes["ChannelGate: avg_pool2d"] == ""
    assert "exact" in notes["ChannelGate: max_pool2d"]
    exact = convert(made(ChannelGate), train_size=(1, C, 40, 40))
    x = image((100, 100))
    with torch.no_grad():
        assert not torch.equal(net(x), exact(x))


# Modules that are reported -------------------------------------------------------------------------------------------

GLOBAL: dict[str, tuple[Callable[[], nn.Module], str]] = {}


def reported(why: str):
    """`why`: words of the reason; the lines that end in `# global` must be named."""

    def register(kind: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        GLOBAL[kind.__name__] = (kind, why)
        return kind

    return register


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)


@reported("attention over the whole map: name its module in in_windows, or give it a rule")
class NonLocal(nn.Module):
    """Wang et al., CVPR 2018."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        scores = flat.transpose(1, 2) @ flat  # (N, H*W, H*W): each entry by itself
        scores = scores.softmax(-1)  # global
        return x + (flat @ scores.transpose(1, 2)).view(x.shape)  # global


@reported("attention over the whole map: name its module in in_windows, or give it a rule")
class Fused(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        t = x.flatten(2).transpose(1, 2)
        t = F.scaled_dot_product_attention(t, t, t)  # global
        return t.transpose(1, 2).view(x.shape)


@reported("name its module in in_windows")
class Fourier(nn.Module):
    """As FFC and Fourier units have it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * C, 2 * C, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.fft.rfft2(x, norm="ortho")  # global
        real, imag = self.conv(torch.cat([y.real, y.imag], 1)).chunk(2, 1)
        return torch.fft.irfft2(torch.complex(real, imag), s=x.shape[-2:], norm="ortho")  # global


@reported("rule")
class Pyramid(nn.Module):
    """Pooled to some positions (PSPNet)."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.adaptive_avg_pool2d(x, 2)  # global
        return x + F.interpolate(y, size=x.shape[-2:], mode="nearest")


@reported("fixed kernel")
def PyramidLayer() -> nn.Module:
    return nn.Sequential(nn.Conv2d(C, C, 1), nn.AdaptiveAvgPool2d(2))


@reported("rule")
class Median(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.flatten(2).median(2).values[..., None, None]  # global


@reported("rule")
class LinearAttention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        q, k = x.flatten(2).softmax(1), x.flatten(2)
        k = k.softmax(2)  # global
        context = k @ x.flatten(2).transpose(1, 2)  # global
        return (context.transpose(1, 2) @ q).view(x.shape)


@reported("rule")
class Axial(nn.Module):
    """Attention along columns, whose length grows with the image."""

    def forward(self, x: Tensor) -> Tensor:
        t = x.permute(0, 3, 2, 1)  # (N, W, H, C)
        scores = t @ t.transpose(-2, -1)
        scores = scores.softmax(-1)  # global
        return (scores @ t).permute(0, 3, 2, 1)  # global


@reported("only what windows make of all of them could be averaged")
class Ratio(nn.Module):
    """Linear attention (Katharopoulos et al., ICML 2020) by its first terms: products with sums, divided by one another."""

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        q = F.normalize(x.flatten(2), dim=1)
        k = F.normalize(x.flatten(2), dim=2)  # global
        context = k @ x.flatten(2).transpose(1, 2)  # global
        total = x.flatten(2).sum(2, keepdim=True)  # global
        count = h * w + k.sum(2, keepdim=True).transpose(1, 2) @ q  # global
        return ((total + context.transpose(1, 2) @ q) / count).view(x.shape)


@reported("rule")
class Scan(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).cumsum(-1).view(x.shape)  # global


@reported("a loop as long as the map")
class Loop(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        total = 0
        for row in range(x.shape[2]):
            total = total + x[:, :, row]  # global
        return x * total.unsqueeze(2)


@reported("cannot be tried out")
class Fragile(nn.Module):
    """It takes no images of moderate contrast."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.abs().max() > 6  # global
        return x * x.mean((2, 3), keepdim=True)  # global


@reported("rule")
class Normalised(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x.flatten(2), dim=-1).view(x.shape)  # global


@reported("cannot follow")
class Branching(nn.Module):
    """torch.fx would keep one of the branches."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] > 4:
            return x * x.mean((2, 3), keepdim=True)  # global
        return x


@reported("changes the map that it is given")
class ChangesItsInput(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x.mean((2, 3), keepdim=True)  # global
        x[:, 0] = 0
        return x * y


@reported("does not see all")
class ChangesByAnotherName(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        first = y[:, :2]
        first[:, 0] = 0
        return y * x.mean((2, 3), keepdim=True)  # global


@reported("some sizes only")
class SquareAlone(Pooled):
    """What the patches see, other images do not."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] == x.shape[-2]:
            x = x * x.mean((2, 3), keepdim=True)  # global
            return x * self.pool(x)  # global
        return x - x.amax((2, 3), keepdim=True)  # global


@reported("another size")
class TransposedPool(Pooled):
    def forward(self, x: Tensor) -> Tensor:
        return (x.transpose(2, 3) * self.pool(x)).transpose(2, 3)  # global


@reported("nothing to do")
class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(C, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3)))  # global


@reported("build on one another")
class Chained(nn.Module):
    """The second mean is one of a map that depends on the first: of which window is not for a converter to say."""

    def forward(self, x: Tensor) -> Tensor:
        y = x - x.mean((2, 3), keepdim=True)  # global
        return x / y.abs().mean((2, 3), keepdim=True)  # global


@reported("size")
class SizeInside(nn.Module):
    """What follows on the mean depends on the number of pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.mean((2, 3), keepdim=True) * x.shape[-1])  # global


@reported("stores values")
class Storing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        self.seen = x.mean((2, 3), keepdim=True)  # global
        return x * self.seen


@reported("running statistics")
def RunningStatistics() -> nn.Module:
    return nn.Sequential(nn.InstanceNorm2d(C, track_running_stats=True))


@reported("rule")
class WholeKernel(nn.Module):
    """A convolution with the map itself."""

    def forward(self, x: Tensor) -> Tensor:
        return x * F.conv2d(x, x[:1].transpose(0, 1), groups=C)  # global


@reported("by themselves")
class PoolOverMaximum(Pooled):
    """A map's maximum would be that of all its windows."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(x)  # global
        return x * y / y.max()


@reported("by themselves")
class PoolCentred(Pooled):
    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(x)  # global
        return x * (y - y.mean())


@reported("by themselves")
class PoolOverNorm(Pooled):
    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(x)  # global
        return x * (y / y.norm() + y / y.std())


@reported("by themselves")
class PoolRepeated(Pooled):
    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(x).repeat(1, 1, x.shape[2], x.shape[3])  # global
        return torch.cat([x, y], 1)


@reported("by themselves")
class PoolEnlarged(Pooled):
    def forward(self, x: Tensor) -> Tensor:
        y = F.interpolate(self.pool(x), scale_factor=x.shape[2])  # global
        return x + y


@reported("by themselves")
class PoolPadded(Pooled):
    def forward(self, x: Tensor) -> Tensor:
        y = F.pad(self.pool(x), (0, x.shape[3] - 1, 0, x.shape[2] - 1), mode="replicate")  # global
        return x + y


@reported("has hooks")
class PoolAsVectorWithHook(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(C, C)
        self.pool.register_forward_hook(lambda layer, args, output: 2 * output)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(self.pool(x).flatten(1))[..., None, None]  # global


@reported("in one pass")
class PoolAtTwoScales(Pooled):
    def forward(self, x: Tensor) -> Tensor:
        pooled = [self.pool(y) for y in (x, F.avg_pool2d(x, 2))]  # global
        return x * pooled[0] + x * pooled[1]


@reported("by its own name")
class Listed(nn.Module):
    """The list keeps the layer that the net was built with."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(C)
        self.layers = [self.norm, torch.relu]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)  # global
        return x


@reported("num_features")
class Asked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(C)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x) / self.norm.num_features  # global


@reported("no rows and columns")
class VideoNorm(nn.Module):
    """Five dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.unflatten(1, (2, -1))).flatten(1, 2)  # global


@reported("no rows and columns")
class RowNorm(nn.Module):
    """Each row by itself: the batch grows, too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, C)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = self.norm(x.transpose(1, 2).reshape(n * h, c, w))  # global
        return y.view(n, h, c, w).transpose(1, 2)


@reported("rule")
class Sorted(nn.Module):
    """PyTorch leaves out arguments that have their default value."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.sort().values  # global
        y = y.sort(-1, descending=True).values  # global
        return y * y.argsort(-1)  # global


@reported("far pixels")
class GridAttention(nn.Module):
    """MaxViT (Tu et al., ECCV 2022), MAXIM: attention among pixels that are a fourth of the image apart."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = x.permute(0, 2, 3, 1).reshape(n, 2, h // 2, 2, w // 2, c)  # global
        y = y.permute(0, 2, 4, 1, 3, 5).reshape(-1, 4, c)
        y = (y @ y.mT).softmax(-1) @ y
        y = y.view(n, h // 2, w // 2, 2, 2, c).permute(0, 3, 1, 4, 2, 5)
        return y.reshape(n, h, w, c).permute(0, 3, 1, 2)


@reported("rule")
class Sampled(nn.Module):
    """Some pixels from all over the map, the neighbours at a distance that grows with it, the other half of the map."""

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        y = x[:, :, :: h // 4]  # global
        y = y[..., :: w // 4].mean((2, 3), keepdim=True)  # global
        z = F.conv2d(x, x.new_ones(C, 1, 3, 3), padding=h // 8, dilation=h // 8, groups=C)  # global
        return x * y + z + x.roll(h // 2, 2)  # global


@reported("a loop as long as the map")
class HalvedToOne(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x
        while y.shape[-1] > 1:
            y = F.avg_pool2d(y, 2)  # global
        return x * y


@reported("a loop as long as the map")
class FewStrips(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        total = 0
        for row in range(0, x.shape[2], 4):
            total = total + x[:, :, row : row + 4].mean(2, keepdim=True)  # global
        return x * total


@pytest.mark.parametrize("name", GLOBAL)
def test_reported(name: str):
    kind, why = GLOBAL[name]
    module, x = made(kind), image((8, 8))
    with torch.no_grad():
        want = module(x)
        report = local(module).tlc_report
        assert torch.equal(module(x), want)
    assert report.converted == ()
    assert any(why in row.reason for row in report.left_alone), report
    if inspect.isclass(kind):
        lines, start = inspect.getsourcelines(kind)
        marked = {f"{__file__}:{start + i}" for i, text in enumerate(lines) if text.rstrip().endswith("# global")}
        assert {row.where for row in report.left_alone} == marked
    for row in report.left_alone:
        assert row.path
        assert row.reason in str(report)


def test_nets_for_square_images():
    """The larger run is square where it has to be."""

    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)

    report = local(made(lambda: nn.Sequential(Square(), nn.InstanceNorm2d(C)))).tlc_report
    assert [row.before for row in report.converted] == ["InstanceNorm2d"]


def test_comparisons_are_bool():
    x, shapes = torch.empty(2, 3, device="meta"), importlib.import_module("basicsr.tlc.dryrun.shapes").Shapes()
    comparisons = (
        torch.isnan,
        torch.isinf,
        torch.isfinite,
        torch.signbit,
        torch.logical_not,
        lambda x: x == 2,
        lambda x: x != x,
    )
    comparisons += (
        lambda x: x > 0.5,
        lambda x: x >= x,
        lambda x: x < 0,
        lambda x: x <= x.half(),
        lambda x: torch.logical_or(x, x),
    )
    with shapes:
        for compare in comparisons:
            assert compare(x).dtype == torch.bool
            assert (~compare(x)).shape == (2, 3)
        assert (x.half() * x).dtype == torch.float32
        assert (x.half() * torch.empty((), device="meta")).dtype == torch.float16  # as PyTorch promotes numbers


def test_a_part_is_converted_and_the_rest_reported():
    class Both(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * x.mean((2, 3), keepdim=True)
            return y + x.flatten(2).median(2).values[..., None, None]

    net = local(nn.Sequential(OrderedDict(both=Both())).double().eval())
    assert [(row.path, row.before, row.after) for row in net.tlc_report.converted] == [("both", "Both: mean", "local mean")]
    assert [(row.path, row.operation) for row in net.tlc_report.left_alone] == [("both", "median")]
    x = image()
    want = x * mean(x) + x.flatten(2).median(2).values[..., None, None]
    assert (net(x) - want).abs().max() <= 1e-10 * want.abs().max()


def test_converting_leaves_the_random_numbers_and_the_module_alone():
    module = made(SqueezeExcite).train()
    torch.manual_seed(3)
    want = torch.rand(3)
    torch.manual_seed(3)
    parts = list(module.modules())
    local(module)
    assert torch.equal(torch.rand(3), want)
    assert list(module.modules()) == parts
    assert all(part.training for part in parts)


# Purely local nets ---------------------------------------------------------------------------------------------------


class Swin(nn.Module):
    """Shifted windows of fixed size with a position bias."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.norm, self.table = nn.LayerNorm(C), nn.Parameter(torch.zeros(1, 16, 16))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = torch.roll(x.permute(0, 2, 3, 1), (-2, -2), (1, 2))
        y = y.view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        q, k, v = self.qkv(self.norm(y)).chunk(3, -1)
        y = self.proj((q @ k.transpose(-2, -1) + self.table).softmax(-1) @ v)
        y = y.view(n, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        return x + torch.roll(y, (2, 2), (1, 2)).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(C, C, 7, padding=3, groups=C)
        self.norm, self.mlp = nn.LayerNorm(C), nn.Sequential(nn.Linear(C, 8), nn.GELU(), nn.Linear(8, C))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class Dense(nn.Module):
    """Concatenations, softmax and means over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(C * (i + 1), C, 3, padding=1) for i in range(3))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for conv in self.convs:
            features.append(F.leaky_relu(conv(torch.cat(features, 1)), 0.2))
        y = features[-1]
        spatial = torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)
        return x + y.softmax(1) * spatial.sum(1, keepdim=True) / y.norm(dim=1, keepdim=True)


class Blocks(nn.Module):
    """A Fourier transform and a mean, both of blocks of 4x4."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = x.view(n, c, h // 4, 4, w // 4, 4).transpose(3, 4)
        y = torch.fft.irfft2(torch.fft.rfft2(y), s=(4, 4)) - y.mean((-2, -1), keepdim=True)
        return y.transpose(3, 4).reshape(n, c, h, w)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(C, 8, 4, stride=2, padding=1), nn.ConvTranspose2d(8, C, 2, stride=2)
        self.norm, self.last = nn.BatchNorm2d(8), nn.Conv2d(2 * C, C, 3, padding=1, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        pad = (-x.shape[-2] % 4, -x.shape[-1] % 4)
        y = F.pad(x, (0, pad[1], 0, pad[0]), mode="reflect")
        y = self.up(F.relu(self.norm(self.down(y))))[..., : x.shape[-2], : x.shape[-1]]
        return self.last(torch.cat([x, y], 1))


class Unfolded(nn.Module):
    """Attention to the 3x3 neighbours of each pixel."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        near = F.unfold(x, 3, padding=1).view(n, c, 9, h, w)
        return ((near * x.unsqueeze(2)).sum(1, keepdim=True).softmax(2) * near).sum(2)


class Warped(nn.Module):
    """A flow of its own, sampled bilinearly; constants that know the size."""

    def __init__(self) -> None:
        super().__init__()
        self.flow = nn.Conv2d(C, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        ys, xs = torch.linspace(-1, 1, h, device=x.device), torch.linspace(-1, 1, w, device=x.device)
        grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), -1).to(x.dtype)
        return F.grid_sample(x, grid + self.flow(x).permute(0, 2, 3, 1), align_corners=True)


class WindowsInOrder(nn.Module):
    """Windows that are told apart from their batch and their heads, after these were merged; norms inside them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.maps = nn.GroupNorm(2, C), nn.InstanceNorm2d(C)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = x.view(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 1, 3, 5).reshape(-1, c, 4, 4)
        y = self.norm(self.maps(y).flatten(2)).flatten(2).mT
        y = y.view(-1, 16, 2, c // 2).transpose(1, 2)
        scores = (y @ y.mT).view(n, h * w // 16, 2, 16, 16) + torch.zeros(h * w // 16, 1, 16, 16)
        y = (scores.view(-1, 2, 16, 16).softmax(-1) @ y).transpose(1, 2).reshape(-1, 4, 4, c)
        y = y.view(int(y.shape[0] / (h * w / 16)), h // 4, w // 4, 4, 4, -1)
        return y.permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c).permute(0, 3, 1, 2)


class HeadsInBatch(nn.Module):
    """Attention in windows, its heads one behind the other along the batch."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = x.view(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
        y = torch.cat(y.chunk(2, -1), 0)
        y = ((y @ y.mT).softmax(-1) @ y).view(2, -1, 16, c // 2).permute(1, 2, 0, 3)
        y = y.reshape(n, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4)
        return y.reshape(x.shape)


class ShuffledByHand(nn.Module):
    """Pixels to channels and back, groups of channels, enlarged by repetition, strips of fixed height."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(n, 4 * c, h // 2, w // 2)
        y = y.view(n, 2, -1, h // 2, w // 2).transpose(1, 2).reshape(y.shape)
        y = y[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2).reshape(n, 4 * c, h, w)
        return y[:, :c] + x.unflatten(2, (-1, 8)).softmax(3).flatten(2, 3) + x.view(n, c, -1).view(x.shape)


LOCAL: dict[str, Callable[[], nn.Module]] = {
    "strided convolutions": lambda: nn.Sequential(nn.Conv2d(C, 8, 3, 2, 1), nn.PReLU(), nn.ConvTranspose2d(8, C, 2, 2)),
    "pixel shuffle": lambda: nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * C, 4 * C, 1), nn.PixelShuffle(2)),
    "max pool, bilinear": lambda: nn.Sequential(nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear")),
    "average pool, blur": lambda: nn.Sequential(nn.AvgPool2d(3, 2, 1), nn.ReflectionPad2d(1), nn.Upsample(scale_factor=2)),
    "batch norm": lambda: nn.Sequential(nn.BatchNorm2d(C), nn.Dropout2d(0.2), nn.Softplus()),
    "dilated": lambda: nn.Sequential(nn.Conv2d(C, C, 3, padding=4, dilation=4), nn.LocalResponseNorm(2)),
    "shifted windows": Swin,
    "ConvNeXt": ConvNeXt,
    "dense": Dense,
    "blocks": Blocks,
    "U-Net": UNet,
    "neighbours": Unfolded,
    "warped": Warped,
    "windows in order": WindowsInOrder,
    "heads in the batch": HeadsInBatch,
    "shuffled by hand": ShuffledByHand,
}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", LOCAL)
def test_no_false_alarm(name: str, batch: int):
    report = convert(LOCAL[name](), train_size=(batch, C, 16, 16)).tlc_report
    assert report.converted == report.left_alone == ()


# The statistics by themselves ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "window"), [((9, 13), (5, 6)), ((7, 5), (1, 5)), ((6, 8), (6, 3)), ((5, 5), (9, 9)), ((1, 9), (3, 4))]
)
def test_statistics(size: tuple, window: tuple):
    def dispersion(kind: str, x: Tensor, window: tuple) -> Tensor:
        return local_statistic(x, kind, (2, 3), window, correction=1)

    x = image(size)
    for function, statistic in (
        (local_sum, lambda crop: crop.sum((2, 3))),
        (local_max, lambda crop: crop.amax((2, 3))),
        (local_norm, lambda crop: crop.square().sum((2, 3)).sqrt()),
        (partial(dispersion, "var"), lambda crop: crop.var((2, 3))),
        (partial(dispersion, "std"), lambda crop: crop.std((2, 3))),
    ):
        want = each(x, statistic, window)
        torch.testing.assert_close(function(x, window).expand_as(x), want, rtol=1e-10, atol=1e-10, equal_nan=True)
        assert function(x.half(), window).dtype == torch.float16


def test_group_norm_of_flat_and_of_large_maps_is_finite():
    for dtype, value in ((torch.float16, 6e4), (torch.bfloat16, 3e38), (torch.float32, 12.3)):
        x = torch.full((1, 4, 20, 30), value, dtype=dtype)
        assert torch.equal(local_group_norm(x, 2, (8, 8)), torch.zeros_like(x))
        x[..., ::3] = -value
        assert local_group_norm(x, 2, (8, 8)).isfinite().all()


# Rules, and what docs/tlc.md says -------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _rules(monkeypatch: pytest.MonkeyPatch):
    """Rules that a test registers end with it."""
    monkeypatch.setattr(rules(), "_RULES", dict(rules()._RULES))


def test_a_rule_goes_before_a_rewritten_forward():
    @rule(MeanKept)
    def decline(module: MeanKept, site: object) -> str:
        return "mine"

    report = local(nn.Sequential(MeanKept())).tlc_report
    assert [(row.path, row.reason) for row in report.left_alone] == [("0", "mine")]


def test_the_example_of_the_page():
    text = Path(__file__).parents[1].joinpath("docs/tlc.md").read_text(encoding="utf-8")
    section = text.partition("## A rule for your own attention")[2].partition("\n## ")[0]
    code = next(block for block in re.findall(r"```python\n(.*?)```", section, re.S) if "@rule" in block)
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(compile(code, "docs/tlc.md", "exec"), names)
    attention = names["MyAttention"](C).double().eval()
    keys, x = list(attention.state_dict()), image()
    with torch.no_grad():
        plain = attention(x)
        q, k, v = attention.qkv(x).view(2, 3, 1, C, *SIZE).unbind(1)
        want = attention.project(attended(q, k, v, 1.0))
        net = local(nn.Sequential(attention))
        got = net(x)
    assert [row.before for row in net.tlc_report.converted] == ["MyAttention"]
    assert [key.removeprefix("0.") for key in net.state_dict()] == keys
    assert (got - want).abs().max() <= 1e-10 * want.abs().max()
    assert (got - plain).abs().max() > 1e-3 * plain.abs().max()
    torch.testing.assert_close(net.train()(x), plain, rtol=1e-10, atol=1e-10)


def test_the_import_of_the_readme_needs_torch_alone():
    files = Path(importlib.import_module("basicsr.tlc").__file__).parent.rglob("*.py")
    imports = {
        line.split()[1].split(".")[0]
        for file in files
        for line in file.read_text().splitlines()
        if re.match(r"(from|import) \w", line)
    }
    assert imports & {"numpy", "einops", "timm", "cv2"} == set()


def einops_or_like_it(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """einops, or where there is none a module that looks into tensors as it does."""
    if importlib.util.find_spec("einops"):
        return importlib.import_module("einops")
    code = """
from torch import Tensor
def reduce(x, pattern, reduction, **sizes):
    if not isinstance(x, Tensor):
        raise RuntimeError(f"Tensor type unknown to einops {type(x)}")
    if pattern == "n (head c) h w -> n head c (h w)":
        return x.reshape(x.shape[0], sizes["head"], -1, x.shape[2] * x.shape[3])
    if pattern == "n head c (h w) -> n (head c) h w":
        return x.reshape(x.shape[0], -1, sizes["h"], sizes["w"])
    assert (pattern, reduction) == ("n c h w -> n c 1 1", "mean")
    return x.mean((2, 3), keepdim=True)
def rearrange(x, pattern, **sizes):
    return reduce(x, pattern, reduction="rearrange", **sizes)
"""
    inner, einops = types.ModuleType("einops.einops"), types.ModuleType("einops")
    exec(compile(code, "/site-packages/einops/einops.py", "exec"), inner.__dict__)
    einops.einops, einops.reduce, einops.rearrange = inner, inner.reduce, inner.rearrange
    monkeypatch.setitem(sys.modules, "einops", einops)
    return einops


def test_einops_however_it_was_imported(monkeypatch: pytest.MonkeyPatch):
    einops = einops_or_like_it(monkeypatch)
    code = "from einops import rearrange\nhelper = lambda x, *args, **kwargs: rearrange(x, *args, **kwargs)"
    elsewhere: dict = {}
    exec(code, elsewhere)

    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            from einops import rearrange

            split, join = "n (head c) h w -> n head c (h w)", "n head c (h w) -> n (head c) h w"
            q, k = einops.rearrange(x, split, head=2), rearrange(x * 2, split, head=2)
            v = elsewhere["helper"](x + 1, split, head=2)
            matrix = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)).softmax(-1)
            return elsewhere["rearrange"](matrix @ v, join, h=x.shape[2], w=x.shape[3])

    class Gate(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * einops.reduce(x, "n c h w -> n c 1 1", "mean")

    x = image()
    functions = (einops.rearrange, einops.reduce, torch.zeros)
    for module, after, want in (
        (Attention(), "local channel attention", attended(*(y.unflatten(1, (2, -1)) for y in (x, x * 2, x + 1)), 1.0)),
        (Gate(), "local mean", x * mean(x)),
    ):
        net = local(module.eval())
        assert [row.after for row in net.tlc_report.converted] == [after], net.tlc_report
        assert net.tlc_report.left_alone == ()
        assert (net(x) - want).abs().max() <= 1e-10 * want.abs().max()
    assert (einops.rearrange, einops.reduce, torch.zeros) == functions


def test_an_if_on_the_line_of_an_assert_is_an_if(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tmp_path.joinpath("one_line.py").write_text("""
from torch import nn
class Branching(nn.Module):
    def forward(self, x):
        if x.shape[-1] > 4: assert x.shape[1]
        return x * x.mean((2, 3), keepdim=True)
""")
    monkeypatch.syspath_prepend(tmp_path)
    (row,) = local(importlib.import_module("one_line").Branching()).tlc_report.left_alone
    assert "cannot follow its forward" in row.reason


# Time -----------------------------------------------------------------------------------------------------------------


def test_time_of_the_dry_run():
    """Where nothing is to be rewritten no forward is traced."""
    net = nn.Sequential(*(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()) for _ in range(60)))
    first = convert(copy.deepcopy(net), train_size=(1, 8, 64, 64))
    assert first.tlc_report.left_alone == ()
    start = time.perf_counter()
    convert(net, train_size=(1, 8, 64, 64))
    assert time.perf_counter() - start < 2
    assert math.isfinite(start)
