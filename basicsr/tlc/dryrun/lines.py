"""Which line of the net's own code is running."""

import ast
import linecache
import os
import sys
from functools import cache
from pathlib import Path
from types import FrameType

import torch

_STARTS = ("dry_run", "run_on_meta", "trace")  # the functions of this package inside which a net's code runs


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
