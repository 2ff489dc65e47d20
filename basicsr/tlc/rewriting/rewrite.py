"""A module's forward with its global operations made local: what of it becomes so, and the new graph."""

from dataclasses import dataclass

from torch import fx

from basicsr.tlc.local import Size
from basicsr.tlc.local.statistics import from_batch, spread
from basicsr.tlc.rewriting.arguments import tensors_within
from basicsr.tlc.rewriting.meeting import by_pixel, meetings, sample_counts
from basicsr.tlc.rewriting.patterns import ChannelAttention, Pattern, Pooling
from basicsr.tlc.rewriting.trace import Declined, grows, is_record, map_dims, tensor_shapes
from basicsr.tlc.rewriting.tracer import works_in_place

# They take a map with a single row, or a single column, for one that has it everywhere.
_BROADCASTING = {"mul", "add", "sub", "truediv", "div", "true_divide", "mul_", "add_", "sub_", "div_", "imul", "iadd", "isub"}
_RESHAPES = {"view", "reshape"}  # they may be told the length of a strip
LEAVES = "its statistic leaves it as a vector"
Windows = dict[fx.Node, tuple[Size, Size | None]]  # of each replaced node: its window and the strides' caps


@dataclass(frozen=True)
class Plan:
    """What of a traced forward becomes local.

    Attributes:
        patterns: the operations that are replaced, in order.
        live: the other nodes that are still needed.
        vectors: what is made of the statistics, one value for the whole map, or for each row or column, before it meets the map
            again.
        merges: the maps where it does.
        leaves: the statistics themselves are what the module returns.
    """

    graph: fx.Graph
    patterns: dict[fx.Node, Pattern]
    live: set[fx.Node]
    vectors: set[fx.Node]
    merges: list[fx.Node]
    leaves: bool

    def is_vector(self, node: fx.Node) -> bool:
        """Whether it is a statistic, or made of such before it meets the map."""
        return node in self.vectors or isinstance(self.patterns.get(node), Pooling)


def plan(graph: fx.Graph, found: dict[fx.Node, Pattern]) -> Plan:
    """Follow the statistics through the graph.

    Raises:
        Declined: something else is made of them than a vector that then meets the map.
    """
    live = _live(graph, found)
    patterns = {node: found[node] for node in graph.nodes if node in found and node in live}
    if not patterns:
        raise Declined("")  # nothing in it has a local form
    vectors, merges, leaves = set(), [], False
    statistics = {node for node, pattern in patterns.items() if isinstance(pattern, Pooling)}
    for node in graph.nodes:
        if node not in live or node in patterns or not any(x in vectors or x in statistics for x in node.all_input_nodes):
            continue
        strangers = [x for x in node.all_input_nodes if grows(x) and x not in vectors | statistics]
        if node.op == "output" or is_record(node):
            if merges:
                raise Declined("it uses its statistic, and returns it, too", outward=True)
            leaves = _is_pooled(node.args[0] if node.op == "output" else node)
        elif not _is_tensor(node):
            vectors.add(node)
        elif grows(node) and not _is_strip(node, vectors | statistics):
            merges.append(node)
        elif node.meta.get("operations"):
            raise Declined("what it makes of its means of rows or columns looks at all of them")
        elif strangers and (node.meta["name"] not in _RESHAPES or any(map(tensor_shapes, strangers))):
            raise Declined("its statistic is combined with the map's size, or with another sum over the map")
        else:
            vectors.add(node)
    return Plan(graph, patterns, live - set(patterns), vectors, merges, leaves)


