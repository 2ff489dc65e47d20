"""Whether statistics are taken of maps of the image, and meet maps whose pixels are where their own are."""

from torch import fx

from basicsr.tlc.dryrun.axes import Axis, axis_of, known, misplaced, regrouped, same
from basicsr.tlc.rewriting.arguments import given
from basicsr.tlc.rewriting.meeting import sizes_of
from basicsr.tlc.rewriting.patterns import Pattern, Pooling
from basicsr.tlc.rewriting.rewrite import Plan, origins_of
from basicsr.tlc.rewriting.trace import Declined, growing_dims, map_dims

_ELSEWHERE = (
    "its statistic meets a map whose pixels are elsewhere than those of the map that it was taken of: one of both was flipped, "
    "shifted or transformed; let them meet before"
)
_Frame = tuple[Axis | None, Axis | None]  # rows and columns


def check_places(plan: Plan, inside: bool) -> None:
    """Raises Declined. `inside`: the forward is that of a part of the net."""
    frames = {node: _source(pattern) for node, pattern in plan.patterns.items()}
    if plan.leaves:
        _check_leaving(plan, frames)
        return
    origins, spread = origins_of(plan), {}
    for node in plan.graph.nodes:
        if node in plan.merges:
            found = [origin for x in node.all_input_nodes for origin in origins.get(x, [])]
            alike = [origin for origin in found if map_dims(node) and sizes_of(plan.patterns[origin].source) == sizes_of(node)]
        elif met := [origin for x in node.all_input_nodes for origin in spread.get(x, [])]:
            if node.op == "output":
                if inside:
                    raise Declined("its statistic, repeated for each pixel, leaves it before it meets the map", outward=True)
                continue
            if not node.meta["keeps"]:
                raise Declined("its statistic, repeated for each pixel, is moved before it meets the map")
            alike = met
        else:
            continue
        for origin in alike:
            own, sides = _frame(node, sizes_of(plan.patterns[origin].source)[1]), plan.patterns[origin].sides
            if all(own[side] is None for side in sides):  # it has met no map yet
                spread.setdefault(node, []).append(origin)
                own = tuple(frames[origin][side] if side in sides else axis for side, axis in enumerate(own))
            _meet(frames[origin], own)


def _source(pattern: Pattern) -> _Frame:
    """Rows and columns of what it sums over."""
    frames = [_pixels(x, sizes_of(pattern.source)[1]) for x in getattr(pattern, "summed", None) or [pattern.source]]
    for frame in frames:
        if reason := misplaced(*frame):
            raise Declined(reason)
        _meet(frame, frames[0])
    return frames[0]


def _check_leaving(plan: Plan, frames: dict[fx.Node, _Frame]) -> None:
    """What a module returns in its map's place is where that map is."""
    inputs = [node for node in given(plan.graph) if map_dims(node)]
    for node, pattern in plan.patterns.items():
        if isinstance(pattern, Pooling) and inputs:
            _meet(frames[node], _frame(inputs[0], sizes_of(inputs[0])[1]))


def _meet(frame: _Frame, other: _Frame) -> None:
    if not all(None not in pair and same(*pair) for pair in zip(frame, other, strict=True)):
        raise Declined(_ELSEWHERE)


def _frame(node: fx.Node, size: tuple[int, ...]) -> _Frame:
    """Of a map; of a sequence, if it has the pixels of one of that size."""
    dims = map_dims(node)
    if not dims:
        return _pixels(node, size) if len(growing_dims(node)) == 1 else (None, None)
    layout = known(node.meta["values"][1])
    return tuple(axis_of(layout[dim]) for dim in dims)


def _pixels(x: fx.Node, size: tuple[int, ...]) -> _Frame:
    """Of a map, or of one whose pixels were flattened, perhaps with channels."""
    layout = known(x.meta["values"][1])
    dims = [tuple(atom for atom in layout[dim] if atom.axis is not None) for dim in growing_dims(x)]
    parts = regrouped(tuple(dims), size)
    return (None, None) if parts is None else tuple(map(axis_of, parts))
