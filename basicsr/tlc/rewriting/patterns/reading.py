"""What patterns ask of the nodes of a traced forward."""

import math

from torch import fx

from basicsr.tlc.rewriting.trace import map_dims, tensor_shapes


def map_with_pixels(node: fx.Node, pixels: tuple[int, int]) -> fx.Node | None:
    """The nearest map up to `node` with that many pixels, at both sizes, its rows right before its columns."""
    queue = [node]
    for candidate in queue:
        dims = map_dims(candidate)
        if dims and tuple(math.prod(shape[dim] for dim in dims) for shape in tensor_shapes(candidate)) == pixels:
            return candidate
        queue += [other for other in candidate.all_input_nodes if other not in queue]
    return None


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
