"""What a module is given in both runs: tensors, sizes of maps and constants, alone or in lists, tuples and dicts."""

import inspect
import operator
from collections import OrderedDict
from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from basicsr.tlc.dryrun.attributes import Pair, are_numbers
from basicsr.tlc.dryrun.axes import agree, known
from basicsr.tlc.dryrun.calls import Call
from basicsr.tlc.dryrun.shapes import tensors_in
from basicsr.tlc.rewriting.declined import Declined

_CONSTANTS = (type(None), bool, int, float, str)
Held = dict[str, Pair]  # what modules hold as attributes, by their paths and names


class Samples(int):
    """How many samples there are, where an argument says so."""


class Shape(tuple):
    """A torch.Size, of sizes that are traced."""

    def numel(self) -> object:
        return reduce(operator.mul, self, 1)


def arguments(module: nn.Module, calls: tuple[list[Call], list[Call]]) -> dict[str, Pair]:
    """The forward's arguments at both sizes, by name; numbers of samples among them are Samples.

    Raises:
        Declined: they are not the same in all calls but for the size of maps.
    """
    small, large = ([_bound(module, call) for call in run] for run in calls)
    if len(small) != len(large) or not small:
        raise Declined("it does not run equally often for images of any size")
    for name in small[0]:
        if any(differ(run[0][name], other[name]) for run in (small, large) for other in run):
            several = "maps of several sizes" if tensors_within(small[0][name]) else f"several values of {name}"
            raise Declined(f"it sees {several} in one pass; use a module of its own for each")
        if not all(_is_as_placed(large[0][name], other[name]) for other in large):
            raise Declined("in one pass it sees maps whose pixels are in different places; use a module of its own for each")
    for name, value in small[0].items():
        _check(name, value, large[0].get(name))
    return _with_samples(module, {name: (value, large[0].get(name)) for name, value in small[0].items()})


def differ(small: object, large: object) -> bool:
    """Whether values are of different sizes, or other numbers."""
    if isinstance(small, Tensor) and isinstance(large, Tensor):
        return small.shape != large.shape
    if type(small) is not type(large):
        return True
    if isinstance(small, (tuple, list)):
        return len(small) != len(large) or any(map(differ, small, large))
    if isinstance(small, dict):
        return [*small] != [*large] or any(map(differ, small.values(), large.values()))
    return isinstance(small, (int, float)) and small != large


def _is_as_placed(first: object, other: object) -> bool:
    pairs = zip(tensors_in(tree_leaves(first)), tensors_in(tree_leaves(other)), strict=True)
    return all(agree(*dims) for a, b in pairs for dims in zip(known(a), known(b), strict=True))


def tensors_within(value: object) -> bool:
    """Whether it is a tensor, or holds some."""
    if isinstance(value, (tuple, list, dict)):
        return any(map(tensors_within, value.values() if isinstance(value, dict) else value))
    return isinstance(value, Tensor)


def mapped(values: Pair, function: Callable[[object, object, tuple], object], path: tuple = ()) -> object:
    """What lists, tuples and dicts hold, in lists, tuples and dicts again: function(small, large, path) of each, where path has
    the indices and keys that lead to it."""
    small, large = values
    if differs_in_kind(small, large):
        return function(small, large, path)
    if isinstance(small, dict):
        return type(small)((key, mapped((small[key], large[key]), function, (*path, key))) for key in small)
    if isinstance(small, (tuple, list)):
        parts = [mapped(pair, function, (*path, i)) for i, pair in enumerate(zip(small, large, strict=True))]
        if hasattr(small, "_fields"):
            return type(small)(*parts)
        kinds = ((list, list), ((torch.Size, Shape), Shape), (tuple, tuple))
        return next(made for kind, made in kinds if isinstance(small, kind))(parts)
    return function(small, large, path)


def differs_in_kind(small: object, large: object) -> bool:
    """Whether values cannot be taken apart together: of classes of the user's own, or of several lengths."""
    if type(small) is not type(large):
        return True
    if isinstance(small, dict):
        return type(small) not in (dict, OrderedDict) or [*small] != [*large]
    return isinstance(small, (tuple, list)) and len(small) != len(large)


def given(graph: fx.Graph) -> list[fx.Node]:
    """The tensors among a forward's arguments, and in them."""
    held, found = set(), []
    for node in graph.nodes:
        if node.op == "placeholder" or (node.target is operator.getitem and node.args[0] in held):
            if isinstance(node.meta["values"][0], Tensor):
                found.append(node)
            else:
                held.add(node)
    return found


def as_converted(value: object, known: object, name: str) -> None:
    """Raises ValueError where an argument is not what the forward was rewritten for: `known`, with `...` for tensors and
    sizes."""
    if known is ...:
        same = isinstance(value, (Tensor, int, float, torch.SymInt))
    elif isinstance(known, dict):
        same = isinstance(value, dict) and [*value] == [*known]
    elif isinstance(known, (tuple, list)):
        same = isinstance(value, (tuple, list)) and len(value) == len(known)
    else:
        same = not isinstance(value, Tensor) and value == known
    if not same:
        raise ValueError(
            f"{name} is not what it was when TLC rewrote this forward ({known!r}, ... for tensors and sizes); convert the net "
            "as it is run, with inputs="
        )
    if isinstance(known, (dict, tuple, list)):
        for key in known if isinstance(known, dict) else range(len(known)):
            as_converted(value[key], known[key], name)


def _bound(module: nn.Module, call: Call) -> dict[str, object]:
    bound = inspect.signature(module.forward).bind(*call[0], **call[1])
    bound.apply_defaults()
    return dict(bound.arguments)


def _check(name: str, small: object, large: object) -> None:
    def check(small: object, large: object, path: tuple) -> None:
        if isinstance(small, Tensor) and isinstance(large, Tensor):
            return
        if isinstance(small, (tuple, list, dict)) and type(small) is type(large) and len(small) != len(large):
            raise Declined(f"its argument {name} holds more for a larger image, and so is no list of any image size", True)
        if not isinstance(small, _CONSTANTS) or (differ(small, large) and not are_numbers((small, large))):
            raise Declined(f"its argument {name} is neither tensors, nor sizes, nor the same for any image", outward=True)

    mapped((small, large), check)


def _with_samples(module: nn.Module, values: dict[str, Pair]) -> dict[str, Pair]:
    """Whole numbers that are how many samples there are: of those that have to be given, or stand beside sizes."""
    counts = set()

    def count(small: object, large: object, path: tuple) -> None:
        if isinstance(small, Tensor) and small.ndim:
            counts.add(small.shape[0])

    def told(small: object, large: object, path: tuple) -> object:
        return Samples(small) if type(small) is int and small in counts and small == large else small

    for pair in values.values():
        mapped(pair, count)
    required = {name for name, p in inspect.signature(module.forward).parameters.items() if p.default is p.empty}
    for name, (small, large) in values.items():
        if are_numbers(small) and (differ(small, large) if isinstance(small, (tuple, list, dict)) else name in required):
            values[name] = (mapped((small, large), told), mapped((large, small), told))
    return values
