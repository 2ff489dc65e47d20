"""Published checkpoints by name, and which of them a file is: by its network, and by its name or its SHA-256.

Several share a network. SHA-256s are those of files that were downloaded, see `store`.
"""

import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from basicsr.archs import ARCHS, with_tlc
from basicsr.engine.weights.published import PUBLISHED, Published
from basicsr.paths import cache
from basicsr.utils.checkpoint import sha256

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
    plain = with_tlc(network_g, False)
    known = named(weights)
    if known is not None and same_network(known.net.options, plain):
        return known
    digests = {digest: known for known in PUBLISHED if (digest := recorded(record(cached(known))))}
    digests = {digest: known for digest, known in digests.items() if same_network(known.net.options, plain)}
    return digests.get(sha256(weights)) if digests else None


def of_network(network_g: Mapping[str, Any]) -> Published | None:
    """A published checkpoint of a network with these options, where all of those that there are were trained on one patch."""
    plain = with_tlc(network_g, False)
    found = [known for known in PUBLISHED if same_network(known.net.options, plain)]
    return found[0] if len({(known.patch, known.base_size) for known in found}) == 1 else None


def cached(known: Published) -> Path:
    """Where its downloaded file is, or is to be put by hand."""
    return cache() / "weights" / f"{known.name}.pth"


def record(file: Path) -> Path:
    """Where the SHA-256 of a downloaded file is."""
    return file.with_name(f"{file.name}.sha256")


def recorded(record: Path) -> str | None:
    return (record.read_text(encoding="utf-8").split() or [None])[0] if record.is_file() else None


def same_network(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two options of networks mean the same, what they leave out being the constructor's."""
    return one["type"] == other["type"] and _complete(one) == _complete(other)


def _complete(network: Mapping[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(ARCHS.get(network["type"])).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    return json.loads(json.dumps({**defaults, **network}, default=str))  # tuples become lists
