"""What the launchers share: the layout of maps, the device, sizes of blocks."""

import torch
from torch import Tensor


def layout_of(x: Tensor) -> torch.memory_format:
    """Of (N, C, H, W): channels_last where channels are neighbours in memory."""
    return torch.channels_last if x.stride(1) == 1 else torch.contiguous_format


def blocks(length: int, block: int) -> int:
    """How many blocks cover `length`."""
    return -(-length // block)


def power_of_2(length: int) -> int:
    """The least power of two that is not less."""
    return 1 << (length - 1).bit_length()


def steps(length: int) -> int:
    """A bound for a loop of `length` steps: kernels have bounds that are constants, and few of them, as each is compiled."""
    return power_of_2(length) if length <= 64 else blocks(length, 64) * 64
