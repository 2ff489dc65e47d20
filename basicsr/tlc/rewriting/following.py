"""What torch.fx does not follow by itself: functions that make tensors of sizes, those of einops, and assert statements."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, fx

_FACTORIES = ("zeros", "ones", "full", "empty", "arange", "eye", "linspace", "tensor")
_SPECTRA = [f"{way}fft{dims}" for way in ("", "i", "r", "ir", "h", "ih") for dims in ("", "2", "n")]
_EINOPS = ("rearrange", "reduce", "repeat", "einsum")


def functions() -> list[tuple[ModuleType, str]]:
    """The functions that are nodes of a graph as a whole, and where their callers look for them."""
    places = [(F, "avg_pool2d")]  # written in C++, it refuses a kernel size that is being traced, in older PyTorch
    places += [(torch.fft, name) for name in _SPECTRA]  # and they a size
    places += [(torch, name) for name in _FACTORIES]
    einops = sys.modules.get("einops")
    places += [(einops, name) for name in _EINOPS if hasattr(einops, name)]
    inner = getattr(einops, "einops", None)  # what the others call, whatever name a file knows them by
    return [*places, (inner, "reduce")] if hasattr(inner, "reduce") else places


@contextmanager
def followed(tracer: fx.Tracer) -> Iterator[None]:
    """Calls of these functions become nodes, but for those inside a node: `tracer.running`."""
    found = [(place, name, getattr(place, name)) for place, name in functions()]
    for place, name, function in found:
        setattr(place, name, _node_of(function, tracer))
    try:
        yield
    finally:
        for place, name, function in found:
            setattr(place, name, function)


def _node_of(function: Callable, tracer: fx.Tracer) -> Callable:
    @wraps(function)
    def call(*args: object, **kwargs: object) -> object:
        return function(*args, **kwargs) if tracer.running else tracer.create_proxy("call_function", function, args, kwargs)

    return call


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
