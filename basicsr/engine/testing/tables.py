"""Tables of what an evaluation found: for the screen, in Markdown, and in LaTeX for a paper."""

import math
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from basicsr.engine.testing.confidence import Confidence, confidence
from basicsr.engine.testing.results import Run, average, by_network, gain, gains, identical, mean, plain_and_local
from basicsr.errors import counted

LABEL, IMAGE, NUMBER = 24, 28, 10  # least width of a column, in characters
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


@dataclass(frozen=True)
class Row:
    """A line of a table.

    values: by metric, none for one that was not measured here. identical: images that they leave out, whose figure is infinite.
    signed: they are gains. seconds: for an image, where it was measured.
    """

    label: str
    values: Mapping[str, float]
    identical: Mapping[str, int] = field(default_factory=dict)
    seconds: float | None = None
    signed: bool = False

    def cell(self, name: str, digits: int | None = None) -> str:
        """digits: None: two for dB, four for figures about 1."""
        value = self.values.get(name, math.nan)
        if digits is None:
            digits = 4 if abs(value) < 2 else 2
        number = "-" if math.isnan(value) else _fixed(value, digits, self.signed)
        alike = self.identical.get(name)
        return f"{number} ({alike} identical)" if alike else number


def gain_of_tlc(plain: Run, local: Run, lower: Collection[str] = ()) -> dict[str, float]:
    """The mean gain by metric, over the images whose gain is finite; more is better, also of the metrics in `lower`.

    Of metrics of the whole set the difference of the two figures; nan where the sets are not of the same images.
    """
    names = plain.images[0].metrics
    found = {name: mean(gains(plain.images, local.images, name, lower=name in lower)) for name in names}
    alike = [image.name for image in plain.images] == [image.name for image in local.images]
    for name, value in plain.whole.items():
        found[name] = gain(value, local.whole[name], lower=name in lower) if alike else math.nan
    return found


def confidence_of_gain(plain: Run, local: Run, lower: Collection[str] = ()) -> dict[str, Confidence]:
    """How sure the mean gain is, by metric of images; see `gain_of_tlc`."""
    names = plain.images[0].metrics
    return {name: confidence(gains(plain.images, local.images, name, lower=name in lower)) for name in names}


def sentences(runs: Sequence[Run], lower: Collection[str] = ()) -> list[str]:
    """How sure the gains of TLC are, a sentence for each data set and metric; none where nothing is compared."""
    found = []
    for dataset in dict.fromkeys(run.dataset for run in runs):
        if not (pair := plain_and_local([run for run in runs if run.dataset == dataset])):
            continue
        means_of_gain = gain_of_tlc(*pair, lower)
        found += [
            f"gain of TLC on {dataset}, {name}: {_sentence(means_of_gain[name], sure)}"
            for name, sure in confidence_of_gain(*pair, lower).items()
        ]
    return found


def _sentence(mean_gain: float, sure: Confidence) -> str:
    p = "p < 0.0001" if sure.p < 1e-4 else f"p = {sure.p:.2g}"
    split = f"{sure.better} of {counted(sure.images, 'image')} gain, {sure.worse} lose (sign test, {p}: {sure.verdict})"
    if sure.interval is None:
        return f"one image tells no interval; {split}" if sure.images else split
    digits = 4 if max(map(abs, (mean_gain, *sure.interval))) < 2 else 2
    low, high = (_fixed(value, digits, signed=True) for value in sure.interval)
    return f"{_fixed(mean_gain, digits, signed=True)}, 95 % bootstrap interval {low} to {high}; {split}"


def rows_of(runs: Sequence[Run], lower: Collection[str] = ()) -> dict[str, list[Row]]:
    """By data set with its number of images: the degraded input, every network, and the gain of TLC under a pair of them.

    Of several data sets there is their average besides, in which each counts alike.
    """
    found = {}
    for dataset in dict.fromkeys(run.dataset for run in runs):
        these = [run for run in runs if run.dataset == dataset]
        first = these[0].images
        rows = [Row("degraded input", these[0].figures("input_metrics"), identical(first, "input_metrics"))]
        rows += [Row(run.network, run.figures(), identical(run.images), run.seconds_per_image) for run in these]
        if pair := plain_and_local(these):
            rows.append(Row("gain of TLC", gain_of_tlc(*pair, lower), signed=True))
        found[f"{dataset}, {counted(len(first), 'image')}"] = rows
    whole = by_network(runs)
    count = max(map(len, whole.values()))
    whole = {network: of_network for network, of_network in whole.items() if len(of_network) == count}
    if count > 1 and average(next(iter(whole.values()))):
        found[f"average of {count} data sets"] = _average_rows(whole, lower)
    return found


def _average_rows(whole: Mapping[str, Sequence[Run]], lower: Collection[str]) -> list[Row]:
    runs = [*whole.values()]
    rows = [Row("degraded input", average(runs[0], "input_metrics"))]
    rows += [Row(network, average(of_network)) for network, of_network in whole.items()]
    if len(runs) == 2:
        gains_of_sets = [gain_of_tlc(*pair, lower) for pair in zip(*runs, strict=True)]
        rows.append(
            Row("gain of TLC", {name: mean(each[name] for each in gains_of_sets) for name in rows[-1].values}, signed=True)
        )
    return rows


