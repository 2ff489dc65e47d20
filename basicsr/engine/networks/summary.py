"""What `tlc convert` says of a network beside the report: its operations by kind, and what is known of networks of its name."""

import re
from collections.abc import Iterable, Sequence

from basicsr.engine.networks.restorers import RESTORERS, Restorer
from basicsr.tlc.report import Report

# Words of the report's rows; the first that is found decides. Sums and norms are parts of attention where the module has it.
_KINDS = (
    ("not seen", r"depends on values|ran on zeros"),
    ("learned maps", r"is stretched"),
    ("random numbers", r"draws random"),
    ("Fourier transform", r"fft"),
    ("sorting, scans", r"sort|topk|median|cum|loop"),
    ("parts of the image", r"grid|keeps .* positions"),
    ("attention", r"[Aa]ttention|softmax|scaled_dot|bmm|matmul"),
    ("norms", r"[Nn]orm|var\b|std\b"),
    ("pooling", r"[Pp]ool|mean|sum|max|min|strip|[Gg]ate|[Ss]queeze|[Cc]ontext"),
)
_OTHER = "by other rules"
_DONE, _WINDOWS, _LEFT, _NOTHING = "local", "in windows", "as it was", "nothing to do"
_COLUMNS = (_DONE, _WINDOWS, _LEFT, _NOTHING)
_SHOWN = 4  # parts of the network


def summary(report: Report) -> list[str]:
    """Lines: for each kind of operation, in how many places it is local, runs in windows or is as it was, and where."""
    places: dict[str, dict[str, str]] = {}  # by kind, the module's path and what became of it
    for row in report.converted:
        state = _WINDOWS if "in windows" in f"{row.after} {row.note}" else _DONE
        places.setdefault(_kind(f"{row.before} {row.after}"), {})[row.path] = state
    for path in dict.fromkeys(row.path for row in report.left_alone):
        rows = [row for row in report.left_alone if row.path == path]
        for reason in dict.fromkeys(row.reason for row in rows):
            words = " ".join(f"{row.operation} {row.reason}" for row in rows if row.reason == reason)
            state = _NOTHING if _NOTHING in reason else _LEFT
            places.setdefault(_kind(words), {}).setdefault(path, state)
    if not places:
        return []
    rows = [("in short", *_COLUMNS, "where")]
    for kind in (*(name for name, _ in _KINDS), _OTHER):
        if found := places.get(kind):
            counts = (sum(state == column for state in found.values()) for column in _COLUMNS)
            rows.append((kind, *(str(count) if count else "-" for count in counts), _where(found)))
    used = [i for i, column in enumerate(zip(*rows, strict=True)) if set(column[1:]) != {"-"}]
    return list(_aligned([[row[i] for i in used] for row in rows]))


def known(*names: str) -> list[str]:
    """Lines: what is known of published networks that go by one of these names, such as a class's."""
    wanted = {_plain(name) for name in names}
    return [_said(net) for net in RESTORERS if wanted & {_plain(name) for name in net.names}]


def _said(net: Restorer) -> str:
    patch = f"were trained on patches of {net.patch}" if net.patch else "do not say their training patches"
    note = f"; {net.note}" if net.note else ""
    return f"published checkpoints of {net.names[0]} ({net.year}) {patch}{note} (docs/networks.md)"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower()).removesuffix("local")


def _kind(words: str) -> str:
    return next((kind for kind, pattern in _KINDS if re.search(pattern, words)), _OTHER)


def _where(paths: Iterable[str]) -> str:
    parts = list(dict.fromkeys(path.partition(".")[0] for path in paths))
    return ", ".join(parts if len(parts) <= _SHOWN else (*parts[:2], "...", parts[-1]))


def _aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *numbers, last in rows:
        cells = (cell.rjust(width) for cell, width in zip(numbers, widths[1:-1], strict=True))
        yield "  ".join((first.ljust(widths[0]), *cells, last)).rstrip()
