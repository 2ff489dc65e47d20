"""The dry run: which modules see maps of which size, and which operations look at the whole map."""

import os
import sys
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from basicsr.tlc.functional import Size

# A fixed part of a map, or a fresh tensor: the output does not grow with the map, but nothing is aggregated.
_PICKS = {"select", "slice", "index", "narrow", "split", "split_with_sizes", "unbind", "as_strided"}
_PICKS |= {"new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided"}
_RESHAPES = {"view", "_unsafe_view", "squeeze"}


@dataclass(frozen=True)
class GlobalOp:
    path: str  # the module that performs it
    name: str  # the operation, such as 'mean'
    where: str  # source file and line; '' when no line of the net's own is involved


@dataclass(frozen=True)
class Probe:
    """What the dry run saw."""

    sizes: dict[nn.Module, set[Size]]  # (h, w) of each watched module's inputs at train_size
    flattened: set[nn.Module]  # watched modules whose 1x1 output is reshaped, so that a map would not fit in its place
    global_ops: list[GlobalOp]


def probe(net: nn.Module, train_size: tuple[int, ...], modules: set[nn.Module]) -> Probe:
    """Run the net on the meta device at `train_size` (N, C, H, W) and at twice its height and width; watch `modules`.

    Raises:
        ValueError: the net's forward fails, with its reason.
    """
    n, c, h, w = train_size
    small, large = _Recorder(net, modules), _Recorder(net, modules)
    small.run((n, c, h, w))
    large.run((n, c, 2 * h, 2 * w), compare_with=small.shapes)
    return Probe(small.sizes, small.flattened, large.global_ops)


