"""Gates: a map times another one that may be smaller, added to a third."""

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from basicsr.kernels.choice import triton_version


def gated(x: Tensor, gate: Tensor, added: Tensor | None = None) -> Tensor:
    """x * gate, or added + x * gate.

    Args:
        x: (N, C, H, W).
        gate: (N or 1, C, h, w), of at most that size. One that is smaller is replicated at its borders, the odd row or column
            at the end (TLC's padding); of 1x1 it is one gate for the map.
        added: (N, C, H, W).

    Returns:
        (N, C, H, W), of the widest type of the three.
    """
    if launch := triton_version("gate", x):
        return launch(x, gate, added)
    gate = replicated(gate, x.shape[-2:])
    if added is None:
        return x * gate
    if not x.dtype == gate.dtype == added.dtype:
        wide = reduce(torch.promote_types, (x.dtype, gate.dtype, added.dtype))
        x, gate, added = x.to(wide), gate.to(wide), added.to(wide)
    return torch.addcmul(added, x, gate)


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
    return gated(x, x[..., 3:-2, 4:-4], x)
