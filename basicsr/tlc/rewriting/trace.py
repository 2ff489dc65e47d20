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
import operator
from collections import Counter
from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor, fx, nn

from basicsr.tlc.dryrun.calls import Call
from basicsr.tlc.dryrun.lines import asserting, source_line
from basicsr.tlc.dryrun.positions import follow, keeps_places
from basicsr.tlc.dryrun.shapes import Operation, Shapes, is_global
from basicsr.tlc.local import Size
from basicsr.tlc.rewriting.arguments import arguments, as_converted, differ, mapped
from basicsr.tlc.rewriting.declined import Declined
from basicsr.tlc.rewriting.following import assigned, followed, functions


def trace(module: nn.Module, calls: dict[nn.Module, tuple[list[Call], list[Call]]], inline: set[str]) -> fx.Graph:
    """The graph of `module.forward`. Modules inside stay calls, but for those named in `inline` and those around them.

    Args:
        calls: each module's arguments in both runs, on meta.

    Raises:
        Declined: torch.fx cannot follow the forward, or it is not the same for all its calls.
    """
    if "forward" in vars(module):
        raise Declined("its forward was replaced by hand")
    tracer = _Tracer(inline, arguments(module, calls[module]))
    root = meta_copy(module)
    before = {part: dict(vars(part)) for part in root.modules()}
    try:
        with torch.no_grad(), followed(tracer):
            graph = tracer.trace(root)
    except Declined:
        raise
    except Exception as error:
        raise Declined(f"torch.fx cannot follow its forward ({type(error).__name__}: {first_line(error)})") from error
    _in_order(graph, [*inspect.signature(module.forward).parameters])
    for node in reversed(graph.nodes):
        node.type = None
        if node.target is operator.getitem and not node.users:
            graph.erase_node(node)
        if node.op == "get_attr" and not _has(module, node.target):
            raise Declined("its forward uses a tensor that is no attribute of the module")
    for name, count in tracer.entered.items():
        part = module.get_submodule(name)
        if hooked(part):
            raise Declined(f"its {name} has hooks, which a rewritten forward would not call; remove them")
        if len(calls[part][0]) != count * len(calls[module][0]):
            raise Declined(f"its {name} also runs elsewhere; use a module of its own for each")
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
    return differ(*node.meta["values"])


def map_dims(node: object) -> Size | None:
    """Which dimensions of a map are its rows and columns. None when it is no map."""
    shapes = tensor_shapes(node) if isinstance(node, fx.Node) else None
    return rows_and_columns(*shapes) if shapes else None


def rows_and_columns(small: Sequence[int], large: Sequence[int]) -> Size | None:
    """The two dimensions of a tensor that grow with the image, given its shape at both sizes; None where these are not two."""
    dims = _growing(small, large)
    return dims if len(dims) == 2 and dims[0] > 0 else None


def growing_dims(node: fx.Node) -> tuple[int, ...]:
    """The dimensions of a tensor that are larger for a larger image."""
    shapes = tensor_shapes(node)
    return _growing(*shapes) if shapes else ()


def _growing(small: Sequence[int], large: Sequence[int]) -> tuple[int, ...]:
    return tuple(dim for dim, (a, b) in enumerate(zip(small, large, strict=True)) if a != b)


def _in_order(graph: fx.Graph, names: list[str]) -> None:
    """torch.fx has parameters that are given by name before `*args`; they must be behind."""
    nodes = [node for node in graph.nodes if node.op == "placeholder"]
    for node in sorted(nodes, key=lambda node: names.index(node.target.lstrip("*")), reverse=True):
        next(iter(graph.nodes)).prepend(node)


def _has(module: nn.Module, path: str) -> bool:
    parent, _, name = path.rpartition(".")
    return hasattr(module.get_submodule(parent), name)


def hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _changed(now: dict[str, object], before: dict[str, object]) -> bool:
    return now.keys() != before.keys() or any(now[name] is not value for name, value in before.items())


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:160]


