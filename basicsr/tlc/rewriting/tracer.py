"""A torch.fx tracer that runs each operation on meta as soon as it is traced, at both sizes of the dry run."""

import operator
from collections import Counter
from collections.abc import Callable
from functools import reduce
from itertools import count

import torch
from torch import Tensor, fx, nn

from basicsr.tlc.dryrun.attributes import Pair
from basicsr.tlc.dryrun.lines import asserting, source_line
from basicsr.tlc.dryrun.positions import follow, keeps_places
from basicsr.tlc.dryrun.shapes import Operation, Shapes, is_global
from basicsr.tlc.rewriting.arguments import Held, Samples, as_converted, differ, mapped
from basicsr.tlc.rewriting.declined import Declined
from basicsr.tlc.rewriting.following import assigned, channel_attention, followed, functions

_NOTHING = object()


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
            self.node = value.clone().node  # what works in place on one of both leaves the other as it is
            return
        self.node = self.tracer.create_proxy("call_function", assigned, (self, index, value), {}).node

    def copy_(self, other: object, non_blocking: bool = False) -> "_Proxy":
        self[...] = other
        return self


def _is_all(index: object) -> bool:
    """Whether an index is of all elements."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is ... or (isinstance(part, slice) and part.start is part.stop is part.step is None) for part in parts)


def _are_alike(a: fx.Node, b: fx.Node) -> bool:
    """Whether tensors are of one shape and precision."""
    pairs = zip(a.meta["values"], b.meta["values"], strict=True)
    return all(isinstance(y, Tensor) and (x.shape, x.dtype) == (y.shape, y.dtype) for x, y in pairs)


def _is_constant(small: object, large: object) -> bool:
    same = isinstance(small, (bool, int, float, str)) and not differ(small, large)
    return small is None or (same and not isinstance(small, Samples))


class _Operations(Shapes):
    """The operations of one node."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple] = []

    def saw(self, function, args: tuple, kwargs: dict, out: object, operation: Operation) -> None:
        follow(function, args, kwargs, out)
        self.seen.append((function, args, operation))


