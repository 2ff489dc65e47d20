"""The dry run: which modules see maps of which size, and which operations look at the whole map."""

import os
import sys
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from basicsr.tlc.functional import Size
from basicsr.tlc.report import ROOT
from basicsr.tlc.shapes import Operation, Shapes, is_global, tensors_in, worked_dims

_RESHAPES = {"view", "_unsafe_view", "_reshape_alias", "squeeze", "select"}

_LOOP = 6  # repetitions, and half as many more for the larger image, are taken for a loop over the map

Call = tuple[tuple, dict[str, object]]  # positional and keyword arguments


@dataclass(frozen=True)
class GlobalOp:
    path: str  # the module that performs it
    name: str  # the operation, such as 'mean'
    where: str  # source file and line; '' when no line of the net's own is involved


@dataclass(frozen=True)
class Probe:
    """What the dry run saw."""

    sizes: dict[nn.Module, set[Size | None]]  # (h, w) of each watched module's maps at train_size; None where it sees none
    lines: dict[nn.Module, str]  # source file and line that call a watched module
    unfit: dict[nn.Module, str]  # modules whose 1x1 output is used so that a map would not fit in its place, and how
    calls: dict[nn.Module, tuple[list[Call], list[Call]]]  # each module's arguments, on meta, in both runs
    global_ops: list[GlobalOp]


def probe(net: nn.Module, train_size: tuple[int, ...], modules: set[nn.Module]) -> Probe:
    """Run the net on the meta device at `train_size` (N, C, H, W) and at twice its height and width; watch `modules`.

    Raises:
        ValueError: the net's forward fails, with its reason.
    """
    n, c, h, w = train_size
    small, large = _Recorder(net, modules), _Recorder(net, modules)
    small.run((n, c, h, w))
    large.run((n, c, 2 * h, 2 * w), compare_with=small.operations)
    calls = {module: (small.calls[module], large.calls[module]) for module in small.calls}
    sizes = {module: _map_sizes(*calls[module]) for module in modules}
    return Probe(sizes, small.lines, large.unfit, calls, [*large.global_ops, *large.loops(small)])


def _map_sizes(small: list[Call], large: list[Call]) -> set[Size | None]:
    """(h, w) of the maps that a module is given: of the two dimensions that grow with the image, else of the last two.

    None: something else grows, such as the number of tokens in a sequence.
    """
    sizes = set()
    for call, larger in zip(small, large, strict=False):
        shape, other = _first_map(call), _first_map(larger)
        if shape is None or other is None or len(shape) != len(other):
            continue
        grown = [dim for dim, (a, b) in enumerate(zip(shape, other, strict=True)) if a != b]
        if len(grown) == 2:
            sizes.add((shape[grown[0]], shape[grown[1]]))
        elif grown in ([], [0]) or (len(shape) > 3 and grown[0] >= len(shape) - 2):
            sizes.add(tuple(shape[-2:]))
        else:
            sizes.add(None)
    return sizes


def _first_map(call: Call) -> tuple[int, ...] | None:
    args, kwargs = call
    return next((tuple(x.shape) for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.ndim >= 3), None)


