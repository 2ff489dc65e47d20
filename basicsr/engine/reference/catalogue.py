"""Everything that an options file can say: the words of its sections, and what is registered, with the arguments of each.

Types and defaults are those of the signatures, descriptions those of the docstrings: an entry `name: text` of their `Args:`.
"""

import inspect
import re
import typing
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

from basicsr.archs import ARCHS
from basicsr.archs.local_arch import tlc_options
from basicsr.data import DATASETS
from basicsr.losses import LOSSES
from basicsr.metrics import METRICS
from basicsr.models.optimizer import ARGUMENTS, OPTIMIZERS
from basicsr.models.schedule import SCHEDULERS
from basicsr.registry import Registry
from basicsr.sections import Options
from basicsr.texts import is_section

BOUNDS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}  # in words
REQUIRED = inspect.Parameter.empty
_GIVEN_LATER = ("img1", "img2")  # by each call of a metric


@dataclass(frozen=True)
class Argument:
    """A word that a file may give. schema: JSON schema of its values. default: REQUIRED where there is none."""

    name: str
    schema: dict[str, Any]
    default: Any
    description: str


@dataclass(frozen=True)
class Entry:
    """A section, or what `type: name` stands for. name: for a section its YAML path, '' for the top of the file."""

    name: str
    summary: str
    arguments: tuple[Argument, ...]


def registered() -> dict[str, list[Entry]]:
    """Kind (network, dataset, loss, metric, scheduler, optimizer) -> its entries by name."""
    kinds = {registry.kind: _entries(registry) for registry in (ARCHS, DATASETS, LOSSES, METRICS, SCHEDULERS)}
    return {**kinds, OPTIMIZERS.kind: [_optimizer(name) for name in OPTIMIZERS.names()]}


def tlc() -> Entry:
    """The converter's options: of `network_g.tlc`, and of the types with the suffix Local."""
    return entry(tlc_options, "tlc")


def sections() -> list[Entry]:
    """Every section of the options with its words, the top of the file first."""
    return list(_sections("", Options))


def entry(function: Callable, name: str, without: Collection[str] = ()) -> Entry:
    """A class or function as its signature and its docstring have it, but for the arguments named in `without`."""
    texts = list(_docstrings(function))
    hints = _hints(function)
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name not in without]
    described: dict[str, str] = {}
    for text, own in texts:
        described = {**described_in(text, own), **described}
    arguments = (Argument(p.name, _schema(hints.get(p.name, Any)), p.default, described.get(p.name, "")) for p in parameters)
    return Entry(name, texts[0][0].split("\n\n")[0].replace("\n", " ") if texts else "", tuple(arguments))


def described_in(docstring: str, names: Collection[str]) -> dict[str, str]:
    """name -> description of those of `names` that the section `Args:` describes; `a, b: text` describes both."""
    found = re.search(r"^Args:(.*?)(?:\n\s*\n|\Z)", docstring, re.DOTALL | re.MULTILINE)
    if not found or not names:
        return {}
    name = "|".join(map(re.escape, names))
    parts = re.split(rf"(?:^|(?<=\. ))((?:{name})(?:, (?:{name}))*): ", " ".join(found[1].split()))[1:]
    described = zip(parts[::2], parts[1::2], strict=True)
    return {word: _sentence(text) for words, text in described for word in words.split(", ")}


def alike(node: Any) -> Any:
    """A JSON schema as every version of pydantic would write it, without titles, which repeat names."""
    if isinstance(node, (list, tuple)):
        return [alike(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {word: alike(value) for word, value in node.items() if not (word == "title" and isinstance(value, str))}
    if len(node.get("allOf", ())) == 1:
        node |= node.pop("allOf")[0]
    if "const" in node:
        node = {word: value for word, value in node.items() if word not in ("enum", "type")}
    if node.get("additionalProperties") is True:
        del node["additionalProperties"]
    node |= {bound: int(node[bound]) for bound in BOUNDS if isinstance(node.get(bound), float) and node[bound].is_integer()}
    return {word: node[word] for word in ("description", "default") if word in node} | node


def _sentence(text: str) -> str:
    text = text.strip().rstrip(".;")
    return f"{text[:1].upper()}{text[1:]}."


def _entries(registry: Registry) -> list[Entry]:
    """Of what the toolbox itself registered: a user's own modules may be imported beside it."""
    entries = {name: registry.get(name) for name in registry.names()}
    own = {name: found for name, found in entries.items() if found.__module__.startswith("basicsr.")}
    return [entry(found, name, _GIVEN_LATER) for name, found in own.items()]


def _optimizer(name: str) -> Entry:
    """torch's own docstrings and hints change with its version; words and types of numbers do not."""
    parameters = inspect.signature(OPTIMIZERS.get(name)).parameters
    defaults = {word: parameters[word].default for word in ARGUMENTS if word in parameters}
    arguments = [
        Argument(word, {"type": "boolean" if isinstance(default, bool) else "number"}, default, ARGUMENTS[word])
        for word, default in defaults.items()
    ]
    return Entry(name, f"torch.optim.{name}", tuple(arguments))


def _sections(path: str, model: type[BaseModel]) -> Iterable[Entry]:
    described = alike(model.model_json_schema())
    words = described["properties"]
    required = described.get("required", ())
    arguments = tuple(
        Argument(name, word, REQUIRED if name in required else word.get("default"), word["description"])
        for name, word in words.items()
    )
    yield Entry(path, described.get("description", ""), arguments)
    for name, field in model.model_fields.items():
        inner, step = _section_in(field.annotation)
        if inner is not None:
            yield from _sections(f"{path}.{name}{step}".removeprefix("."), inner)


def _section_in(hint: Any) -> tuple[type[BaseModel] | None, str]:
    """The section in a type such as tuple[StageOptions, ...] | None, and the step from its word to it: '' or '.<name>'."""
    if is_section(hint):
        return hint, ""
    step = {dict: ".<name>", tuple: "[]"}.get(typing.get_origin(hint), "")
    for inner in typing.get_args(hint):
        section, further = _section_in(inner)
        if section is not None:
            return section, step + further
    return None, ""


def _docstrings(function: Callable) -> Iterable[tuple[str, list[str]]]:
    """Its own, its bases', and those that it refers to as "as `name`", each with the names of its owner's arguments."""
    owners = inspect.getmro(function) if inspect.isclass(function) else (function,)
    for owner in owners:
        text = inspect.cleandoc(owner.__doc__ or "") if owner.__module__.startswith("basicsr.") else ""
        if text:
            yield text, list(inspect.signature(owner).parameters)
        for name in re.findall(r"^Arguments and errors: as `(\w+)`", text, re.MULTILINE):
            yield from _docstrings(owner.__globals__[name])


def _hints(function: Callable) -> dict[str, Any]:
    return typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)


def _schema(hint: Any) -> dict[str, Any]:
    """{} where a type has no JSON schema, such as that of a device: anything goes."""
    try:
        return alike(TypeAdapter(hint).json_schema())
    except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError):
        return {}
