"""The mean of each channel over the map."""

import torch
from torch import Tensor

from basicsr.kernels.choice import triton_version


def channel_mean(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, 1, 1), of the type of x; sums in float32 at least.

    torch has a fast sum where pixels are neighbours in memory, and a slow one where channels are.
    """
    if x.stride(1) == 1 and (launch := triton_version("channel_mean", x)):
        return launch(x)
    return x.mean((-2, -1), keepdim=True)


def trial(x: Tensor) -> Tensor:
    """For `choice.agrees`."""
    return channel_mean(x.contiguous(memory_format=torch.channels_last) - 0.25)
