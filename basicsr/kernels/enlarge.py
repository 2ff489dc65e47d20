"""Maps enlarged by two, bilinearly."""

import torch
import torch.nn.functional as F
from torch import Tensor

from basicsr.kernels.choice import triton_version


def doubled(x: Tensor, added: Tensor | None = None) -> Tensor:
    """(N, C, H, W) -> (N, C, 2H, 2W): F.interpolate(x, scale_factor=2, mode="bilinear"), plus a map.

    Args:
        added: (N, C, 2H, 2W), of the type of x, the caller's own: the result may take its memory.
    """
    if launch := triton_version("enlarge", x):
        return launch(x, added)
    x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
    if added is None:
        return x
    return x + added if torch.is_grad_enabled() or torch.jit.is_tracing() else x.add_(added)


def trial(x: Tensor) -> Tensor:
    """For `choice.agrees`."""
    small, added = x[..., :16, :20].contiguous(), x[..., :32, :40]
    last = small.contiguous(memory_format=torch.channels_last)
    return torch.cat([doubled(y, z) for y in (small, last) for z in (None, added.clone())], 1)
