"""The end of channel attention: a layer makes gates of what a map was squeezed to, and they open and close its channels."""

import torch
from torch import Tensor, nn

from basicsr.kernels.choice import triton_version
from basicsr.kernels.gate import gated
from basicsr.kernels.pointwise import pointwise

_WIDEST = 256  # squeezed channels that a program keeps on the chip


def excited(x: Tensor, squeezed: Tensor, conv: nn.Conv2d, added: Tensor, *, out: Tensor | None = None) -> Tensor:
    """added + x * sigmoid(conv(relu(squeezed))): squeeze and excitation (arXiv 1709.01507, equation 3) with a residual.

    The kernel makes the gates of some pixels where it needs them: a map of them, with TLC as large as x, never exists.

    Args:
        x: (N, C, H, W).
        squeezed: (N, S, h, w), of at most that size; one that is smaller is replicated at its borders, see `gate.gated`. Of
            1x1 it is that of one gate for the map.
        conv: a 1x1 convolution from S channels to C.
        added: (N, C, H, W).
        out: where the result is to lie: x, or some channels of a map.

    Returns:
        (N, C, H, W), of the widest type of the maps.
    """
    if _on_chip(x, squeezed, conv, added, out) and (launch := triton_version("excitation", x)):
        return launch(x, squeezed, conv.weight.flatten(1), conv.bias, added, out)
    return gated(x, pointwise(squeezed, conv, relu=True), added, sigmoid=True, out=out)


def _on_chip(x: Tensor, squeezed: Tensor, conv: nn.Conv2d, added: Tensor, out: Tensor | None) -> bool:
    """Whether the kernel can work on the maps, and is the faster way: one gate for the map is made once."""
    alike = x.dtype == squeezed.dtype == conv.weight.dtype == added.dtype and x.dtype.itemsize == 2
    last = x.stride(1) == 1 and (out is None or out.stride(1) == 1)
    return alike and last and squeezed.shape[-2:] != (1, 1) and conv.in_channels <= _WIDEST


def trial(x: Tensor) -> Tensor:
    """For `choice.agrees`."""
    x = x.to(memory_format=torch.channels_last)
    conv = nn.Conv2d(6, x.shape[1], 1).to(x)
    conv.weight.data.copy_(x[0, :, :6, 0, None, None] - 0.5)
    conv.bias.data.copy_(x[0, :, 0, 0])
    return excited(x, x[:, 3:9, 3:-2, 4:-4] - 0.5, conv, x)
