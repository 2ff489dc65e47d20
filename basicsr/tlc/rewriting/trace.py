"""One module's forward as a torch.fx graph that knows, for every value in it, what it is at both sizes of the dry run.

Each node's `meta` has
    values: its value at the training size and at the larger one: tensors on meta, numbers, tuples of them;
    operations: the names of the global operations that it performs;
    keeps: whether all that it does leaves each pixel where it is;
    line: the source file and line that wrote it;
    name: of the function, the method or the module's class; '' for what is no operation;
    path: of the module inside that performs it, '' for the traced one.
"""

import copy
import inspect
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from basicsr.tlc.dryrun.calls import Call
from basicsr.tlc.dryrun.lines import asserting, source_line
from basicsr.tlc.dryrun.positions import follow, keeps_places
from basicsr.tlc.dryrun.shapes import Operation, Shapes, is_global
from basicsr.tlc.local import Size
from basicsr.tlc.rewriting.following import assigned, followed, functions

_CONSTANTS = (type(None), bool, int, float, str)


class Declined(Exception):
    """Why a module is left as it is. `outward`: the module around it may know more."""

    def __init__(self, reason: str, outward: bool = False) -> None:
        super().__init__(reason)
        self.outward = outward


def trace(module: nn.Module, calls: tuple[list[Call], list[Call]], inline: set[str]) -> fx.Graph:
    """The graph of `module.forward`. Modules inside stay calls, but for those named in `inline` and those around them.

    Args:
        calls: the module's arguments in both runs, on meta.

    Raises:
        Declined: torch.fx cannot follow the forward, or it is not the same for all its calls.
    """
    if "forward" in vars(module):
        raise Declined("its forward was replaced by hand")
    inputs, constants = _arguments(module, calls)
    root = meta_copy(module)
    before = {part: dict(vars(part)) for part in root.modules()}
    tracer = _Tracer(inline, {**inputs, **{name: (value, value) for name, value in constants.items()}})
    try:
        with torch.no_grad(), followed(tracer):
            graph = tracer.trace(root, constants)
    except Exception as error:
        raise Declined(f"torch.fx cannot follow its forward ({type(error).__name__}: {first_line(error)})") from error
    for node in graph.nodes:
        if node.op == "placeholder":
            node.target = _parameter(node.target, constants)
            node.type = None
        if node.op == "get_attr" and not _has(module, node.target):
            raise Declined("its forward uses a tensor that is no attribute of the module")
    if any(_changed(vars(part), attributes) for part, attributes in before.items()):
        raise Declined("its forward stores values on the module")
    return graph


def meta_copy(module: nn.Module) -> nn.Module:
    return copied(module, lambda tensor: torch.empty_like(tensor, device="meta")).eval()


def copied(module: nn.Module, make: Callable[[Tensor], Tensor]) -> nn.Module:
    """A deep copy of a module in which every tensor is replaced by what `make` makes of it; nothing works in place."""
    tensors = [*module.parameters(), *module.buffers()]
    tensors += [value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor)]
    memo = {}
    for tensor in tensors:
        made = make(tensor)
        memo[id(tensor)] = nn.Parameter(made, requires_grad=False) if isinstance(tensor, nn.Parameter) else made
    try:
        twin = copy.deepcopy(module, memo)
    except Exception as error:
        raise Declined(f"it cannot be copied ({type(error).__name__}: {first_line(error)})") from error
    for part in twin.modules():
        if getattr(part, "inplace", False) is True:
            part.inplace = False
    return twin


def tensor_shapes(node: fx.Node) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """A tensor's shape at both sizes; None for other values."""
    small, large = node.meta["values"]
    if isinstance(small, Tensor) and isinstance(large, Tensor) and small.ndim == large.ndim:
        return tuple(small.shape), tuple(large.shape)
    return None


def grows(node: fx.Node) -> bool:
    """Whether the value depends on the image's size: a map, a number of pixels."""
    return _differ(*node.meta["values"])


def map_dims(node: object) -> Size | None:
    """Which dimensions of a map are its rows and columns: the two that grow with the image. None when it is no map."""
    dims = growing_dims(node) if isinstance(node, fx.Node) else ()
    return dims if len(dims) == 2 and dims[0] > 0 else None


def growing_dims(node: fx.Node) -> tuple[int, ...]:
    """The dimensions of a tensor that are larger for a larger image."""
    shapes = tensor_shapes(node)
    return tuple(dim for dim, (a, b) in enumerate(zip(*shapes, strict=True)) if a != b) if shapes else ()


def _differ(small: object, large: object) -> bool:
    if isinstance(small, Tensor) and isinstance(large, Tensor):
        return small.shape != large.shape
    if isinstance(small, (tuple, list)) and isinstance(large, (tuple, list)):
        return len(small) != len(large) or any(map(_differ, small, large))
    return type(small) is not type(large) or (isinstance(small, (int, float)) and small != large)


def _arguments(module: nn.Module, calls: tuple[list[Call], list[Call]]) -> tuple[dict[str, tuple], dict[str, object]]:
    """The forward's tensors, at both sizes, and its other arguments, by name."""
    small, large = ([_bound(module, call) for call in run] for run in calls)
    if len(small) != len(large) or not small:
        raise Declined("it does not run equally often for images of any size")
    for run in (small, large):
        if any(_differ(run[0].get(name, name), other.get(name, name)) for other in run for name in {*run[0], *other}):
            raise Declined("it sees maps of several sizes in one pass; use a module of its own for each")
    inputs, constants = {}, {}
    for name, value in small[0].items():
        other = large[0].get(name)
        if isinstance(value, Tensor) and isinstance(other, Tensor):
            inputs[name] = (value, other)
        elif isinstance(value, _CONSTANTS) and not _differ(value, other):
            constants[name] = value
        else:
            raise Declined(f"its argument {name} is neither one tensor nor a constant of any image size", outward=True)
    return inputs, constants


