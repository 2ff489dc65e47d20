"""What docs/performance.md and the README say of measured speed, made of figures/benchmark*.json, files of `tlc benchmark`."""

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path

from basicsr.engine.benchmark.results import Result, from_dict
from basicsr.engine.benchmark.show import OUT_OF_MEMORY, as_time, table

Documents = Mapping[str, dict]  # by the file's name without its suffix

_GPU = """\
`time` is that between two CUDA events on the GPU; `floor` what no network that runs block by block gets below on this card: its
arithmetic at the rate of a large matrix product in that precision, or its weights and the maps between blocks at the rate of a
large copy, the larger of the two ([what counts](../basicsr/engine/benchmark/floor.py)). `product` and `copy` are the shares of
these two rates that the plain network reaches, `kernels` what a prediction launches, `in kernels` the time that these take."""


def read(folder: Path) -> dict[str, dict]:
    """The documents of figures/, that of the CPU first."""
    files = sorted(folder.glob("benchmark*.json"), key=lambda file: file.stem)
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


def performance_block(documents: Documents) -> str:
    """For docs/performance.md: of each the device, its table and its picture.

    A document may have a `note`: what a reader has to know of how it was measured.
    """
    parts = []
    for name, document in documents.items():
        device, results = document["device"], _results(document)
        said = [f"torch {document['torch']}{_compiled(results)}.", document.get("note", "")]
        if any(r.copy_rate for r in results):
            said += [_GPU, f"The card's rates: {_rates(results)}."]
        lines = "\n".join(table(results))
        picture = f"![Cost of an image on {device}](../figures/{name}.png)"
        text = textwrap.fill(" ".join(filter(None, said)), 140, break_long_words=False, break_on_hyphens=False)
        parts += [f"### {device}", text, f"```text\n{lines}\n```", picture]
    return "\n\n".join(parts)


def readme_block(documents: Documents) -> str:
    """For the README: a row for every device and precision, at the largest size that all have."""
    found = {name: _results(document) for name, document in documents.items()}
    size = max(set.intersection(*({r.case.size for r in results} for results in found.values())))
    nets = list(dict.fromkeys(r.case.label for results in found.values() for r in results))
    lines = [f"| {size[0]}x{size[1]}, plain / with TLC | {' | '.join(nets)} |", "|---" * (1 + len(nets)) + "|"]
    for name, results in found.items():
        rows: dict[str, dict[str, str]] = {}
        for r in results:
            if r.case.size == size:
                rows.setdefault(r.case.precision, {})[r.case.label] = _pair(r)
        lines += [
            f"| {documents[name]['device']}, {precision} | {' | '.join(row.get(net, '') for net in nets)} |"
            for precision, row in rows.items()
        ]
    return "\n".join(lines)


def _results(document: dict) -> list[Result]:
    return [from_dict(result) for result in document["results"]]


def _pair(r: Result) -> str:
    plain, local = (as_time(t.seconds) if t else OUT_OF_MEMORY for t in (r.plain, r.local))
    number, _, unit = plain.partition(" ")
    return f"{number} / {local}" if r.plain and r.local and local.endswith(f" {unit}") else f"{plain} / {local}"


def _compiled(results: list[Result]) -> str:
    return ", through torch.compile" if any(r.case.compiled for r in results) else ""


def _rates(results: list[Result]) -> str:
    """The fastest of each that was measured."""
    rates: dict[str, float] = {}
    for r in results:
        rates[r.case.precision] = max(r.matrix_rate, rates.get(r.case.precision, 0))
    products = ", ".join(f"{precision} {rate / 1e3:.3g} TFLOP/s" for precision, rate in rates.items())
    return f"{products}; a copy {max(r.copy_rate for r in results) / 1e3:.3g} TB/s, read and written"