def rewritten(plan: Plan, windows: Windows, fold: bool) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """The graph with local operations, and its nodes by those of the traced graph.

    What is made of a statistic is computed for the windows inside the map, and replicated at the borders where it meets the
    map; for every position from the beginning where the layouts differ there, or statistics of other windows join it before.

    fold: what follows on a statistic treats positions as further samples of the batch, as it must where it reshapes; else it
    treats the statistic's map as it treated the one value, as 1x1 convolutions can.
    """
    graph, made = fx.Graph(), {}
    origins = origins_of(plan)
    met = {node: meetings(plan.patterns, node, origins) for node in plan.merges}
    padded = plan.leaves or None in met.values() or _joined(plan, origins, windows)
    maps, samples, folded = {}, {}, {}  # a statistic's map, and the number of samples after folding, by its node

    def take(value: object) -> object:
        return fx.node.map_arg(value, made.__getitem__)

    for node in plan.graph.nodes:
        pattern = plan.patterns.get(node)
        if isinstance(pattern, Pooling):
            made[node] = pattern.emit(graph, take, *windows[node], padded)
            if fold:
                maps[node] = made[node]
                made[node] = pattern.folded(graph, maps[node])
                samples[node] = graph.call_method("size", (made[node], 0))
        elif isinstance(pattern, ChannelAttention):
            made[node] = pattern.emit(graph, take, *windows[node], folded)
        elif pattern:
            made[node] = pattern.emit(graph, take, *windows[node])
        elif node in plan.live:
            replace = {}
            if fold and node in met and met[node] is None:
                made[node] = by_pixel(graph, node, plan.patterns, origins, made, maps)
                continue
            if fold and node in plan.vectors:
                replace = sample_counts(graph, node, made, samples[origins[node][0]])
            elif node in met and (fold or not padded):
                for vectors, statistic in met[node].items():
                    found, dims = plan.patterns[statistic], map_dims(node)
                    new, source = made[vectors], found.source
                    if fold:
                        places = tuple(dims[side] for side in found.sides)
                        new = graph.call_function(from_batch, (new, maps[statistic], found.positions, places))
                    args = (new, dims, made[source], map_dims(source), node.meta["name"] in _BROADCASTING)
                    replace[vectors] = graph.call_function(spread, args)
            made[node] = graph.node_copy(node, lambda x, replace=replace: replace.get(x) or made[x])
    return graph, made


def _live(graph: fx.Graph, found: dict[fx.Node, Pattern]) -> set[fx.Node]:
    """The nodes that are needed when the found ones are computed from their inputs alone."""
    queue = [node for node in graph.nodes if node.op in ("placeholder", "output") or _acts(node)]
    live = set()
    while queue:
        node = queue.pop()
        if node not in live:
            live.add(node)
            queue += found[node].inputs if node in found else node.all_input_nodes
    return live


def _acts(node: fx.Node) -> bool:
    """Whether something may happen though nobody uses the result; not where a size was asked, say."""
    return not node.users and (node.op == "call_module" or works_in_place(node) or node.meta.get("values", (None,))[0] is None)


def _is_strip(node: fx.Node, vectors: set[fx.Node]) -> bool:
    """Whether a node that is made of vectors has a value for each row, or for each column, as one of these has.

    Raises:
        Declined: strips of rows and of columns are joined.
    """
    strips = [x for x in node.all_input_nodes if x in vectors and tensor_shapes(x) and grows(x)]
    if not strips or tensor_shapes(node) is None or len(_lengths(node)) != 1:
        return False
    if any(_lengths(x) != _lengths(node) for x in strips):
        raise Declined("its means of rows and of columns are joined, so that positions are no longer told apart")
    return True


def _lengths(node: fx.Node) -> list[tuple[int, int]]:
    """The sizes of a tensor that are larger for a larger image."""
    return [pair for pair in zip(*tensor_shapes(node), strict=True) if pair[0] != pair[1]]


def _is_pooled(result: object) -> bool:
    """Whether what a module returns is a statistic (N, C, 1, 1), in whose place a map will do."""
    shapes = tensor_shapes(result) if isinstance(result, fx.Node) else None
    if shapes is None or len(shapes[0]) != 4 or shapes[0][2:] != (1, 1):
        raise Declined(LEAVES, outward=True)
    return True


def _is_tensor(node: fx.Node) -> bool:
    """Whether it is a tensor, or several."""
    return "values" in node.meta and tensors_within(node.meta["values"][0])


def origins_of(plan: Plan) -> dict[fx.Node, list[fx.Node]]:
    """The statistics that a vector is made of."""
    origins = {node: [node] for node, pattern in plan.patterns.items() if isinstance(pattern, Pooling)}
    for node in plan.graph.nodes:
        if node in plan.vectors:
            origins[node] = [origin for x in node.all_input_nodes for origin in origins.get(x, [])]
    return origins


def _joined(plan: Plan, origins: dict[fx.Node, list[fx.Node]], windows: Windows) -> bool:
    """Whether a vector is made of statistics of several windows, or also of what a layer inside makes of a map."""
    strangers = set()
    for node in plan.live - plan.vectors:
        if _is_tensor(node) and not grows(node) and any(grows(x) for x in node.all_input_nodes):
            strangers.add(node)
    queue = list(strangers)
    while queue:
        new = {user for user in queue.pop().users if user in plan.live and _is_tensor(user) and not grows(user)} - strangers
        strangers |= new
        queue += new
    return bool(strangers & plan.vectors) or any(len({windows[x] for x in origins[v]}) > 1 for v in plan.vectors)