def _bound(module: nn.Module, call: Call) -> dict[str, object]:
    signature = inspect.signature(module.forward)
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in signature.parameters.values()):
        raise Declined("its forward takes *args or **kwargs", outward=True)
    bound = signature.bind(*call[0], **call[1])
    bound.apply_defaults()
    return dict(bound.arguments)


def _parameter(target: str, constants: dict[str, object]) -> str:
    """torch.fx calls the placeholder of a constant `name_1`."""
    return target.removesuffix("_1") if target.removesuffix("_1") in constants else target


def _has(module: nn.Module, path: str) -> bool:
    parent, _, name = path.rpartition(".")
    return hasattr(module.get_submodule(parent), name)


def _changed(now: dict[str, object], before: dict[str, object]) -> bool:
    return now.keys() != before.keys() or any(now[name] is not value for name, value in before.items())


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:160]


def _operation_name(node: fx.Node, root: nn.Module) -> str:
    if node.op == "call_module":
        return type(root.get_submodule(node.target)).__name__
    return {"call_function": getattr(node.target, "__name__", ""), "call_method": str(node.target)}.get(node.op, "")


class _Proxy(fx.Proxy):
    """A proxy whose number of dimensions is known, so that shapes can be taken apart. Sizes that are the same for images of any
    size, of channels and heads, are plain numbers; not those of the first dimension, which holds the batch."""

    @property
    def ndim(self) -> int:
        return self.node.meta["values"][0].ndim

    def dim(self) -> int:
        return self.ndim

    def size(self, dim: int | None = None) -> object:
        if dim is None:
            return tuple(self.size(i) for i in range(self.ndim))
        small, large = (value.shape[dim] for value in self.node.meta["values"])
        if small == large and (dim % self.ndim or self.node.op == "get_attr"):
            return small
        return self.tracer.create_proxy("call_method", "size", (self, dim % self.ndim), {})

    @property
    def shape(self) -> tuple:
        return self.size()

    def type(self, dtype: object = None) -> object:
        """Its name, which a forward may look into; that of the precision which the net has when it is converted."""
        if dtype is None:
            return self.node.meta["values"][0].type().replace("meta.", "")
        return self.tracer.create_proxy("call_method", "type", (self, dtype), {})

    def __setitem__(self, index: object, value: object) -> None:
        """From here on the name stands for a copy; whether that is the same for all other names is found by `exact`."""
        self.node = self.tracer.create_proxy("call_function", assigned, (self, index, value), {}).node


class _Operations(Shapes):
    """The operations of one node."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple] = []

    def saw(self, function, args: tuple, kwargs: dict, out: object, operation: Operation) -> None:
        follow(function, args, kwargs, out)
        self.seen.append((function, args, operation))


class _Tracer(fx.Tracer):
    """Traces, and runs each operation on meta as soon as it is traced."""

    def __init__(self, inline: set[str], inputs: dict[str, tuple]) -> None:
        super().__init__(autowrap_functions=tuple(getattr(place, name) for place, name in functions()))
        self.inline = inline
        self.inputs = inputs
        self.running = False
        self.modes = (_Operations(), _Operations())

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def iter(self, obj: fx.Proxy):
        values = obj.node.meta["values"][0]
        if isinstance(values, (tuple, list)):
            return iter([obj[i] for i in range(len(values))])
        return super().iter(obj)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """An assert that holds at both sizes is one for all; an `if` would keep one of its branches."""
        if asserting():
            with self.modes[0]:
                small, large = map(bool, obj.node.meta["values"])
            if small == large:
                return small
        return super().to_bool(obj)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        name = module_qualified_name
        if not any(inner == name or inner.startswith(name + ".") for inner in self.inline):
            return True
        return super().is_leaf_module(m, name)

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> object:
        return forward(*args, **kwargs) if self.running else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: object, parameter_proxy_cache: dict) -> object:
        return attr_val if self.running else super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_node(self, kind: str, *args, **kwargs) -> fx.Node:
        node = super().create_node(kind, *args, **kwargs)
        node.meta.update(line=source_line(), name=_operation_name(node, self.root), operations=[], path=self.scope.module_path)
        if kind == "output":
            return node
        self.running = True
        try:
            node.meta["values"] = tuple(self._run(node, index) for index in (0, 1))
        finally:
            self.running = False
        node.meta["keeps"] = all(keeps_places(function) for function, *_ in self.modes[1].seen)
        for (function, inputs, small), (_, _, large) in zip(*(mode.seen for mode in self.modes), strict=False):
            if is_global(function, inputs, small, large):
                node.meta["operations"].append(function.overloadpacket.__name__)
        return node

    def _run(self, node: fx.Node, index: int) -> object:
        mode = self.modes[index]
        mode.seen = []
        if node.op == "placeholder":
            return self.inputs[_parameter(node.target, self.inputs)][index]
        if node.op == "get_attr":
            parent, _, name = node.target.rpartition(".")
            return getattr(self.root.get_submodule(parent), name)
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda other: other.meta["values"][index])
        with mode:
            if node.op == "call_function":
                return node.target(*args, **kwargs)
            if node.op == "call_method":
                return getattr(args[0], node.target)(*args[1:], **kwargs)
            return self.root.get_submodule(node.target)(*args, **kwargs)
