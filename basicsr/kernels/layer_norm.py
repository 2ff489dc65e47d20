"""Layer norm over channels (Ba et al., arXiv 1607.06450), without and with Restormer's 'BiasFree' variant."""

import torch
import torch.nn.functional as F
from torch import Tensor

from basicsr.kernels.choice import triton_version


def channel_layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Layer norm over the channels of (N, C, H, W), with biased variance; statistics in float32.

    Without a bias it is Restormer's 'BiasFree' norm: divided by the standard deviation, the mean is not subtracted.

    Args:
        weight, bias: (C,), of any floating type.

    Returns:
        (N, C, H, W). Under autocast torch's formulation gives float32, the kernel the type of x.
    """
    if launch := triton_version("layer_norm", x):
        return launch(x, weight, bias, eps)
    if bias is not None:  # the permuted view costs nothing in channels_last layout
        return F.layer_norm(x.permute(0, 2, 3, 1), weight.shape, weight, bias, eps).permute(0, 3, 1, 2)
    variance = x.var(1, correction=0, keepdim=True)
    return x * torch.rsqrt(variance + eps) * weight.view(1, -1, 1, 1)


def trial(x: Tensor) -> Tensor:
    """For `choice.agrees`."""
    return channel_layer_norm(x, x[0, :, 0, 0], x[0, :, 0, 1], 1e-5)
