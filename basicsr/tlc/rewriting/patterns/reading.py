"""What patterns ask of the nodes of a traced forward."""

import math
from collections.abc import Iterable

from torch import Tensor, fx

from basicsr.tlc.dryrun.axes import known
from basicsr.tlc.rewriting.arguments import Samples
from basicsr.tlc.rewriting.trace import growing_dims, grows, map_dims, tensor_shapes

# They move elements, or do nothing to them.
LAYOUTS = {"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "transpose", "permute", "swapaxes", "swapdims"}
LAYOUTS |= {"movedim", "moveaxis", "contiguous", "rearrange", "Flatten", "Unflatten", "Rearrange", "getattr", "t", "mT"}
LAYOUTS |= {"chunk", "split", "tensor_split", "unbind", "getitem", "narrow", "select", "clone", "detach"}
LAYOUTS |= {"Dropout", "dropout", "Identity", "to", "float", "double", "type", "type_as", "expand", "expand_as"}
PRODUCTS = {"mul", "multiply", "imul", "mul_"}
QUOTIENTS = {"truediv", "div", "true_divide", "divide", "itruediv", "div_"}
DIFFERENCES = {"sub", "subtract", "isub", "sub_"}
ADDITIONS = {"add", "iadd", "add_"}


def map_with_pixels(node: fx.Node, pixels: tuple[int, int]) -> fx.Node | None:
    """The nearest map up to `node` with that many pixels, at both sizes, its rows right before its columns."""
    queue = [node]
    for candidate in queue:
        dims = map_dims(candidate)
        if dims and tuple(math.prod(shape[dim] for dim in dims) for shape in tensor_shapes(candidate)) == pixels:
            return candidate
        queue += [other for other in candidate.all_input_nodes if other not in queue]
    return None


def between(node: fx.Node, inputs: Iterable[fx.Node]) -> list[fx.Node]:
    """The nodes that make `node` of `inputs`."""
    queue = [node]
    for other in queue:
        queue += [x for x in other.all_input_nodes if x not in inputs and x not in queue]
    return queue


def product_of(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    if name_of(node) not in ("matmul", "bmm", "__matmul__") or len(node.args) != 2:
        return None
    return node.args if all(isinstance(x, fx.Node) for x in node.args) else None


def untransposed(node: fx.Node) -> fx.Node | None:
    """x of x.transpose(-2, -1), .mT, .permute(0, 1, 3, 2)."""
    if name_of(node) == "transpose" and {dim % node.meta["values"][0].ndim for dim in node.args[1:]} == _last_two(node):
        return input_of(node)
    if name_of(node) == "getattr" and node.args[1] == "mT":
        return input_of(node)
    dims = node.args[1] if len(node.args) == 2 else node.args[1:]
    ndim = node.meta["values"][0].ndim if tensor_shapes(node) else 0
    if name_of(node) == "permute" and tuple(dims) == (*range(ndim - 2), ndim - 1, ndim - 2):
        return input_of(node)
    return None


def _last_two(node: fx.Node) -> set[int]:
    ndim = node.meta["values"][0].ndim
    return {ndim - 2, ndim - 1}


def input_of(node: fx.Node | None) -> fx.Node | None:
    if node is None:
        return None
    first = node.args[0] if node.args else node.kwargs.get("input")
    return first if isinstance(first, fx.Node) else None


def name_of(node: fx.Node | None) -> str:
    return "" if node is None else node.meta.get("name", "")


class NotSums(Exception):
    """By what else it sees the image."""


def is_map(node: fx.Node) -> bool:
    """Whether it is a tensor that grows with the image, or several."""
    value = node.meta["values"][0] if "values" in node.meta else None
    several = isinstance(value, (tuple, list)) and any(isinstance(x, Tensor) for x in value)
    return (isinstance(value, Tensor) or several) and grows(node)


def pixels_of(x: fx.Node) -> tuple[int, int, tuple[int, int]]:
    """How many channels the dimension of a map's flattened pixels holds outside and inside of them; how many pixels these are,
    at both sizes."""
    dims = growing_dims(x)
    if len(dims) not in (1, 2):
        raise NotSums("it is no map")
    counts = [math.prod(shape[dim] for dim in dims) for shape in tensor_shapes(x)]
    if len(dims) == 2:
        return 1, 1, tuple(counts)
    atoms = known(x.meta["values"][1])[dims[0]]
    placed = [i for i, atom in enumerate(atoms) if atom.axis is not None]
    if not placed:
        raise NotSums("its map's pixels are not known")
    outer = math.prod(atom.size for atom in atoms[: placed[0]])
    inner = math.prod(atom.size for atom in atoms[placed[-1] + 1 :])
    return outer, inner, tuple(count // (outer * inner) for count in counts)


def is_told(node: fx.Node) -> bool:
    """Whether it is a size of maps, or a number of samples, that a forward is given, or its module holds."""
    value = node.meta["values"][0] if "values" in node.meta else None
    leaf = node.op in ("placeholder", "get_attr") or (name_of(node) == "getitem" and input_of(node).op == "placeholder")
    return leaf and isinstance(value, (int, float)) and (grows(node) or isinstance(value, Samples))


def told_sides(node: fx.Node, source: fx.Node) -> tuple[int, ...]:
    """Whether it is the number of the map's rows, (0,), of its columns, (1,), or of its pixels, (0, 1)."""
    rows, columns = ([shape[dim] for shape in tensor_shapes(source)] for dim in map_dims(source))
    sizes = {(0,): tuple(rows), (1,): tuple(columns), (0, 1): tuple(h * w for h, w in zip(rows, columns, strict=True))}
    for sides, size in sizes.items():
        if tuple(node.meta["values"]) == size:
            return sides
    raise NotSums("it is told a size that is not its map's")


def has_samples(node: fx.Node) -> bool:
    """Whether its first dimension is that of the samples: it is made of what the forward is given."""
    if node.op == "placeholder":
        return isinstance(node.meta["values"][0], Tensor)
    inputs = (
        [] if name_of(node).startswith("new_") else [x for x in node.all_input_nodes if isinstance(x.meta["values"][0], Tensor)]
    )
    return any(map(has_samples, inputs))
