"""cuDNN's workspaces: what its convolutions take beside their maps."""

import contextlib
import threading
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

_LEAST = 2 << 30  # bytes that a prediction may take in any case
_TIMES = 512  # of an image's own bytes: more than the four networks need beside their weights
_limiting = threading.Lock()  # of two threads, the one that ends last would put the other one's limit back


def with_small_workspaces(run: Callable[[Tensor], Tensor], device: torch.device) -> Callable[[Tensor], Tensor]:
    """run(image), whose first image of a size finds little memory.

    With it cuDNN chooses its algorithms, for the size and the process: the first that memory allows of a list by the speed that
    it expects, without measuring it. In float32 that can be one with a workspace of all that a large card has: 64 GiB for HINet
    at 1280x720 on an H100, in twice the time that the next one takes, which needs little. An image that does need more memory
    is restored again, without a limit.

    Args:
        run: (N, C, H, W) on any device -> the same on the device.
        device: with CUDA.
    """
    seen: set[torch.Size] = set()

    def bounded(image: Tensor) -> Tensor:
        if image.shape not in seen:
            seen.add(image.shape)
            most = max(_LEAST, _TIMES * 4 * image.numel())
            with contextlib.suppress(torch.cuda.OutOfMemoryError), _limiting, _at_most(most, device):
                return run(image)
        return run(image)

    return bounded


@contextlib.contextmanager
def _at_most(more: int, device: torch.device) -> Iterator[None]:
    """PyTorch takes no more than so many bytes beside those that it has."""
    device = torch.device("cuda", torch.cuda.current_device()) if device.index is None else device
    whole = torch.cuda.get_device_properties(device).total_memory
    known = getattr(torch.cuda, "get_per_process_memory_fraction", None)  # before PyTorch 2.8 nobody can tell
    before = known(device) if known else 1.0
    torch.cuda.set_per_process_memory_fraction(min(before, (torch.cuda.memory_reserved(device) + more) / whole), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(before, device)
