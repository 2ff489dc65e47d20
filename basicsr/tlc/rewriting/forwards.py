"""Global operations that a module's own forward performs: which forwards are rewritten, and what is reported of the others."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from torch import fx, nn

from basicsr.tlc.dryrun.attributes import changed_in
from basicsr.tlc.dryrun.seen import GRID, HANDED_OUT, NOT_USED, GlobalOp, Probe
from basicsr.tlc.report import ROOT, Converted, LeftAlone, Scale
from basicsr.tlc.rewriting.arguments import Held, given
from basicsr.tlc.rewriting.exact import NO_DIFFERENCE, exact_form
from basicsr.tlc.rewriting.exchange import exchange
from basicsr.tlc.rewriting.inlining import is_torch, takers
from basicsr.tlc.rewriting.local_forward import Local
from basicsr.tlc.rewriting.mixtures import check_mixtures, takes_a_part
from basicsr.tlc.rewriting.patterns import ChannelAttention, Pattern, find
from basicsr.tlc.rewriting.patterns.reading import between
from basicsr.tlc.rewriting.pixels import give_rows_and_columns, let_meet_maps
from basicsr.tlc.rewriting.places import check_places
from basicsr.tlc.rewriting.rewrite import LEAVES, Plan, Windows, plan, rewritten
from basicsr.tlc.rewriting.trace import Declined, first_line, grows, hooked, map_dims, tensor_shapes, trace
from basicsr.tlc.rules import rule_for
from basicsr.tlc.selection import Selection

_GENERAL = "make it a module of its own and give it a rule (basicsr.tlc.rule)"
_POOLS = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d)
_ADVICE = (
    ("branch", "performed for images of some sizes only, and so seen at one; leave the choice to the caller"),
    ("grid", "its parts grow with the image, so that far pixels meet: name its module in in_windows, or give it a rule"),
    ("loop", "a loop as long as the map is large: name its module in in_windows, or give it a rule"),
    ("fft", "a transform of the whole map: name its module in in_windows, or give it a rule"),
    ("softmax", "attention over the whole map: name its module in in_windows, or give it a rule"),
    ("scaled_dot", "attention over the whole map: name its module in in_windows, or give it a rule"),
    ("max", "an extreme of the whole map: use a mean, or give its module a rule"),
    ("min", "an extreme of the whole map: use a mean, or give its module a rule"),
)


@dataclass
class Forwards:
    """What became of them."""

    converted: list[Converted] = field(default_factory=list)
    left_alone: list[LeftAlone] = field(default_factory=list)
    replacements: list[tuple[nn.Module, Local]] = field(default_factory=list)

    runs: Counter[str] = field(default_factory=Counter)  # of modules whose forwards have become a part of others, by path

    def take_in(self, runs: Counter[str], calls: dict[nn.Module, tuple], net: nn.Module) -> set[str]:
        """Count the runs of modules whose forwards have become a part of another's; those that run nowhere else have none of
        their own any more. Returns those that do."""
        self.runs += runs
        elsewhere = {path for path in runs if self.runs[path] < len(calls[net.get_submodule(path)][0])}
        modules = {net.get_submodule(path) for path in runs.keys() - elsewhere}
        self.converted = [row for row in self.converted if row.path not in runs or row.path in elsewhere]
        self.replacements = [pair for pair in self.replacements if pair[0] not in modules]
        return elsewhere


@dataclass
class _Work:
    """A module to be tried, and the reasons why those inside it were declined."""

    pools: set[str] = field(default_factory=set)  # global pooling layers in it whose output is used as a vector
    inline: set[str] = field(default_factory=set)  # modules in it whose forwards count as part of its own
    reason: str = ""


@dataclass
class _Kept:
    """The operations that are not selected, and why, by the module's path, the operation and the line."""

    selection: Selection
    reasons: dict[GlobalOp, str] = field(default_factory=dict)
    partly: dict[str, str] = field(default_factory=dict)  # why some of a module's forward is not selected, by its path

    def keeps(self, op: GlobalOp) -> bool:
        if reason := self.selection.left_out([(op.path, [op.name])]):
            self.reasons[op] = reason
        return bool(reason)

    def selected(self, path: str, found: dict[fx.Node, Pattern]) -> dict[fx.Node, Pattern]:
        """Of what was found in the forward of the module called `path`, what is selected."""
        selected = {}
        for node, pattern in found.items():
            own = [op for part in between(node, pattern.inputs) for op in _operations(part, path)]
            reason = self.selection.left_out([(_inner(path, node), [pattern.before]), *((op.path, [op.name]) for op in own)])
            if reason:
                self.reasons.update(dict.fromkeys(own, reason))
                self.partly[path] = reason
            else:
                selected[node] = pattern
        return selected


