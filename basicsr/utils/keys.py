"""Which of a checkpoint's tensors are a net's: unwrapped, freed of prefixes, compared key by key.

Known wrappers: BasicSR's {"params"} and {"params_ema"}, MPRNet's {"state_dict"}, those of WRAPPERS, or any other that is the
only one with tensors in it; wrappers may lie in wrappers. Prefixes of DataParallel (`module.`) and torch.compile (`_orig_mod.`)
are left out; so is any other, such as Lightning's `net.`, without which a net's keys match.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from basicsr.errors import UserError, did_you_mean, first_ten

StateDict = dict[str, Tensor]
WRAPPERS = (
    "params_ema",
    "params",
    "model_ema",
    "state_dict_ema",
    "ema",
    "state_dict",
    "model",
    "net_g",
    "netG",
    "generator",
    "network",
)
PREFIXES = ("module.", "_orig_mod.")
METADATA = "metadata"
DEPTH = 4  # wrappers in one another


def tensors_in(content: Mapping, param_key: str | None, source: str) -> StateDict:
    """The tensors of what a checkpoint holds, by their plain keys.

    Args:
        param_key: the wrapper's key, that of one in it after a dot, or a prefix of the keys; found by itself when None.
        source: what messages call the checkpoint.

    Raises:
        UserError: a param_key that is not there; no tensors, or several sets of them.
    """
    if param_key is not None:
        content = _under(content, param_key, source)
    content = _unwrapped(content)
    tensors = {_plain(key): value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        return tensors
    if several := [key for key, value in content.items() if _may_be_weights(key, value)]:
        raise UserError(f"{source} holds several sets of weights: {first_ten(several)}; say which by path.param_key.")
    keys = first_ten(f"`{key}`" for key in content)
    raise UserError(f"{source} holds no weights under a known key ({', '.join(WRAPPERS)}); it has {keys or 'nothing'}.")


def _unwrapped(content: Mapping) -> Mapping:
    for _ in range(DEPTH):
        inner = [key for key, value in content.items() if _may_be_weights(key, value)]
        known = next((key for key in WRAPPERS if key in inner), None)
        if known is None and len(inner) == 1 and not any(isinstance(value, Tensor) for value in content.values()):
            known = inner[0]
        if known is None:
            break
        content = content[known]
    return content


def _may_be_weights(key: object, value: object) -> bool:
    """Whether an entry of a checkpoint is a mapping with tensors in it by name, and no optimiser's."""
    apart = not isinstance(key, str) or key == METADATA or "optim" in key.lower()
    return not apart and isinstance(value, Mapping) and _holds_tensors(value, DEPTH)


def _holds_tensors(content: Mapping, depth: int) -> bool:
    return any(
        isinstance(key, str)
        and (isinstance(value, Tensor) or (isinstance(value, Mapping) and depth > 1 and _holds_tensors(value, depth - 1)))
        for key, value in content.items()
    )


def _under(content: Mapping, param_key: str, source: str) -> Mapping:
    found: Any = content
    for part in [param_key] if isinstance(content.get(param_key), Mapping) else param_key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    if isinstance(found, Mapping):
        return found
    flat, prefix = _unwrapped(content), f"{param_key}."
    if found := {key[len(prefix) :]: value for key, value in flat.items() if isinstance(key, str) and key.startswith(prefix)}:
        return found
    wrappers = [key for key, value in content.items() if isinstance(value, Mapping) and key != METADATA]
    hint = f"it has {first_ten(wrappers)}" if wrappers else "its tensors lie at the top level: leave param_key empty"
    raise UserError(f"path.param_key: {source} has no `{param_key}`.{did_you_mean(param_key, wrappers)} ({hint}).")


def _plain(key: str) -> str:
    while key.startswith(PREFIXES):
        key = key.removeprefix(PREFIXES[0]).removeprefix(PREFIXES[1])
    return key.replace("._orig_mod.", ".").replace(".module.", ".") if "._orig_mod." in key else key


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in weights.items()}


# Prefixes.


