"""The converter: a dry run finds each layer's window, rules replace global layers by local ones, forwards that hold global
operations of their own are rewritten, a report tells what happened.

The layers' sizes come from a run of the net at the training patch's size on PyTorch's meta device, which costs neither
arithmetic nor memory. A second one at a larger size shows which other operations are global: those that aggregate over more
as the image grows.
"""

import difflib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from basicsr.tlc.dryrun.calls import cut_in_windows, local_paths, map_sizes, sees_image
from basicsr.tlc.dryrun.misfits import Replacement, misfits
from basicsr.tlc.dryrun.probe import probe
from basicsr.tlc.dryrun.running import Inputs, uncollected
from basicsr.tlc.dryrun.scales import COMBINED, SCALED
from basicsr.tlc.dryrun.seen import NOT_USED, GlobalOp, Probe
from basicsr.tlc.dryrun.unseen import unseen
from basicsr.tlc.dryrun.windowed import is_inside, windowed
from basicsr.tlc.local import Size
from basicsr.tlc.local.layers import LocalGroupNorm, LocalInstanceNorm2d
from basicsr.tlc.local.patches import SampledNorm, Sampler
from basicsr.tlc.published import FIRST_IMAGE, is_pool
from basicsr.tlc.report import ROOT, Converted, LeftAlone, Report, Scale, by
from basicsr.tlc.revert import Forward, attributes, changed, take_back
from basicsr.tlc.rewriting.forwards import localise_forwards
from basicsr.tlc.rewriting.mixing import forward_in_windows
from basicsr.tlc.rules import Site, is_layer, pools_strips, rule_for
from basicsr.tlc.selection import Selection
from basicsr.tlc.sizes import ImageSize, image_sizes, window_size

_NOT_RUN = "it did not run in the dry run, so it has no window; nothing to do unless your own runs use it"
_BRANCH = "it runs for images of some sizes only; leave the choice to the caller, and convert the modules inside"
_NORMS = (LocalInstanceNorm2d.__name__, LocalGroupNorm.__name__)
_NORMS += (
    "local instance_norm",
    "local group_norm",
    "local layer_norm",
    "local var",
    "local std",
)  # in rewritten forwards, also written by hand
_SAMPLED = (nn.InstanceNorm2d, nn.GroupNorm)
_NOT_BLENDED = "attention='blended' does not apply: its rule does not say blends=True"
_STRIPS = "it pools rows or columns by themselves; use its strip position by position, or give the module around it a rule"
_TOKENS = (
    "its input has no rows and columns, or no longer tells them apart; give a rule to the module around it that has the map"
)


