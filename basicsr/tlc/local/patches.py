"""Statistics from patches: norms of a whole image that see the statistics of training.

A training patch is zero-padded by the net's convolutions, so its own border is part of the statistics that its norms see. A
window inside an image has no such border, and neither has most of a whole image. Where the maps are large and far from zero,
as in the first layers, the border makes half of the variance, and a net whose norms sit there falls apart on whole images,
with TLC as without. So the statistics are taken where they are right: on patches of the training size, cut from the image
on a sparse grid and run through the net by themselves. Between their centres they are interpolated.
"""

import sys
from collections.abc import Callable, Mapping
from functools import wraps

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from basicsr.tlc.local import Size
from basicsr.tlc.local.exporting import tracing

SPACING = 3  # training patches from one patch to the next, at most: denser ones gained nothing, twice as sparse 0.2 dB less


def _uncompiled(method: Callable) -> Callable:
    """torch.compiler.disable, which imports the compiler, for a second: not where there is none yet."""

    @wraps(method)
    def run(*args: object, **kwargs: object) -> object:
        if "torch._dynamo" in sys.modules:
            return torch.compiler.disable(method)(*args, **kwargs)
        return method(*args, **kwargs)

    return run


class Sampler:
    """Runs a net on patches before each image, and tells its norms what to do; it hooks onto the net.

    Args: patch: (h, w) of the training patches.
    """

    def __init__(self, patch: Size) -> None:
        self.patch = patch
        self.recording = False
        self.starts: tuple[list[int], list[int]] | None = None  # of the patches' rows and columns, while an image is run

    def attach(self, net: nn.Module) -> list[RemovableHandle]:
        before = net.register_forward_pre_hook(self._before, with_kwargs=True)
        return [before, net.register_forward_hook(self._after, always_call=True)]

    @_uncompiled
    def _before(self, net: nn.Module, args: tuple, kwargs: Mapping) -> None:
        if net.training:
            return
        if tracing():
            raise ValueError("statistics='patches' runs a net twice, which cannot be exported; use statistics='window'")
        image = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.ndim == 4), None)
        if image is None:
            raise ValueError("statistics='patches' needs a net that is given (N, C, H, W)")
        size = tuple(min(p, length) for p, length in zip(self.patch, image.shape[-2:], strict=True))
        starts = tuple(_starts(length, p) for length, p in zip(image.shape[-2:], size, strict=True))
        patches = [image[..., y : y + size[0], x : x + size[1]] for y in starts[0] for x in starts[1]]
        if len(patches) == 1:
            return  # the image is no larger than a patch
        at_once = max(1, image[0, 0].numel() // patches[0][0, 0].numel())  # not more memory than the image itself takes
        self.starts, self.recording = starts, True
        try:
            for i in range(0, len(patches), at_once):
                part = torch.cat(patches[i : i + at_once])
                net.forward(
                    *(part if x is image else x for x in args), **{k: part if x is image else x for k, x in kwargs.items()}
                )
        finally:
            self.recording = False

    def _after(self, net: nn.Module, args: tuple, out: object) -> None:
        self.starts = None
        for module in net.modules():
            if isinstance(module, SampledNorm):
                module.samples.clear()


class SampledNorm(nn.Module):
    """nn.InstanceNorm2d or nn.GroupNorm with statistics from patches; it takes over the norm's own parameters.

    Args:
        groups: of channels that share statistics. size: (h, w) of its map when the net sees a training patch.
    """

    def __init__(self, norm: nn.InstanceNorm2d | nn.GroupNorm, groups: int, size: Size, sampler: Sampler) -> None:
        super().__init__()
        self.weight = norm.weight
        self.bias = norm.bias
        self.eps = norm.eps
        self.groups = groups
        self.size = size
        self.sampler = sampler
        self.samples: list[Tensor] = []  # (2, patches * N, groups): mean and logarithm of the variance

    def forward(self, input: Tensor) -> Tensor:
        x = input  # as in the layers that it replaces
        if self.sampler.starts is None or self.training or self.sampler.recording:
            if self.sampler.recording:
                self._record(x)
            return F.group_norm(x, self.groups, self.weight, self.bias, self.eps)
        mean, deviation = self._statistics(x)
        out = (x - mean) / deviation
        out = out if self.weight is None else out * self.weight.to(out.dtype).view(-1, 1, 1)
        return (out if self.bias is None else out + self.bias.to(out.dtype).view(-1, 1, 1)).to(x.dtype)

    def _record(self, x: Tensor) -> None:
        maps = x.float() if x.dtype.itemsize < 4 else x
        variance, mean = torch.var_mean(maps.unflatten(1, (self.groups, -1)), (2, 3, 4), correction=0)
        self.samples.append(torch.stack([mean, (variance + self.eps).log()]))

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation at each position, (N, C, H, W)."""
        n, channels, *shape = x.shape
        rows, columns = (
            _weights(starts, patch, size, length).to(x.device)
            for starts, patch, size, length in zip(self.sampler.starts, self.sampler.patch, self.size, shape, strict=True)
        )
        samples = torch.cat(self.samples, 1)
        samples = samples.view(2, rows.shape[1], columns.shape[1], n, self.groups).permute(0, 3, 4, 1, 2)
        rows, columns = rows.to(samples.dtype), columns.to(samples.dtype)
        mean, log_variance = (rows @ samples @ columns.T).repeat_interleave(channels // self.groups, dim=2)
        return mean, log_variance.mul(0.5).exp()

    def extra_repr(self) -> str:
        return f"groups={self.groups}, size={self.size}, eps={self.eps}"


def _starts(length: int, patch: int) -> list[int]:
    """First rows of patches that are at most SPACING patches apart, evenly spread from border to border."""
    steps = -(-(length - patch) // (SPACING * patch))
    return [round(k * (length - patch) / max(1, steps)) for k in range(steps + 1)]


def _weights(starts: list[int], patch: int, size: int, length: int) -> Tensor:
    """(length, patches): linear interpolation between the patches' centres, on a map whose patches are `size` long."""
    if len(starts) == 1:
        return torch.ones(length, 1)
    at = (torch.arange(length) + 0.5) * patch / size
    centres = torch.tensor([start + patch / 2 for start in starts])
    left = (torch.searchsorted(centres, at) - 1).clamp(0, len(starts) - 2)
    share = ((at - centres[left]) / (centres[left + 1] - centres[left])).clamp(0, 1)
    weights = torch.zeros(length, len(starts))
    weights.scatter_(1, left[:, None], 1 - share[:, None])
    return weights.scatter_add_(1, left[:, None] + 1, share[:, None])
