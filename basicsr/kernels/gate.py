"""Gates: a map times another one that may be smaller, added to a third."""

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from basicsr.kernels.choice import training_type, triton_version
from basicsr.kernels.gate_gradient import gate_gradient


def gated(x: Tensor, gate: Tensor, added: Tensor | None = None, *, sigmoid: bool = False, out: Tensor | None = None) -> Tensor:
    """x * gate, or added + x * gate.

    Args:
        x: (N, C, H, W).
        gate: (N or 1, C, h, w), of at most that size. One that is smaller is replicated at its borders, the odd row or column
            at the end (TLC's padding); of 1x1 it is one gate for the map.
        added: (N, C, H, W).
        sigmoid: of the gate, before it is multiplied.
        out: where the result is to lie: x, or some channels of a map.

    Returns:
        (N, C, H, W), of the widest type of the three.
    """
    if gate.shape[-2:] == (1, 1) and out is None and training_type(x, "gate", "gate_gradient"):
        return _Trained.apply(x, torch.sigmoid(gate) if sigmoid else gate, added)
    if launch := triton_version("gate", x):
        return launch(x, gate, added, sigmoid, out)
    gate = replicated(torch.sigmoid(gate) if sigmoid else gate, x.shape[-2:])
    if added is None:
        product = x * gate
    else:
        if not x.dtype == gate.dtype == added.dtype:
            wide = reduce(torch.promote_types, (x.dtype, gate.dtype, added.dtype))
            x, gate, added = x.to(wide), gate.to(wide), added.to(wide)
        product = torch.addcmul(added, x, gate)
    return product if out is None else out.copy_(product)


class _Trained(torch.autograd.Function):
    """Of one gate for the map: autograd keeps both, in their own types."""

    @staticmethod
    def forward(ctx, x: Tensor, gate: Tensor, added: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, gate)
        ctx.added_type = None if added is None else added.dtype
        return triton_version("gate", x)(x, gate, added, False, None)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *gate_gradient(*ctx.saved_tensors, grad), None if ctx.added_type is None else grad.to(ctx.added_type)


def replicated(x: Tensor, size: torch.Size) -> Tensor:
    """(N, C, h, w) with its borders replicated up to `size`; one pixel is left as it is."""
    if x.shape[-2:] in (size, (1, 1)):
        return x
    (h, w), (height, width) = x.shape[-2:], size
    left, top = (width - w) // 2, (height - h) // 2
    return replicate(x, (left, width - w - left, top, height - h - top))


def replicate(x: Tensor, pads: tuple[int, int, int, int]) -> Tensor:
    """F.pad in this mode, also of float16 on CPUs, which older PyTorch does not pad."""
    if x.dtype == torch.float16 and x.device.type == "cpu":
        return F.pad(x.float(), pads, mode="replicate").half()
    return F.pad(x, pads, mode="replicate")


def trial(x: Tensor) -> Tensor:
    """For `choice.agrees`."""
    last = x.contiguous(memory_format=torch.channels_last)
    wide = torch.empty_like(torch.cat([last, last], 1))
    gated(last, last[..., :1, :1], last, out=wide[:, : x.shape[1]])
    gated(last, last[..., 3:-2, 4:-4], sigmoid=True, out=wide[:, x.shape[1] :])
    return torch.cat(
        [gated(x, x[..., 3:-2, 4:-4], x), gated(x, x[..., :1, :1]), gated(last, last[..., 3:-2, 4:-4], x), wide], 1
    )
