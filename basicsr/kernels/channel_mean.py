"""The mean of each channel over the map, and a layer of these means."""

import torch
from torch import Tensor, nn

from basicsr.kernels.choice import triton_version
from basicsr.kernels.pointwise import pointwise

_WIDEST = 512  # channels that a program of the layer takes


def channel_mean(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, 1, 1), of the type of x; sums in float32 at least.

    torch has a fast sum where pixels are neighbours in memory, and a slow one where channels are.
    """
    if x.stride(1) == 1 and (launch := triton_version("channel_mean", x)):
        return launch(x)
    return x.mean((-2, -1), keepdim=True)


def channel_mean_layer(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """conv(channel_mean(x)), of a 1x1 convolution: (N, C, H, W) -> (N, K, 1, 1), the means not rounded in between."""
    near = x.stride(1) == 1 and x.dtype == conv.weight.dtype and conv.in_channels <= _WIDEST
    if near and (launch := triton_version("channel_mean", x)):
        return launch(x, conv.weight.flatten(1), conv.bias)
    return pointwise(channel_mean(x), conv)


def trial(x: Tensor) -> Tensor:
    """For `choice.agrees`."""
    x = x.contiguous(memory_format=torch.channels_last) - 0.25
    conv = nn.Conv2d(x.shape[1], 24, 1).to(x)
    conv.weight.data.copy_(x[0, :, :24, 0].T[:, :, None, None])
    conv.bias.data.copy_(x[0, 0, 0, :24])
    return torch.cat([channel_mean(x), channel_mean_layer(x, conv)], dim=1)
