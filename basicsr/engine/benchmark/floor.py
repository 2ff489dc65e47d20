"""What a network has to compute and to move at least, counted on torch's meta device, which has shapes only."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from basicsr.archs import build_network


class Work(NamedTuple):
    """Of one image.

    gmacs are billions of multiplications and additions in convolutions and matrix products, in half of FlopCounterMode's count.
    Nothing else is in it: no norm, activation, gate or sum.

    values are the numbers that cross the GPU's memory when every block is one kernel that keeps what is inside it to itself:
    every weight once; every map that a block takes or returns once each; likewise those of convolutions and linear layers that
    run outside of blocks. Additions, concatenations, norms and activations between blocks cost nothing, as if they were part of
    what comes before or after; so do second passes, which a block with a sum over the whole map needs. A block is an entry of a
    Sequential or ModuleList that has parts itself and holds no smaller block: Restormer's transformer block, a CAB of MPRNet.

    So a network that runs block by block, by the definition of convolution, cannot be faster than both at the rates of the
    device. Only one that joins blocks, or convolves with fewer multiplications (Winograd), can.
    """

    gmacs: float
    values: int


def work_of(options: Mapping[str, Any], size: tuple[int, int]) -> Work:
    """Of the network with these options, for one image of (height, width)."""
    with torch.device("meta"):
        net = build_network(options)
        return count(net, torch.empty(1, getattr(net, "in_channels", 3), *size))


def count(net: nn.Module, image: Tensor) -> Work:
    """Of a network on the meta device, for an image (1, C, H, W) there."""
    blocks, inside, values = _blocks(net), 0, sum(p.numel() for p in net.parameters())

    def enter(*_: object) -> None:
        nonlocal inside
        inside += 1

    def leave(part: nn.Module, args: tuple, kwargs: dict, out: object) -> None:
        nonlocal inside, values
        inside -= part in blocks
        if not inside:
            values += sum(x.numel() for x in _tensors((args, kwargs, out)))

    for part in net.modules():
        if part in blocks:
            part.register_forward_pre_hook(enter)
        if part in blocks or _multiplies(part):
            part.register_forward_hook(leave, with_kwargs=True)
    with FlopCounterMode(display=False) as counter:
        net(image)
    return Work(counter.get_total_flops() / 2e9, values)


def _blocks(net: nn.Module) -> set[nn.Module]:
    lists = [part for part in net.modules() if isinstance(part, (nn.Sequential, nn.ModuleList))]
    entries = {entry for part in lists for entry in part.children() if any(entry.children())}
    entries -= {entry for entry in entries if isinstance(entry, nn.ModuleList)}
    return {entry for entry in entries if not any(part in entries for part in entry.modules() if part is not entry)}


def _multiplies(part: nn.Module) -> bool:
    """Whether it is a convolution or linear layer: norms and activations have one number a channel."""
    weight = getattr(part, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim > 1


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)
