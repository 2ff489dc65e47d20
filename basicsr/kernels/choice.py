"""Where an operation runs as a Triton kernel: the one place that decides it.

Triton comes with torch's CUDA builds on Linux, and is imported when the first map asks for it: that takes a moment.
"""

import importlib.util
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module

import torch
from torch import Tensor, nn

logger = logging.getLogger("basicsr")
_CAPABILITY = {torch.float16: (7, 0), torch.float32: (7, 0), torch.float64: (7, 0), torch.bfloat16: (8, 0)}  # least, by type
_LARGE = 1 << 23  # elements of a map whose kernels take longer than it takes to launch them
_forced: bool | None = None
_together = False  # whether kernels are launched all at once, so that their number does not count


def accelerates(x: Tensor) -> bool:
    """Whether operations on x are to suit a GPU: it is there, and no autograd, tracer or compiler looks on."""
    return not torch.is_grad_enabled() and _suits(x)


def training_type(x: Tensor, *operations: str) -> torch.dtype | None:
    """The half precision that operations on x are trained in on a GPU, with gradients of their own; None where autograd is to
    see torch's formulations: in float32; where a tracer, a compiler or a functional transform looks on; and for small maps, if
    they are not `launched_together`, since it takes longer to launch kernels by Triton, and from Python, than by torch.

    Args:
        operations: those whose Triton kernels are needed for it.
    """
    if not torch.is_grad_enabled() or not _suits(x) or torch._C._are_functorch_transforms_active():
        return None
    if _forced is None and not _together and x.numel() <= _LARGE:
        return None
    kind = x.device.type
    half = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) and x.dtype != torch.float64 else x.dtype
    works = half.itemsize == 2 and all(
        _trusted(operation, x.device, dtype) for operation in operations for dtype in (half, x.dtype)
    )
    return half if works else None


def triton_version(operation: str, x: Tensor) -> Callable[..., Tensor] | None:
    """The launcher of an operation's Triton kernel for maps like x, or None where the torch formulation is to run."""
    runs = accelerates(x) and _trusted(operation, x.device, x.dtype)
    return import_module(f"basicsr.kernels.{operation}_triton").launch if runs else None


@contextmanager
def use_triton(wanted: bool) -> Iterator[None]:
    """As on a GPU with Triton, or without it, whatever the device: for tests and measurements.

    On a CPU the kernels run in Triton's interpreter, if TRITON_INTERPRET=1 was set before its import.
    """
    global _forced
    before, _forced = _forced, wanted
    try:
        yield
    finally:
        _forced = before


@contextmanager
def launched_together() -> Iterator[None]:
    """Around a pass of training that is, or is to be, a CUDA graph."""
    global _together
    before, _together = _together, True
    try:
        yield
    finally:
        _together = before


def _suits(x: Tensor) -> bool:
    """Whether it is a map on a GPU, or is to be treated like one, in an ordinary run."""
    plain = type(x) in (Tensor, nn.Parameter) and not x.is_meta  # no subclass without memory of its own
    watched = torch.jit.is_tracing() or torch.compiler.is_compiling()
    return plain and not watched and (x.is_cuda or _forced is not None)


def _trusted(operation: str, device: torch.device, dtype: torch.dtype) -> bool:
    return dtype in _CAPABILITY and (_works(operation, device, dtype) if _forced is None else _forced)


@lru_cache
def _works(operation: str, device: torch.device, dtype: torch.dtype) -> bool:
    if torch.cuda.get_device_capability(device) < _CAPABILITY[dtype] or importlib.util.find_spec("triton") is None:
        return False
    return agrees(operation, device, dtype)


def agrees(operation: str, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether an operation's kernel can be built there, and gives what its torch formulation gives on a small map.

    Every process asks once for a kernel, before it relies on it: besides the card, Triton needs a C compiler, and compilers and
    drivers have faults.
    """
    trial = import_module(f"basicsr.kernels.{operation}").trial
    x = torch.rand(2, 20, 33, 41, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):  # a training asks, too
            with use_triton(True):
                ours = trial(x).double()
            with use_triton(False):
                difference = float((trial(x).double() - ours).abs().max() / ours.abs().max())
    except Exception as error:  # noqa: BLE001 - Triton and its compilers raise what they like, and the nets run without them
        reason = f"cannot run ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
    else:
        if difference < (0.02 if dtype.itemsize < 4 else 1e-4):  # false for nan
            return True
        reason = f"is off by {difference:.1e}"
    logger.warning("The Triton kernel of %s %s on %s in %s: torch does its work, slower.", operation, reason, device, dtype)
    return False