def localise_forwards(
    net: nn.Module, seen: Probe, scale: Scale, selection: Selection, done: list[str], unfit: dict[str, LeftAlone]
) -> Forwards:
    """Rewrite what can be, innermost modules first. Where one hands out its statistic as a vector, or no longer knows rows and
    columns, the module around it is tried with that one's forward as part of its own.

    Args:
        done: paths of modules that rules have dealt with.
        unfit: by path, layers that rules would have replaced, had the net not used their output as a vector.
    """
    result, work, kept = Forwards(), {}, _Kept(selection)
    operations = [op for op in seen.global_ops if not any(_inside(op.path, path) for path in done)]
    kept.reasons.update(dict.fromkeys(seen.unused, NOT_USED))
    for path in [*(op.path for op in operations if op not in seen.unused and not kept.keeps(op)), *unfit]:
        module = net.get_submodule(path)
        if isinstance(module, _POOLS) and (path in unfit or is_torch(module)):
            work.setdefault(_around(net, seen, path), _Work()).pools.add(path)
        elif path not in unfit and not is_torch(module):
            work.setdefault(path, _Work())
    context = _Context(net, seen, scale, kept, set().union(*(task.pools for task in work.values())))
    reasons = {}
    while work:
        path = max(work, key=lambda name: (name.count("."), bool(name)))
        task, module = work.pop(path), net.get_submodule(path)
        context.within[path] = task.inline
        try:
            found, fold, runs = _safely(context.local_form, path, task.inline)
        except Declined as declined:
            reason = _reason(task.reason, str(declined), path or ROOT)
            if reason and path in kept.partly:
                reason = f"{reason}; a part of it is {kept.partly[path]}"
            if not path and str(declined) == LEAVES:
                reason = HANDED_OUT
            reasons.update(dict.fromkeys({path, *task.inline, *task.pools}, reason))
            if (task.inline or task.pools) and any(op.path == path for op in operations):
                work[path] = _Work(reason=reason)  # its own operations alone
            elif declined.outward and path:
                outer = work.setdefault(_around(net, seen, path), _Work())
                outer.pools |= task.pools
                outer.inline |= {*task.inline, path}
                outer.reason = outer.reason or reason
            continue
        elsewhere = result.take_in(runs, seen.calls, net)
        done = _Done(path, found, runs.keys() - elsewhere, elsewhere)
        windows, rows = _windows(found, path or ROOT, type(module).__name__, scale)
        result.converted += rows
        result.replacements.append((module, Local(module, rewritten(found, windows, fold)[0], (row.window for row in rows))))
        left = [op for op in operations if op.name == GRID or op.path not in done]
        operations = left + _remaining(found, path)
        unfit = {name: row for name, row in unfit.items() if name not in done}
    for name, row in unfit.items():
        reason = reasons.get(name, "").removeprefix(f"{row.reason}; ")
        if reason not in ("", row.reason):
            row = replace(row, reason=reason if reason == HANDED_OUT else f"{row.reason} ({reason})")
        result.left_alone.append(row)
    left = [op for op in operations if not any(_inside(op.path, name) for name in unfit)]
    result.left_alone += _rows(left, reasons, kept.reasons)
    return result


@dataclass(frozen=True)
class _Context:
    """What is known of the net.

    Attributes:
        pools: global pooling layers whose output is used as a vector.
        within: by path, the modules whose forwards were counted as part of a module's own.
        exact: the forwards that were tried out before, and whether by folding.
    """

    net: nn.Module
    seen: Probe
    scale: Scale
    kept: _Kept
    pools: set[str]
    within: dict[str, set[str]] = field(default_factory=dict)
    exact: dict[tuple, bool] = field(default_factory=dict)

    def local_form(self, path: str, inline: set[str]) -> tuple[Plan, bool, Counter[str]]:
        """What of a module's forward becomes local, whether by folding, and how often it runs which modules whose forwards
        count as part of it: these, and those that are handed a statistic of its."""

        def relative(names: set[str]) -> set[str]:
            return {name[len(path) :].lstrip(".") for name in names if _inside(name, path)}

        module, pools = self.net.get_submodule(path), relative(self.pools)
        traced = trace(module, self.seen.calls, changed_in(module, *self.seen.attributes), relative(inline))
        exchange(traced)
        graph = traced.graph
        called = {node.target for node in graph.nodes if node.op == "call_module"}
        if any(hooked(module.get_submodule(name)) for name in called & pools):
            raise Declined("its pooling has hooks, which a rewritten forward would not call; remove them")
        give_rows_and_columns(traced, pools)
        selected = self.kept.selected(path, find(graph, pools, self.scale.blended))
        names = {f"{path}.{name}".lstrip(".") for name in takers(module, graph, selected)}
        deeper = ""
        if names:
            try:
                return _safely(self.local_form, path, inline.union(names, *(self.within.get(name, ()) for name in names)))
            except Declined as declined:
                deeper = str(declined)
        try:
            let_meet_maps(traced, selected)
            found = plan(graph, selected)
            check_places(found, inside=bool(path))
            check_mixtures(found, _staying(module, graph, path, self.kept.selection), path, self.seen)
            if found.leaves and module in self.seen.unfit:
                raise Declined(self.seen.unfit[module], outward=True)
            own = len(self.seen.calls[module][0])
            runs = Counter({f"{path}.{name}".lstrip("."): count * own for name, count in traced.entered.items()})
            return found, self._exact_form(module, found, traced.held), runs
        except Declined as declined:  # where pixels are a sequence, the module around it may have the map
            sequences = any(grows(node) and map_dims(node) is None for node in given(graph))
            raise Declined(deeper or str(declined), declined.outward or sequences) from None

    def _exact_form(self, module: nn.Module, found: Plan, held: Held) -> bool:
        shapes = tuple(tuple(tensor.shape) for tensor in (*module.parameters(), *module.buffers()))
        nodes, inputs = (node.name for node in found.patterns), map(tensor_shapes, given(found.graph))
        key = (type(module), str(module), str(found.graph), tuple(nodes), shapes, tuple(inputs))
        if key not in self.exact:
            self.exact[key] = exact_form(module, found, held)
        return self.exact[key]


