"""Options as the text of a YAML file, every word with what it means beside it or above it."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from basicsr.archs import base_type
from basicsr.engine.reference.catalogue import registered, sections, tlc
from basicsr.paths import BUNDLED, REPOSITORY

_WIDTH = 120
_PLAIN = re.compile(r"[A-Za-z_./][\w./-]*")
_NOT_TEXT = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


def commented(data: Mapping[str, Any], head: Iterable[str], file: Path, notes: Mapping[str, Iterable[str]]) -> str:
    """The file's text.

    Args:
        data: as `basicsr.options.parse` takes them.
        head: sentences for its beginning. file: where it will lie, for the way to the schema.
        notes: YAML path of a section -> lines of comment at its end.
    """
    schema = (REPOSITORY or BUNDLED) / "options/schema.json"
    inside = REPOSITORY is not None and file.absolute().is_relative_to(REPOSITORY)
    named = Path(os.path.relpath(schema, file.absolute().parent)) if inside else schema
    lines = [f"# yaml-language-server: $schema={named.as_posix()}", *(f"# {line}" for line in head)]
    return "\n".join([*lines, *_lines(data, "", _Words(), notes)]) + "\n"


class _Words:
    """What words mean: those of the sections, and the arguments of what a `type` names."""

    def __init__(self) -> None:
        self.sections = {section.name: section for section in sections()}
        self.types = {entry.name: entry for entries in registered().values() for entry in entries}
        self.tlc = {argument.name: argument.description for argument in tlc().arguments}

    def of(self, path: str, data: Mapping[str, Any]) -> dict[str, str]:
        """word -> description, for the section `data` at `path`."""
        section = self.sections.get(re.sub(r"^(datasets|val\.metrics)\.[^.]+", r"\1.<name>", path))
        words = {argument.name: argument.description for argument in section.arguments} if section else {}
        name = str(data.get("type", ""))
        entry = self.types.get(base_type(name))
        if entry:
            words |= {argument.name: argument.description for argument in entry.arguments}
            words["type"] = entry.summary
        return {**self.tlc, **words} if base_type(name) != name else words


def _lines(data: Mapping[str, Any], path: str, words: _Words, notes: Mapping[str, Iterable[str]]) -> Iterable[str]:
    pad = "  " * (path.count(".") + bool(path))
    meanings = words.of(path, data)
    for word, value in data.items():
        inner = f"{path}.{word}".removeprefix(".")
        if not path and isinstance(value, Mapping):
            yield ""
        if isinstance(value, Mapping) and value:
            yield from _with_comment(f"{pad}{word}:", meanings.get(word), pad)
            yield from _lines(value, inner, words, notes)
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], Mapping):
            yield from _with_comment(f"{pad}{word}:", meanings.get(word), pad)
            yield from (f"{pad}  - {_value(item)}" for item in value)
        else:
            yield from _with_comment(f"{pad}{word}: {_value(value)}", meanings.get(word), pad)
    yield from (f"{pad}# {line}" for line in notes.get(path, ()))


def _with_comment(line: str, meaning: str | None, pad: str) -> Iterable[str]:
    if meaning and len(line) + len(meaning) + 4 > _WIDTH:
        return [f"{pad}# {meaning}", line]
    return [f"{line}  # {meaning}"] if meaning else [line]


def _value(value: Any) -> str:
    """In YAML's flow style."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{word}: {_value(item)}" for word, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _NOT_TEXT:
        return value
    if isinstance(value, float):  # 1e-07 is a number in YAML 1.2 and a text in 1.1, 1.0e-07 a number in both
        return re.sub(r"^(-?\d+)e", r"\1.0e", json.dumps(value))
    return "~" if value is None else json.dumps(value, ensure_ascii=False)
