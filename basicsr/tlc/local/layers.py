"""The local layers that replace global ones.

In training mode each performs its global operation, so that a converted net trains as published. Their arguments are called
as in the layers that they replace.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.tlc.local import Size
from basicsr.tlc.local.functional import local_group_norm, local_instance_norm, local_mean
from basicsr.tlc.local.statistics import local_max


class LocalAvgPool2d(nn.Module):
    """nn.AdaptiveAvgPool2d(1) over a window around each position: (N, C, H, W) -> the same shape, or less unless padded.

    Args: window, max_stride, padded as in `local_mean`.
    """

    def __init__(self, window: Size, max_stride: Size | None = None, *, padded: bool = True) -> None:
        super().__init__()
        self.window = window
        self.max_stride = max_stride
        self.padded = padded

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            return F.adaptive_avg_pool2d(input, 1)
        return local_mean(input, self.window, self.max_stride, padded=self.padded)

    def extra_repr(self) -> str:
        return f"window={self.window}, max_stride={self.max_stride}"


class LocalMaxPool2d(nn.Module):
    """nn.AdaptiveMaxPool2d(1) over a window around each position: (N, C, H, W) -> the same shape."""

    def __init__(self, window: Size) -> None:
        super().__init__()
        self.window = window

    def forward(self, input: Tensor) -> Tensor:
        return F.adaptive_max_pool2d(input, 1) if self.training else local_max(input, self.window)

    def extra_repr(self) -> str:
        return f"window={self.window}"


class LocalInstanceNorm2d(nn.Module):
    """nn.InstanceNorm2d with statistics of a window around each position; it takes over the norm's own parameters.

    Args: window, max_stride as in `local_mean`.
    """

    def __init__(self, norm: nn.InstanceNorm2d, window: Size, max_stride: Size | None = None) -> None:
        super().__init__()
        self.weight = norm.weight
        self.bias = norm.bias
        self.eps = norm.eps
        self.window = window
        self.max_stride = max_stride
        self.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.shape[-2:].numel() > 1:  # PyTorch refuses a single pixel
            return F.instance_norm(input, weight=self.weight, bias=self.bias, eps=self.eps)
        return local_instance_norm(input, self.window, self.weight, self.bias, self.eps, self.max_stride)

    def extra_repr(self) -> str:
        return f"window={self.window}, max_stride={self.max_stride}, eps={self.eps}"


class LocalGroupNorm(nn.Module):
    """nn.GroupNorm with statistics of a window around each position; it takes over the norm's own parameters.

    Args: window, max_stride as in `local_mean`.
    """

    def __init__(self, norm: nn.GroupNorm, window: Size, max_stride: Size | None = None) -> None:
        super().__init__()
        self.num_groups = norm.num_groups
        self.weight = norm.weight
        self.bias = norm.bias
        self.eps = norm.eps
        self.window = window
        self.max_stride = max_stride

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)
        return local_group_norm(input, self.num_groups, self.window, self.weight, self.bias, self.eps, self.max_stride)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, window={self.window}, max_stride={self.max_stride}, eps={self.eps}"
