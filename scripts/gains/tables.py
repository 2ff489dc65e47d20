"""What is written: the block of docs/evidence.md, the README's short table, the blocks of the model cards, evidence.csv."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from basicsr import __version__
from basicsr.engine import build
from basicsr.engine.testing import tables
from basicsr.engine.testing.results import Run, mean, means
from basicsr.errors import UserError
from basicsr.options import display
from basicsr.utils.files import write_bytes
from gains.cases import title
from gains.figures import BASE_SIZE_FIGURE, FIGURES, GAIN_FIGURE
from gains.measure import Evidence

BEGIN, END = MARKERS = "<!-- evidence:begin -->", "<!-- evidence:end -->"
PAGE = "docs/evidence.md"
PICTURE = "<!-- picture:begin -->", "<!-- picture:end -->"
TABLE_HEAD = ("network", "task", "parameters", "patch, window", "input", "plain", "overlapped patches", "Local")
TABLE_HEAD += ("gain of TLC", "pictures that gain")


def table(evidence: Sequence[Evidence]) -> str:
    """A line per network and task."""
    lines = [f"| {' | '.join(TABLE_HEAD)} |", "|---" * len(TABLE_HEAD) + "|"]
    for e in evidence:
        case = e.case
        modes = [means(e.plain, "input_metrics"), means(e.plain), means(e.patches), means(e.local)]
        cells = [case.net, title(case.task), f"{case.parameters / 1e6:.2f} M", f"{case.patch}, {case.base_size}"]
        cells += [f"{m['psnr']:.2f} / {unit(m['ssim'])}" for m in modes]
        cells += [f"**{mean(e.gains):+.3f} dB**", f"{sum(g > 0 for g in e.gains)}/{len(e.gains)}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def readme_block(evidence: Sequence[Evidence]) -> str:
    """The README's: PSNR without and with TLC, a line per network and a column per task."""
    tasks = list(dict.fromkeys(title(e.case.task) for e in evidence))
    cells: dict[str, dict[str, str]] = {}
    for e in evidence:
        plain, local = (means(results)["psnr"] for results in (e.plain, e.local))
        cells.setdefault(e.case.net, {})[title(e.case.task)] = f"{plain:.2f} → {local:.2f} ({mean(e.gains):+.2f})"
    lines = [f"| PSNR in dB | {' | '.join(tasks)} |", "|---" * (1 + len(tasks)) + "|"]
    lines += [f"| {net} → {net}-Local | {' | '.join(row.get(task, '') for task in tasks)} |" for net, row in cells.items()]
    gains = [gain for e in evidence for gain in e.gains]
    return "\n".join(lines) + (
        f"\n\nMeans over {len(evidence[0].plain)} photographs. Of all {len(gains)} pictures {sum(g > 0 for g in gains)} gain, "
        f"from {min(gains):+.2f} to {max(gains):+.2f} dB. SSIM, overlapped patches and other windows: [{PAGE}]({PAGE})."
    )


def page_block(evidence: Sequence[Evidence], missing: Sequence[str]) -> str:
    """That of docs/evidence.md."""
    gains = [gain for e in evidence for gain in e.gains]
    count = len(evidence[0].plain)
    protocols = [metric.protocol for metric in build.build_metrics(evidence[0].case.opt.val).values()]
    parts = [
        table(evidence),
        f"PSNR / SSIM, means over {count} photographs; overlapped patches: the plain network on patches of its training size"
        f" (`val.grids`), averaged where they overlap. Protocols: {'; '.join(protocols)}.",
        f"![Gain of TLC per network and photograph](../{FIGURES}/{GAIN_FIGURE})",
        f"Gain of TLC per network and photograph: {sum(g > 0 for g in gains)} of {len(gains)} gain, "
        f"from {min(gains):+.2f} to {max(gains):+.2f} dB.",
    ]
    if swept := [e for e in evidence if e.sweep]:
        parts += [f"![PSNR over the window](../{FIGURES}/{BASE_SIZE_FIGURE})", sweep_sentence(swept)]
    if missing:
        parts.append(f"Not measured yet: {', '.join(name.split(' ')[0] for name in missing)}.")
    parts.append(effort(evidence))
    return "\n\n".join(parts)


