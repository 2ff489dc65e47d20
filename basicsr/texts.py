"""Text where the options want text: YAML takes 20240101, 007, 2024-01-01, 1e3 and `on` for numbers, dates and truths.

Beside what YAML makes of a file, the file is read a second time with everything as it was written; imports no torch.
"""

import datetime
import typing
from typing import Any

from pydantic import BaseModel

Scalar = int | float | bool | datetime.date
_NUMBERS = {int, float, bool}


def as_written(value: Any) -> Any:
    """The same, in text, of what comes from no file."""
    if isinstance(value, dict):
        return {str(key): as_written(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_written(item) for item in value]
    return text_of(value)


def text_of(value: Any) -> Any:
    """A number, date or truth as YAML would write it; anything else as it is."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, Scalar) else value


def wants_text(hint: Any) -> bool:
    """Whether a type takes text, and no numbers."""
    kinds = {hint, *typing.get_args(hint)}
    return str in kinds and not kinds & _NUMBERS


def of_items(hint: Any) -> Any:
    """The type of the items of the list or tuple in a type; None where there is none."""
    for inner in (hint, *typing.get_args(hint)):
        if typing.get_origin(inner) in (list, tuple):
            return typing.get_args(inner)[0]
    return None


def with_texts(value: Any, written: Any, hint: Any, paths: tuple[str, ...] = ()) -> Any:
    """What was written in the place of numbers, dates and truths wherever sections want text, keys of mappings included.

    Args:
        value, written: what YAML made of a file or a part of it, and its texts, of the same shape.
        hint: the type of it. paths: how words begin, of those that a section does not list, that are texts too.
    """
    if isinstance(value, Scalar):
        return written if wants_text(hint) else value
    if isinstance(value, list):
        items = of_items(hint) or (str if wants_text(hint) else Any)
        return [with_texts(item, text, items, paths) for item, text in zip(value, written, strict=True)]
    section, values = _section(hint), _values(hint)
    if not isinstance(value, dict) or (section is None and values is None):
        return value
    found = {}
    for (key, item), (word, text) in zip(value.items(), written.items(), strict=True):
        if section is None:
            found[word] = with_texts(item, text, values, paths)
        elif key in section.model_fields:
            found[key] = with_texts(item, text, section.model_fields[key].annotation, paths)
        else:
            found[word] = with_texts(item, text, str if word.startswith(paths) else Any, paths) if paths else item
    return found


def is_section(hint: Any) -> bool:
    """Whether a type is that of a section; for Python 3.10 list[X] is a class, too."""
    return isinstance(hint, type) and typing.get_origin(hint) is None and issubclass(hint, BaseModel)


def _section(hint: Any) -> type[BaseModel] | None:
    if typing.get_origin(hint) in (dict, list, tuple):  # of sections
        return None
    found = (inner for inner in (hint, *typing.get_args(hint)) if is_section(inner))
    return next(found, None)


def _values(hint: Any) -> Any:
    """The type of the values of a mapping."""
    return typing.get_args(hint)[1] if typing.get_origin(hint) is dict else None
