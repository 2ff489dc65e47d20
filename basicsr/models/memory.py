"""Memory of training: how much a step needs, and how to need less of it by computing activations twice."""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

FAILURES = (AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)


def checkpoint_blocks(net: nn.Module) -> int:
    """Keep only the inputs of a net's blocks for the backward pass, which computes the rest again.

    Source: Chen et al., Training Deep Nets with Sublinear Memory Cost, arXiv 1604.06174.

    A block is an entry of a Sequential or ModuleList that has parts itself and holds no smaller block. Parameters, their names
    and the results stay the same; training takes about a third more time.

    Returns:
        How many blocks there are; 0 when the net has none and nothing changes.
    """
    blocks = _blocks(net)
    for block in blocks:
        block.forward = functools.partial(_checkpointed, block.forward)
    return len(blocks)


def _checkpointed(forward: Callable, *args: object) -> object:
    if not torch.is_grad_enabled():
        return forward(*args)
    return checkpoint(forward, *args, use_reentrant=False)


def _blocks(net: nn.Module) -> list[nn.Module]:
    found: dict[int, nn.Module] = {}  # by identity: a module may stand in several places

    def visit(module: nn.Module, entry: bool) -> bool:
        """Whether there is a block in `module`."""
        listed = isinstance(module, (nn.Sequential, nn.ModuleList))
        inside = [visit(child, listed) for child in module.children()]
        if entry and inside and not any(inside) and not isinstance(module, nn.ModuleList):
            found[id(module)] = module
            return True
        return any(inside)

    visit(net, False)
    return list(found.values())


def training_bytes(
    build: Callable[[], nn.Module], shape: Sequence[int], *, dtype: torch.dtype, checkpointed: bool, ema: bool
) -> int | None:
    """About how many bytes one step of training needs: weights, gradients, Adam's two moments, and activations.

    The activations are counted, not computed: on torch's meta device, which has shapes only. Workspaces of kernels, the losses
    and the allocator's fragments come on top.

    Args:
        build: makes the net. shape: (N, C, H, W) of a micro-batch. dtype: of autocast.

    Returns:
        None for a net that does not run on the meta device.
    """
    try:
        with torch.device("meta"):
            net = build().to(dtype).train()
        image = torch.empty(tuple(shape), device="meta", dtype=dtype)
        activations, largest = _saved_bytes(net, image)
        if checkpointed and checkpoint_blocks(net):
            activations = _saved_bytes(net, image)[0] + largest  # one block at a time is computed again
    except FAILURES:  # nothing is known of the nets that users bring, and an estimate is no reason to stop
        return None
    parameters = sum(p.numel() for p in net.parameters())
    casts = 0 if dtype == torch.float32 else parameters * dtype.itemsize
    return parameters * 4 * (4 + ema) + casts + activations


def _saved_bytes(net: nn.Module, image: Tensor) -> tuple[int, int]:
    """What autograd keeps of one forward pass, and what it keeps of the block that has most."""
    saved = {p.untyped_storage()._cdata: None for p in net.parameters()}
    total, before, blocks = 0, [], []

    def keep(tensor: Tensor) -> Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage._cdata not in saved:
            saved[storage._cdata] = storage  # held, so that its address is not used again
            total += storage.nbytes()
        return tensor

    hooks = []
    for block in _blocks(net):
        hooks.append(block.register_forward_pre_hook(lambda *_: before.append(total)))
        hooks.append(block.register_forward_hook(lambda *_: blocks.append(total - before.pop())))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(image)
    for hook in hooks:
        hook.remove()
    return total, max(blocks, default=0)