def sweep_sentence(evidence: Sequence[Evidence]) -> str:
    best: dict[float, list[str]] = {}  # window in patches -> the networks that like it best
    for e in evidence:
        base, results = max(e.sweep.items(), key=lambda item: e.over_plain(item[1]))
        size = base / e.case.patch if e.over_plain(results) > 0 else math.inf
        best.setdefault(size, []).append(f"{e.case.net} ({title(e.case.task)})")
    count = len(next(iter(evidence[0].sweep.values())))
    texts = [
        f"{'the whole picture (no gain)' if size == math.inf else f'{size:g}x'} for {', '.join(names)}"
        for size, names in sorted(best.items())
    ]
    return (
        f"PSNR over the window, in training patches; `global` is the plain network, dashed are overlapped patches (means over "
        f"{count} of the photographs). The best window: {'; '.join(texts)}."
    )


def effort(evidence: Sequence[Evidence]) -> str:
    """How long it all took, and where; pictures that two settings share count once."""
    unique = {(setting.file, name): record for e in evidence for setting, name, record in e.records}
    seconds = sum(record["wall"] for record in unique.values())
    devices = sorted({record["device"] for record in unique.values()})
    versions = sorted({record["torch"] for record in unique.values()})
    took = f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"
    return (
        f"Measured in {took} ({len(unique)} restored pictures; {' and '.join(devices)}; "
        f"torch {' and '.join(versions)}; version {__version__})."
    )


def card_block(e: Evidence) -> str:
    """The block of a model card: what test.py prints, overlapped patches and the other windows."""
    metrics = build.build_metrics(e.case.opt.val)
    plain = Run(e.case.net, False, e.case.task, e.plain)
    local = Run(f"{e.case.net}Local", True, e.case.task, e.local)
    protocols = {name: metric.protocol for name, metric in metrics.items()}
    patches = means(e.patches)
    parts = [
        f"```text\n{tables.image_table(plain, local, 'psnr')}\n\n{tables.table([plain, local], protocols, timed=False)}\n```",
        f"Plain on overlapped patches of {e.case.patch} (`val.grids`): {patches['psnr']:.2f} / {unit(patches['ssim'])}, "
        f"{e.over_plain(e.patches):+.3f} dB against whole pictures.",
    ]
    if e.sweep:
        count = len(next(iter(e.sweep.values())))
        gains = ", ".join(f"{base} {e.over_plain(results):+.3f}" for base, results in e.sweep.items())
        parts.append(f"Gain over `base_size`, {count} of the photographs: {gains} dB.")
    return "\n\n".join([*parts, effort([e])])


def write_csv(file: Path, evidence: Sequence[Evidence]) -> None:
    """A line per network, mode and picture."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ["task", "network", "mode", "patch", "base_size", "image", "psnr", "ssim", "input_psnr", "input_ssim"]
    writer.writerow([*head, "seconds", "device"])
    for e in evidence:
        inputs = {r.name: r.input_metrics for r in e.plain}
        for setting, name, record in e.records:
            values = [record["metrics"][m] for m in ("psnr", "ssim")] + [inputs[name][m] for m in ("psnr", "ssim")]
            row = [e.case.task, e.case.net, setting.mode, e.case.patch, setting.base_size or "", name]
            writer.writerow([*row, *(f"{v:.6f}" for v in [*values, record["seconds"]]), record["device"]])
    write_bytes(file, out.getvalue().encode())


def unit(value: float) -> str:
    """.9558, as the papers print SSIM."""
    return f"{value:.4f}".removeprefix("0")


# ---- blocks between markers


def replaced(text: str, block: str, name: str, markers: tuple[str, str] = MARKERS) -> str:
    """`text` with what stands between the markers replaced.

    Raises:
        UserError: the markers are not there, each once and in order.
    """
    before, begin, rest = text.partition(markers[0])
    _, end, after = rest.partition(markers[1])
    if not (begin and end) or any(marker in part for marker in markers for part in (before, after)):
        raise UserError(f"{name}: put the lines {' and '.join(markers)} once each where the results shall stand.")
    return f"{before}{begin}\n{block}\n{end}{after}"


def refresh(file: Path, block: str, markers: tuple[str, str] = MARKERS, *, create: bool = False) -> None:
    """Put `block` between the markers of a Markdown file; `create`: add them under a heading when there are none."""
    text = file.read_text(encoding="utf-8")
    if create and BEGIN not in text and END not in text:
        head, heading, rest = text.partition("\n## Measured\n")
        text = f"{head.rstrip()}\n\n## Measured\n\n{BEGIN}\n{END}\n" + (f"\n{rest.lstrip()}" if heading else "")
    new = replaced(text, block, display(file), markers)
    if new != file.read_text(encoding="utf-8"):
        write_bytes(file, new.encode())
