"""torch.compile for a net made of like blocks: one block of each kind is compiled, not the net; and kept where it is faster."""

import copy
import logging
import threading
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from basicsr.models.memory import blocks_of
from basicsr.models.timing import timed
from basicsr.tlc.report import ROOT

logger = logging.getLogger("basicsr")
_KINDS = 64  # of block, by their widths, in all nets of a process; PyTorch's own limit is 8


def compiled(net: nn.Module, *, dynamic: bool = True) -> nn.Module:
    """A net of the same weights, in the same memory, whose blocks are compiled.

    Blocks of one class and the same widths share what is compiled. A net without blocks is compiled whole. What TLC made local
    is left as it is: its windows follow the size of the map, so that every size would be compiled again.

    Args:
        dynamic: True: once for images of any size; False: for each size of map, as in training, where sizes are few: PyTorch
            cannot compile all gradients of maps of any size.
    """
    shared = [*net.parameters(), *net.buffers()]
    net = copy.deepcopy(net, {id(tensor): tensor for tensor in shared})
    for part in list(net.modules()):
        if report := vars(part).get("tlc_report"):
            for path in {converted.path for converted in report.converted}:
                local = part if path == ROOT else part.get_submodule(path)
                local.forward = torch.compiler.disable(local.forward)
    _let_blocks_share()
    for part in list(_units(net)) or [net]:
        part.compile(dynamic=dynamic)
    return net


class Faster:
    """A compiled prediction where it is faster than the plain one, whose kernels of its own a compiler knows nothing of.

    The first image is restored twice by each, and the second times are compared.
    """

    def __init__(self, compiled: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor], device: torch.device) -> None:
        self.compiled, self.plain, self.device = compiled, plain, device
        self.kept: Callable[[Tensor], Tensor] | None = None
        self.lock = threading.Lock()

    def __call__(self, image: Tensor) -> Tensor:
        """(N, C, H, W) on any device -> as the two give it."""
        with self.lock:
            if self.kept is None:
                return self._chosen(image)
        return self.kept(image)

    def _chosen(self, image: Tensor) -> Tensor:
        (out, fast), (plain_out, slow) = (timed(run, image, self.device) for run in (self.compiled, self.plain))
        self.kept = self.compiled if fast <= slow else self.plain
        logger.info(
            "compile: images of %dx%d pixels take %.4g ms compiled and %.4g ms not compiled; the network runs %scompiled.",
            *(image.shape[-1], image.shape[-2], 1000 * fast, 1000 * slow),
            "" if fast <= slow else "not ",
        )
        return out if fast <= slow else plain_out


def _let_blocks_share() -> None:
    config = torch._dynamo.config
    if torch.__version__ < "2.5":  # later ones do so by themselves
        config.inline_inbuilt_nn_modules = True
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # before PyTorch 2.6
    setattr(config, name, max(_KINDS, getattr(config, name)))


def _units(net: nn.Module) -> Iterator[nn.Module]:
    """Blocks, and other modules of their classes; none that lies in another."""
    kinds = {type(block) for block in blocks_of(net)} - {nn.Sequential}

    def visit(module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            if type(child) in kinds:
                yield child
            else:
                yield from visit(child)

    return visit(net)
