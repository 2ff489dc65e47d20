"""1x1 convolutions, with what stands before and after them in the blocks of restoration networks: in one pass on a GPU."""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.kernels.cells import Cells
from basicsr.kernels.choice import accelerates, training_type, triton_version
from basicsr.kernels.gate import gated
from basicsr.kernels.halves import gated_halves
from basicsr.kernels.layout import layout_of

_WIDEST = 512  # input channels that a program keeps on the chip


class Norm(Protocol):
    """A layer norm over channels: `layer_norm.channel_layer_norm` of its weight, bias and eps."""

    weight: Tensor
    bias: Tensor | None
    eps: float

    def __call__(self, x: Tensor) -> Tensor: ...


def pointwise(
    x: Tensor,
    conv: nn.Conv2d,
    *,
    norm: Norm | None = None,
    gate: Tensor | None = None,
    halves: bool = False,
    relu: bool = False,
    scale: Tensor | None = None,
    added: Tensor | None = None,
) -> Tensor:
    """added + scale * conv(x), of a 1x1 convolution; each but the convolution may be left out.

    Args:
        x: (N, C, H, W), or (N, 2C, H, W) with `halves`.
        norm: comes before the convolution.
        gate: x is multiplied by it before the convolution; see `gate.gated`.
        halves: the first half of the channels is multiplied by the second one before the convolution.
        relu: of x, before the convolution.
        scale: K elements, one for each channel of the output.
        added: (N, K, H, W).

    Returns:
        (N, K, H, W).
    """
    if x.dtype == conv.weight.dtype and _on_chip(x, conv.in_channels) and (launch := triton_version("pointwise", x)):
        weight = conv.weight.flatten(1)
        return launch(x, weight, conv.bias, norm=norm, gate=gate, halves=halves, relu=relu, scale=scale, added=added)
    if norm is not None:
        x = norm(x)
    if halves:
        x = gated_halves(x)
    if gate is not None:
        x = gated(x, gate)
    if relu:
        x = F.relu(x)
    x = _product(x, conv)  # what was multiplied is given up: it may be wide
    if scale is None:
        return x if added is None else added + x
    if added is None:
        return x * scale
    if accelerates(x) or training_type(x, "gate", "gate_gradient"):
        return gated(x, scale, added)
    return added + x * scale  # rounded in between, as published


def mixed(
    x: Tensor,
    matrices: Tensor,
    bias: Tensor | None = None,
    added: Tensor | None = None,
    cells: Cells | None = None,
    gate: Tensor | None = None,
) -> Tensor:
    """Each image's channels times its own matrix, plus bias, plus added: attention between channels.

    Args:
        x: (N, C, H, W).
        matrices: (N, K, C), or with cells (cells, N, K, C), a matrix for each of them; of any floating type.
        bias: (K,). added: (N, K, H, W).
        gate: x is multiplied by it before; see `gate.gated`.

    Returns:
        (N, K, H, W), in the layout of x.
    """
    matrices = matrices.to(x.dtype)
    if _on_chip(x, x.shape[1]) and (launch := triton_version("pointwise", x)):
        return launch(x, matrices if cells else matrices[None], bias, gate=gate, added=added, cells=cells)
    if gate is not None:
        x = gated(x, gate.to(x.dtype))
    if cells is None:
        out = _mixed(matrices, x)
    else:
        size = (x.shape[0], matrices.shape[-2], *x.shape[-2:])
        out = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=layout_of(x))
        for matrix, region in zip(matrices, cells.regions(), strict=True):
            out[region] = _mixed(matrix, x[region])
    out = out if bias is None else out + bias.to(out.dtype).view(1, -1, 1, 1)
    return out if added is None else added + out


def _mixed(matrix: Tensor, x: Tensor) -> Tensor:
    if x.stride(1) == 1:  # channels_last
        rows = x.permute(0, 2, 3, 1).flatten(1, 2) @ matrix.transpose(1, 2)
        return rows.unflatten(1, (x.shape[-2], x.shape[-1])).permute(0, 3, 1, 2)
    return (matrix @ x.flatten(2)).unflatten(2, (x.shape[-2], x.shape[-1]))  # a slice of the shape would fix it in a trace


def _on_chip(x: Tensor, inputs: int) -> bool:
    """Whether the kernel can work on x, and is the faster way."""
    return x.dtype.itemsize == 2 and x.stride(1) == 1 and inputs <= _WIDEST


def _product(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """The convolution; of channels_last maps on a GPU a product of matrices, to which the bias is added on the way."""
    predicts = accelerates(x) and x.dtype == conv.weight.dtype
    trains = type(conv) is nn.Conv2d and training_type(x)  # autocast sees to the types; no layer around one, which may learn
    if x.stride(1) != 1 or not (predicts or trains):
        return conv(x)
    return F.linear(x.permute(0, 2, 3, 1), conv.weight.flatten(1), conv.bias).permute(0, 3, 1, 2)


def trial(x: Tensor) -> Tensor:
    """For `choice.agrees`."""
    x = x.to(memory_format=torch.channels_last)
    conv = nn.Conv2d(x.shape[1], 24, 1).to(x)
    conv.weight.data.copy_(x[0, :, :24, 0].T[:, :, None, None])
    conv.bias.data.copy_(x[0, 0, 0, :24])
    return pointwise(x - 0.5, conv, gate=x[..., 3:-2, 4:-4], relu=True)
