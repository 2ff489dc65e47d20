"""Whether a rewritten forward is the exact local form, tried out in float64 on a small random map with random weights.

The definition, in the module's own operations: at a position, each global statistic is the one that these operations compute of
the window around it, cropped out of the map; a norm is that of the cropped window; attention between channels is that of each
window that covers the position, on average or by its hats. And when the windows cover the map, the module is what it was.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from basicsr.tlc.dryrun.standins import InDouble, StayOn
from basicsr.tlc.local import Size
from basicsr.tlc.rewriting.arguments import Held
from basicsr.tlc.rewriting.by_hand import in_windows
from basicsr.tlc.rewriting.following import assigned
from basicsr.tlc.rewriting.local_forward import Local
from basicsr.tlc.rewriting.meeting import sizes_of
from basicsr.tlc.rewriting.patterns import ChannelAttention, Norm, Pooling
from basicsr.tlc.rewriting.patterns.reading import between, is_told, told_sides
from basicsr.tlc.rewriting.rewrite import LEAVES, Plan, Windows, rewritten
from basicsr.tlc.rewriting.running import Interpreter, Values, called, output_of, run
from basicsr.tlc.rewriting.trace import (
    Declined,
    copied,
    first_line,
    growing_dims,
    grows,
    map_dims,
)
from basicsr.tlc.rewriting.trial import trials

NO_DIFFERENCE = "it makes no difference where its statistic is taken: nothing to do"
_NONE_SEEN = "on random maps it makes no difference where its statistic is taken, so that no local form can be compared"
_OTHER_VALUES = (-1e3, -30.0, -1.0, 30.0, 1e3)  # for a statistic: past what it is compared with, or clamped to
_TOLERANCE = 1e-9  # relative; a wrong form is off by far more
_DENSE = 200  # positions of what comparisons and choices are made of: a wrong form, too, is right at most of them


def exact_form(module: nn.Module, plan: Plan, held: Held) -> bool:
    """How the graph can be rewritten exactly: False, or True when `fold` is needed.

    Args:
        held: numbers that it holds as attributes, see `trace`.

    Raises:
        Declined: it cannot.
    """
    generator = torch.Generator().manual_seed(0)
    twin = copied(module, lambda tensor: _random_parameter(tensor, generator)).eval()
    with torch.no_grad(), StayOn("cpu"), InDouble():
        inputs, values = _tried(twin, plan.graph, held, generator)
        for fold in (False, True):
            try:
                _check(twin, plan, fold, inputs, values)
            except Declined as error:
                reason = error
                if str(error) == NO_DIFFERENCE:
                    break
            except Exception as error:  # noqa: BLE001 - the user's operations may fail in any way on a map in a vector's place
                reason = Declined(f"what it makes of its statistic does not work on a map ({first_line(error)})")
            else:
                return fold
    raise reason


def check_same(module: nn.Module, graph: fx.Graph, held: Held, other: fx.Graph) -> None:
    """Raises Declined where the code of another graph than the traced one does not what the module's own forward does."""
    generator = torch.Generator().manual_seed(0)
    twin = copied(module, lambda tensor: _random_parameter(tensor, generator)).eval()
    with torch.no_grad(), StayOn("cpu"), InDouble():
        inputs, values = _tried(twin, graph, held, generator)
        twin.forward = Local(twin, other, ())
        if not _same(called(twin, graph, tree_map_only(Tensor, Tensor.clone, inputs)), values[output_of(graph)]):
            raise Declined("torch.fx does not see all that its forward does")