def works_in_place(node: fx.Node) -> bool:
    """Whether it changes what it is given first: `x.add_(y)`, `torch.relu_(x)`, `F.relu(x, inplace=True)`."""
    name = _name_of_call(node)
    return (name.endswith("_") and not name.endswith("__")) or (bool(name) and node.kwargs.get("inplace") is True)


def _operation_name(node: fx.Node, root: nn.Module) -> str:
    if node.op == "call_module":
        return type(root.get_submodule(node.target)).__name__
    return _name_of_call(node)


def _name_of_call(node: fx.Node) -> str:
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

    def __len__(self) -> int:
        counts = set(map(len, self.node.meta["values"]))
        return counts.pop() if len(counts) == 1 else super().__len__()

    def __setitem__(self, index: object, value: object) -> None:
        """From here on the name stands for a copy; whether that is the same for all other names is found by `exact`."""
        if _is_all(index) and isinstance(value, _Proxy) and _are_alike(self.node, value.node):
            self.node = value.node
            return
        self.node = self.tracer.create_proxy("call_function", assigned, (self, index, value), {}).node

    def copy_(self, other: object, non_blocking: bool = False) -> "_Proxy":
        self[...] = other
        return self


def _is_all(index: object) -> bool:
    return all(part is ... or part == slice(None) for part in (index if isinstance(index, tuple) else (index,)))


def _are_alike(a: fx.Node, b: fx.Node) -> bool:
    """Whether tensors are of one shape and precision."""
    pairs = zip(a.meta["values"], b.meta["values"], strict=True)
    return all(isinstance(y, Tensor) and (x.shape, x.dtype) == (y.shape, y.dtype) for x, y in pairs)


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
        self.entered: Counter[str] = Counter()  # how often the forward of a module inside was followed
        self.modes = (_Operations(), _Operations())

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_proxy(self, kind: str, target: str | Callable, args: tuple, kwargs: dict, *others, **named) -> fx.Proxy:
        """What works in place is what its name stands for from there on, as after an assignment to a part of it."""
        if kwargs.get("out") is not None:
            raise Declined("its forward has results written into a tensor by out=; use what the function returns")
        proxy = super().create_proxy(kind, target, args, kwargs, *others, **named)
        if args and isinstance(args[0], _Proxy) and works_in_place(proxy.node):
            args[0].node = proxy.node
            return args[0]
        return proxy

    def create_args_for_root(self, root_fn: Callable, is_module: bool, concrete_args: None = None) -> tuple[Callable, list]:
        """Constants are themselves, and lists of tensors are lists, so that a forward may do with them what it likes."""
        function, (root, *proxies) = super().create_args_for_root(root_fn, is_module)
        return function, [root, *map(self._given, proxies)]

    def _given(self, proxy: fx.Proxy) -> object:
        values = proxy.node.meta["values"]
        if not isinstance(values[0], Tensor):
            known = mapped(values, lambda small, large, path: ... if isinstance(small, Tensor) else small)
            self.create_proxy("call_function", as_converted, (proxy, known, proxy.node.target.lstrip("*")), {})
        return self._taken_apart(proxy)

    def _taken_apart(self, proxy: fx.Proxy) -> object:
        def part(small: object, large: object, path: tuple) -> object:
            if small is None or (isinstance(small, (bool, int, float, str)) and not differ(small, large)):
                return small
            return reduce(operator.getitem, path, proxy)

        return mapped(proxy.node.meta["values"], part)

    def iter(self, obj: fx.Proxy):
        counts = {len(value) for value in obj.node.meta["values"] if not isinstance(value, Tensor) or value.ndim}
        return iter([obj[i] for i in range(counts.pop())]) if len(counts) == 1 else super().iter(obj)

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
        if self.running:
            return forward(*args, **kwargs)
        if not self.is_leaf_module(m, name := self.path_of_module(m)):
            self.entered[name] += 1
        out = super().call_module(m, forward, args, kwargs)
        return self._taken_apart(out) if isinstance(out, fx.Proxy) else out

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
            return self.inputs[node.target.lstrip("*")][index]
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