def stripped(weights: StateDict) -> Iterator[tuple[str, StateDict]]:
    """(prefix, tensors without it): none; the prefixes that all keys share; then those that only some have."""
    yield "", weights
    shared = list(_shared(weights))
    yield from ((prefix, _without(prefix, weights)) for prefix in shared)
    start = len(shared[-1]) if shared else 0
    heads = dict.fromkeys(key[: key.index(".", start) + 1] for key in weights if "." in key[start:])
    if len(heads) > 1 or any("." not in key[start:] for key in weights):
        for head in heads:
            some = [key for key in weights if key.startswith(head)]
            yield from ((prefix, _without(prefix, weights)) for prefix in _shared(some))


def _shared(keys: Iterable[str]) -> Iterator[str]:
    """'a.', 'a.b.', ...: what all keys begin with, the last part of each aside."""
    parts = [key.split(".")[:-1] for key in keys]
    prefix = ""
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            return
        prefix += f"{level[0]}."
        yield prefix


def _without(prefix: str, weights: StateDict) -> StateDict:
    return {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}


def aligned(net: nn.Module, weights: StateDict, source: str) -> tuple[StateDict, str]:
    """The weights without what was put in front of the net's keys, and what is to be said of it: '' where nothing was.

    A prefix that all keys share is left out where more of them match without it; one that only some have, where these are
    exactly the net's. Of several such sets the averaged one, `..._ema.`, is taken.

    Raises:
        UserError: several sets that fit.
    """
    best, most, sets = ("", weights), len(match(net, weights).matching), {}
    if most == len(net.state_dict()):
        return weights, ""
    for prefix, tensors in stripped(weights):
        found = match(net, tensors)
        if len(tensors) < len(weights):
            sets |= {prefix: tensors} if found.fits else {}
        elif len(found.matching) > most:
            best, most = (prefix, tensors), len(found.matching)
    if sets and most < len(net.state_dict()):
        averaged = [prefix for prefix in sets if "ema" in prefix.lower()]
        if len(sets) > 1 and len(averaged) != 1:
            names = first_ten(prefix.rstrip(".") for prefix in sets)
            raise UserError(f"{source} holds several sets of weights that fit: {names}; say which by path.param_key.")
        prefix = averaged[0] if len(sets) > 1 else next(iter(sets))
        others = len(weights) - len(sets[prefix])
        return sets[prefix], f"{source}: the weights are those under `{prefix}`; the other {others} keys are left out."
    prefix, tensors = best
    return tensors, f"{source}: the prefix `{prefix}` of all its keys is left out." if prefix else ""


# What matches.


@dataclass(frozen=True)
class Match:
    """How far weights fit a net: the tensors that do, by key, and the keys that do not.

    unknown: of the weights, those that the net lacks. unequal: of another shape, with both shapes.
    """

    own: int  # keys of the net
    matching: StateDict
    missing: list[str]
    unknown: list[str]
    unequal: list[str]

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unknown or self.unequal)

    def __str__(self) -> str:
        lists = {"missing": self.missing, "not in the net": self.unknown, "of another shape": self.unequal}
        parts = [f"{word}: {_some(keys)}" for word, keys in lists.items() if keys]
        return "; ".join([f"{len(self.matching)} of the net's {self.own} keys match", *parts])


def _some(keys: list[str]) -> str:
    """The first and the count, so that what to do stays in sight."""
    return keys[0] if len(keys) == 1 else f"{keys[0]}, ... ({len(keys)} in all)"


def match(net: nn.Module, weights: StateDict) -> Match:
    """Compare keys and shapes; the net may be on the meta device. A shared tensor needs only one of its keys."""
    own = net.state_dict()
    weights = with_aliases(net, weights)
    unequal = {key for key in own if key in weights and own[key].shape != weights[key].shape}
    return Match(
        own=len(own),
        matching={key: weights[key] for key in own if key in weights and key not in unequal},
        missing=[key for key in own if key not in weights],
        unknown=[key for key in weights if key not in own],
        unequal=[f"{key} {tuple(weights[key].shape)} instead of {tuple(own[key].shape)}" for key in own if key in unequal],
    )


def with_aliases(net: nn.Module, weights: StateDict) -> StateDict:
    """Complete files that name a shared tensor once (safetensors does)."""
    names: dict[int, list[str]] = {}
    for key, value in net.state_dict(keep_vars=True).items():
        names.setdefault(id(value), []).append(key)
    filled = dict(weights)
    for aliases in names.values():
        present = next((weights[key] for key in aliases if key in weights), None)
        if present is not None:
            filled |= {key: present for key in aliases if key not in weights}
    return filled
