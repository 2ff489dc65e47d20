"""What torch.fx does not follow by itself: functions written in C++, those that make tensors of sizes, and those of einops."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import BuiltinFunctionType, ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

_FACTORIES = {getattr(torch, name) for name in ("zeros", "ones", "full", "empty", "arange", "eye", "linspace", "tensor")}
_EINOPS = ("rearrange", "reduce", "repeat", "einsum")
# In older PyTorch they refuse numbers that are being traced, such as sizes.
_WRITTEN_IN_CPP = [
    (place, name)
    for place in (torch, F, torch.fft, torch.linalg)
    for name, function in vars(place).items()
    if isinstance(function, BuiltinFunctionType) and not name.startswith(("_", "has_torch_function"))
]


def functions() -> list[tuple[ModuleType, str]]:
    """The functions that are nodes of a graph as a whole, and where their callers look for them."""
    einops = sys.modules.get("einops")
    places = [*_WRITTEN_IN_CPP, *((einops, name) for name in _EINOPS if hasattr(einops, name))]
    inner = getattr(einops, "einops", None)  # what the others call, whatever name a file knows them by
    return [*places, (inner, "reduce")] if hasattr(inner, "reduce") else places


@contextmanager
def followed(tracer: fx.Tracer) -> Iterator[None]:
    """Calls of these functions become nodes, but for those inside a node: `tracer.running`."""
    torch.overrides.get_overridable_functions()  # torch.fx asks for them, and they are kept: not those that are put in below
    found = [(place, name, getattr(place, name)) for place, name in functions()]
    for place, name, function in found:
        setattr(place, name, partial(_call, tracer, function))
    try:
        yield
    finally:
        for place, name, function in found:
            setattr(place, name, function)


def _call(tracer: fx.Tracer, function: Callable, *args: object, **kwargs: object) -> object:
    traced = function in _FACTORIES or any(isinstance(leaf, fx.Proxy) for leaf in tree_leaves((args, kwargs)))
    if tracer.running or not traced:
        return function(*args, **kwargs)
    return tracer.create_proxy("call_function", function, args, kwargs)


def channel_attention(
    query: fx.Proxy, key: fx.Proxy, value: fx.Proxy, attn_mask: object = None, dropout_p: float = 0.0, *, scale: object = None
) -> fx.Proxy | None:
    """F.scaled_dot_product_attention, step by step; None where it is between pixels, not channels.

    Raises:
        TypeError: it was given other options.
    """
    channels, pixels = (query.size(dim) for dim in (-2, -1))
    if not isinstance(pixels, fx.Proxy) or isinstance(channels, fx.Proxy):
        return None
    scores = query @ key.transpose(-2, -1) * (pixels**-0.5 if scale is None else scale)
    if isinstance(attn_mask, Tensor | fx.Proxy):
        dtype = attn_mask.node.meta["values"][0].dtype if isinstance(attn_mask, fx.Proxy) else attn_mask.dtype
        scores = scores.masked_fill(~attn_mask, -torch.inf) if dtype == torch.bool else scores + attn_mask
    return scores.softmax(-1) @ value


def assigned(x: Tensor, index: object, value: object) -> Tensor:
    """A copy of x in which x[index] = value."""
    out = x.clone()
    out[index] = value
    return out
