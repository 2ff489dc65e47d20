"""What the launchers share: the layout of maps, the device, sizes of blocks."""

import torch
from torch import Tensor


def layout_of(x: Tensor) -> torch.memory_format:
    """Of (N, C, H, W): channels_last where channels are neighbours in memory."""
    return torch.channels_last if x.stride(1) == 1 else torch.contiguous_format


def evenly_spaced(x: Tensor) -> Tensor:
    """x (N, C, H, W) itself where its pixels follow on one another at one distance, their channels neighbours; else a copy."""
    n, _, h, w = x.shape
    step = pixel_step(x)
    even = (h == 1 or x.stride(2) == w * step) and (n == 1 or x.stride(0) == h * w * step)
    return x if even and x.stride(1) == 1 else x.contiguous(memory_format=torch.channels_last)


def pixel_step(x: Tensor) -> int:
    """From pixel to pixel: dimensions of one element may have any stride."""
    return next((x.stride(dim) for dim in (3, 2, 0) if x.shape[dim] > 1), x.shape[1])


def blocks(length: int, block: int) -> int:
    """How many blocks cover `length`."""
    return -(-length // block)


def power_of_2(length: int) -> int:
    """The least power of two that is not less."""
    return 1 << (length - 1).bit_length()


def tile(length: int, most: int) -> int:
    """A power of two up to `most` for blocks that cover `length` with little beyond it, and that are not narrow: 64 values of
    16 bits are a line of a GPU's cache, for which more may be beyond."""
    covered = {size: blocks(length, size) * size for size in (256, 128, 64, 32) if size <= min(most, power_of_2(length))}
    if not covered:
        return power_of_2(length)
    lines = [size for size in covered if size >= min(64, max(covered))]
    for little in (max(length * 9 // 8, min(covered.values())), length * 4 // 3):
        if fitting := [size for size in lines if covered[size] <= little]:
            return fitting[0]
    return min(covered)


def block_of(channels: int, pixels: int, layout: torch.memory_format, elements: int) -> tuple[int, int]:
    """Channels and pixels of a program that works on about so many elements: many of those that are neighbours in memory."""
    if layout == torch.channels_last:
        inner = tile(channels, 256)
        return inner, max(2, min(power_of_2(pixels), elements // inner))  # the interpreter of Triton 3.0 takes a mask of one
    inner = tile(pixels, 256)  # False for none
    return max(2, min(power_of_2(channels), elements // inner)), inner


def steps(length: int) -> int:
    """A bound for a loop of `length` steps, at most a quarter more: kernels have bounds that are constants, and few of them, as
    each is compiled."""
    unit = max(1, power_of_2(length) // 8)
    return blocks(length, unit) * unit
