"""The one exception for what a user can put right, and the search for the name that was meant."""

import difflib
from collections.abc import Iterable

_JOINERS = "\u200c\u200d"  # in Persian and Indic words, and in emoji


class UserError(ValueError):
    """A mistake in options, files or weights. Its text is one sentence: what, where, what to do.

    The entry points print it and leave with exit code 2; no traceback is shown. Line breaks and other signs that do not print,
    which names of files may hold, are escaped.
    """

    def __init__(self, text: str) -> None:
        own = f"{type(self).__module__}.{type(self).__name__}: "  # from a data worker it comes with a traceback before it
        super().__init__(printable(text.rpartition(own)[2].strip()))


def printable(text: str) -> str:
    """A text in one line, with line breaks, controls and undecodable bytes of file names as `\\n`, `\\x07`, `\\udcff`."""
    return "".join(sign if sign.isprintable() or sign in _JOINERS else sign.encode("unicode_escape").decode() for sign in text)


class DiskError(UserError):
    """Where something was to be written, nothing more can be: the disk is full, or read-only. Work on many items ends there."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """' Did you mean `x`?' for the nearest of `known`, or '' when nothing is near."""
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f" Did you mean `{near[0]}`?" if near else ""


def counted(number: int, thing: str) -> str:
    """'1 image', '2848 images'."""
    return f"{number} {thing}{'s' * (number != 1)}"


def first_ten(items: Iterable[object]) -> str:
    """'a, b, c' for at most ten items, then how many there are in all."""
    items = [str(item) for item in items]
    text = ", ".join(items[:10])
    return text if len(items) <= 10 else f"{text}, ... ({len(items)} in all)"