@torch.inference_mode(False)  # in which operations are recorded as they are anywhere else
def convert(
    net: nn.Module,
    *,
    train_size: int | Sequence[int] = 256,
    base_size: int | Size | None = None,
    fast_imp: bool = False,
    statistics: str = "window",
    attention: str = "published",
    exclude: str | Sequence[str] = (),
    include: str | Sequence[str] | None = None,
    in_windows: str | Sequence[str] = (),
    inputs: Inputs = (...,),
) -> nn.Module:
    """Make a trained net's global operations local, in place; parameters, buffers and state-dict keys stay the same.

    Modules whose class has a rule (`basicsr.tlc.rule`) are replaced. Of the others, those whose own forward computes a global
    statistic (a mean, sum, norm, variance over the map, with what follows on it), a functional instance or group norm, or
    attention between channels get a rewritten forward, when torch.fx can follow theirs and the rewritten one is found exact in
    float64. What is left alone is reported, with its line and the reason.

    Args:
        train_size: of the patches the net was trained on: their side, (h, w) or (N, C, h, w). C where it is not given: see
            `basicsr.tlc.sizes`.
        base_size: the window at the input's resolution, one number or (rows, columns); 1.5 times the patch when None.
        fast_imp: the published approximation of the box mean, for all but attention.
        statistics: of nn.InstanceNorm2d and nn.GroupNorm. 'window': of the window around each position. 'patches': of patches
            of the training size, which the net runs on before each image, interpolated between them; for nets whose norms see
            large maps, where windows do harm (see `basicsr.tlc.local.patches`).
        attention: windows of attention between channels. 'published': they overlap little and leave straight edges where they
            meet. 'blended': twice as many along each side, which fade into one another (see `basicsr.tlc.local.attention`).
        exclude: patterns of what stays as it is, such as "SCM*", "*:InstanceNorm2d" or "fusion*:mean": of paths of modules,
            which take along what is in them, with a class or an operation behind a colon (see `basicsr.tlc.selection`).
        include: patterns of the only parts that become local; None for all. exclude wins over include.
        in_windows: patterns of what has no form position by position, attention over pixels, spectra, scans, grids that grow:
            of the outermost modules that match, what mixes pixels runs in windows that cover the map, or all where that cannot
            be told from the rest. `attention` says which windows (see `basicsr.tlc.local.windows`).
        inputs: what the forward takes where that is more than the image: a function of the image, such as
            `lambda image: (image, vector)`, or a tuple in which `...` stands for the image.

    Returns:
        The net, with `net.tlc_report` (a Report). `basicsr.tlc.revert` undoes it.

    Raises:
        ValueError: it was converted before; a bad size or option; statistics='patches' without a norm, attention='blended'
            without channel attention; its forward fails at that size, or takes images of that size alone; a pattern that
            matches nothing global; a module of in_windows that cannot.
    """
    _check(net, statistics, attention)
    selection = Selection(net, exclude, include, in_windows)
    sizes = image_sizes(net, train_size)
    patch = sizes[0][2:]
    sampler = Sampler(patch) if statistics == "patches" else None
    scale = Scale(patch, window_size(base_size, patch), fast_imp, sampler, attention == "blended")
    replacements, forwards, converted, left_alone = _localised(net, sizes, scale, selection, inputs)
    if scale.blended:
        _check_blended(converted)
    net = changed(net, replacements, forwards, sampler)
    _warn(net, converted, scale)
    net.tlc_report = Report(scale.train, scale.base, fast_imp, converted, left_alone, attention, training=net.training)
    return net


@uncollected()
def _localised(
    net: nn.Module, sizes: Sequence[ImageSize], scale: Scale, selection: Selection, inputs: Inputs
) -> tuple[list[Replacement], list[tuple[nn.Module, Forward]], tuple[Converted, ...], tuple[LeftAlone, ...]]:
    """The local layers and forwards, what the report says of them, and what is to stay as it is; the net is not changed yet."""
    names = _ruled(net)
    size, seen = _dry_run(net, sizes, set(names), inputs)
    outer = windowed(net, seen, scale, selection)
    covered = [path for part in outer for path in part.names]
    names = {module: paths for module, paths in names.items() if not all(_is_in(path, covered) for path in paths)}
    ruled = _apply_rules(names, seen, scale, selection)
    _refuse_misfits(net, ruled, size, seen)
    done = covered + [path for module in names if module not in ruled.unfit for path in names[module]]
    unfit = {names[module][0]: row for module, row in ruled.unfit.items()}
    forwards = localise_forwards(net, seen, scale, selection, done, unfit)
    _refuse_combined(ruled, forwards.left_alone, seen, selection)
    selection.check()
    if scale.sampler:
        _check_sampled(module for module in names if not _left_out(type(module).__name__, names[module], seen, selection))
    local = [LeftAlone(path, type(net.get_submodule(path)).__name__, "", text) for path, text in cut_in_windows(net).items()]
    others = [row for row in (*local, *unseen(net, seen)) if not _is_in(row.path.removeprefix(ROOT), covered)]
    windows = [forward_in_windows(net, part, seen, scale) for part in outer]
    rows = (*(swap.row for swap in ruled.replacements), *forwards.converted, *(row for _, own in windows for row in own))
    replaced = [*forwards.replacements, *((part.module, forward) for part, (forward, _) in zip(outer, windows, strict=True))]
    return ruled.replacements, replaced, rows, (*ruled.left_alone, *forwards.left_alone, *others)


