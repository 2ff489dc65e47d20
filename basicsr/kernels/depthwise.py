"""Depthwise 3x3 convolutions, plain and with the gate that follows them in Restormer and NAFNet."""

from typing import Literal

import torch
from torch import Tensor, nn

from basicsr.kernels.choice import triton_version
from basicsr.kernels.halves import gated_halves

WHOLE = (...,)
Gate = Literal["gelu", "product"]


def depthwise(x: Tensor, conv: nn.Conv2d, gate: Gate | None = None, inner: tuple = WHOLE) -> Tensor:
    """A depthwise 3x3 convolution with zeros around the map, and a gate that halves the channels.

    Args:
        x: (N, C, H, W).
        conv: C groups, padding 1.
        gate: the first half of the convolution's channels is multiplied by the second one; with "gelu" it goes through a GELU
            before (Restormer, arXiv 2111.09881, equation 2), with "product" it does not (NAFNet, arXiv 2204.04676, equation 5).
        inner: the part of the convolution that is wanted, as an index.

    Returns:
        (N, C, h, w), or (N, C/2, h, w) with a gate.
    """
    if x.stride(1) == 1 and x.dtype == conv.weight.dtype and (launch := triton_version("depthwise", x)):
        return launch(x, conv.weight, conv.bias, gate)[inner]
    x = conv(x)[inner]  # what it is made of is given up
    return x if gate is None else gated_halves(x, gelu=gate == "gelu")


def trial(x: Tensor) -> Tensor:
    """For `choice.agrees`."""
    channels = x.shape[1]
    conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels).to(x)
    conv.weight.data.copy_(x[0, :, None, :3, :3])
    conv.bias.data.copy_(x[0, :, 0, 0])
    return depthwise(x.to(memory_format=torch.channels_last), conv, "gelu")
