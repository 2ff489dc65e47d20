"""The gates inside the blocks of Restormer and NAFNet: one half of a map's channels times the other half."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from basicsr.kernels.choice import training_type, triton_version


def gated_halves(x: Tensor, gelu: bool = False) -> Tensor:
    """(N, 2C, H, W) -> (N, C, H, W): the first half of the channels times the second one (NAFNet, arXiv 2204.04676,
    equation 5); with `gelu`, it goes through a GELU before (Restormer, arXiv 2111.09881, equation 2)."""
    if training_type(x, "halves"):
        return _Trained.apply(x, gelu)
    first, second = x.chunk(2, dim=1)
    return (F.gelu(first) if gelu else first) * second


def halves_gradient(x: Tensor, grad: Tensor, gelu: bool) -> Tensor:
    """The gradient of x (N, 2C, H, W), in its type; grad: (N, C, H, W), of what `gated_halves` made of it."""
    if launch := triton_version("halves", x):
        return launch(x, gelu, grad)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(gated_halves(x, gelu), x, grad)[0]


class _Trained(torch.autograd.Function):
    """Autograd keeps x alone, whose gradient is written as one map."""

    @staticmethod
    def forward(ctx, x: Tensor, gelu: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.gelu = gelu
        return triton_version("halves", x)(x, gelu)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return halves_gradient(*ctx.saved_tensors, grad, ctx.gelu), None


def trial(x: Tensor) -> Tensor:
    """For `choice.agrees`."""
    parts = []
    for gelu, layout in ((True, torch.channels_last), (False, torch.contiguous_format)):
        map_ = (6 * x - 3).contiguous(memory_format=layout)
        parts += [gated_halves(map_, gelu), halves_gradient(map_, x[:, ::2].flip(-1), gelu)]
    return torch.cat(parts, 1)