class Traced(fx.Tracer):
    """Traces, and runs each operation on meta as soon as it is traced. Then `graph` is what was traced, to be added to."""

    def __init__(self, inline: set[str], inputs: dict[str, Pair], held: Held) -> None:
        super().__init__(autowrap_functions=tuple(getattr(place, name) for place, name in functions()))
        self.inline = inline
        self.inputs = inputs
        self.held = held
        self._placed: dict[str, object] = {}  # what stands in the attributes' places
        self.running = False
        self.entered: Counter[str] = Counter()  # how often the forward of a module inside was followed
        self._runs, self._count = (), count()  # those of modules inside that are going on, by their numbers
        self.modes = (_Operations(), _Operations())

    def followed(self, root: nn.Module) -> fx.Graph:
        """The graph of a module's forward, whose attributes are as before then, unless the forward itself has changed them."""
        before = {target: vars(part).get(name, _NOTHING) for target, part, name in self._holders(root)}
        with torch.no_grad(), followed(self):
            graph = self.trace(root)
        for target, part, name in self._holders(root):
            if vars(part).get(name) is self._placed.get(target, vars(part).get(name)):
                vars(part)[name] = before[target]
                if before[target] is _NOTHING:
                    del vars(part)[name]
        return graph

    def _holders(self, root: nn.Module) -> list[tuple[str, nn.Module, str]]:
        paths = [(target, *target.rpartition(".")[::2]) for target in self.held]
        return [(target, root.get_submodule(path), name) for target, path, name in paths]

    def follows(self, path: str) -> bool:
        """Whether the forward of the module of that name is part of what is traced."""
        return not path or any(inner == path or inner.startswith(path + ".") for inner in self.inline)

    def insert(self, before: fx.Node, function: Callable, *args: object) -> fx.Node:
        """A node more, right before another one, in the same place of the net."""
        return self._inserted(before, "call_function", function, args, {})

    def insert_method(self, before: fx.Node, method: str, *args: object) -> fx.Node:
        return self._inserted(before, "call_method", method, args, {})

    def insert_like(self, node: fx.Node, args: tuple, kwargs: dict) -> fx.Node:
        """A node that does what another one does, right before it, with other arguments."""
        return self._inserted(node, node.op, node.target, args, kwargs)

    def _inserted(self, before: fx.Node, *what: object) -> fx.Node:
        with self.graph.inserting_before(before), torch.no_grad():
            node = self.create_node(*what)
        node.meta.update({key: before.meta[key] for key in ("line", "path", "runs")})
        return node

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_proxy(self, kind: str, target: str | Callable, args: tuple, kwargs: dict, *others, **named) -> fx.Proxy:
        """What works in place is what its name stands for from there on, as after an assignment to a part of it."""
        if kwargs.get("out") is not None:
            raise Declined("its forward has results written into a tensor by out=; use what the function returns")
        attends = getattr(target, "__name__", "") == "scaled_dot_product_attention" and not self.running
        if attends and (made := channel_attention(*args, **kwargs)) is not None:
            return made
        proxy = super().create_proxy(kind, target, args, kwargs, *others, **named)
        if args and isinstance(args[0], _Proxy) and works_in_place(proxy.node):
            args[0].node = proxy.node
            return args[0]
        return proxy

    def create_args_for_root(self, root_fn: Callable, is_module: bool, concrete_args: None = None) -> tuple[Callable, list]:
        """Constants are themselves, and lists of tensors are lists, so that a forward may do with them what it likes; what it
        holds is traced, too."""
        function, (root, *proxies) = super().create_args_for_root(root_fn, is_module)
        for target, part, name in self._holders(root):
            if self.follows(target.rpartition(".")[0]):
                proxy = self.create_proxy("get_attr", target, (), {})
                found = mapped(self.held[target], lambda small, large, path, proxy=proxy: reduce(operator.getitem, path, proxy))
                vars(part)[name] = self._placed[target] = found
        return function, [root, *map(self._given, proxies)]

    def _given(self, proxy: fx.Proxy) -> object:
        values = proxy.node.meta["values"]
        if not isinstance(values[0], Tensor):
            known = mapped(values, lambda small, large, path: small if _is_constant(small, large) else ...)
            self.create_proxy("call_function", as_converted, (proxy, known, proxy.node.target.lstrip("*")), {})
        return self._taken_apart(proxy)

    def _taken_apart(self, proxy: fx.Proxy) -> object:
        def part(small: object, large: object, path: tuple) -> object:
            if _is_constant(small, large):
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
        return not self.follows(name) or super().is_leaf_module(m, name)

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> object:
        if self.running:
            return forward(*args, **kwargs)
        if not self.is_leaf_module(m, name := self.path_of_module(m)):
            self.entered[name] += 1
        before, self._runs = self._runs, (*self._runs, next(self._count))
        out = super().call_module(m, forward, args, kwargs)
        self._runs = before
        return self._taken_apart(out) if isinstance(out, fx.Proxy) else out

    def getattr(self, attr: str, attr_val: object, parameter_proxy_cache: dict) -> object:
        return attr_val if self.running else super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_node(self, kind: str, *args, **kwargs) -> fx.Node:
        node = super().create_node(kind, *args, **kwargs)
        node.meta.update(line=source_line(), name=_operation_name(node, self.root), operations=[], path=self.scope.module_path)
        node.meta["runs"] = self._runs
        if kind == "output":
            return node
        if kind == "call_module":
            node.meta["module"] = self.root.get_submodule(node.target)
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
            if node.target in self.held:
                return self.held[node.target][index]
            parent, _, name = node.target.rpartition(".")
            return getattr(self.root.get_submodule(parent), name)
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda other: other.meta["values"][index])
        with mode:
            if node.op == "call_function":
                return node.target(*args, **kwargs)
            if node.op == "call_method":
                return getattr(args[0], node.target)(*args[1:], **kwargs)
            for target, part, name in self._holders(self.root):
                if target not in self._placed:
                    vars(part)[name] = self.held[target][index]
            return self.root.get_submodule(node.target)(*args, **kwargs)
