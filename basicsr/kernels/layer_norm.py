"""Layer norm over channels (Ba et al., arXiv 1607.06450), without and with Restormer's 'BiasFree' variant."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from basicsr.kernels.choice import training_type, triton_version
from basicsr.kernels.layer_norm_gradient import layer_norm_gradient


def channel_layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Layer norm over the channels of (N, C, H, W), with biased variance; statistics in float32.

    Without a bias it is Restormer's 'BiasFree' norm: divided by the standard deviation, the mean is not subtracted.

    Args:
        weight, bias: (C,), of any floating type.

    Returns:
        (N, C, H, W). Under autocast torch's formulation gives float32, the kernel the type of x, and in training that of
        autocast.
    """
    if half := training_type(x, "layer_norm", "layer_norm_gradient"):
        return _Trained.apply(x, weight, bias, eps, half)
    if launch := triton_version("layer_norm", x):
        return launch(x, weight, bias, eps)
    if bias is not None:  # the permuted view costs nothing in channels_last layout
        return F.layer_norm(x.permute(0, 2, 3, 1), weight.shape, weight, bias, eps).permute(0, 3, 1, 2)
    variance = x.var(1, correction=0, keepdim=True)
    return x * torch.rsqrt(variance + eps) * weight.view(1, -1, 1, 1)


class _Trained(torch.autograd.Function):
    """The kernel with its gradient: autograd keeps x alone, in its own type."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, half: torch.dtype) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps, ctx.centred = eps, bias is not None
        return triton_version("layer_norm", x)(x, weight, bias, eps, half)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *layer_norm_gradient(*ctx.saved_tensors, grad, ctx.eps, centred=ctx.centred), None, None


def trial(x: Tensor) -> Tensor:
    """For `choice.agrees`."""
    return channel_layer_norm(x, x[0, :, 0, 0], x[0, :, 0, 1], 1e-5)
