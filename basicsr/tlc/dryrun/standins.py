"""What the dry run answers where a forward asks for values, of which there are none, or for another device than meta.

A number is 0, 0.5 or False, but True in an assert; a boolean mask selects all positions.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from basicsr.tlc.dryrun.lines import asserting


class Answer(NamedTuple):
    value: object


def answer(function, args: tuple, kwargs: dict) -> Answer | None:
    """The stand-in for what an operation on meta tensors would say of their values; None where it says nothing."""
    make = _ANSWERS.get(function)
    value = None if make is None else make(*args, **kwargs)
    return None if value is None else Answer(value)


def _number(x: Tensor) -> float | int | bool | complex:
    if x.dtype.is_complex:
        return complex(0.5)
    if x.dtype == torch.bool:
        return asserting()
    return 0.5 if x.dtype.is_floating_point else 0


def _indexed(x: Tensor, indices: list[Tensor | None]) -> Tensor | None:
    if not any(isinstance(index, Tensor) and index.dtype == torch.bool for index in indices):
        return None
    found = []
    for index in indices:
        if isinstance(index, Tensor) and index.dtype == torch.bool:
            found += _positions(index).unbind(1)
        else:
            found.append(index)
    return torch.ops.aten.index.Tensor(x, found)


def _positions(x: Tensor) -> Tensor:
    return torch.empty(x.numel(), x.ndim, dtype=torch.int64, device="meta")


def _selected(x: Tensor, mask: Tensor) -> Tensor:
    return x.new_empty(math.prod(max(sizes) for sizes in _aligned(x.shape, mask.shape)))


def _aligned(*shapes: torch.Size) -> list[tuple[int, ...]]:
    ndim = max(map(len, shapes))
    return list(zip(*((1,) * (ndim - len(shape)) + tuple(shape) for shape in shapes), strict=True))


_ANSWERS: dict[object, Callable] = {
    torch.ops.aten._local_scalar_dense.default: _number,
    torch.ops.aten.equal.default: lambda a, b: asserting(),
    torch.ops.aten.index.Tensor: _indexed,
    torch.ops.aten.nonzero.default: _positions,
    torch.ops.aten.masked_select.default: _selected,
}


class StayOn(TorchFunctionMode):
    """What a forward puts on other devices stays on `home`, meta or the CPU; what is on meta stays there in any case.

    Args:
        run: the run that is told which tensors a forward asks the values of, or None; not while its `real`.
    """

    def __init__(self, home: str, run: object = None) -> None:
        super().__init__()
        self.home, self.run = home, run

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.run is not None and self.run.real:
            return function(*args, **kwargs)
        if function in _MOVES and isinstance(args[0], Tensor):
            return self._moved(function, *args, **kwargs)
        if function is Tensor.tolist and args[0].is_meta:
            self.run.asked(args[0])
            return _listed(args[0], args[0].shape)
        if "device" in kwargs:
            kwargs = {**kwargs, "device": self._place(kwargs["device"], "cpu")}
        return function(*args, **kwargs)

    def _moved(self, function: Callable, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        cpu = "meta" if x.is_meta else "cpu"
        if function is not Tensor.to:
            return x.to(cpu if function is Tensor.cpu else self.home)
        if x.is_meta:
            args = tuple(other.dtype if isinstance(other, Tensor) else other for other in args)
        args = tuple(self._place(value, cpu) for value in args)
        if "device" in kwargs:
            kwargs["device"] = self._place(kwargs["device"], cpu)
        return x.to(*args, **kwargs)

    def _place(self, device: object, cpu: str) -> object:
        """A device, or else a value that is none: the CPU becomes `cpu`, others become `home`."""
        if isinstance(device, int) and not isinstance(device, bool):
            return self.home
        if not isinstance(device, (str, torch.device)):
            return device
        return cpu if torch.device(device).type == "cpu" else self.home


_MOVES = {Tensor.cuda, Tensor.cpu, Tensor.to}


class InDouble(TorchFunctionMode):
    """A forward that casts to another floating point type, as norms of half precision nets do, has float64 instead."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in _PRECISIONS:
            return args[0].double()
        if function in (Tensor.to, Tensor.type) or "dtype" in (kwargs or {}):
            args, kwargs = tree_map_only(torch.dtype, _double, (args, kwargs or {}))
        return function(*args, **(kwargs or {}))


_PRECISIONS = {Tensor.float, Tensor.half, Tensor.bfloat16}


def _double(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype.is_floating_point else dtype


def _listed(x: Tensor, shape: torch.Size) -> object:
    return [_listed(x, shape[1:]) for _ in range(shape[0])] if shape else _number(x)
