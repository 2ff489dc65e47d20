"""Published checkpoints by name, and which of them a file is: by its name and its network, as several share a network."""

import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from basicsr.archs import ARCHS, with_tlc
from basicsr.engine.weights.published import PUBLISHED, Published

_SUFFIX = re.compile(r"(\.(pth|pt|safetensors|ckpt))?$", re.IGNORECASE)
_COPY = re.compile(r"[ _]?\(\d+\)$")  # what browsers add to the name of a second download


def named(name: str | PurePath) -> Published | None:
    """The published checkpoint of a name, or of a file with one of its names; None: it is none of theirs."""
    plain = _COPY.sub("", _SUFFIX.sub("", PurePath(name).name)).lower()
    return next((known for known in PUBLISHED if plain in _names(known)), None)


def _names(known: Published) -> list[str]:
    return [known.name.lower(), *(PurePath(file).stem.lower() for file in known.files)]


def recognised(weights: Path, network_g: Mapping[str, Any]) -> Published | None:
    """The published checkpoint that a file of a network with these options is; None: none, or another network's."""
    known = named(weights)
    return known if known and same_network(known.net.options, with_tlc(network_g, False)) else None


def same_network(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two options of networks mean the same, what they leave out being the constructor's."""
    return one["type"] == other["type"] and _complete(one) == _complete(other)


def _complete(network: Mapping[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(ARCHS.get(network["type"])).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    return json.loads(json.dumps({**defaults, **network}, default=str))  # tuples become lists
