"""What scales maps: numbers that depend on the image's size, and global operations."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from basicsr.tlc.dryrun.axes import is_placed, known, layout_of
from basicsr.tlc.dryrun.flow import Flow, Step, kind_of
from basicsr.tlc.dryrun.shapes import VIEWS, tensors_in

SCALED = "a map is scaled by its size ({}), away from the sum or mean over it; divide the sum itself"
COMBINED = (
    "its statistic and {}, which stays global ({}), are combined to what is neither of the map nor of a window; leave one of "
    "them out, or take both in one module by a rule"
)
Numbers = tuple[float, ...]
_Op = TypeVar("_Op")  # with a path and a name
_FILLING = {"full", "new_full", "full_like", "fill", "scalar_tensor"}
# What comes out of them has no scale that was given to a map before: sums with weights, or normalised.
_PRODUCTS = {"convolution", "mm", "bmm", "addmm", "baddbmm", "linear"}
_NORMS = {"native_layer_norm", "native_batch_norm", "native_group_norm", "_softmax", "_log_softmax", "_safe_softmax"}
_COMBINING = {"mul", "div", "pow", "addcmul", "addcdiv", "where", "lerp"}


def numbers_of(function, args: tuple, kwargs: dict, out: object) -> Numbers:
    """The numbers that tensors meet index by index; tensors that are made of numbers keep theirs."""
    name = function.overloadpacket.__name__.removesuffix("_")
    if kind_of(function)[1]:  # a view
        for x in tensors_in((out,)) if hasattr(args[0], "_tlc_numbers") else ():
            x._tlc_numbers = args[0]._tlc_numbers
        return ()
    if torch.Tag.pointwise not in function.tags and name not in _FILLING:
        return ()
    leaves = tree_leaves((args, kwargs))
    tensors = [] if name in _FILLING else tensors_in(leaves)
    numbers = [x for x in leaves if isinstance(x, (int, float)) and not isinstance(x, bool)]
    numbers += [number for x in tensors for number in getattr(x, "_tlc_numbers", ())]
    if all(hasattr(x, "_tlc_numbers") for x in tensors):
        for x in tensors_in((out,)):
            x._tlc_numbers = tuple(numbers)
    return tuple(numbers)


def is_scaled(args: tuple) -> bool:
    """Whether what an operation is given is made of the image."""
    return any(layout_of(x) is not None for x in tensors_in(args))


def scaled(flow: Flow, lines: dict[int, str], performed: dict[str, list[int]]) -> tuple[dict[str, set[str]], str]:
    """The modules that perform something whose scale depends on a map's size, and the lines that make it so; one of these.

    Args:
        lines: of the operations that scale. performed: by each module. Both are told by the operations' numbers.
    """
    lines = {number: line for number, line in lines.items() if not _is_mean_of_sum(flow, number)}
    found = {}
    for number, line in lines.items():
        belonging = _connected(flow, [number], lambda step: [*flow.steps[step].makers, *flow.users.get(step, ())])
        for path, numbers in performed.items():
            if not belonging.isdisjoint(numbers):
                found.setdefault(path, set()).add(line)
    return found, next(iter(lines.values()), "")


def _is_mean_of_sum(flow: Flow, number: int) -> bool:
    """Whether an operation divides a sum over a map, or a matrix of such sums, by a plain number: what is scaled there is the
    sum, and no map."""
    step = flow.steps[number]
    if step.name not in ("div", "mul") or not step.makers or len(step.inputs) > 1:
        return False
    total = flow.steps[step.makers[0]]
    while total.name in VIEWS and total.makers:
        total = flow.steps[total.makers[0]]
    return _sums_pixels(total) and (total.name in _PRODUCTS or step.name == "div")


def _sums_pixels(step: Step) -> bool:
    """Whether what is made of a map has fewer dimensions that run along rows or columns."""
    sums = step.name == "sum" or step.name in _PRODUCTS
    return sums and sum(map(is_placed, known(step.inputs[0]))) > sum(map(is_placed, known(step.out)))


def combined(flow: Flow, operations: dict[_Op, list[int]], layers: dict[str, list[int]]) -> dict[_Op, set[str]]:
    """For each global operation, those layers inside the same module whose statistics are of what it makes, or are multiplied
    with that. Transforms, after whose inverse each pixel is one again, do no harm.

    Args:
        operations, layers: with the numbers of what they perform.
    """
    found = {}
    for op, numbers in operations.items():
        inside = {path: own for path, own in layers.items() if not op.path or path.startswith(f"{op.path}.")}
        if inside and not op.name.startswith("_fft"):
            found[op] = set().union(*(_combined(flow, number, inside) for number in numbers))
    return found


def _combined(flow: Flow, operation: int, layers: dict[str, list[int]]) -> set[str]:
    def before(numbers: Sequence[int]) -> set[int]:
        return _connected(flow, numbers, lambda step: flow.steps[step].makers)

    earlier, made = before([operation]), _connected(flow, [operation], lambda step: flow.users.get(step, ()))
    met = set(made)
    for number in made:
        step = flow.steps[number]
        if step.name in _COMBINING or any(x.ndim < 3 or x.shape[-2:] == (1, 1) for x in tensors_in((step.out,))):
            met |= before([maker for maker in step.makers if maker not in made])
    return {path for path, numbers in layers.items() if earlier.isdisjoint(numbers) and not met.isdisjoint(numbers)}


def _connected(flow: Flow, numbers: Sequence[int], near: Callable[[int], Iterable[int]]) -> set[int]:
    """With these operations, those that are near to them, as far as a scale goes: not past products of maps, but up to those
    that sum over pixels."""
    found, queue = set(numbers), [*numbers]
    while queue:
        new = {other for other in near(queue.pop()) if other not in found}
        passing = {other for other in new if not _is_apart(flow, other)}
        found |= passing | {other for other in new if _sums_pixels(flow.steps[other])}
        queue += passing
    return found


def _is_apart(flow: Flow, number: int) -> bool:
    step = flow.steps[number]
    return "scaled_dot_product" in step.name or (step.name in _PRODUCTS | _NORMS and _is_map(step.inputs[0]))


def _is_map(x: Tensor) -> bool:
    return any(map(is_placed, layout_of(x) or ()))
