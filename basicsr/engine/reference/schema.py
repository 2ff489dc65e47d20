"""The JSON schema of the options files, for editors and checkers: options/schema.json.

It is in draft 7, which editors' YAML plugins know best. What depends on several words together is left to the reader of the
options, and names that `custom_modules` may register, or that are written package.module:Name, are left open.
"""

import json
from collections.abc import Iterable
from typing import Any

from basicsr import published
from basicsr.engine.reference.catalogue import REQUIRED, Argument, Entry, alike, registered, tlc
from basicsr.models import MODELS
from basicsr.models.optimizer import SWITCHES
from basicsr.options import RETIRED
from basicsr.sections import Options

Schema = dict[str, Any]
_REFERENCE = {"pattern": "^[^:]+:[^:]+$"}  # package.module:Name
_SECTION_OF = {"network": "NetworkOptions", "dataset": "DatasetOptions", "loss": "LossOptions", "metric": "MetricOptions"}
_SECTION_OF |= {"scheduler": "SchedulerOptions", "optimizer": "OptimizerOptions"}
_RETIRED_IN = {"datasets": "DatasetOptions", "val": "ValOptions", "train": "TrainOptions"}


def schema_text() -> str:
    """The file's text."""
    return json.dumps(options_schema(), indent=1, ensure_ascii=False) + "\n"


def options_schema() -> Schema:
    schema = alike(Options.model_json_schema(ref_template="#/definitions/{model}"))
    definitions = schema.pop("$defs")
    sections = {"": schema, **definitions}
    for section in sections.values():
        _allow_empty(section, definitions)
    for word, reason in RETIRED.items():
        prefix, _, name = word.rpartition(".")
        words = sections[_RETIRED_IN.get(prefix, "")]["properties"]
        words[name] = {"description": f"Without effect: {reason}.", "deprecated": True}
    kinds = registered()
    for kind, section in _SECTION_OF.items():
        entries = list(_networks(kinds[kind])) if kind == "network" else kinds[kind]
        _by_type(definitions[section], entries, nullable=kind != "network", more=SWITCHES if kind == "optimizer" else ())
        definitions[f"{kind} types"] = _known(
            [*(entry.name for entry in entries), *(published.DATASETS if kind == "dataset" else ())]
        )
    schema["properties"]["model_type"]["anyOf"] = [
        {"enum": [*MODELS.names(), *published.MODELS]},
        {"type": "string"},
        {"type": "null"},
    ]
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Options of the TLC restoration toolbox",
        **_draft_7(schema),
        "if": {"required": ["custom_modules"], "properties": {"custom_modules": {"type": "array"}}},
        "else": {"properties": _types_at_their_places()},
        "definitions": _draft_7(definitions),
    }


def _allow_empty(section: Schema, definitions: dict[str, Schema]) -> None:
    """`word: ~` asks for the default."""
    for name, word in section["properties"].items():
        if name not in section.get("required", ()):
            section["properties"][name] = empty = _or_null(word)
            if "$ref" in empty:
                definitions[empty["$ref"].rpartition("/")[2]]["type"] = ["object", "null"]


def _or_null(word: Schema) -> Schema:
    """The same schema for null as well; of another section, itself. Editors' complaints are clearer without alternatives."""
    parts = [part for part in word.get("anyOf", ()) if part != {"type": "null"}]
    if len(parts) == 1:
        word = {**{key: value for key, value in word.items() if key != "anyOf"}, **parts[0]}
    elif parts:
        return {**word, "anyOf": [*parts, {"type": "null"}]}
    if "const" in word:
        word = {**{key: value for key, value in word.items() if key != "const"}, "enum": [word["const"]]}
    if "enum" in word:
        word = {**word, "enum": [*word["enum"], None]}
    return {**word, "type": [word["type"], "null"]} if isinstance(word.get("type"), str) else word


def _networks(entries: Iterable[Entry]) -> Iterable[Entry]:
    """Every arch with `tlc`, and its -Local variant with tlc's options beside its own."""
    local = tlc()
    words = {"type": "object", "properties": {a.name: _word(a) for a in local.arguments}, "additionalProperties": False}
    switch = Argument("tlc", {"anyOf": [{"type": "boolean"}, {"type": "null"}, words]}, None, f"Turn TLC on. {local.summary}")
    for entry in entries:
        yield Entry(entry.name, entry.summary, (*entry.arguments, switch))
        yield Entry(f"{entry.name}Local", f"{entry.name} with TLC. {entry.summary}", (*entry.arguments, *local.arguments))


def _by_type(section: Schema, entries: list[Entry], *, nullable: bool, more: Iterable[str]) -> None:
    """`type: name` decides which further words there are; with other names than those of `entries`, any."""
    own, required = section["properties"], section.get("required", [])
    summaries = [{"const": entry.name, "description": entry.summary} for entry in entries]
    named = own["type"]
    own["type"] = {word: named[word] for word in ("description", "default") if word in named}
    own["type"]["anyOf"] = [*summaries, {"type": "string"}]
    section["allOf"] = []
    for entry in entries:
        words = {a.name: _or_null(_word(a)) if nullable and a.default is not REQUIRED else _word(a) for a in entry.arguments}
        condition: Schema = {"properties": {"type": {"const": entry.name}}}
        if named.get("default") != entry.name:
            condition["required"] = ["type"]
        needed = [a.name for a in entry.arguments if a.default is REQUIRED]
        then = {
            "description": entry.summary,
            "properties": {**dict.fromkeys((*own, *more), True), **words},
            "required": [name for name in (*required, *needed) if name != "type"],
            "additionalProperties": False,
        }
        section["allOf"].append({"if": condition, "then": then})


def _word(argument: Argument) -> Schema:
    described: Schema = {"description": argument.description}
    if argument.default is not REQUIRED:
        described["default"] = argument.default
    return {**argument.schema, **described}


def _known(names: Iterable[str]) -> Schema:
    return {"properties": {"type": {"anyOf": [{"enum": sorted(names)}, _REFERENCE]}}}


def _types_at_their_places() -> Schema:
    """Where `type` has to be a known name unless the file imports modules of its own."""

    def known(kind: str) -> Schema:
        return {"$ref": f"#/definitions/{kind} types"}

    train = {"pixel_opt": known("loss"), "losses": {"items": known("loss")}}
    train |= {"scheduler": known("scheduler"), "optim_g": known("optimizer")}
    return {
        "model_type": {"anyOf": [{"enum": [*MODELS.names(), *published.MODELS, None]}, _REFERENCE]},
        "network_g": known("network"),
        "datasets": {"additionalProperties": known("dataset")},
        "train": {"properties": train},
        "val": {"properties": {"metrics": {"additionalProperties": known("metric")}}},
    }


def _draft_7(node: Any) -> Any:
    """A later draft in the words of draft 7, without defaults that repeat sections."""
    if isinstance(node, (list, tuple)):
        return [_draft_7(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {word: _draft_7(value) for word, value in node.items()}
    if isinstance(node.get("default"), dict):
        del node["default"]
    if "prefixItems" in node:
        node["items"] = node.pop("prefixItems")
    if "$ref" in node and len(node) > 1:  # what stands beside it would be ignored
        node["allOf"] = [{"$ref": node.pop("$ref")}]
    return node