def _staying(module: nn.Module, graph: fx.Graph, path: str, selection: Selection) -> list[fx.Node]:
    """The nodes that look at the whole map, or at a part of fixed size, and stay so: not by the user's wish, nor in a module
    that is dealt with itself."""
    nodes = []
    for node in graph.nodes:
        if node.op == "call_module":
            part = module.get_submodule(node.target)
            if rule_for(part) or not is_torch(part):
                continue
        operations = _operations(node, path)
        if any(not selection.left_out([(op.path, [op.name])]) for op in operations) or (not operations and takes_a_part(node)):
            nodes.append(node)
    return nodes


def _safely(function: Callable, *args: object) -> object:
    """What is not understood is declined: a user's forward may do anything, and must never make a conversion fail."""
    try:
        return function(*args)
    except Declined:
        raise
    except Exception as error:
        raise Declined(f"it cannot be tried out ({type(error).__name__}: {first_line(error)})") from error


def _reason(inner: str, own: str, path: str) -> str:
    """Why a module is left as it is, where one inside has handed out its statistic."""
    if not inner or not own or inner == own:
        return inner or own
    return f"{inner}; in {path}: {own}"


def _windows(found: Plan, path: str, kind: str, scale: Scale) -> tuple[Windows, list[Converted]]:
    """The window of each replaced operation, from its map in training; and the report's rows."""
    windows, rows = {}, []
    for node, pattern in found.patterns.items():
        shape = tensor_shapes(pattern.source)[0]
        size = tuple(shape[dim] for dim in map_dims(pattern.source))
        windows[node] = (scale.window(size), scale.max_stride(size) if pattern.fast else None)
        note = scale.note(fast=pattern.fast, blends=isinstance(pattern, ChannelAttention))
        rows.append(Converted(path, f"{kind}: {pattern.before}", pattern.after, size, windows[node][0], note))
    return windows, rows


@dataclass(frozen=True)
class _Done:
    """The modules that have no global operations of their own any more, by path.

    Attributes:
        path, found: of the one whose forward was rewritten.
        within: those whose forwards are part of it; elsewhere: those of them that run elsewhere, too.
    """

    path: str
    found: Plan
    within: set[str]
    elsewhere: set[str]

    def __contains__(self, name: str) -> bool:
        if name == self.path or name in self.within:
            return True
        calls = (node for node in self.found.graph.nodes if node.op == "call_module" and node not in self.found.live)
        unused = any(_inside(name, f"{self.path}.{node.target}".lstrip(".")) for node in calls)
        return unused and not any(_inside(name, other) for other in self.elsewhere)


def _remaining(found: Plan, path: str) -> list[GlobalOp]:
    """The global operations that a rewritten forward still performs; those of layers that it calls are theirs."""
    nodes = [node for node in found.graph.nodes if node in found.live and node.op != "call_module"]
    return [op for node in nodes for op in _operations(node, path)]


def _operations(node: fx.Node, path: str) -> list[GlobalOp]:
    """The global operations of a node in the forward of the module called `path`."""
    return [GlobalOp(_inner(path, node), name, node.meta["line"]) for name in node.meta.get("operations", ())]


def _inner(path: str, node: fx.Node) -> str:
    """The path of the module that performs a node."""
    return f"{path}.{node.meta['path']}".strip(".")


def _rows(operations: Iterable[GlobalOp], reasons: dict[str, str], kept: dict[GlobalOp, str]) -> list[LeftAlone]:
    """Each place once, but apart what is kept there and what is not."""
    rows = {}
    for op in operations:
        if op in kept:
            rows.setdefault((op.path, op.where, kept[op]), LeftAlone(op.path or ROOT, op.name, op.where, kept[op]))
            continue
        advice = next((text for word, text in _ADVICE if word in op.name), _GENERAL)
        reason = reasons.get(op.path, "")
        if reason not in (HANDED_OUT, NO_DIFFERENCE):
            reason = f"{reason}; {advice}" if reason else advice
        rows.setdefault((op.path, op.where), LeftAlone(op.path or ROOT, op.name, op.where, reason))
    return list(rows.values())


def _around(net: nn.Module, seen: Probe, path: str) -> str:
    """The nearest module around one that has a forward of the net's own, or is a sequence."""
    while path:
        path = path.rpartition(".")[0]
        module = net.get_submodule(path)
        if seen.calls[module][0] and not is_torch(module):
            break
    return path


def _inside(name: str, path: str) -> bool:
    return not path or name == path or name.startswith(path + ".")
