"""What of a module's forward mixes pixels, from the last maps before to the first maps after it: that alone is put in windows,
so that the convolutions around it see the whole map.

A part of a traced forward is made of a global operation and of all that is between maps around it: flattened pixels, matrices,
spectra, vectors, and sizes, which inside are the window's.
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, fx, nn

from basicsr.tlc.dryrun.attributes import changed_in
from basicsr.tlc.dryrun.axes import Axis, axis_of, known, misplaced, same
from basicsr.tlc.dryrun.running import run_on_meta, shapes_of
from basicsr.tlc.dryrun.seen import Probe
from basicsr.tlc.dryrun.shapes import Shapes
from basicsr.tlc.dryrun.windowed import Windowed, is_inside
from basicsr.tlc.local import Size
from basicsr.tlc.local.exporting import tracing
from basicsr.tlc.local.windows import NOT_EXPORTED, InWindows, Pixels, Role, in_windows
from basicsr.tlc.report import Converted, Scale
from basicsr.tlc.rewriting.exact import check_same
from basicsr.tlc.rewriting.inlining import is_torch
from basicsr.tlc.rewriting.local_forward import Local, compiled, steps_of
from basicsr.tlc.rewriting.trace import Declined, grows, map_dims, trace

_COVERING = (1 << 20, 1 << 20)


def forward_in_windows(net: nn.Module, outer: Windowed, seen: Probe, scale: Scale) -> tuple[Local | InWindows, list[Converted]]:
    """What takes the place of a module's forward, and the report's rows.

    In windows is what mixes pixels, where that can be told from the rest; else, and where the module is the net itself, all.
    """
    try:
        return _mixing_in_windows(net, outer, seen, scale)
    except Exception:  # noqa: BLE001 - a user's forward may do anything, and as a whole it runs
        return outer.forward, [outer.row]


def _mixing_in_windows(net: nn.Module, outer: Windowed, seen: Probe, scale: Scale) -> tuple[Local, list[Converted]]:
    module, path = outer.module, outer.names[0]
    if module is net:
        raise Declined("windows of the whole image are meant")
    places = [op for op in seen.global_ops if is_inside(op.path, path) and op not in seen.unused]
    own = {op.path for op in places if not is_torch(net.get_submodule(op.path))}
    inline = {name[len(path) :].lstrip(".") for name in own} - {""}
    traced = trace(module, seen.calls, changed_in(module, *seen.attributes), inline)
    graph, parts = traced.graph, _parts(traced.graph)
    if not {op.name for op in places} <= {name for part in parts for name in part.operations}:
        raise Declined("not all that looks at the whole map is an operation of its own")  # but a grid, or a loop
    windows = [scale.window(part.size) for part in parts]
    check_same(module, graph, traced.held, _rewritten(graph, parts, [_COVERING] * len(parts), scale.blended))
    local = Local(module, _rewritten(graph, parts, windows, scale.blended), windows)
    _check_windows(module, local, seen)
    rows = []
    for part, window in zip(parts, windows, strict=True):
        inner = f"{path}.{part.mixing[0].meta['path']}".strip(".")
        names = ", ".join(dict.fromkeys(name.removeprefix("_") for name in part.operations))
        note = scale.note(fast=False, blends=True)
        kind = type(net.get_submodule(inner)).__name__
        rows.append(Converted(inner, f"{kind}: {names}", "in windows", part.size, window, note))
    return local, rows


@dataclass(frozen=True)
class _Part:
    """A part of a forward that is to run in windows.

    Attributes:
        nodes: all that is performed inside, in order. mixing: the global operations among them.
        inputs, outputs: what comes from outside, and maps that leave. size: of the maps, in training.
    """

    nodes: list[fx.Node]
    mixing: list[fx.Node]
    inputs: list[fx.Node]
    outputs: list[fx.Node]
    size: Size

    @property
    def operations(self) -> list[str]:
        return [name for node in self.mixing for name in node.meta["operations"]]


def _parts(graph: fx.Graph) -> list[_Part]:
    inside = _inside(graph)
    if not inside:
        raise Declined("nothing in its forward mixes pixels")
    groups: dict[fx.Node, set[fx.Node]] = {node: {node} for node in inside if not _is_number(node)}
    for node in list(groups):
        for other in node.all_input_nodes:
            if other in groups and not _is_map(other) and groups[other] is not groups[node]:
                groups[node] |= groups[other]
                groups.update(dict.fromkeys(groups[other], groups[node]))
    return [_part(graph, group, inside) for group in {id(group): group for group in groups.values()}.values()]


def _inside(graph: fx.Graph) -> set[fx.Node]:
    """Global operations and all that is between them and maps."""
    inside, queue = set(), [node for node in graph.nodes if node.meta.get("operations")]
    while queue:
        node = queue.pop()
        if node in inside:
            continue
        if node.op in ("placeholder", "output"):
            raise Declined("between its maps is what it is given, or returns")
        inside.add(node)
        queue += [other for other in node.all_input_nodes if grows(other) and not _is_map(other)]
        if not _is_number(node) and not _is_map(node):
            queue += node.users
    return inside


def _part(graph: fx.Graph, group: set[fx.Node], inside: set[fx.Node]) -> _Part:
    members, queue = set(group), list(group)
    while queue:  # the sizes that it needs
        sizes = [other for other in queue.pop().all_input_nodes if other in inside and _is_number(other)]
        queue += [other for other in sizes if other not in members]
        members.update(sizes)
    nodes = [node for node in graph.nodes if node in members]
    inputs = [*dict.fromkeys(other for node in nodes for other in node.all_input_nodes if other not in members)]
    used = {
        node: [user for user in node.users if user.users or not _is_number(user)] for node in group
    }  # not sizes for nothing
    outputs = [node for node in nodes if node in group and not members.issuperset(used[node])]
    maps = [node for node in inputs if grows(node)]
    frames = [_frame(node) for node in (*maps, *outputs)]
    sizes = {tuple(node.meta["values"][0].shape[dim] for dim in map_dims(node)) for node in (*maps, *outputs) if _is_map(node)}
    if not maps or not all(frames) or len(sizes) != 1:
        raise Declined("what mixes pixels takes or makes maps of several sizes, or none")
    if not all(same(*pair) for frame in frames for pair in zip(frame, frames[0], strict=True)):
        raise Declined("what mixes pixels takes or makes maps whose pixels are elsewhere")
    before, queue = set(), list(inputs)
    while queue:
        node = queue.pop()
        if node not in before:
            before.add(node)
            queue += node.all_input_nodes
    if before & group:
        raise Declined("what mixes pixels takes a map that is made of its own")
    return _Part(nodes, [node for node in nodes if node.meta["operations"]], inputs, outputs, sizes.pop())


def _is_number(node: fx.Node) -> bool:
    return node.op != "output" and isinstance(node.meta["values"][0], (int, float))


def _is_map(node: fx.Node) -> bool:
    return _frame(node) is not None


def _frame(node: fx.Node) -> tuple[Axis, Axis] | None:
    """Which of the image's rows and columns a map has; None: it is no map, or one of parts of the image."""
    dims = map_dims(node)
    if not dims:
        return None
    value = node.meta["values"][1]
    axes = tuple(axis_of(known(value)[dim]) for dim in dims)
    return None if misplaced(*axes) or not _is_whole(node, value, dims, axes) else axes


