"""What follows a convolution: its bias, an activation, the addition of other maps, in one pass."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.kernels.choice import accelerates, triton_version

Biased = tuple[Tensor, Tensor | None]  # (N, C, H, W), and a bias (C,) that is still to be added


def convolved(conv: nn.Conv2d | nn.ConvTranspose2d, x: Tensor) -> Biased:
    """conv(x), its bias apart where that saves a pass over the map: `activated` adds it."""
    if conv.bias is None or not accelerates(x) or type(conv) not in (nn.Conv2d, nn.ConvTranspose2d):
        return conv(x), None
    if isinstance(conv, nn.Conv2d):
        return conv._conv_forward(x, conv.weight, None), conv.bias  # knows the modes of padding
    geometry = (conv.stride, conv.padding, conv.output_padding, conv.groups, conv.dilation)
    return F.conv_transpose2d(x, conv.weight, None, *geometry), conv.bias


def activated(
    x: Tensor,
    bias: Tensor | None = None,
    slope: float | Tensor | None = None,
    added: Iterable[Biased] = (),
    out: Tensor | None = None,
) -> Tensor:
    """act(x + bias) + the maps that are added and their biases.

    Args:
        x: (N, C, H, W), the caller's own: the result may take its memory.
        bias: (C,).
        slope: of a leaky ReLU below 0; a tensor of one element is PReLU's. None: no activation.
        added: two maps of the shape of x at most. Without a kernel an iterator is asked for each when it is its turn.
        out: where the result is to lie, such as some channels of a map.

    Returns:
        (N, C, H, W), of the widest type of the maps.
    """
    if launch := triton_version("activation", x):
        return launch(x, bias, slope, list(added), out)
    if bias is not None:
        x = x + bias.view(-1, 1, 1)
    if slope is not None:
        x = F.prelu(x, slope) if isinstance(slope, Tensor) else F.leaky_relu(x, slope, inplace=True)
    for y, y_bias in added:
        x = _sum(x, y if y_bias is None else y + y_bias.view(-1, 1, 1))
    return x if out is None else out.copy_(x)


def _sum(x: Tensor, y: Tensor) -> Tensor:
    """In the memory of x where nobody records it; a trace is the same with and without autograd."""
    recorded = torch.is_grad_enabled() or torch.jit.is_tracing()
    return x + y if recorded or torch.promote_types(x.dtype, y.dtype) != x.dtype else x.add_(y)


def trial(x: Tensor) -> Tensor:
    """For `choice.agrees`."""
    bias, slope = x[0, :, 0, 0].contiguous(), x[0, 0, 0, :1]
    last = x.contiguous(memory_format=torch.channels_last)
    parts = [activated(y - 0.5, bias, s, [(y, bias), (y, None)]) for y, s in ((x, 0.2), (last, slope), (last, None))]
    wide = torch.empty_like(torch.cat([last, last], 1))
    activated(last, bias, slope, out=wide[:, : x.shape[1]])
    activated(last, None, 0.1, [(last, bias)], out=wide[:, x.shape[1] :])
    return torch.cat([*parts, wide], 1)
