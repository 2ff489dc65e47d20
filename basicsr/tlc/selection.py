"""Patterns: `exclude` and `include` say which of a net's global operations stay as they are, `in_windows` which modules run in
windows that cover their maps.

A pattern is compared (fnmatch, case-sensitive, `*` crosses dots) with the path of an operation's module and of those around it.
`path:Class` also wants the class of the module that the path matches, `path:operation` the operation, as the report calls it.
"""

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

Place = tuple[str, Iterable[str]]  # a module's path, and the names of what it performs there
_SHOWN = 3  # names in a message


class Selection:
    """The patterns of one conversion, and what they have matched so far.

    Raises:
        ValueError: patterns that are no texts, or no pattern where one is needed.
    """

    def __init__(
        self,
        net: nn.Module,
        exclude: str | Sequence[str] = (),
        include: str | Sequence[str] | None = None,
        in_windows: str | Sequence[str] = (),
    ) -> None:
        self._kinds = {path: type(module).__name__ for path, module in net.named_modules(remove_duplicate=False)}
        self._exclude = _patterns("exclude", exclude)
        self._include = None if include is None else _patterns("include", include)
        if self._include == ():
            raise ValueError("include holds no pattern, so that nothing would be local; leave it out")
        self._in_windows = _patterns("in_windows", in_windows)
        words = {"exclude": self._exclude, "include": self._include or (), "in_windows": self._in_windows}
        self._unmatched = {(word, pattern) for word, patterns in words.items() for pattern in patterns}
        self._names: dict[str, None] = {}  # of all that was asked about

    def left_out(self, places: Iterable[Place]) -> str:
        """Why something that is performed at these places is to stay as it is, or ''."""
        places = self._asked(places)
        excluded = self._matching("exclude", self._exclude, places)
        included = self._matching("include", self._include or (), places)
        if excluded:
            return f"excluded by {excluded[0]!r}"
        if self._include is not None and not included:
            return f"not included by {', '.join(map(repr, self._include))}"
        return ""

    @property
    def has_windows(self) -> bool:
        """Whether anything is to run in windows."""
        return bool(self._in_windows)

    def in_windows(self, places: Iterable[Place], inside: Iterable[Place]) -> bool:
        """Whether the module at these places, which performs what is `inside`, is to run in windows.

        Raises:
            ValueError: it, or something in it, is excluded.
        """
        places, inside = self._asked(places), self._asked(inside)
        matching = self._matching("in_windows", self._in_windows, places)
        excluded = self._matching("exclude", self._exclude, [*places, *inside]) if matching else []
        if excluded:
            raise ValueError(
                f"in_windows: {places[0][0] or 'the net itself'} matches {matching[0]!r}, and it or a part of it is excluded "
                f"by {excluded[0]!r}; take it out of one of them"
            )
        return bool(matching)

    def check(self) -> None:
        """Once all was asked about.

        Raises:
            ValueError: a pattern that has matched nothing: silence would convert what was to stay.
        """
        for word, pattern in sorted(self._unmatched):
            near, instead = self._known(pattern)
            raise ValueError(f"{word}: {pattern!r}{near} matches nothing global in the net{instead}")

    def _asked(self, places: Iterable[Place]) -> list[Place]:
        places = [(path, tuple(operations)) for path, operations in places]
        for path, operations in places:
            kind = self._kinds.get(path, "")
            self._names |= dict.fromkeys([path, f"{path}:{kind}", *(f"{path}:{name}" for name in operations)])
        return places

    def _matching(self, word: str, patterns: Iterable[str], places: list[Place]) -> list[str]:
        found = [pattern for pattern in patterns if self._matches(pattern, places)]
        self._unmatched -= {(word, pattern) for pattern in found}
        return found

    def _matches(self, pattern: str, places: Iterable[Place]) -> bool:
        glob, colon, name = pattern.partition(":")
        return any(
            fnmatchcase(around, glob) and (not colon or any(fnmatchcase(word, name) for word in (kind, *operations)))
            for path, operations in places
            for around, kind in ((around, self._kinds.get(around, "")) for around in _around(path))
        )

    def _known(self, pattern: str) -> tuple[str, str]:
        """The names that are near to a pattern; or, where there are none, those that there are."""
        known = [name for name in self._names if (":" in name) == (":" in pattern)]
        known += [around for name in self._names if ":" not in pattern for around in _around(name.partition(":")[0])]
        known = list(dict.fromkeys(filter(None, known)))
        if near := difflib.get_close_matches(pattern.replace("*", ""), known, n=_SHOWN):
            return f" (did you mean {', '.join(map(repr, near))}?)", ""
        shown = ", ".join(map(repr, known[:_SHOWN])) + (", ..." if len(known) > _SHOWN else "")
        return "", f", where there is {shown or 'none'}"


def _patterns(word: str, given: str | Sequence[str]) -> tuple[str, ...]:
    patterns = (given,) if isinstance(given, str) else tuple(given)
    if not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise ValueError(f"{word} is {given!r}; it is a pattern of module names, such as 'SCM*', or several")
    return patterns


def _around(path: str) -> list[str]:
    """A module's path, and those of the modules around it, the net's own ''."""
    parts = path.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)] + [""] * bool(path)
