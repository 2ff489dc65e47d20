"""Figures of numbers: the gain of every network and photograph, and PSNR over the window."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from basicsr.engine.testing.results import mean
from basicsr.engine.testing.sweep import FACTORS
from basicsr.engine.testing.sweep_report import draw_windows, save_figure
from gains.cases import title
from gains.measure import Evidence

FIGURES = "figures"
GAIN_FIGURE, BASE_SIZE_FIGURE = "evidence_gain.png", "evidence_base_size.png"


def draw_gains(file: Path, evidence: Sequence[Evidence]) -> None:
    """A map of numbers: networks by photographs, one part per task, and the mean at the right end."""
    tasks = by_task(evidence)
    rows = [len(es) for es in tasks.values()]
    columns = [e.name for e in max((e.plain for e in evidence), key=len)]
    figure = Figure(figsize=(2.2 + 0.72 * (len(columns) + 1), 1.9 + 0.45 * sum(rows) + 0.4 * len(rows)), dpi=110)
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("Gain of TLC in PSNR [dB], per network and photograph", fontsize=13)
    limit = max(abs(g) for e in evidence for g in e.gains) or 1
    all_axes = figure.subplots(len(rows), 1, squeeze=False, height_ratios=rows)[:, 0]
    for axes, (task, es) in zip(all_axes, tasks.items(), strict=True):
        gains = np.array([[*e.gains, mean(e.gains)] for e in es])
        axes.imshow(gains, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
        for (row, column), gain in np.ndenumerate(gains):
            colour = "white" if abs(gain) > 0.6 * limit else "black"
            weight = "bold" if column == len(columns) else "normal"
            axes.text(column, row, f"{gain:+.2f}", ha="center", va="center", fontsize=10, color=colour, weight=weight)
        axes.axvline(len(columns) - 0.5, color="white", linewidth=4)
        axes.set_yticks(range(len(es)), [e.case.net for e in es], fontsize=11)
        axes.set_title(title(task), loc="left", fontsize=11)
        axes.set_xticks([])
        axes.spines[:].set_visible(False)
    labels = [*(name.replace("_", " ") for name in columns), "mean"]
    all_axes[-1].set_xticks(range(len(labels)), labels, rotation=35, ha="right", fontsize=10)
    save_figure(file, figure)


def draw_base_size(file: Path, evidence: Sequence[Evidence]) -> None:
    """PSNR minus the plain network's over the window, one panel per task, a line per network."""
    tasks = by_task(evidence)
    figure = Figure(figsize=(1 + 5.6 * len(tasks), 4.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    nets = list(dict.fromkeys(e.case.net for e in evidence))
    for axes, (task, es) in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks.items(), strict=True):
        for e in es:
            draw_line(axes, e, f"C{nets.index(e.case.net)}", "osD^vP*X"[nets.index(e.case.net) % 8])
        axes.plot([], [], "--", color="grey", label="overlapped patches")
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_xticks([*FACTORS, FACTORS[-1] + 1], [*(f"{f:g}x" for f in FACTORS), "global\n(plain)"])
        axes.set_xlabel("window (base_size) in training patches")
        axes.set_ylabel("PSNR minus plain [dB]")
        axes.set_title(title(task))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
    save_figure(file, figure)


def draw_line(axes: Axes, e: Evidence, colour: str, marker: str) -> None:
    gains = {base: e.over_plain(results) for base, results in e.sweep.items()}
    label = f"{e.case.net} (patch {e.case.patch})"
    draw_windows(axes, e.case.patch, gains, plain=0, color=colour, marker=marker, label=label)
    axes.axhline(e.over_plain(e.patches_like_sweep()), linestyle="--", linewidth=1.2, color=colour)


def by_task(evidence: Sequence[Evidence]) -> dict[str, list[Evidence]]:
    tasks = dict.fromkeys(e.case.task for e in evidence)
    return {task: [e for e in evidence if e.case.task == task] for task in tasks}
