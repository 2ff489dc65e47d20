"""Rules: which class of module becomes local how. A registry, and the rules for PyTorch's own layers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from basicsr.tlc.local import Size
from basicsr.tlc.local.layers import LocalAvgPool2d, LocalGroupNorm, LocalInstanceNorm2d, LocalMaxPool2d
from basicsr.tlc.local.patches import SampledNorm, Sampler
from basicsr.tlc.published import is_pool


@dataclass(frozen=True)
class Site:
    """Where a rule is applied.

    Attributes:
        path: the module's name in the net.
        size: (h, w) of its input when the net sees a training patch.
        window: (k1, k2) of the local operation on that map.
        max_stride: caps of the published approximation's strides, or None for the exact operation.
        sampler: where norms get statistics of patches from, or None for those of windows.
        blended: whether windows of channel attention are to be blended, for `local_channel_attention(..., blended=...)`.
    """

    path: str
    size: Size
    window: Size
    max_stride: Size | None
    sampler: Sampler | None = None
    blended: bool = False


Function = Callable[[nn.Module, Site], "nn.Module | str"]


class Rule(NamedTuple):
    function: Function
    fast: bool  # it heeds `site.max_stride`
    blends: bool  # it heeds `site.blended`


_RULES: dict[type[nn.Module], Rule] = {}


def rule_for(module: nn.Module) -> Rule | None:
    """The rule of the nearest of the module's classes; where that is a layer of PyTorch, with PyTorch's own forward only."""
    kind = next((kind for kind in type(module).__mro__ if kind in _RULES), None)
    if kind is None:
        return _PUBLISHED_POOL if is_pool(module) else None
    if kind in _LAYERS and getattr(module.forward, "__func__", None) is not kind.forward:
        return None
    return _RULES[kind]


def is_layer(module: nn.Module) -> bool:
    """Whether its rule is one of those for PyTorch's own layers, or for the pool of the published TLC."""
    return rule_for(module) in [*(_RULES[kind] for kind in _LAYERS), _PUBLISHED_POOL]


def rule(kind: type[nn.Module], *, fast: bool = False, blends: bool = False) -> Callable[[Function], Function]:
    """Register how modules of class `kind` (and of its subclasses) become local. A function of the same name and
    module is replaced, as when a notebook's cell is run again.

    The decorated function takes the module and its Site, and returns the local module, which must hold the same parameters
    under the same names, or a sentence that says why this one is left alone. `fast`: it heeds `site.max_stride`; `blends`: it
    is channel attention, and heeds `site.blended`.

    >>> @rule(MyAttention)
    ... def local_attention(module, site):
    ...     return MyLocalAttention(module, window=site.window)
    """

    def register(function: Function) -> Function:
        known = _RULES[kind].function if kind in _RULES else function
        if any(getattr(known, name) != getattr(function, name) for name in ("__module__", "__qualname__")):
            raise ValueError(f"there is a rule for {kind.__name__} already: {known.__module__}.{known.__qualname__}")
        _RULES[kind] = Rule(function, fast, blends)
        return function

    return register


@rule(nn.AdaptiveAvgPool2d, fast=True)
def _average_pool(module: nn.AdaptiveAvgPool2d, site: Site) -> nn.Module | str:
    return _keeps_positions(module) or LocalAvgPool2d(site.window, site.max_stride)


@rule(nn.AdaptiveMaxPool2d)
def _max_pool(module: nn.AdaptiveMaxPool2d, site: Site) -> nn.Module | str:
    if module.return_indices:
        return "it returns positions in the map; leave out return_indices"
    return _keeps_positions(module) or LocalMaxPool2d(site.window)


def pools_strips(module: nn.Module) -> bool:
    """Whether it is a layer that pools each row, or each column, to one value: what is made of that decides how it is local."""
    pools = isinstance(module, (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)) and is_layer(module)
    return pools and module.output_size in ((None, 1), (1, None), [None, 1], [1, None])


def _keeps_positions(module: nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d) -> str:
    if module.output_size in (1, (1, 1), [1, 1]):
        return ""
    return f"it keeps {module.output_size} positions, so it is no global pooling; pool with a fixed kernel to be local"


@rule(nn.InstanceNorm2d, fast=True)
def instance_norm(module: nn.InstanceNorm2d, site: Site) -> nn.Module | str:
    if module.track_running_stats:
        return "it uses running statistics at test time, which do not depend on the image: nothing to do"
    if site.sampler:
        return SampledNorm(module, module.num_features, site.size, site.sampler)
    return LocalInstanceNorm2d(module, site.window, site.max_stride)


@rule(nn.GroupNorm, fast=True)
def _group_norm(module: nn.GroupNorm, site: Site) -> nn.Module:
    if site.sampler:
        return SampledNorm(module, module.num_groups, site.size, site.sampler)
    return LocalGroupNorm(module, site.window, site.max_stride)


def _published_pool(module: nn.Module, site: Site) -> nn.Module:
    return LocalAvgPool2d(site.window, site.max_stride, padded=module.auto_pad)


_LAYERS = frozenset(_RULES)
_PUBLISHED_POOL = Rule(_published_pool, fast=True, blends=False)