def table(runs: Sequence[Run], protocols: Mapping[str, str], *, timed: bool = True, lower: Collection[str] = ()) -> str:
    """For the screen: a line a network, and the protocol of every metric; `timed`: seconds, too.

    lower: names of the metrics of which less is better.
    """
    names, found = list(protocols), rows_of(runs, lower)
    lines = [row for rows in found.values() for row in rows]
    label = max(LABEL, *(_width(row.label) + 4 for row in lines))
    columns = [max(NUMBER, _width(name) + 2, *(_width(row.cell(name)) + 2 for row in lines)) for name in names]
    head = "".join(_right(name, width) for name, width in zip(names, columns, strict=True))
    lines = [" " * label + head + f"{'s/image':>{NUMBER}}" * timed]
    for title, rows in found.items():
        lines.append(title)
        for row in rows:
            cells = (_right(row.cell(name), width) for name, width in zip(names, columns, strict=True))
            seconds = f"{row.seconds:>{NUMBER}.2f}" if timed and row.seconds is not None else ""
            lines.append(_left(f"  {row.label}", label) + "".join(cells) + seconds)
    return "\n".join([*lines, *(f"{name}: {protocol}" for name, protocol in protocols.items())])


def image_table(plain: Run, local: Run, metric: str, *, lower: bool = False) -> str:
    """For the screen, a line an image: the metric of the input, the plain and the -Local net, and the gain.

    lower: whether less of the metric is better.
    """
    label = max(IMAGE, _width(metric) + 2, *(_width(image.name) + 4 for image in plain.images))
    of_local = {image.name: image for image in local.images}
    lines = [_left(metric, label) + "".join(f"{word:>{NUMBER}}" for word in ("input", "plain", "local", "gain"))]
    for a in plain.images:
        if (b := of_local.get(a.name)) is None:
            continue
        values = (a.input_metrics.get(metric, math.nan), a.metrics[metric], b.metrics[metric])
        cells = [*map(_number, values), _number(gain(*values[1:], lower=lower), signed=True)]
        lines.append(_left(f"  {a.name}", label) + "".join(cell.rjust(NUMBER) for cell in cells))
    return "\n".join(lines)


def markdown(runs: Sequence[Run], protocols: Mapping[str, str], *, lower: Collection[str] = ()) -> str:
    """The table for a README or an issue, with the protocols under it."""
    names, digits = list(protocols), _digits(runs, protocols)
    lines = [["data set", "network", *map(in_markdown, names)], ["---", "---", *("---:" for _ in names)]]
    for title, rows in rows_of(runs, lower).items():
        for row in rows:
            cells = [row.cell(name, digits[name]) for name in names]
            lines.append([in_markdown(title), in_markdown(row.label), *cells])
    body = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{body}\n\n{in_markdown(_caption(protocols))}\n"


def latex(runs: Sequence[Run], protocols: Mapping[str, str], *, lower: Collection[str] = ()) -> str:
    """The table for a paper, of the package booktabs, with the protocols as its caption."""
    names, digits = list(protocols), _digits(runs, protocols)
    lines = [_latex_row(["Data set", "Network", *map(_in_latex, names)])]
    for title, rows in rows_of(runs, lower).items():
        lines.append(r"\midrule")
        for number, row in enumerate(rows):
            first = "" if number else _in_latex(title)
            cells = (re.sub(r"^[-+]?[\d.]+", r"$\g<0>$", row.cell(name, digits[name])) for name in names)
            lines.append(_latex_row([first, _in_latex(row.label), *cells]))
    return "\n".join(
        [
            r"% \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_in_latex(_caption(protocols))}}}",
            rf"\begin{{tabular}}{{ll{'r' * len(names)}}}",
            r"\toprule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _caption(protocols: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {protocol}" for name, protocol in protocols.items()) + "."


def _digits(runs: Sequence[Run], names: Mapping[str, str]) -> dict[str, int]:
    """Of every metric, the same in a whole column: two digits for dB, four for figures about 1."""
    values = {name: [run.figures().get(name, math.nan) for run in runs] for name in names}
    return {name: 2 if any(abs(value) >= 2 for value in column) else 4 for name, column in values.items()}


def _fixed(value: float, digits: int, signed: bool) -> str:
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"


def _number(value: float, signed: bool = False) -> str:
    """Two digits for dB, four for figures about 1."""
    return "-" if math.isnan(value) else _fixed(value, 4 if abs(value) < 2 else 2, signed)


def _width(text: str) -> int:
    """Columns that a terminal shows a text in: Chinese, Japanese and Korean characters take two, accents on top none."""
    marks = sum(unicodedata.combining(character) > 0 for character in text)
    return len(text) - marks + sum(unicodedata.east_asian_width(character) in "WF" for character in text)


def _left(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _right(text: str, width: int) -> str:
    return " " * (width - _width(text)) + text


def in_markdown(text: str) -> str:
    """As it stands, in a cell."""
    return re.sub(r"([\\`*_\[\]<>|~&$#])", r"\\\1", " ".join(text.split()))


def _in_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
