"""The dry run: which modules see maps of which size, and which operations look at the whole map."""

import math
from collections import defaultdict
from collections.abc import Iterable
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from basicsr.tlc.dryrun.attributes import Attributes
from basicsr.tlc.dryrun.axes import is_placed, known, layout_of, on_meta, place_as
from basicsr.tlc.dryrun.calls import Call, as_it_is, first_map, local_paths
from basicsr.tlc.dryrun.failures import Failed, check, other_setup, why
from basicsr.tlc.dryrun.flow import Flow
from basicsr.tlc.dryrun.lines import asserting, source_line
from basicsr.tlc.dryrun.positions import follow
from basicsr.tlc.dryrun.running import Inputs, Setup, dry_run, shapes_of
from basicsr.tlc.dryrun.scales import combined, is_scaled, numbers_of, scaled
from basicsr.tlc.dryrun.seen import GRID, HANDED_OUT, GlobalOp, Probe
from basicsr.tlc.dryrun.shapes import VIEWS, Operation, is_global, leading, regrouped, tensors_in
from basicsr.tlc.dryrun.steps import Steps
from basicsr.tlc.dryrun.vectors import Vectors
from basicsr.tlc.local import Size

_RANDOM = {"rand", "rand_like", "randn", "randn_like", "randint", "randint_like", "randperm", "normal", "normal_functional"}
_RANDOM |= {"uniform", "bernoulli", "multinomial", "exponential", "poisson", "native_dropout", "log_normal", "geometric"}
_LOOP = 6  # repetitions, and half as many more for the larger image, are taken for a loop over the map


def probe(net: nn.Module, train_size: tuple[int, ...], modules: set[nn.Module], inputs: Inputs = (...,)) -> Probe:
    """Run the net on the meta device at `train_size` (N, C, H, W), and at twice its height and three times its width, which
    tells rows from columns; at twice both where the net does not take that. Watch `modules`.

    Raises:
        ValueError: the net's forward fails, with its reason.
    """
    check(net, inputs)
    setup = Setup(inputs)
    setup.arguments(torch.empty(train_size, device="meta"))  # fails here, not as the net does
    while True:
        try:
            small = _Recorder(net, modules, setup)
            small.run(train_size)
            large = _enlarged(net, train_size, small)
            break
        except Failed as failed:
            other = other_setup(failed, setup)
            if other is None:
                raise ValueError(why(net, train_size, failed, setup)) from failed.__cause__
            setup = other
    if large.doubtful():
        size = large.size
        large = _Recorder(net, modules, setup, follows=True)
        large.run(size, compare_with=small.operations)
    calls = {module: (small.calls[module], large.calls[module]) for module in small.calls}
    global_ops = [*large.global_ops, *large.loops(small), *large.branches(small)]
    if not small.places() <= large.places():
        global_ops += _left_out(net, train_size, large)
    return Probe(
        small.lines,
        large.unfit,
        calls,
        global_ops,
        small.outputs,
        small.known,
        {**large.values, **small.values},
        setup,
        *large.unused(),
        small.draws,
        large.stretched,
        small.taken,
        *large.scaled_modules(small),
        large.combined_layers(),
        (small.attributes, large.attributes),
    )


def _enlarged(net: nn.Module, size: tuple[int, ...], small: "_Recorder") -> "_Recorder":
    """The run at a larger size; one pixel beside multiples where a net wants that, as 33 and 65 are."""
    n, c, h, w = size
    failures = []
    for larger in ((2 * h, 3 * w), (2 * h, 2 * w), (2 * h - 1, 3 * w - 2)):
        large = _Recorder(net, small.modules, small.setup)
        try:
            large.run((n, c, *larger), compare_with=small.operations)
        except Failed as failed:
            failures.append(failed)
        else:
            return large
    raise failures[1]


def _left_out(net: nn.Module, size: tuple[int, ...], large: "_Recorder") -> list[GlobalOp]:
    """What the larger image did not meet, such as the branch of square images; run once more, to find the lines."""
    again = _Recorder(net, set(), large.setup)
    again.run(size, compare_with=large.operations)
    return again.branches(large)