def _tried(twin: nn.Module, graph: fx.Graph, held: Held, generator: torch.Generator) -> tuple[list, Values]:
    """The first inputs that the forward runs on, and the values of all nodes for them."""
    failed = None
    for trial in trials(graph, held, generator):
        for target, value in trial.held.items():
            path, _, name = target.rpartition(".")
            setattr(twin.get_submodule(path), name, value)
        given = tree_map_only(Tensor, Tensor.clone, trial.inputs)
        leaves = tree_leaves(given)
        try:
            values = run(twin, graph, trial.inputs)
            own = called(twin, graph, given)
        except Exception as error:  # noqa: BLE001 - a map may be too small for the user's operations
            failed = failed or error
            continue
        if [*map(id, leaves)] != [*map(id, tree_leaves(given))]:
            raise Declined("its forward changes the list or dict that it is given; let it work on a copy")
        if any(node.target is assigned for node in graph.nodes) and not _same(given, trial.inputs):
            raise Declined("its forward changes the map that it is given; let it work on a copy")
        if not _same(own, values[output_of(graph)]):
            raise Declined("torch.fx does not see all that its forward does")
        return trial.inputs, values
    raise failed or Declined("it is told numbers that depend on the image's size, and are none of a map's sides or pixels")


def _check(twin: nn.Module, plan: Plan, fold: bool, inputs: list, values: Values) -> None:
    covering = dict.fromkeys(plan.patterns, ((1 << 20, 1 << 20), None))
    graph, _ = rewritten(plan, covering, fold)
    result = run(twin, graph, inputs)[output_of(graph)]
    if not _same(result, values[output_of(plan.graph)]):
        raise Declined("windows that cover the map change the result")
    sizes = {node: tuple(values[p.source].shape[d] for d in map_dims(p.source)) for node, p in plan.patterns.items()}
    windows: Windows = {node: ((max(1, h // 2), max(1, w // 3 + 1)), None) for node, (h, w) in sizes.items()}
    graph, made = rewritten(plan, windows, fold)
    local = run(twin, graph, inputs)
    known = {node: local[new] for node, new in made.items() if node.op != "output" and grows(node) and not plan.is_vector(node)}
    compare = _Comparison(twin, plan, values, sizes, {node: window for node, (window, _) in windows.items()}, known)
    differences = []
    for node in plan.merges if not plan.leaves else []:
        differences += compare.at_positions(node, map_dims(node))
    for node, pattern in plan.patterns.items():
        if isinstance(pattern, Norm):
            differences += compare.norm(node)
        elif isinstance(pattern, ChannelAttention):
            differences += compare.attention(node)
    if plan.leaves:
        differences += compare.returned(local[output_of(graph)])
    if not any(differences):
        raise Declined(_NONE_SEEN if compare.heeds_statistics() else NO_DIFFERENCE)


class _Comparison:
    """The rewritten graph's values against the definition; True for each value that differs from the global operation's.

    Args:
        local: the maps of the rewritten graph. Each operation and each module inside is compared for the maps that it is given
            there, in which other statistics may have come in before.
    """

    def __init__(
        self, twin: nn.Module, plan: Plan, values: Values, sizes: dict, windows: dict[fx.Node, Size], local: Values
    ) -> None:
        self.run = Interpreter(twin, plan.graph)
        self.plan, self.values, self.sizes, self.windows, self.local = plan, values, sizes, windows, local
        self.order = {node: number for number, node in enumerate(plan.graph.nodes)}
        self.statistics: dict[tuple[Size, Size], Values] = {}  # by position and size of the map
        made = [values[node] for node in (*plan.vectors, *plan.merges)]
        self.most = _DENSE if any(isinstance(x, Tensor) and not _is_continuous(x) for x in made) else 0

    def at_positions(self, node: fx.Node, dims: Size | None) -> Iterable[bool]:
        """A map whose pixels depend on the statistics of the windows around them."""
        if dims is None:
            raise Declined("its statistic meets something other than a map")
        size = tuple(self.values[node].shape[dim] for dim in dims)
        maps = {
            x: value for x, value in self.values.items() if isinstance(value, int)
        }  # whole maps' sizes, whatever these hold
        maps.update({x: self.local[x] for x in node.all_input_nodes if x in self.local})
        for position in _positions(size, self.most):
            want = _pixel(self._recomputed(node, {**self._statistics(position, size), **maps}), dims, position)
            _equal(_pixel(self.local[node], dims, position), want)
            yield not _close(want, _pixel(self.values[node], dims, position))

    def returned(self, local: Tensor) -> Iterable[bool]:
        """A module that returns what it makes of the statistic, (N, C, 1, 1): a map takes its place."""
        result = output_of(self.plan.graph).args[0]
        (size,) = set(self.sizes.values())
        if tuple(local.shape[2:]) != size:
            raise Declined(LEAVES, outward=True)
        for position in _positions(size, self.most):
            want = self._recomputed(result, self._statistics(position, size))[..., 0, 0]
            _equal(local[..., position[0], position[1]], want)
            yield not _close(want, self.values[result][..., 0, 0])

    def heeds_statistics(self) -> bool:
        """Whether sums of other values would change what is made of them, as where a threshold is far from these."""
        patterns = self.plan.patterns
        pooled = [node for node, pattern in patterns.items() if isinstance(pattern, Pooling)]
        attention = [node for node, pattern in patterns.items() if isinstance(pattern, ChannelAttention)]
        sums = [*pooled, *(x for node in attention for x in between(node, patterns[node].inputs) if self._sums(x))]
        ends = [output_of(self.plan.graph).args[0]] if self.plan.leaves else [*self.plan.merges, *attention]
        for factor in _OTHER_VALUES:
            known = {node: (self.values[node] + 1) * factor for node in sums}
            made = [(self._recomputed(end, known), self.values[end]) for end in ends]
            if not all(_same(new, old) for new, old in made if not new.isnan().any()):
                return True
        return False

    def _sums(self, node: fx.Node) -> bool:
        """Whether it makes sums over the pixels of maps."""
        return isinstance(self.values[node], Tensor) and not grows(node) and any(map(grows, node.all_input_nodes))

    def norm(self, node: fx.Node) -> Iterable[bool]:
        source = self.plan.patterns[node].source
        full = self._recomputed(source, self._given(node))
        for position in _positions(self.sizes[node]):
            starts, crop = self._crop(node, source, full, position)
            inside = (position[0] - starts[0], position[1] - starts[1])
            want = _pixel(self._recomputed(node, {source: crop}), (2, 3), inside)
            _equal(_pixel(self.local[node], (2, 3), position), want)
            yield not _close(want, _pixel(self.values[node], (2, 3), position))

    def attention(self, node: fx.Node) -> Iterable[bool]:
        pattern, sizes, window = self.plan.patterns[node], self._cropped_sizes(node), self.windows[node]
        for told in between(node, pattern.inputs):
            if is_told(told) and grows(told):
                sizes[told] = math.prod(window[side] for side in told_sides(told, pattern.source))
        want = in_windows(
            pattern, self.local, self.sizes[node], window, lambda crops: self._recomputed(node, {**sizes, **crops})
        )
        _equal(self.local[node], want)
        yield not _close(want, self.values[node])

    def _statistics(self, position: Size, size: Size) -> Values:
        """Each statistic of the window around a position, by the module's own operations."""
        if (position, size) in self.statistics:
            return self.statistics[position, size]
        known = self.statistics[position, size] = {}
        for node, pattern in self.plan.patterns.items():
            if isinstance(pattern, Pooling) and self.sizes[node] == size:
                maps = {**self._given(node), **known}
                crops = {x: self._crop(node, x, self._recomputed(x, maps), position)[1] for x in pattern.summed}
                known[node] = self._recomputed(node, {**self._cropped_sizes(node), **crops})
        return known

    def _given(self, node: fx.Node) -> Values:
        """The maps that are made outside of the module inside that a node is part of."""
        own = node.meta["runs"]
        return {x: value for x, value in self.local.items() if x.meta["runs"][: len(own)] != own}

    def _cropped_sizes(self, node: fx.Node) -> dict[fx.Node, int]:
        """The rows, columns and pixels that the forward asks of maps as large as the one that is cropped, or is told of it."""
        known, pattern, own = {}, self.plan.patterns[node], self.sizes[node]
        sides, window = getattr(pattern, "sides", (0, 1)), self.windows[node]
        pairs = [*zip(*sizes_of(pattern.source), strict=True)]
        numbers = {(pairs[side], own[side]): window[side] for side in sides}
        if len(sides) == 2:
            numbers[tuple(map(math.prod, zip(*pairs, strict=True))), math.prod(own)] = math.prod(window)
        for other in self.plan.graph.nodes:
            if type(self.values.get(other)) is int and grows(other):
                told = (tuple(other.meta["values"]), self.values[other])
                known.update({other: numbers[told]} if told in numbers else {})
            if other.op != "call_method" or other.target != "size" or other.args[1] not in growing_dims(other.args[0]):
                continue
            dims, shape = growing_dims(other.args[0]), self.values[other.args[0]].shape
            if len(dims) == 2 and tuple(shape[dim] for dim in dims) == own and dims.index(other.args[1]) in sides:
                known[other] = window[dims.index(other.args[1])]
            elif len(dims) == 1 and len(sides) == 2 and not shape[dims[0]] % math.prod(own):
                known[other] = shape[dims[0]] // math.prod(own) * math.prod(window)
        return known

    def _crop(self, node: fx.Node, source: fx.Node, full: Tensor, position: Size) -> tuple[Size, Tensor]:
        """The window around a position: where it starts, and what a map holds there, or a flattened one."""
        pattern, starts, dims = self.plan.patterns[node], [], map_dims(source)
        if dims is None:
            (pixels,) = growing_dims(source)
            full, dims = full.unflatten(pixels, self.sizes[node]), (pixels, pixels + 1)
        for side, (dim, size, window, place) in enumerate(
            zip(dims, self.sizes[node], self.windows[node], position, strict=True)
        ):
            if side not in getattr(pattern, "sides", (0, 1)):
                continue
            count = size - window + 1  # windows inside the map; the others repeat the outermost
            starts.append(min(max(place - (size - count) // 2, 0), count - 1))
            full = full.narrow(dim, starts[-1], window)
        return tuple(starts), (full if map_dims(source) else full.flatten(*dims)).contiguous()

    def _recomputed(self, node: fx.Node, known: Values) -> object:
        """The value of a node when some others have the `known` values."""
        before, queue = set(), [node]
        while queue:
            other = queue.pop()
            if other not in before and other not in known:
                before.add(other)
                queue += other.all_input_nodes
        found = {}  # of the nodes that the known ones make a difference to

        def value(other: fx.Node) -> object:
            return next((values[other] for values in (found, known) if other in values), self.values.get(other))

        for other in sorted(before, key=self.order.__getitem__):
            if any(x in found or x in known for x in other.all_input_nodes):
                found[other] = self.run.operation(other, value)
        return value(node)


def _random_parameter(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Weights of either sign, scaled by their fan-in; vectors, such as variances, around one."""
    if not tensor.is_floating_point():
        return torch.zeros(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else tensor.detach().clone().cpu()
    made = torch.empty(tensor.shape, dtype=torch.float64)
    if tensor.ndim > 1 and tensor.shape[1:].numel() > 1:
        return made.normal_(0, tensor.shape[1:].numel() ** -0.5, generator=generator)
    return made.uniform_(0.5, 1.5, generator=generator)


def _positions(size: Size, most: int = 0) -> list[Size]:
    """Corners, the centre, and what lies between; and up to `most` others, spread evenly."""
    rows, columns = ({0, n // 3, n // 2, n - 1} for n in size)
    spread = range(0, size[0] * size[1], -(-size[0] * size[1] // most)) if most else ()
    return [
        *[divmod(index, size[1]) for index in spread],
        *[(row, column) for row in sorted(rows) for column in sorted(columns)][::3],
        (size[0] - 1, size[1] - 1),
    ]


def _pixel(x: Tensor, dims: Size, position: Size) -> Tensor:
    return x.select(dims[1], position[1]).select(dims[0], position[0])


def _close(a: Tensor, b: Tensor) -> bool:
    if not _is_continuous(a):  # what a comparison makes
        return torch.equal(a, b)
    return a.shape == b.shape and bool(((a - b).abs() <= _TOLERANCE * b.abs().max().clamp(min=1e-300)).all())


def _is_continuous(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def _equal(got: Tensor, want: Tensor) -> None:
    if not _close(got, want):
        raise Declined("where its statistics build on one another, or on other positions, the local form is another")


def _same(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return _close(a, b)
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b
