"""The converter: a dry run finds each layer's window, rules replace global layers by local ones, forwards that hold global
operations of their own are rewritten, a report tells what happened.

The layers' sizes come from a run of the net at the training patch's size on PyTorch's meta device, which costs neither
arithmetic nor memory. A second one at twice that size shows which other operations are global: those that aggregate over more
as the image grows.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from basicsr.tlc.forwards import localise_forwards
from basicsr.tlc.functional import Size
from basicsr.tlc.layers import LocalGroupNorm, LocalInstanceNorm2d
from basicsr.tlc.probe import Probe, local_paths, probe
from basicsr.tlc.report import ROOT, Converted, LeftAlone, Report, Scale, by
from basicsr.tlc.rules import Site, rule_for
from basicsr.tlc.sampled import SampledNorm, Sampler

_NOT_RUN = "it did not run in the dry run, so it has no window; nothing to do unless your own runs use it"
_NORMS = (LocalInstanceNorm2d.__name__, LocalGroupNorm.__name__)
_TOKENS = (
    "its input has no rows and columns, or no longer tells them apart; give a rule to the module around it that has the map"
)


def convert(
    net: nn.Module,
    *,
    train_size: tuple[int, int, int, int] = (1, 3, 256, 256),
    base_size: int | Size | None = None,
    fast_imp: bool = False,
    statistics: str = "window",
) -> nn.Module:
    """Make a trained net's global operations local, in place; parameters, buffers and state-dict keys stay the same.

    Modules whose class has a rule (`basicsr.tlc.rule`) are replaced. Of the others, those whose own forward computes a global
    statistic (a mean, sum, norm, variance over the map, with what follows on it), a functional instance or group norm, or
    attention between channels get a rewritten forward, when torch.fx can follow theirs and the rewritten one is found exact in
    float64. What is left alone is reported, with its line and the reason.

    Args:
        train_size: (N, C, H, W) of the patches the net was trained on.
        base_size: the window at the input's resolution, one number or (rows, columns); 1.5 times the patch when None.
        fast_imp: the published approximation of the box mean, for all but attention.
        statistics: of nn.InstanceNorm2d and nn.GroupNorm. 'window': of the window around each position. 'patches': of patches
            of the training size, which the net runs on before each image, interpolated between them; for nets whose norms see
            large maps, where windows do harm (see `basicsr.tlc.sampled`).

    Returns:
        The net, with `net.tlc_report` (a Report).

    Raises:
        ValueError: it was converted before; a bad size or option; statistics='patches' without a norm; a layer that sees maps
            of several sizes in one pass has no one window.
    """
    if hasattr(net, "tlc_report"):
        raise ValueError("the net was converted before; build it anew to convert it with other settings")
    if statistics not in ("window", "patches"):
        raise ValueError(f"statistics is {statistics!r}; it is 'window' or 'patches'")
    sampler = Sampler(tuple(train_size[2:])) if statistics == "patches" else None
    scale = Scale(*_sizes(train_size, base_size), fast_imp, sampler)
    names = _ruled(net)
    seen = probe(net, tuple(train_size), set(names))
    ruled = _apply_rules(names, seen, scale)
    done = [path for module in names if module not in ruled.unfit for path in names[module]]
    unfit = {names[module][0]: row for module, row in ruled.unfit.items()}
    forwards = localise_forwards(net, seen, scale, done, unfit)
    if sampler and not any(isinstance(local, SampledNorm) for _, local in ruled.replacements):
        raise ValueError("statistics='patches' is for nn.InstanceNorm2d and nn.GroupNorm, and the net has none; leave it out")
    for name, local in ruled.replacements:
        net = _replace(net, name, local)
    for module, forward in forwards.replacements:
        module.forward = forward
    if sampler:
        sampler.attach(net)
    converted = (*ruled.converted, *forwards.converted)
    if any(row.note for row in converted):
        warnings.warn(
            f"fast_imp has no effect on {sum(bool(row.note) for row in converted)} of {len(converted)} layers: "
            "there is no approximation of attention and of maxima, they are exact",
            stacklevel=2,
        )
    if risky := _sees_borders(net, converted, scale.train):
        warnings.warn(risky, stacklevel=2)
    net.tlc_report = Report(scale.train, scale.base, fast_imp, converted, (*ruled.left_alone, *forwards.left_alone))
    return net


def _sizes(train_size: tuple[int, ...], base_size: int | Size | None) -> tuple[Size, Size]:
    if not isinstance(train_size, (tuple, list)) or len(train_size) != 4 or min(train_size) < 1:
        raise ValueError(f"train_size is {train_size}; give the training patches' (N, C, H, W), such as (1, 3, 256, 256)")
    train = tuple(train_size[2:])
    if base_size is None:
        base = tuple(3 * t // 2 for t in train)
    else:
        base = (base_size, base_size) if isinstance(base_size, int) else tuple(base_size)
    if len(base) != 2 or min(base) < 1:
        raise ValueError(f"base_size is {base_size}; give the window as one positive number or as (rows, columns)")
    return train, base


def _ruled(net: nn.Module) -> dict[nn.Module, list[str]]:
    """The modules that have a rule, with all their names; not those of a part of the net that was converted before."""
    local, names = local_paths(net), {}
    for path, module in net.named_modules(remove_duplicate=False):
        if rule_for(module) and not any(path == other or path.startswith(other + ".") for other in local):
            names.setdefault(module, []).append(path)
    return names


@dataclass
class _Ruled:
    """What the rules made of the modules that have one."""

    converted: list[Converted] = field(default_factory=list)
    left_alone: list[LeftAlone] = field(default_factory=list)
    unfit: dict[nn.Module, LeftAlone] = field(default_factory=dict)  # the net cannot take a map in place of their output
    replacements: list[tuple[str, nn.Module]] = field(default_factory=list)


def _apply_rules(names: dict[nn.Module, list[str]], seen: Probe, scale: Scale) -> _Ruled:
    result, inside = _Ruled(), set()
    for module, (path, *_) in names.items():
        if module in inside:  # of a module that its own rule has dealt with
            continue
        kind, line = type(module).__name__, seen.lines.get(module, "")
        if module in seen.unfit:
            result.unfit[module] = LeftAlone(path or ROOT, kind, line, seen.unfit[module])
            continue
        local, size, window = _apply_rule(module, path, seen, scale)
        if isinstance(local, str):
            result.left_alone.append(LeftAlone(path or ROOT, kind, line, local))
            continue
        sampled = isinstance(local, SampledNorm)
        window = size if sampled else window
        exact = sampled or not rule_for(module).fast
        note = "fast_imp does not apply: exact" if scale.fast_imp and exact else ""
        result.converted.append(Converted(path or ROOT, kind, type(local).__name__, size, window, note))
        own = set(module.modules())
        for part in local.modules():
            if part not in own:  # layers that were taken over keep their mode
                part.training = module.training
        inside |= own
        result.replacements += [(name, local) for name in names[module]]
    return result


def _apply_rule(module: nn.Module, path: str, seen: Probe, scale: Scale) -> tuple[nn.Module | str, Size, Size]:
    """The local module, or why there is none; its map's size in training, and its window."""
    nothing = (0, 0)
    if not seen.sizes[module]:
        return _NOT_RUN, nothing, nothing
    if None in seen.sizes[module]:
        return _TOKENS, nothing, nothing
    rule, sizes = rule_for(module), sorted(seen.sizes[module])
    size, window = sizes[0], scale.window(sizes[0])
    max_stride = scale.max_stride(size) if rule.fast else None
    local = rule.function(module, Site(path, size, window, max_stride, scale.sampler))
    if len(sizes) > 1 and not isinstance(local, str):
        raise ValueError(
            f"{path or ROOT} ({type(module).__name__}) sees maps of {', '.join(map(by, sizes))} in one pass, "
            "so it has no one window; use a module of its own for each size"
        )
    return local, size, window


def _sees_borders(net: nn.Module, converted: Sequence[Converted], train: Size) -> str:
    """Why windows would do harm, or ''.

    Maps of the first layers are far from zero, so that the zeros around a training patch make much of its variance.
    """
    zeros = (m for m in net.modules() if isinstance(m, nn.Conv2d) and m.padding_mode == "zeros")
    large = [row.path for row in converted if row.after in _NORMS and 2 * row.size[0] >= train[0]]
    if not large or all(m.padding in ((0, 0), "valid") for m in zeros):
        return ""
    return (
        f"{len(large)} norms see maps of half the image's size or more, the first is {large[0]}: in training their statistics "
        "hold the zero-padded borders of the patches, which windows do not have, and such nets may lose decibels with TLC; "
        "compare with the plain net, and try statistics='patches'"
    )


def _replace(net: nn.Module, path: str, new: nn.Module) -> nn.Module:
    """Put `new` in the place called `path`; returns the net, which is `new` itself for the path ''."""
    if not path:
        return new
    parent, _, name = path.rpartition(".")
    net.get_submodule(parent)._modules[name] = new
    return net
