"""What one gate for a map passes back in training: the gradients of the map and of the gate."""

import torch
from torch import Tensor

from basicsr.kernels.choice import triton_version


def gate_gradient(x: Tensor, gate: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of x * gate; sums in float32 at least.

    Args:
        x: (N, C, H, W). gate: (N or 1, C, 1, 1). grad: (N, C, H, W), of the product.

    Returns:
        That of x and that of the gate, in their shapes and types.
    """
    if launch := triton_version("gate_gradient", x):
        return launch(x, gate, grad)
    wide = torch.promote_types(x.dtype, torch.float32)
    slope = grad.to(wide)
    return (slope * gate).to(x.dtype), (slope * x).sum((-2, -1), keepdim=True).sum_to_size(gate.shape).to(gate.dtype)


def trial(x: Tensor) -> Tensor:
    """For `choice.agrees`."""
    parts = []
    for gate, layout in ((x[:1, :, :1, :1], torch.channels_last), (x[..., :1, :1], torch.contiguous_format)):
        grad = (x.flip(1, 2) - 0.5).contiguous(memory_format=layout)
        of_x, of_gate = gate_gradient(x.contiguous(memory_format=layout), gate, grad)
        parts += [of_x.flatten(), 0.05 * of_gate.flatten()]  # sums over pixels are larger
    return torch.cat(parts)
