"""The page of operations and networks, docs/networks.md."""

from collections.abc import Iterable, Sequence

from basicsr.engine.networks.operations import REPORTED, WAYS, WINDOWED, Way, made_local, run_in_windows
from basicsr.engine.networks.restorers import RESTORERS, Restorer

_HEAD = """\
# Operations and networks

Made by `python scripts/make_reference.py` from [basicsr/engine/networks](../basicsr/engine/networks). `tlc convert` says the
same of your own network, and [TLC for your network](tlc.md) how to go on.

## What becomes local

The modules of the last column are written so (`tests/test_tlc_*.py`): there they are converted and compared with their
definition, window by window, in float64. `since`: the first version that converts them.
"""
_WINDOWED = """\
## What runs in windows where that is asked for

By `in_windows` ([how](tlc.md#attention-over-pixels-spectra-scans)). The modules are those of `tests/test_tlc_windows.py`,
compared with a loop over the windows.
"""
_LEFT = """\
## What stays global, and is reported

The modules of the last column are checked to be as they were, and reported. The report names the source line.
"""
_NETWORKS = """\
## Restorers

What is global in published networks, and the sides of the patches that their checkpoints were trained on, by their
repositories' own options, for super-resolution at the input's size. An operation counts as made local where the first table
has it; whether each layer of yours is, `tlc convert` says. `checked` says how it is known:

- reading: of the authors' code, and of what the first table's modules show;
- authors' code: run small, with random weights: all that is global became local, or nothing is global;
- spandrel, deepinv: their copies were run likewise, in the versions named; `tests/test_tlc_packages.py` holds what comes out
  where the packages are installed;
- tests: they are networks of this repository.
"""
_RESTORERS = (
    "network",
    "task",
    "made local",
    "in windows, where asked for",
    "stays global",
    "training patches, and what else its authors do",
    "checked",
)
_NONE = "nothing is global"


def networks_text() -> str:
    """The file's text."""
    reported = ((row.operation, row.written, row.instead, _code(row.modules)) for row in REPORTED)
    return "\n".join(
        (
            _HEAD,
            *_ways(WAYS),
            "",
            _WINDOWED,
            *_ways(WINDOWED),
            "",
            _LEFT,
            *_table(("operation", "how it is written", "instead", "tested as"), reported),
            "",
            _NETWORKS,
            *_table(_RESTORERS, map(_restorer, RESTORERS)),
            "",
        )
    )


def _ways(ways: Iterable[Way]) -> Iterable[str]:
    rows = ((way.operation, way.written, way.since, _code(way.modules)) for way in ways)
    return _table(("operation", "how it is written", "since", "tested as"), rows)


def _restorer(net: Restorer) -> Sequence[str]:
    local = made_local()
    windows = run_in_windows() - local
    groups = [name for name in net.operations if name in local], [name for name in net.operations if name in windows]
    stays = [name for name in net.operations if name not in local | windows]
    cells = [", ".join(names) for names in (*groups, stays)] if net.operations else [_NONE, "", ""]
    notes = "; ".join(filter(None, (net.patch, net.note)))
    return f"{net.names[0]} ({net.year})", net.task, *cells, notes, ", ".join(net.checked)


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    """In Markdown; what repeats the first cell of the row above is left out there."""
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    above = ""
    for first, *others in rows:
        yield f"| {' | '.join(('' if first == above else first, *others))} |"
        above = first
