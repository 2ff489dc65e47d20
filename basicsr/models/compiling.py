"""torch.compile for a net made of like blocks: one block of each kind is compiled, not the net."""

import copy
from collections.abc import Iterator

import torch
from torch import nn

from basicsr.models.memory import blocks_of
from basicsr.tlc.report import ROOT

_KINDS = 64  # of block, by their widths, in all nets of a process; PyTorch's own limit is 8


def compiled(net: nn.Module) -> nn.Module:
    """A net of the same weights, in the same memory, whose blocks are compiled, for images of any size.

    Blocks of one class and the same widths share what is compiled. A net without blocks is compiled whole. What TLC made local
    is left as it is: its windows follow the size of the map, so that every size would be compiled again.
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
        part.compile(dynamic=True)
    return net


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
