"""Learned maps, weighted by what the image is and stretched to its size: prompts (PromptIR, Potlapalli et al., 2023)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def one_hot(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Each weight by itself, (weights, *shape), where `shape` is that of a sample's weights."""
    count = torch.Size(shape).numel()
    return torch.eye(count, dtype=like.dtype, device=like.device).reshape(count, *shape)


def resized_sum(weights: Tensor, maps: Tensor, **options: object) -> Tensor:
    """The sum of maps of another size, each position's with weights of its own; resizing and summing change places.

    Args:
        weights: (N, K, H, W), or (N, K, 1, 1) for those of all positions.
        maps: (K, C, h, w). options: of torch.nn.functional.interpolate, which makes them H and W large.

    Returns:
        (N, C, H, W).
    """
    if weights.shape[-2:] == (1, 1):
        return F.interpolate(torch.einsum("nkij,kcab->ncab", weights, maps.to(weights.dtype)), **options)
    total = None
    for i in range(len(maps)):  # one at a time, so that memory is that of two maps
        part = weights[:, i : i + 1] * F.interpolate(maps[i : i + 1], **options)
        total = part if total is None else total + part
    return total