class _Recorder(Shapes):
    def __init__(self, net: nn.Module, modules: set[nn.Module]) -> None:
        super().__init__()
        self.net = net
        self.modules = modules
        self.lines: dict[nn.Module, str] = {}
        self.unfit: dict[nn.Module, str] = {}
        self.calls: dict[nn.Module, list[Call]] = {module: [] for module in net.modules()}
        self.operations: dict[tuple, Operation] = {}  # by module, operation, how often before
        self.global_ops: list[GlobalOp] = []
        self._pooled: dict[int, tuple[Tensor, set[nn.Module]]] = {}  # by id; the tensor is kept, so that the id stays its own
        self._count: dict[tuple, int] = defaultdict(int)
        self._more: dict[tuple, str] = {}  # where an operation is performed more often than in the run that is compared with
        self._path = [""]
        self._local = local_paths(net)
        self._compare_with: dict[tuple, Operation] | None = None

    def run(self, size: tuple[int, ...], compare_with: dict[tuple, Operation] | None = None) -> None:
        self._compare_with = compare_with
        # Each module once, but each of its tensors, shared with other modules or not: functional_call replaces names.
        state = {
            f"{path}.{name}".lstrip("."): tensor
            for path, module in self.net.named_modules()
            for name, tensor in (*module._parameters.items(), *module._buffers.items())
            if tensor is not None
        }
        dtype = next((t.dtype for t in state.values() if t.is_floating_point()), torch.get_default_dtype())
        meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in state.items()}
        image = torch.empty(size, dtype=dtype, device="meta")
        with torch.no_grad(), left_as_found(self.net), self._watched():
            try:
                with self:
                    torch.func.functional_call(self.net, meta, (image,), tie_weights=False)
            except Exception as error:
                raise ValueError(
                    f"the dry run of {type(self.net).__name__} at train_size {size} failed ({type(error).__name__}: {error}); "
                    "give train_size as the (N, C, H, W) of its training patches"
                ) from error

    @contextmanager
    def _watched(self):
        """Hooks on every module: whose operation is running, and the size of the maps."""
        hooks = []
        for path, module in self.net.named_modules():

            def enter(module: nn.Module, args: tuple, kwargs: dict, path: str = path) -> None:
                self._path.append(path)
                self.calls[module].append((args, kwargs))
                if module in self.modules:
                    self.lines.setdefault(module, source_line())

            def leave(module: nn.Module, args: tuple, output: object) -> None:
                self._path.pop()
                if isinstance(output, Tensor) and output.shape[-2:] == (1, 1):
                    _, modules = self._pooled.get(id(output), (output, set()))
                    self._pooled[id(output)] = (output, modules | {module})

            hooks += [module.register_forward_pre_hook(enter, with_kwargs=True), module.register_forward_hook(leave)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def saw(self, function, args: tuple, kwargs: dict, out: object, operation: Operation) -> None:
        if self._pooled:
            self._follow(function, args, kwargs, out)
        place = (self._path[-1], function.overloadpacket.__name__)
        key = (*place, self._count[place])
        self._count[place] += 1
        self.operations[key] = operation
        if self._compare_with is not None and key not in self._compare_with:
            self._more.setdefault(place, source_line())
        before = (self._compare_with or {}).get(key)
        if before and is_global(function, args, before, operation) and not self._is_local(self._path[-1]):
            self.global_ops.append(GlobalOp(*place, source_line()))

    def loops(self, small: "_Recorder") -> list[GlobalOp]:
        """Operations that are performed as often as the map is large: what they add up is not seen."""
        longer = [place for place in self._more if self._count[place] >= 1.5 * small._count[place] >= _LOOP]
        return [
            GlobalOp(path, f"{name} in a loop", self._more[path, name]) for path, name in longer if not self._is_local(path)
        ]

    def _is_local(self, path: str) -> bool:
        """Whether it is a layer of a part that was converted before."""
        return any(path == local or path.startswith(local + ".") for local in self._local)

    def _follow(self, function, args: tuple, kwargs: dict, out: object) -> None:
        """What becomes of the modules' 1x1 outputs: a map must fit in their place, each position by itself."""
        inputs = tensors_in(args)
        modules = set().union(*(self._pooled[id(x)][1] for x in inputs if id(x) in self._pooled))
        if not modules:
            return
        name, how = function.overloadpacket.__name__, ""
        if name in _RESHAPES and id(args[0]) in self._pooled:
            how = "the net reshapes its 1x1 output to a vector; use 1x1 convolutions instead of nn.Linear after it"
        elif name == "convolution" and args[1].shape[2:].numel() > 1:
            how = "a convolution larger than 1x1 follows on its 1x1 output, and would mix positions; use a 1x1 convolution"
        elif any(dim >= inputs[0].ndim - 2 for dim in worked_dims(function, args, kwargs)):
            how = f"{name} follows on its 1x1 output, and would mix positions; leave it out"
        elif torch.Tag.pointwise in function.tags or name in ("expand", "repeat"):
            strangers = {module for module in modules if out.shape[-2:] not in {(1, 1), *self._map_sizes(module)}}
            if strangers:
                modules, how = strangers, "its 1x1 output meets a map of another size than its own; resize that map before"
        if how:
            for module in modules:
                self.unfit.setdefault(module, how)
            return
        for part in tensors_in((out,)):
            if part.shape[-2:] == (1, 1):
                self._pooled[id(part)] = (part, modules)

    def _map_sizes(self, module: nn.Module) -> set[tuple[int, ...]]:
        """(h, w) of the maps that a module was given."""
        shapes = map(_first_map, self.calls[module])
        return {shape[-2:] for shape in shapes if shape is not None}


def local_paths(net: nn.Module) -> set[str]:
    """The layers that `convert` made of parts of the net that it was given before."""
    parts = [(path, part.tlc_report) for path, part in net.named_modules() if hasattr(part, "tlc_report")]
    return {".".join(filter(None, (path, row.path.removeprefix(ROOT)))) for path, report in parts for row in report.converted}


def source_line() -> str:
    """file:line of the net's own code that is running: the innermost frame between this package's and torch's, or ''."""
    package, torch_root = str(Path(__file__).parent) + os.sep, str(Path(torch.__file__).parent) + os.sep
    frame, ours = sys._getframe(1), True
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(package):
            if not ours:
                break
        elif file.startswith(torch_root):
            ours = False
        else:
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


@contextmanager
def left_as_found(net: nn.Module):
    """eval() for the run; afterwards each module's attributes, its mode among them, are what they were."""
    found = {module: dict(vars(module)) for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, attributes in found.items():
            vars(module).clear()
            vars(module).update(attributes)
