"""The dry run: which modules see maps of which size, and which operations look at the whole map."""

import sys
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from basicsr.tlc.functional import Size

# Views that pick a fixed part of a map: their output does not grow with it, but nothing is aggregated.
_PICKS = {"select", "slice", "index", "narrow", "split", "split_with_sizes", "unbind", "as_strided", "slice_backward"}


@dataclass(frozen=True)
class GlobalOp:
    path: str  # the module that performs it
    name: str  # the operation, such as 'mean'
    where: str  # source file and line


def probe(
    net: nn.Module, train_size: tuple[int, ...], modules: set[nn.Module]
) -> tuple[dict[nn.Module, set[Size]], list[GlobalOp]]:
    """Run the net on the meta device at `train_size` (N, C, H, W) and at twice its height and width.

    Returns:
        For each of `modules` the (h, w) of its inputs at train_size; and the global operations.

    Raises:
        ValueError: the net's forward fails, with its reason.
    """
    n, c, h, w = train_size
    small, large = _Recorder(net, modules), _Recorder(net, modules)
    small.run((n, c, h, w))
    large.run((n, c, 2 * h, 2 * w), compare_with=small.shapes)
    return small.sizes, large.global_ops


class _Recorder(TorchDispatchMode):
    def __init__(self, net: nn.Module, modules: set[nn.Module]) -> None:
        super().__init__()
        self.net = net
        self.sizes: dict[nn.Module, set[Size]] = {module: set() for module in modules}
        self.shapes: dict[tuple, tuple] = {}  # (module, operation, how often before) -> shapes of inputs and outputs
        self.global_ops: list[GlobalOp] = []
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
        with torch.no_grad(), _eval_mode(self.net), self._watched():
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

            def enter(module: nn.Module, inputs: tuple, path: str = path) -> None:
                self._path.append(path)
                if module in self.sizes and inputs and isinstance(inputs[0], Tensor) and inputs[0].ndim >= 3:
                    self.sizes[module].add(tuple(inputs[0].shape[-2:]))

            def leave(module: nn.Module, inputs: tuple, output: object) -> None:
                self._path.pop()

            hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = self._shaped(function, args, kwargs or {})
        name = function.overloadpacket.__name__
        inputs = [tuple(x.shape) for x in _tensors(args)]
        outputs = [tuple(x.shape) for x in _tensors((out,))]
        place = (self._path[-1], name)
        key = (*place, self._count[place])
        self._count[place] += 1
        self.shapes[key] = (inputs, outputs)
        before = (self._compare_with or {}).get(key)
        if before and name not in _PICKS and _aggregates(before, (inputs, outputs)):
            self.global_ops.append(GlobalOp(self._path[-1], name, _source_line()))
        return out

    def _shaped(self, function, args: tuple, kwargs: dict):
        """The operation's output on meta. Blocks repeat, and PyTorch works out shapes slowly: each is worked out once."""
        key = None if function._schema.is_mutable else _signature((function, args, tuple(kwargs.items())))
        if key is None:
            return function(*args, **kwargs)
        if key not in self._known:
            out = function(*args, **kwargs)
            if not isinstance(out, Tensor):
                return out
            self._known[key] = (out.shape, out.stride(), out.dtype)
        shape, stride, dtype = self._known[key]
        return torch.empty_strided(shape, stride, dtype=dtype, device="meta")


def _signature(value: object) -> object:
    """A hashable stand-in for an operation's arguments: equal ones give outputs of equal shape."""
    if isinstance(value, Tensor):
        return (tuple(value.shape), value.stride(), value.dtype) if value.device.type == "meta" else None
    if isinstance(value, (tuple, list)):
        parts = tuple(_signature(part) for part in value)
        return None if any(part is None and v is not None for part, v in zip(parts, value, strict=True)) else parts
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
    torch_root = str(Path(torch.__file__).parent)
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file != __file__ and not file.startswith(torch_root):
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


@contextmanager
def _eval_mode(net: nn.Module):
    """eval() for the run, each module's own mode afterwards."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
