"""What there is, as text for a terminal; and the words for types and defaults."""

import json
import re
import textwrap
from typing import Any

from basicsr.engine.reference.catalogue import BOUNDS, REQUIRED, Entry, registered, tlc
from basicsr.errors import UserError, did_you_mean

TITLES = {
    "network": "Networks",
    "tlc": "TLC",
    "dataset": "Data sets",
    "loss": "Losses",
    "metric": "Metrics",
    "scheduler": "Schedulers",
    "optimizer": "Optimisers",
}
_TYPES = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "array": "list",
    "object": "mapping",
    "null": "~",
}
_WIDTH = 120


def kinds() -> dict[str, list[Entry]]:
    """Kind, such as network, dataset or tlc -> what is registered, in the order of TITLES."""
    found = {**registered(), "tlc": [tlc()]}
    return {kind: found[kind] for kind in TITLES}


def kind_called(text: str) -> str:
    """The kind that a user's word means, such as `networks` or `network`.

    Raises:
        UserError: there is none (with the nearest one).
    """
    plural = {title.lower().replace(" ", ""): kind for kind, title in TITLES.items()}
    known = {**plural, **{kind: kind for kind in TITLES}, "optimizers": "optimizer"}
    if text.lower() not in known:
        raise UserError(f"{text}: there is no such kind.{did_you_mean(text.lower(), plural)} There are {', '.join(plural)}.")
    return known[text.lower()]


def listing(kind: str | None = None) -> str:
    """Names with their first sentence, of every kind; or, of one kind, everything with all arguments and defaults."""
    if kind is not None:
        return "\n\n".join(_in_full(entry) for entry in kinds()[kind])
    parts = []
    for each, entries in kinds().items():
        width = max(len(entry.name) for entry in entries) + 2
        lines = (
            textwrap.fill(entry.summary, _WIDTH, initial_indent=f"  {entry.name:<{width}}", subsequent_indent=" " * (width + 2))
            for entry in entries
        )
        parts.append("\n".join([f"{TITLES[each]}", *lines]))
    return "\n\n".join(parts)


def _in_full(entry: Entry) -> str:
    lines = [entry.name, textwrap.fill(entry.summary, _WIDTH, initial_indent="  ", subsequent_indent="  ")]
    for argument in entry.arguments:
        default = default_text(argument.default)
        said = "required" if argument.default is REQUIRED else f"default {default}"
        lines.append(f"    {argument.name}: {type_text(argument.schema)}, {said}")
        lines.append(textwrap.fill(argument.description, _WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8))
    return "\n".join(lines)


def type_text(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words: 'whole number above 0 or auto'."""
    if "$ref" in schema:
        return "section"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(type_text(part) for part in schema["anyOf"] if part != {"type": "null"}))
    if "enum" in schema or "const" in schema:
        return " or ".join(_value(value) for value in schema.get("enum", [schema.get("const")]) if value is not None)
    if not schema:
        return "text"
    text = _TYPES[schema["type"]]
    if "prefixItems" in schema:
        return f"list of {len(schema['prefixItems'])} {_several(schema['prefixItems'][0])}"
    if schema["type"] == "array" and "items" in schema:
        return f"list of {_several(schema['items'])}"
    for bound, said in BOUNDS.items():
        text += f" {said} {schema[bound]}" if bound in schema else ""
    return text


def _several(schema: dict[str, Any]) -> str:
    noun, *bounds = re.split("(?= from | above | to | below )", type_text(schema))
    return "".join([noun, "s", *bounds])


def default_text(default: Any) -> str:
    """As one would write it; nothing for a section, whose words have defaults of their own, and for what is required."""
    if default is REQUIRED or (isinstance(default, dict) and default):
        return ""
    return "none" if default is None or default in ((), [], {}) else _value(default)


def _value(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)
