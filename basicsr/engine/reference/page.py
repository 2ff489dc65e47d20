"""The page of all options, docs/options.md."""

from collections.abc import Iterable

from basicsr.engine.reference.catalogue import REQUIRED, Argument, Entry, sections
from basicsr.engine.reference.listing import TITLES, default_text, kinds, type_text
from basicsr.options import RETIRED

_HEAD = """\
# All options

Made from the code by `python scripts/make_reference.py`. Unknown words are errors that name the nearest known one, and
`word: ~` asks for the default. Paths are relative to the repository's root, or in an installed package to the current folder.
Any option can be given on the command line: `--force_yml section:word=value`. Editors complete and check the files by
[options/schema.json](../options/schema.json), which the first line of each names.
How to train: [Train](train.md).
"""
_KINDS = {
    "network": "`network_g.type`. Each has a variant with the suffix Local, which takes the words of TLC beside its own.",
    "tlc": "Words of `network_g.tlc`, or of `network_g` itself where its type has the suffix Local.",
    "dataset": "`datasets.<name>.type`, with further words of that section.",
    "loss": "`train.pixel_opt.type` and those of `train.losses`.",
    "metric": "`val.metrics.<name>.type`.",
    "scheduler": "`train.scheduler.type`. Iterations count from 0.",
    "optimizer": "`train.optim_g.type`; they take the words of `train.optim_g` as well, `betas` where torch's class has them.",
}


def page_text() -> str:
    """The file's text."""
    parts = [_HEAD, "## Sections\n"]
    for section in sections():
        parts += [f"### {f'`{section.name}`' if section.name else 'The top of the file'}\n", *_entry(section)]
    for kind, entries in kinds().items():
        parts += [f"## {TITLES[kind]}\n", f"{_KINDS[kind]}\n"]
        for entry in entries:
            parts += [*([] if kind == "tlc" else [f"### {entry.name}\n"]), *_entry(entry)]
    parts += ["## Words without effect\n", "Published files have them; they are accepted.\n"]
    parts += ["| word | why |\n|---|---|", *(f"| `{word}` | {reason} |" for word, reason in RETIRED.items())]
    return "\n".join(parts) + "\n"


def _entry(entry: Entry) -> Iterable[str]:
    if entry.summary:
        yield f"{entry.summary}\n"
    yield "| word | | default | |\n|---|---|---|---|"
    yield from map(_row, entry.arguments)
    yield ""


def _row(argument: Argument) -> str:
    default = "required" if argument.default is REQUIRED else default_text(argument.default)
    cells = (f"`{argument.name}`", type_text(argument.schema), default, argument.description)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
