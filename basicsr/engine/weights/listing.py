"""Weights that have names, published and bundled ones, as a table: task, figures, size, terms, and whether they are here."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from basicsr.engine.weights.known import cached
from basicsr.engine.weights.published import BLUR, PUBLISHED, Published, Result
from basicsr.engine.weights.store import FOLDER, at_hand
from basicsr.errors import UserError
from basicsr.options import resolve
from basicsr.paths import BUNDLED
from basicsr.utils.download import web_page

_HEAD = ("name", "takes away", "set", "plain", "Local", "MB", "terms", "where")
_TASKS = {"SampleBlur": BLUR, "SampleNoise": "noise", "SampleReal": "noise of files", "AllNorms": "noise"}  # of bundled ones
_FIGURES = re.compile(
    r"^  [A-Z][A-Za-z]+ +(\d+\.\d+) +(0\.\d+)$", re.MULTILINE
)  # in a card: of the plain net, of the Local one
_SETS = re.compile(r"^(\w+), \d+ images?$", re.MULTILINE)


class Row(NamedTuple):
    """Weights as the table shows them. size: bytes, of a file that is not here those of its parameters."""

    name: str
    task: str
    results: tuple[Result, ...]
    size: int
    terms: str
    where: str


def bundled() -> list[Path]:
    """Files that come with the toolbox: those with a card."""
    folders = dict.fromkeys((resolve(FOLDER), BUNDLED / FOLDER))
    files = [file for folder in folders for file in sorted(folder.glob("*.safetensors"))]
    return [file for file in files if file.with_suffix(".md").is_file()]


def table() -> list[str]:
    """Lines; below them, the terms of what is not for commercial use, and what the sizes are."""
    rows = [*map(_row_of_published, PUBLISHED), *map(_row_of_bundled, bundled())]
    lines = list(_aligned([_HEAD, *(cells for row in rows for cells in _cells(row))]))
    terms = dict.fromkeys(known.terms for known in PUBLISHED if not known.terms.commercial)
    notes = ["PSNR / SSIM as published; MB: of the parameters alone, where the file is not here."]
    notes += [f"{term.name}: {term.url} (to download: --accept-licence)" for term in terms]
    return [*lines, "", *notes]


def page_of_published() -> str:
    """The published ones as a table in Markdown, with where they are."""
    rows = ["| name | network | takes away | published as | where |", "|---|---|---|---|---|"]
    for known in PUBLISHED:
        options = {word: value for word, value in known.net.options.items() if word != "type"}
        network = ", ".join([str(known.net.options["type"]), *(f"`{word}: {_yaml(value)}`" for word, value in options.items())])
        files = ", ".join(f"`{file}`" for file in known.files) or f"`{known.name}.pth`"
        places = ((source, "Google Drive" if source.startswith("drive:") else "release") for source in known.sources)
        links = ", ".join(f"[{words}]({web_page(source)})" for source, words in places)
        rows.append(f"| {known.name} | {network} | {known.task} | {files} | {links} |")
    return "\n".join(rows)


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _row_of_published(known: Published) -> Row:
    try:
        file = at_hand(known.name)
        where = "not here" if file is None else "cached" if file == cached(known) else FOLDER
    except UserError:  # said in full where it is used
        file, where = cached(known), "changed"
    terms = known.terms.name if known.terms.commercial else "non-commercial"
    return Row(known.name, known.task, known.results, file.stat().st_size if file else known.size, terms, where)


def _row_of_bundled(file: Path) -> Row:
    card = file.with_suffix(".md").read_text(encoding="utf-8")
    figures = [(float(psnr), float(ssim)) for psnr, ssim in _FIGURES.findall(card)][-2:]
    sets = _SETS.findall(card)
    results = (Result(sets[-1], *figures),) if sets and len(figures) == 2 else ()
    task = _TASKS.get(file.stem.partition("-")[2], "")
    return Row(file.stem, task, results, file.stat().st_size, "MIT", "bundled")


def _cells(row: Row) -> Iterable[tuple[str, ...]]:
    """A line for each test set."""
    own = (f"{row.size / 1e6:.1f}", row.terms, row.where)
    for number, result in enumerate(row.results or (None,)):
        figures = ("-", "-", "-") if result is None else (result.test, _figures(result.plain), _figures(result.local))
        yield (row.name, row.task, *figures, *own) if number == 0 else ("", "", *figures, "", "", "")


def _figures(figures: tuple[float, float | None] | None) -> str:
    """'32.71 / .959': PSNR and SSIM."""
    if figures is None:
        return "-"
    psnr, ssim = figures
    return f"{psnr:.2f}" + ("" if ssim is None else f" / {ssim:.3f}".replace("0.", ".", 1))


def _aligned(rows: list[tuple[str, ...]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
