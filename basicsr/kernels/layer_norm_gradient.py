"""What the layer norm over channels passes back in training: the gradients of the map, of the weight and of the bias."""

import torch
from torch import Tensor

from basicsr.kernels.choice import triton_version

Gradients = tuple[Tensor, Tensor, Tensor | None]


def layer_norm_gradient(x: Tensor, weight: Tensor, grad: Tensor, eps: float, *, centred: bool) -> Gradients:
    """The gradients of `layer_norm.channel_layer_norm`, whose statistics are computed again, in float32 at least.

    Args:
        x: (N, C, H, W), what was normed. weight: (C,).
        grad: (N, C, H, W), of the result.
        centred: whether there was a bias, and the mean was subtracted.

    Returns:
        That of x, in its type; and of the weight and the bias (None if there was none), in the type of the weight.
    """
    if launch := triton_version("layer_norm_gradient", x):
        return launch(x, weight, grad, eps, centred)
    wide = torch.promote_types(x.dtype, torch.float32)
    values, slope = x.to(wide), grad.to(wide)
    normal = values - values.mean(1, keepdim=True)
    scale = torch.rsqrt(normal.square().mean(1, keepdim=True) + eps)
    normal = normal * scale
    result = normal if centred else values * scale  # that the weight multiplies
    weighted = slope * weight.to(wide).view(-1, 1, 1)
    change = weighted - normal * (weighted * result).mean(1, keepdim=True)  # the deviation changes with every channel
    if centred:
        change = change - weighted.mean(1, keepdim=True)  # and so does the mean
    of_weight, of_bias = (slope * result).sum((0, 2, 3)), slope.sum((0, 2, 3)) if centred else None
    return (scale * change).to(x.dtype), of_weight.to(weight.dtype), None if of_bias is None else of_bias.to(weight.dtype)


def trial(x: Tensor) -> Tensor:
    """For `choice.agrees`."""
    parts = []
    for centred, layout in ((True, torch.channels_last), (False, torch.contiguous_format)):
        grad = (x.flip(1, 2) - 0.5).contiguous(memory_format=layout)
        of_x, *sums = layer_norm_gradient(x.contiguous(memory_format=layout), x[0, :, 0, 0], grad, 1e-5, centred=centred)
        parts += [of_x.flatten(), *(0.1 * part for part in sums if part is not None)]  # sums over pixels are larger
    return torch.cat(parts)
