"""One module's forward as a torch.fx graph that knows, for every value in it, what it is at both sizes of the dry run.

Each node's `meta` has
    values: its value at the training size and at the larger one: tensors on meta, numbers, tuples of them;
    operations: the names of the global operations that it performs;
    keeps: whether all that it does leaves each pixel where it is;
    line: the source file and line that wrote it;
    name: of the function, the method or the module's class; '' for what is no operation;
    path: of the module inside that performs it, '' for the traced one;
    module: that one, on meta, where it is not traced.
"""

import copy
import inspect
import operator
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx, nn

from basicsr.tlc.dryrun.attributes import are_numbers
from basicsr.tlc.dryrun.calls import Call
from basicsr.tlc.local import Size
from basicsr.tlc.rewriting.arguments import Held, arguments, differ
from basicsr.tlc.rewriting.declined import Declined
from basicsr.tlc.rewriting.tracer import Traced


def trace(module: nn.Module, calls: dict[nn.Module, tuple[list[Call], list[Call]]], held: Held, inline: set[str]) -> Traced:
    """The graph of `module.forward`. Modules inside stay calls, but for those named in `inline` and those around them.

    Args:
        calls: each module's arguments in both runs, on meta.
        held: what it, and modules in it, hold as attributes in both runs, and do not hold otherwise.

    Raises:
        Declined: torch.fx cannot follow the forward, or it is not the same for all its calls.
    """
    if "forward" in vars(module):
        raise Declined("its forward was replaced by hand")
    numbers = {target: values for target, values in held.items() if all(map(are_numbers, values))}
    tracer = Traced(inline, arguments(module, calls[module]), numbers)
    for path, _, name in (target.rpartition(".") for target in held if target not in numbers):
        if tracer.follows(path):
            raise Declined(f"its {name} is set from outside of its forward; hand it over as an argument")
    root = meta_copy(module)
    before = {part: dict(vars(part)) for part in root.modules()}
    try:
        graph = tracer.followed(root)
    except Declined:
        raise
    except Exception as error:
        raise Declined(f"torch.fx cannot follow its forward ({type(error).__name__}: {first_line(error)})") from error
    _in_order(graph, [*inspect.signature(module.forward).parameters])
    for node in reversed(graph.nodes):
        node.type = None
        if (node.target is operator.getitem or node.target in numbers) and not node.users:
            graph.erase_node(node)
        if node.op == "get_attr" and node.target not in numbers and not _has(module, node.target):
            raise Declined("its forward uses a tensor that is no attribute of the module")
    for name in tracer.entered:
        part = module.get_submodule(name)
        if hooked(part):
            raise Declined(f"its {name} has hooks, which a rewritten forward would not call; remove them")
    if any(_changed(vars(part), attributes) for part, attributes in before.items()):
        raise Declined("its forward stores values on the module")
    return tracer


def meta_copy(module: nn.Module) -> nn.Module:
    return copied(module, lambda tensor: torch.empty_like(tensor, device="meta")).eval()


def copied(module: nn.Module, make: Callable[[Tensor], Tensor]) -> nn.Module:
    """A deep copy of a module in which every tensor is replaced by what `make` makes of it; nothing works in place."""
    tensors = [*module.parameters(), *module.buffers()]
    tensors += [value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor)]
    memo = {}
    for tensor in tensors:
        made = make(tensor)
        memo[id(tensor)] = nn.Parameter(made, requires_grad=False) if isinstance(tensor, nn.Parameter) else made
    try:
        twin = copy.deepcopy(module, memo)
    except Exception as error:
        raise Declined(f"it cannot be copied ({type(error).__name__}: {first_line(error)})") from error
    for part in twin.modules():
        if getattr(part, "inplace", False) is True:
            part.inplace = False
    return twin


def tensor_shapes(node: fx.Node) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """A tensor's shape at both sizes; None for other values."""
    small, large = node.meta["values"]
    if isinstance(small, Tensor) and isinstance(large, Tensor) and small.ndim == large.ndim:
        return tuple(small.shape), tuple(large.shape)
    return None


def grows(node: fx.Node) -> bool:
    """Whether the value depends on the image's size: a map, a number of pixels."""
    return differ(*node.meta["values"])


def map_dims(node: object) -> Size | None:
    """Which dimensions of a map are its rows and columns. None when it is no map."""
    shapes = tensor_shapes(node) if isinstance(node, fx.Node) else None
    return rows_and_columns(*shapes) if shapes else None


def rows_and_columns(small: Sequence[int], large: Sequence[int]) -> Size | None:
    """The two dimensions of a tensor that grow with the image, given its shape at both sizes; None where these are not two."""
    dims = growing(small, large)
    return dims if len(dims) == 2 and dims[0] > 0 else None


def growing_dims(node: fx.Node) -> tuple[int, ...]:
    """The dimensions of a tensor that are larger for a larger image."""
    shapes = tensor_shapes(node)
    return growing(*shapes) if shapes else ()


def growing(small: Sequence[int], large: Sequence[int]) -> tuple[int, ...]:
    """The dimensions of a tensor that are larger for a larger image, given its shape at both sizes."""
    return tuple(dim for dim, (a, b) in enumerate(zip(small, large, strict=True)) if a != b)


def _in_order(graph: fx.Graph, names: list[str]) -> None:
    """torch.fx has parameters that are given by name before `*args`; they must be behind."""
    nodes = [node for node in graph.nodes if node.op == "placeholder"]
    for node in sorted(nodes, key=lambda node: names.index(node.target.lstrip("*")), reverse=True):
        if node is not (first := next(iter(graph.nodes))):
            first.prepend(node)


def _has(module: nn.Module, path: str) -> bool:
    parent, _, name = path.rpartition(".")
    return hasattr(module.get_submodule(parent), name)


def hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _changed(now: dict[str, object], before: dict[str, object]) -> bool:
    return now.keys() != before.keys() or any(now[name] is not value for name, value in before.items())


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:160]


def is_record(node: fx.Node) -> bool:
    """Whether it puts values into a namedtuple, or into another object of the user's own."""
    return node.op == "call_function" and isinstance(node.target, type) and not isinstance(node.meta["values"][0], Tensor)