def _is_in(name: str, paths: Iterable[str]) -> bool:
    return any(is_inside(name, path) for path in paths)


def _dry_run(net: nn.Module, sizes: Sequence[ImageSize], watched: set[nn.Module], inputs: Inputs) -> tuple[ImageSize, Probe]:
    """The first of the sizes that the net takes, and what it makes of it; the first one's error when it takes none."""
    errors = []
    for size in sizes:
        try:
            return size, probe(net, size, watched, inputs)
        except ValueError as error:
            errors.append(error)
    raise errors[0]


def _check(net: nn.Module, statistics: object, attention: object) -> None:
    if hasattr(net, "tlc_report"):
        raise ValueError("the net was converted before; call basicsr.tlc.revert first to convert it with other settings")
    _check_word("statistics", statistics, ("window", "patches"))
    _check_word("attention", attention, ("published", "blended"))


def _check_word(name: str, value: object, words: Sequence[str]) -> None:
    if value not in words:
        near = difflib.get_close_matches(str(value), words, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"{name} is {value!r}{hint}; it is {' or '.join(map(repr, words))}")


def _check_sampled(modules: Iterable[nn.Module]) -> None:
    if not any(isinstance(module, _SAMPLED) for module in modules):
        raise ValueError(
            "statistics='patches' is for nn.InstanceNorm2d and nn.GroupNorm, and the net has none that is to become "
            "local; leave it out"
        )


def _check_blended(converted: Sequence[Converted]) -> None:
    if not any(row.note.startswith("blended") for row in converted):
        raise ValueError(
            "attention='blended' is for attention between channels, and the net has none that became local; leave it out, or "
            "give your attention a rule that says blends=True"
        )


def _warn(net: nn.Module, converted: Sequence[Converted], scale: Scale) -> None:
    if exact := sum("fast_imp" in row.note for row in converted):
        warnings.warn(
            f"fast_imp has no effect on {exact} of {len(converted)} layers: "
            "there is no approximation of attention, of maxima, of weighted means and of strips, they are exact",
            stacklevel=3,
        )
    if risky := _sees_borders(net, converted, scale.train):
        warnings.warn(risky, stacklevel=3)


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

    replacements: list[Replacement] = field(default_factory=list)
    left_alone: list[LeftAlone] = field(default_factory=list)
    unfit: dict[nn.Module, LeftAlone] = field(default_factory=dict)  # the net cannot take a map in place of their output


def _apply_rules(names: dict[nn.Module, list[str]], seen: Probe, scale: Scale, selection: Selection) -> _Ruled:
    result, inside = _Ruled(), set()
    for module, (path, *_) in names.items():
        if module in inside:  # of a module that its own rule has dealt with
            continue
        if is_layer(module) and all(seen.calls[module]) and not sees_image(seen.calls[module]):
            continue  # a layer inside windows of a fixed size
        kind, line = type(module).__name__, seen.lines.get(module, "")
        if reason := _left_out(kind, names[module], seen, selection):
            result.left_alone.append(LeftAlone(path or ROOT, kind, line, reason))
            inside |= set(module.modules())
            continue
        if module in seen.idle:
            result.left_alone.append(LeftAlone(path or ROOT, kind, line, NOT_USED))
            inside |= set(module.modules())
            continue
        if scaling := next((seen.scaled[name] for name in names[module] if name in seen.scaled), ""):
            result.left_alone.append(LeftAlone(path or ROOT, kind, line, SCALED.format(max(scaling))))
            continue
        if module in seen.unfit or (pools_strips(module) and all(seen.calls[module])):
            result.unfit[module] = LeftAlone(path or ROOT, kind, line, seen.unfit.get(module, _STRIPS))
            continue
        before = attributes(module)
        local, size, window = _apply_rule(module, path, seen, scale)
        if isinstance(local, str):
            take_back(before)
            result.left_alone.append(LeftAlone(path or ROOT, kind, line, local))
            continue
        sampled = isinstance(local, SampledNorm)
        window = size if sampled else window
        rule = rule_for(module)
        note = scale.note(fast=rule.fast and not sampled, blends=rule.blends)
        if is_pool(module) and module.base_size:
            note = f"{note}; {FIRST_IMAGE}".removeprefix("; ")
        if scale.blended and not (rule.blends or rule.fast or is_layer(module)):  # it may be attention
            note = f"{note}; {_NOT_BLENDED}".removeprefix("; ")
        row = Converted(path or ROOT, kind, type(local).__name__, size, window, note)
        own = set(module.modules())
        for part in local.modules():
            if part not in own:  # layers that were taken over keep their mode
                part.training = module.training
        inside |= own
        result.replacements.append(Replacement(names[module], module, local, row, before if local is module else None))
    return result