def _is_whole(node: fx.Node, value: Tensor, dims: Size, axes: Sequence[Axis]) -> bool:
    """Whether it has all rows and columns that the first of the forward's maps has."""
    for other in node.graph.nodes:
        found = map_dims(other) if other.op == "placeholder" else None
        if found:
            first = other.meta["values"][1]
            whole = [axis_of(known(first)[dim]) for dim in found]
            lengths = [(axis.scale * value.shape[dim]) for axis, dim in zip(axes, dims, strict=True)]
            wanted = [axis.scale * first.shape[dim] if axis else 0 for axis, dim in zip(whole, found, strict=True)]
            return all(0.8 < a / b < 1.25 if b else False for a, b in zip(lengths, wanted, strict=True))
    return False


def _rewritten(graph: fx.Graph, parts: Sequence[_Part], windows: Sequence[Size], blended: bool) -> fx.Graph:
    """The graph with one operation in each part's place."""
    new, made = fx.Graph(), {}
    owners = {node: i for i, part in enumerate(parts) for node in part.nodes if not _is_number(node)}

    def make(node: fx.Node) -> None:
        if node in made:
            return
        if node not in owners:
            for other in node.all_input_nodes:
                make(other)
            made[node] = new.node_copy(node, made.__getitem__)
            return
        part, number = parts[owners[node]], owners[node]
        for other in part.inputs:
            make(other)
        inner, modules = _inner_graph(part)
        roles = [Pixels(map_dims(other)) if grows(other) else None for other in part.inputs] + [None] * len(modules)
        result = tuple(Pixels(map_dims(other)) for other in part.outputs)
        mixing = Mixing(steps_of(inner), roles, result, windows[number], blended, number)
        args = (*(made[other] for other in part.inputs), *map(new.get_attr, modules))
        out = new.call_function(mixing, args)
        for i, other in enumerate(part.outputs):
            made[other] = new.call_function(operator.getitem, (out, i))

    outputs = {node for part in parts for node in part.outputs}
    for node in graph.nodes:
        sized = node.op != "placeholder" and _is_number(node)  # made where it is needed
        if node in outputs or (node not in owners and not sized):
            make(node)
    return new


