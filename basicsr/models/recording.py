"""CUDA graphs, of whatever: kernels that are recorded once, and from then on launched all together.

A GPU is often done with a small map before Python has launched the next kernel. A graph costs memory in return: that of what it
is given, its result and the maps between them stays its own.
"""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from basicsr.kernels.cells import note_tables

logger = logging.getLogger("basicsr")
FASTER = 0.9  # of the time without a graph
_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_COPIES = (torch.ops.aten.to, torch.ops.aten._to_copy, torch.ops.aten.copy_)
_INDEXING = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)


class Recording:
    """A graph of run(*maps): it takes maps from the memory of those, and leaves its result always in the same place."""

    def __init__(
        self, run: Callable[..., Tensor], maps: Sequence[Tensor], pool: tuple[int, int], stream: torch.cuda.Stream
    ) -> None:
        self.maps, self.graph = maps, torch.cuda.CUDAGraph()
        self.tables: list[Tensor] = []  # that kernels read, which other sizes may push out of their cache
        recorded = torch.cuda.graph(self.graph, pool=pool, stream=stream, capture_error_mode="thread_local")
        device = maps[0].device
        before = torch.cuda.stream(torch.cuda.current_stream(device))  # restored also where `recorded` fails to do so
        with torch.cuda.device(device), before, recorded, note_tables(self.tables):
            self.out = run(*maps)

    def __call__(self, *maps: Tensor) -> Tensor:
        with torch.cuda.device(self.out.device):
            for kept, given in zip(self.maps, maps, strict=True):
                kept.copy_(given)
            self.graph.replay()
            return self.out.clone()


class NoWaiting(TorchDispatchMode):
    """Notices where the processor would wait for the GPU, for values or a size: that breaks a recording.

    A broken recording is an error too, but one that leaves PyTorch's memory in disorder. Not for what torch.compile has made:
    seen in such a mode, a function is not compiled any more.

    Attributes:
        reason: the first such place; None: there is none.
    """

    reason: str | None = None

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if self.reason is None and _waits(function, args, out):
            self.reason = f"the network waits for the GPU ({function})"
        return out


def _waits(function: torch._ops.OpOverload, args: tuple, out: object) -> bool:
    kind = function.overloadpacket
    if kind in _INDEXING:  # a mask has to be counted
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    if kind in _COPIES:
        return len({x.device for x in (*args, out) if isinstance(x, Tensor)}) > 1
    return kind is torch.ops.aten.is_nonzero or bool(_TAGS & set(function.tags))


def in_a_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def say_why(what: str, reason: str, *, asked: bool) -> None:
    """That something runs without a graph; a warning where the user has asked for one."""
    logger.log(logging.WARNING if asked else logging.INFO, "%s without a CUDA graph: %s.", what, reason.rstrip("."))
