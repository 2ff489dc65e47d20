"""Running a net on the meta device, and leaving it as it was."""

import ast
import linecache
import os
import sys
from collections.abc import Iterable
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from basicsr.tlc.dryrun.shapes import Shapes, tensors_in

_STARTS = ("dry_run", "trace")  # the functions of this package inside which a net's code runs


def dry_run(net: nn.Module, size: tuple[int, ...], shapes: Shapes) -> object:
    """What the net makes of an image of that size, (N, C, H, W), on meta and under `shapes`; the net is left as it was."""
    # Each module once, but each of its tensors, shared with other modules or not: functional_call replaces names.
    state = {
        f"{path}.{name}".lstrip("."): tensor
        for path, module in net.named_modules()
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None
    }
    dtype = next((t.dtype for t in state.values() if t.is_floating_point()), torch.get_default_dtype())
    meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in state.items()}
    image = torch.empty(size, dtype=dtype, device="meta")
    with torch.no_grad(), left_as_found(net), shapes:
        return torch.func.functional_call(net, meta, (image,), tie_weights=False)


def shapes_of(output: object) -> list[tuple[int, ...]]:
    return [tuple(part.shape) for part in tensors_in(tuple(tree_leaves(output)))]


def source_line() -> str:
    """file:line of the net's own code that is running, or ''."""
    frame = _own_frame()
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else ""


def asserting() -> bool:
    """Whether the net's own code that is running is an assert statement."""
    frame = _own_frame()
    return frame is not None and frame.f_lineno in _asserts("".join(linecache.getlines(frame.f_code.co_filename)))


def _own_frame() -> FrameType | None:
    """The innermost frame that is neither this package's nor torch's."""
    package, torch_root = str(Path(__file__).parents[1]) + os.sep, str(Path(torch.__file__).parent) + os.sep
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(package):
            if frame.f_code.co_name in _STARTS:
                break
        elif not file.startswith(torch_root) and frame.f_globals.get("__name__", "").partition(".")[0] != "einops":
            return frame
        frame = frame.f_back
    return None


@cache
def _asserts(source: str) -> set[int]:
    """The lines that hold assert statements and no other."""
    try:
        statements = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)]
    except SyntaxError:
        return set()
    lines = {line for node in statements if isinstance(node, ast.Assert) for line in range(node.lineno, node.end_lineno + 1)}
    return lines - {node.lineno for node in statements if not isinstance(node, ast.Assert)}


@contextmanager
def left_as_found(net: nn.Module):
    """eval() for the run; afterwards each module's attributes, its mode among them, are what they were, and so is what its
    dicts, lists and sets hold: a net may keep tensors of the run, which are on meta."""
    found = {id(vars(module)): (vars(module), dict(vars(module))) for module in net.modules()}
    for attributes, _ in list(found.values()):
        _remember((value for name, value in attributes.items() if "_hook" not in name), found)
    net.eval()
    try:
        yield
    finally:
        for container, held in found.values():
            if isinstance(container, list):
                container[:] = held
            else:
                container.clear()
                container.update(held)


def _remember(values: Iterable[object], found: dict[int, tuple]) -> None:
    """All dicts, lists and sets among `values` and inside them, by id, with a copy."""
    for value in values:
        if isinstance(value, (dict, list, set)) and id(value) not in found:
            found[id(value)] = (value, dict(value) if isinstance(value, dict) else list(value))
        elif not isinstance(value, tuple):
            continue
        if value:
            _remember(value.values() if isinstance(value, dict) else value, found)