def _inner_graph(part: _Part) -> tuple[fx.Graph, list[str]]:
    """A part as a graph of its own, and the modules that it is given behind its inputs."""
    graph = fx.Graph()
    made = {node: graph.placeholder(f"given_{i}") for i, node in enumerate(part.inputs)}
    names = dict.fromkeys(node.target for node in part.nodes if node.op == "call_module")
    modules = {name: graph.placeholder(f"module_{i}") for i, name in enumerate(names)}
    for node in part.nodes:
        if node.op == "call_module":
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), made.__getitem__)
            made[node] = graph.call_function(called, (modules[node.target], *args), kwargs)
        else:
            made[node] = graph.node_copy(node, made.__getitem__)
    graph.output(tuple(made[node] for node in part.outputs))
    return graph, [*names]


def called(module: nn.Module, *args: object, **kwargs: object) -> object:
    return module(*args, **kwargs)


class Mixing:
    """An operation in windows, of what it is given and of modules. number: among those of its forward."""

    def __init__(self, steps: tuple, roles: Sequence[Role], result: Role, window: Size, blended: bool, number: int) -> None:
        self.__setstate__((steps, roles, result, window, blended, number))

    def __call__(self, *given: object) -> object:
        if tracing():
            raise ValueError(NOT_EXPORTED.format("a part of a forward"))
        return in_windows(self.run, given, self.roles, self.result, self.window, blended=self.blended)

    def run(self, given: Iterable[object]) -> object:
        return self.function(None, *given)

    def __getstate__(self) -> tuple:
        return self.steps, self.roles, self.result, self.window, self.blended, self.number

    def __setstate__(self, state: tuple) -> None:
        self.steps, self.roles, self.result, self.window, self.blended, self.number = state
        self.function: Callable = compiled(self.steps)
        self.__name__ = self.__qualname__ = f"mixing_{self.number}"  # torch.fx calls a function by its name


def _check_windows(module: nn.Module, local: Local, seen: Probe) -> None:
    """Raises where the windows, on the larger map, give something else than maps as large as the module's own."""
    call = seen.calls[module][1][0]
    shapes = Shapes(seen.known, seen.setup.stays)
    expected = shapes_of(run_on_meta(module, *call, shapes, seen.setup))
    module.forward = local
    try:
        found = shapes_of(run_on_meta(module, *call, shapes, seen.setup))
    finally:
        del module.forward
    if found != expected:
        raise Declined("in windows it gives maps of another size")