class _Recorder(Steps):
    def __init__(self, net: nn.Module, modules: set[nn.Module], setup: Setup, follows: bool = False) -> None:
        super().__init__(stays=setup.stays)
        self.net = net
        self.modules = modules
        self._watched_paths = {path for path, module in net.named_modules() if module in modules}
        self.setup = setup
        self.values: dict[str, str] = {}
        self.draws: dict[str, str] = {}
        self.stretched: dict[str, tuple[str, Size]] = {}
        self._follows, self._flow = follows, Flow()
        self._numbers: dict[GlobalOp, list[int]] = defaultdict(list)  # in the flow
        self._performed: dict[str, list[int]] = defaultdict(list)  # by each module's path
        self._scaling: dict[tuple, tuple[int, str]] = {}  # operations by numbers that depend on the size, and their lines
        self._used: set[int] | None = None  # None: all
        self.lines: dict[nn.Module, str] = {}
        self.calls: dict[nn.Module, list[Call]] = {module: [] for module in net.modules()}
        self.attributes = Attributes(net)
        self.operations: dict[tuple, Operation] = {}  # by module, operation, how often before
        self.global_ops: list[GlobalOp] = []
        self.outputs: list[tuple[int, ...]] = []
        self._vectors = Vectors(self.calls, modules)
        self._count: dict[tuple, int] = defaultdict(int)
        self._more: dict[tuple, str] = {}  # where an operation is performed more often than in the run that is compared with
        self._aggregates: set[tuple] = set()  # those of them that aggregate
        self._merged: set[tuple] = set()  # the number of parts, and their total size in both runs
        self._grids: set[tuple] = set()  # the same of what was split
        self._path = [""]
        self._local = local_paths(net)
        self._compare_with: dict[tuple, Operation] | None = None

    @property
    def unfit(self) -> dict[nn.Module, str]:
        return self._vectors.unfit

    def run(self, size: tuple[int, ...], compare_with: dict[tuple, Operation] | None = None) -> None:
        self.size, self._compare_with = size, compare_with
        try:
            with self._watched():
                output = dry_run(self.net, size, self, self.setup)
        except Exception as error:
            stack = [type(self.net.get_submodule(path)) for path in reversed(self._path)]
            final = self.refused is error and not self.values
            reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:160]}"
            raise Failed(size, stack, final, reason) from error
        self.outputs, leaves = shapes_of(output), tree_leaves(output)
        known = all(isinstance(leaf, (Tensor, int, float, str, type(None))) for leaf in leaves)
        if self._follows and known and not self.setup.opaque:
            self._used = self._flow.used(leaves)
        if not isinstance(output, Tensor):  # a net that returns nothing else is itself a part of another
            for part in tensors_in(leaves):
                self._vectors.handed_out(part, HANDED_OUT)

    @contextmanager
    def _watched(self):
        """Hooks on every module: whose operation is running, and the size of the maps."""
        hooks = []
        for path, module in self.net.named_modules():

            def enter(module: nn.Module, args: tuple, kwargs: dict, path: str = path) -> None:
                self._path.append(path)
                if self.real:
                    args, kwargs = tree_map_only(Tensor, on_meta, (args, kwargs))
                self.calls[module].append((as_it_is(args), as_it_is(kwargs)))
                self.attributes.entered(module)
                if module in self.modules:
                    self.lines.setdefault(module, source_line())
                    self._vectors.entered(module)

            def leave(module: nn.Module, args: tuple, output: object) -> None:
                local, x = self._is_local(self._path.pop()), first_map(self.calls[module][-1])
                if isinstance(output, Tensor) and (local or (type(module) in self.setup.opaque and layout_of(output) is None)):
                    place_as(output, x)
                if isinstance(output, Tensor) and output.shape[-2:] == (1, 1):
                    self._vectors.returned(module, output)

            # The module's own hooks count as what follows on its output, but among the steps as its own.
            hooks.append(module.register_forward_pre_hook(lambda module, args: self.entered(module), prepend=True))
            hooks.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            hooks.append(module.register_forward_hook(leave, prepend=True))
            hooks.append(module.register_forward_hook(lambda *_: self.left()))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def asked(self, *values: object) -> None:
        self._flow.need(values)
        if not asserting():
            self.values.setdefault(self._path[-1], source_line())

    def saw(self, function, args: tuple, kwargs: dict, out: object, operation: Operation) -> None:
        if self._compare_with is not None:  # places and vectors are those of the larger image
            follow(function, args, kwargs, out)
            self._vectors.follow(function, args, kwargs, out)
        place = (self._path[-1], function.overloadpacket.__name__)
        key = (*place, self._count[place])
        self._count[place] += 1
        operation = operation._replace(numbers=numbers_of(function, args, kwargs, out))
        self.operations[key] = operation
        if self._compare_with is None:
            if place[1].rstrip("_") in _RANDOM:
                self.draws.setdefault(place[0], source_line())
            return
        number = self._flow.add(function, args, kwargs, out) if self._follows else 0
        self._performed[place[0]].append(number)
        before = self._compare_with.get(key)
        if before is not None and before.numbers != operation.numbers and is_scaled(args):
            self._scaling[key] = number, source_line()
        if before is None:
            self._more.setdefault(place, source_line())
            if max(operation.extents, default=1) > 1:
                self._aggregates.add(place)
        elif not self._is_local(self._path[-1]):
            if is_global(function, args, before, operation):
                self.global_ops.append(GlobalOp(*place, source_line()))
                self._numbers[self.global_ops[-1]].append(number)
            elif place[1] in VIEWS and self._splits(before, operation):
                self.global_ops.append(GlobalOp(place[0], GRID, source_line()))
            elif place[1].startswith("upsample") and before.inputs == operation.inputs and before.inputs[0][-2:] != (1, 1):
                if before.outputs != operation.outputs and not any(map(is_placed, known(args[0])[-2:])):
                    self.stretched.setdefault(place[0], (source_line(), operation.inputs[0][-2:]))
            elif place[1] == "cat":
                sizes = zip(before.inputs[0], before.outputs[0], operation.outputs[0], strict=False)
                self._merged |= {(len(before.inputs), (small, large)) for part, small, large in sizes if part != small}

    def _splits(self, small: Operation, large: Operation) -> bool:
        """Whether a view splits rows or columns into a fixed number of parts that grow with the image; not where these were put
        one behind the other before."""
        grids = False
        for inner, outer in regrouped(small, large):
            parts, before = leading(outer), leading(inner)
            total = math.prod(size for size, _ in inner), math.prod(size for _, size in inner)
            if (before, total) not in self._grids:  # else it puts together what was split so
                self._merged.add((before, total))
            if parts > before and not any(n % parts == 0 and t == total for n, t in self._merged):
                self._grids.add((parts, total))
                grids = True
        return grids

    def doubtful(self) -> bool:
        """Whether something is to be looked at more closely: what will be reported."""
        paths = {op.path for op in self.global_ops}
        return bool(self.modules.intersection(self.unfit) or self.stretched or self._scaling) or not all(
            map(self._is_watched, paths)
        )

    def _is_watched(self, path: str) -> bool:
        """Whether a module is a watched one, or inside such a one."""
        names = path.split(".")
        return any(".".join(names[:i]) in self._watched_paths for i in range(len(names) + 1))

    def scaled_modules(self, small: "_Recorder") -> tuple[dict[str, str], str]:
        """See Probe. Operations that are performed more often for larger images are others than those that they are compared
        with, and what a watched module does inside is its own."""
        numbers = {
            number: line
            for (path, name, _), (number, line) in self._scaling.items()
            if self._count[path, name] == small._count[path, name] and not self._is_watched(path)
        }
        return scaled(self._flow, numbers, self._performed)

    def combined_layers(self) -> dict[GlobalOp, set[str]]:
        """See Probe."""
        if not self._follows:
            return {}
        return combined(self._flow, {op: n for op, n in self._numbers.items() if not self._is_watched(op.path)}, self._layers())

    def _layers(self) -> dict[str, list[int]]:
        """The operations that watched modules perform."""
        found = defaultdict(list)
        for path, numbers in self._performed.items():
            for watched in self._watched_paths:
                if f"{path}.".startswith(f"{watched}."):
                    found[watched] += numbers
        return found

    def unused(self) -> tuple[set[GlobalOp], set[nn.Module]]:
        """Global operations, and watched modules that run, whose results reach no output."""
        if self._used is None:
            return set(), set()
        operations = {op for op, numbers in self._numbers.items() if not self._used.intersection(numbers)}
        running = {path: not self._used.isdisjoint(numbers) for path, numbers in self._performed.items()}
        modules = set()
        for path, module in self.net.named_modules():
            used = [own for name, own in running.items() if not path or f"{name}.".startswith(f"{path}.")]
            if module in self.modules and used and not any(used):
                modules.add(module)
        return operations, modules

    def loops(self, small: "_Recorder") -> list[GlobalOp]:
        """Operations that are performed as often as the map is large: what they add up is not seen."""
        longer = [
            place
            for place in self._more
            if place in small.places()
            and (place in self._aggregates or self._count[place] >= 1.5 * small._count[place] >= _LOOP)
        ]
        return self._more_than_before(longer, "loop")

    def branches(self, other: "_Recorder") -> list[GlobalOp]:
        """Operations that aggregate, and were performed in this run alone."""
        alone = [place for place in self._more if place in self._aggregates and place not in other.places()]
        return self._more_than_before(alone, "branch")

    def places(self) -> set[tuple]:
        """Modules, and operations that they perform."""
        return {key[:2] for key in self.operations}

    def _more_than_before(self, places: Iterable[tuple], what: str) -> list[GlobalOp]:
        return [
            GlobalOp(path, f"{name} in a {what}", self._more[path, name]) for path, name in places if not self._is_local(path)
        ]

    def _is_local(self, path: str) -> bool:
        """Whether it is a layer of a part that was converted before."""
        return any(path == local or path.startswith(local + ".") for local in self._local)