class _Recorder(TorchDispatchMode):
    def __init__(self, net: nn.Module, modules: set[nn.Module]) -> None:
        super().__init__()
        self.net = net
        self.sizes: dict[nn.Module, set[Size]] = {module: set() for module in modules}
        self.shapes: dict[tuple, tuple] = {}  # (module, operation, how often before) -> shapes of inputs and outputs
        self.flattened: set[nn.Module] = set()
        self.global_ops: list[GlobalOp] = []
        self._pooled: dict[int, tuple[Tensor, nn.Module]] = {}  # by id; the tensor is kept, so that the id stays its own
        self._known: dict[object, tuple] = {}
        self._count: dict[tuple, int] = defaultdict(int)
        self._path = [""]
        self._compare_with: dict[tuple, tuple] | None = None

    def run(self, size: tuple[int, ...], compare_with: dict[tuple, tuple] | None = None) -> None:
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
        with torch.no_grad(), _left_as_found(self.net), self._watched():
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
                maps = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.ndim >= 3]
                if module in self.sizes and maps:
                    self.sizes[module].add(tuple(maps[0].shape[-2:]))

            def leave(module: nn.Module, args: tuple, output: object) -> None:
                self._path.pop()
                if module in self.sizes and isinstance(output, Tensor) and output.shape[-2:] == (1, 1):
                    self._pooled[id(output)] = (output, module)

            hooks += [module.register_forward_pre_hook(enter, with_kwargs=True), module.register_forward_hook(leave)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # True, the default, makes PyTorch import its compiler, which takes a second
        return False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        tensors = _tensors(args)
        if len({x.is_meta for x in tensors}) == 2:  # tensors that the net holds as plain attributes come along
            args = tree_map_only(Tensor, lambda x: x.to("meta"), args)
        out = self._shaped(function, args, kwargs or {})
        name = function.overloadpacket.__name__
        if name in _RESHAPES and id(args[0]) in self._pooled:
            self.flattened.add(self._pooled[id(args[0])][1])
        inputs = [tuple(x.shape) for x in tensors]
        outputs = [tuple(x.shape) for x in _tensors((out,))]
        place = (self._path[-1], name)
        key = (*place, self._count[place])
        self._count[place] += 1
        self.shapes[key] = (inputs, outputs)
        before = (self._compare_with or {}).get(key)
        inert = name in _PICKS or (name == "native_batch_norm" and not args[5])  # args[5]: training
        if before and not inert and _aggregates(before, (inputs, outputs)):
            self.global_ops.append(GlobalOp(self._path[-1], name, _source_line()))
        return out

    def _shaped(self, function, args: tuple, kwargs: dict):
        """The operation's output on meta. Blocks repeat, and PyTorch works out shapes slowly: each is worked out once."""
        key = None if function._schema.is_mutable else _signature((function, args, tuple(kwargs.items())))
        if key is None:
            return function(*args, **kwargs)
        if key not in self._known:
            out = _quick(function, args)
            if out is None:
                out = function(*args, **kwargs)
            parts = out if isinstance(out, (tuple, list)) else (out,)
            if not all(isinstance(part, Tensor) for part in parts):
                return out
            self._known[key] = [(part.shape, part.stride(), part.dtype) for part in parts], type(out)
        parts, kind = self._known[key]
        out = [torch.empty_strided(shape, stride, dtype=dtype, device="meta") for shape, stride, dtype in parts]
        return kind(out) if kind in (tuple, list) else out[0]


def _quick(function, args: tuple) -> Tensor | tuple[Tensor, ...] | None:
    """The output of the most common operations, or None. Their kernels for meta are written in Python, and the first that runs
    in a process imports PyTorch's compiler, which takes longer than all the rest of the dry run."""
    name = function.overloadpacket.__name__
    tensors = _tensors(args)
    dtype = reduce(torch.promote_types, [x.dtype for x in tensors]) if tensors else None
    if dtype is None or not dtype.is_floating_point:
        return None
    if torch.Tag.pointwise in function.tags and len(function._schema.returns) == 1:
        shapes = [torch.broadcast_shapes(*(x.shape for x in tensors))]
    elif name == "convolution":
        shapes = [_convolved(*args)]
    elif name == "native_layer_norm":
        normed = len(args[1])
        statistics = (*tensors[0].shape[:-normed], *[1] * normed)
        shapes = [tensors[0].shape, statistics, statistics]
    elif name == "cat" and all(x.ndim == tensors[0].ndim for x in tensors):
        dim = args[1] if len(args) > 1 else 0
        joined = list(tensors[0].shape)
        joined[dim] = sum(x.shape[dim] for x in tensors)
        shapes = [joined]
    elif name == "linalg_vector_norm" and len(args) == 4 and args[2] is not None:
        dims = {dim % tensors[0].ndim for dim in args[2]}
        sizes = [1 if dim in dims else size for dim, size in enumerate(tensors[0].shape)]
        shapes = [sizes if args[3] else [size for dim, size in enumerate(sizes) if dim not in dims]]
    else:
        return None
    made = tuple([torch.empty(shape, dtype=dtype, device="meta") for shape in shapes])
    return made if len(made) > 1 else made[0]


def _convolved(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups) -> tuple[int, ...]:
    """The output shape of aten.convolution, as the documentation of nn.Conv2d and nn.ConvTranspose2d gives it."""
    sizes = []
    for i, (size, kernel) in enumerate(zip(x.shape[2:], weight.shape[2:], strict=True)):
        s, p, reach = stride[i % len(stride)], padding[i % len(padding)], dilation[i % len(dilation)] * (kernel - 1)
        if transposed:
            sizes.append((size - 1) * s - 2 * p + reach + output_padding[i % len(output_padding)] + 1)
        else:
            sizes.append((size + 2 * p - reach - 1) // s + 1)
    if min(sizes) < 1 or x.shape[1] != weight.shape[0 if transposed else 1] * (1 if transposed else groups):
        raise RuntimeError(f"a convolution with weights of {tuple(weight.shape)} does not take maps of {tuple(x.shape)}")
    return (x.shape[0], weight.shape[1] * groups if transposed else weight.shape[0], *sizes)


def _signature(value: object) -> object:
    """A hashable stand-in for an operation's arguments: equal ones give outputs of equal shape. None: there is none."""
    if isinstance(value, Tensor):
        return (value.shape, value.stride(), value.dtype) if value.is_meta else None
    if isinstance(value, (tuple, list)):
        parts = tuple([_signature(part) for part in value])
        return None if None in parts else parts
    return (type(value), value)


def _aggregates(small: tuple[list, list], large: tuple[list, list]) -> bool:
    """Whether an input grew with the image, but some output did not."""
    return small[0] != large[0] and any(a == b and 0 not in a for a, b in zip(small[1], large[1], strict=False))


def _tensors(values: tuple) -> list[Tensor]:
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += _tensors(tuple(value))
    return found


def _source_line() -> str:
    """file:line of the innermost frame outside torch and this file."""
    torch_root = str(Path(torch.__file__).parent) + os.sep
    frame = sys._getframe(1)
    while frame is not None and frame.f_code is not _Recorder.run.__code__:
        file = frame.f_code.co_filename
        if file != __file__ and not file.startswith(torch_root):
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


@contextmanager
def _left_as_found(net: nn.Module):
    """eval() for the run; afterwards each module's attributes, its mode among them, are what they were."""
    found = {module: dict(vars(module)) for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, attributes in found.items():
            vars(module).clear()
            vars(module).update(attributes)
