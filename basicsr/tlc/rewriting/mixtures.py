"""Whether what becomes local is of a window alone: not where it meets what the whole map was looked at for, and stays so.

A mean over a window of pixels that were divided by the map's maximum is the statistic of no crop of the image.
"""

from collections.abc import Iterable

from torch import fx

from basicsr.tlc.dryrun.scales import COMBINED, SCALED
from basicsr.tlc.dryrun.seen import Probe
from basicsr.tlc.rewriting.patterns import ChannelAttention, Pattern
from basicsr.tlc.rewriting.patterns.reading import between
from basicsr.tlc.rewriting.patterns.statistics import Statistic
from basicsr.tlc.rewriting.rewrite import Plan
from basicsr.tlc.rewriting.trace import Declined, grows, tensor_shapes

# Elsewhere, in sums and side by side, each is what it is.
_SCALING = {"mul", "imul", "multiply", "div", "truediv", "itruediv", "divide", "true_divide", "pow", "float_power", "matmul"}
_SCALING |= {"addcmul", "addcdiv", "bmm", "einsum", "where", "lerp"}


def check_mixtures(plan: Plan, staying: Iterable[fx.Node], path: str, seen: Probe) -> None:
    """Raises Declined.

    Args:
        staying: the nodes that look at the map in this forward and stay so, other than by the user's wish.
        path: of the module whose forward it is.
    """
    _check_scales(plan, path, seen)
    sums = _sums(plan)
    if sums and plan.leaves:
        raise Declined("its sum is handed out, and who takes it may divide it by the map's size; divide it where it is taken")
    if any(_looked_at(pattern, plan) for pattern in sums):
        raise Declined("what it sums up, weights perhaps, was made by looking at the whole map; take both in windows by a rule")
    local, left = set(plan.patterns), {node: node for node in staying if node in plan.live and not _hands_out_pixels(node)}
    for node in plan.graph.nodes:
        pattern = plan.patterns.get(node)
        if node not in plan.live and pattern is None:
            continue
        inputs = node.all_input_nodes if pattern is None else pattern.inputs
        found = next((left[x] for x in inputs if x in left), None)
        builds = pattern is not None or any(x in local for x in inputs)
        if found and builds and (pattern or node in plan.vectors or node.meta["name"].rstrip("_") in _SCALING):
            raise Declined(COMBINED.format(*found.meta["operations"][:1] or [found.meta["name"]], found.meta["line"]))
        if builds:
            local.add(node)
            left.pop(node, None)
        elif found and not _mixes_pixels(node):
            left.setdefault(node, found)


def _check_scales(plan: Plan, path: str, seen: Probe) -> None:
    lines = {seen.scales} if _sums(plan) else set()
    for node in plan.patterns:
        parts = (path, node.meta["path"], node.target if node.op == "call_module" else "")
        lines |= seen.scaled.get(".".join(filter(None, parts)), set())
    outside = {node.meta["line"] for node in plan.live if _meets_a_size(node)}
    for node, pattern in plan.patterns.items():
        if isinstance(pattern, ChannelAttention):  # in which numbers of pixels become those of a window
            lines -= {x.meta["line"] for x in between(node, pattern.inputs)} - outside
    if any(lines):
        raise Declined(SCALED.format(max(lines)))


def _meets_a_size(node: fx.Node) -> bool:
    """Whether each element of a tensor meets a number that depends on the image's size."""
    sizes = [x for x in node.all_input_nodes if grows(x) and not tensor_shapes(x)]
    return node.op != "output" and bool(sizes) and node.meta["keeps"] and tensor_shapes(node) is not None


def _sums(plan: Plan) -> list[Statistic]:
    return [p for p in plan.patterns.values() if isinstance(p, Statistic) and p.kind in ("sum", "norm")]


def takes_a_part(node: fx.Node) -> bool:
    """Whether a node takes pixels at places that do not grow with the map, such as the first row's first."""
    if node.op == "output" or tensor_shapes(node) is None or grows(node) or node.meta["name"].startswith("new_"):
        return False
    return any(grows(x) and tensor_shapes(x) for x in node.all_input_nodes)


def _hands_out_pixels(node: fx.Node) -> bool:
    """Whether it looks at the whole map, and makes another one of it that is as good as any: transforms, after whose inverse
    each pixel is one again; modules of attention, which mix pixels."""
    operations = node.meta["operations"]
    if _mixes_pixels(node) or (operations and all(name.startswith("_fft") for name in operations)):
        return True
    return node.op == "call_module" and any(map(_is_product, operations)) and all(map(_is_of_attention, operations))


def _mixes_pixels(node: fx.Node) -> bool:
    """Whether it makes a map of weights, wherever these are from, and a map."""
    maps = [x for x in node.all_input_nodes if grows(x)]
    return (_is_product(node.meta["name"]) or node.meta["name"] == "einsum") and bool(maps) and grows(node)


def _is_product(name: str) -> bool:
    return name.strip("_") in ("bmm", "mm", "matmul", "baddbmm") or "scaled_dot_product" in name


def _is_of_attention(name: str) -> bool:
    return _is_product(name) or "softmax" in name or name in ("linalg_vector_norm", "_fft_r2c")


def _looked_at(pattern: Pattern, plan: Plan) -> bool:
    """Whether a global operation, of a module perhaps, made what is summed up."""
    todo, before = [*pattern.inputs], set()
    while todo:
        node = todo.pop()
        if node not in before and node not in plan.patterns:
            before.add(node)
            todo += node.all_input_nodes
    return any(node.meta.get("operations") for node in before)
