"""Memory: how much a training step or a prediction needs, and how to train in less by computing activations twice."""

import functools
import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
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
    blocks = blocks_of(net)
    for block in blocks:
        block.forward = functools.partial(_checkpointed, block.forward)
    return len(blocks)


def _checkpointed(forward: Callable, *args: object) -> object:
    if not torch.is_grad_enabled():
        return forward(*args)
    return checkpoint(forward, *args, use_reentrant=False)


def blocks_of(net: nn.Module) -> list[nn.Module]:
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
        image = torch.empty(tuple(shape), device="meta", dtype=dtype, memory_format=torch.channels_last)
        all_kept, outside, largest = _saved_bytes(net, image)
    except FAILURES:  # nothing is known of the nets that users bring, and an estimate is no reason to stop
        return None
    parameters = sum(p.numel() for p in net.parameters())
    casts = 0 if dtype == torch.float32 else parameters * dtype.itemsize
    activations = outside + largest if checkpointed else all_kept  # one block at a time is computed again
    return parameters * 4 * (4 + ema) + casts + activations


def _saved_bytes(net: nn.Module, image: Tensor) -> tuple[int, int, int]:
    """What autograd keeps of one forward pass; outside of the blocks, with their inputs; and of the block that has most.

    The blocks run without `checkpoint`, which PyTorch 2.4 does not have on the meta device.
    """
    parameters = {p.untyped_storage()._cdata for p in net.parameters()}
    everything, outside = _Kept(parameters), _Kept(parameters)
    before, blocks = [], []

    def keep(tensor: Tensor) -> Tensor:
        everything.add(tensor)
        if not before:
            outside.add(tensor)
        return tensor

    def enter(block: nn.Module, inputs: tuple) -> None:
        for tensor in inputs:
            if isinstance(tensor, Tensor):
                outside.add(tensor)
        before.append(everything.bytes)

    hooks = []
    for block in blocks_of(net):
        hooks.append(block.register_forward_pre_hook(enter))
        hooks.append(block.register_forward_hook(lambda *_: blocks.append(everything.bytes - before.pop())))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(image)
    for hook in hooks:
        hook.remove()
    return everything.bytes, outside.bytes, max(blocks, default=0)


class _Kept:
    """The bytes of tensors, each storage once."""

    def __init__(self, left_out: set[int]) -> None:
        self.bytes = 0
        self._left_out = left_out
        self._storages: dict[int, torch.UntypedStorage] = {}  # held, so that their addresses are not used again

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._left_out and storage._cdata not in self._storages:
            self._storages[storage._cdata] = storage
            self.bytes += storage.nbytes()


def prediction_bytes(predict: Callable[[Tensor], Tensor], image: Tensor) -> int:
    """The peak of what tensors hold while `predict` runs on an image (N, C, H, W); it does run."""
    with _Held() as held:
        predict(image)
    return held.peak


class _Held(TorchDispatchMode):
    """Counts the bytes of tensors made under it, as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self.known: set[int] = set()  # addresses of storages that are alive

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address in self.known:
            return
        self.known.add(address)
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._freed, address, size)

    def _freed(self, address: int, size: int) -> None:
        self.known.discard(address)
        self.held -= size