def _left_out(kind: str, names: list[str], seen: Probe, selection: Selection) -> str:
    """Why a module is not to be replaced, or '': itself, or something global in it, is not selected."""
    inside = [op for op in seen.global_ops if any(not name or f"{op.path}.".startswith(f"{name}.") for name in names)]
    return selection.left_out([*((name, (kind,)) for name in names), *((op.path, (op.name,)) for op in inside)])


def _refuse_misfits(net: nn.Module, ruled: _Ruled, train_size: ImageSize, seen: Probe) -> None:
    """Take back what the net does not take in the place of the global layer."""
    for swap, reason in misfits(net, ruled.replacements, train_size, seen):
        ruled.unfit[swap.module] = _take_back(ruled, swap, seen, reason)


def _refuse_combined(ruled: _Ruled, left_alone: list[LeftAlone], seen: Probe, selection: Selection) -> None:
    """Take back the layers that are combined with what stays global, other than by the user's wish."""
    for row in left_alone:
        op = GlobalOp(row.path.replace(ROOT, ""), row.operation, row.where)
        for swap in [swap for swap in ruled.replacements if not seen.combined.get(op, set()).isdisjoint(swap.names)]:
            if not selection.left_out([(op.path, [op.name])]):
                ruled.left_alone.append(_take_back(ruled, swap, seen, COMBINED.format(op.name, op.where)))


def _take_back(ruled: _Ruled, swap: Replacement, seen: Probe, reason: str) -> LeftAlone:
    ruled.replacements.remove(swap)
    if swap.before is not None:
        take_back(swap.before)
    return LeftAlone(swap.row.path, swap.row.before, seen.lines.get(swap.module, ""), reason)


def _apply_rule(module: nn.Module, path: str, seen: Probe, scale: Scale) -> tuple[nn.Module | str, Size, Size]:
    """The local module, or why there is none; its map's size in training, and its window."""
    nothing, calls = (0, 0), seen.calls[module]
    if not all(calls):
        return _BRANCH if any(calls) else _NOT_RUN, nothing, nothing
    ndims = None
    if is_layer(module):  # without a batch GroupNorm takes three dimensions for something else
        ndims = {4} if isinstance(module, nn.GroupNorm) else {3, 4}
    sizes = map_sizes(calls, ndims)
    if not sizes or None in sizes:
        return _TOKENS, nothing, nothing
    rule, (size, *others) = rule_for(module), sorted(sizes)
    window, max_stride = scale.window(size), scale.max_stride(size) if rule.fast else None
    several = (
        f"it sees maps of {', '.join(map(by, sorted(sizes)))} in one pass, so it has no one window; "
        "use a module of its own for each size"
    )
    if others and not is_layer(module):  # its rule may change it
        return several, nothing, nothing
    local = rule.function(module, Site(path, size, window, max_stride, scale.sampler, scale.blended))
    if isinstance(local, SampledNorm) and len(calls[0]) > 1:
        local = "it runs more than once in one pass, and patches have statistics for one; use a module of its own for each"
    if others and not isinstance(local, str):
        local = several
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
        "compare with the plain net, and try statistics='patches', which is for nn.InstanceNorm2d and nn.GroupNorm"
    )
