"""The picture at the top of the README: where, of all photographs and networks, what TLC gains is seen best."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from basicsr.utils.image import read_image
from gains.cases import title
from gains.measure import Evidence
from gains.views import Panel, as_picture, draw_panels, jpeg, means_of_squares, place_of_most, psnr, quality_here

TASK = "SampleBlur"
SIDE = 200  # pixels
FIGURE = "tlc_gain.jpg"


@dataclass(frozen=True)
class View:
    """A square of a photograph, and how much of TLC's gain is seen there."""

    evidence: Evidence
    name: str
    images: dict[str, np.ndarray]  # input, plain, local and target: (SIDE, SIDE, 3) RGB in [0, 1]
    worth: float

    def error(self, mode: str) -> np.ndarray:
        return self.images[mode] - self.images["target"]

    @property
    def network(self) -> str:
        return self.evidence.case.net


def find_view(evidence: Sequence[Evidence]) -> View | None:
    """The best of the networks and photographs of TASK; None where there are none, or TLC gains nothing."""
    best = None
    for e in (e for e in evidence if e.case.task == TASK):
        for index in range(len(e.plain)):
            view = look(e, index)
            if view.worth > (best.worth if best else 0):
                best = view
    return best


def look(e: Evidence, index: int) -> View:
    """The square of a photograph where what TLC gains is seen best.

    PSNR finds the most in the sky, where an error of one level becomes one of half a level and nobody sees it, or in a single
    strong edge. What is seen is an error in brightness of a few pixels' size: finer ones the eye averages, slow shading it
    overlooks. So the errors are smoothed by 1 pixel and freed of what 8 pixels' smoothing leaves, and their magnitude, not
    its square, is averaged over the square. Of the plain network's error TLC takes away `drop`: what counts is drop in levels
    times drop as a share of the error, in proportion to the brightness, since little is seen in the dark.
    """
    sample = e.case.pictures.dataset[index]
    settings = {setting.mode: setting for setting in e.case.settings}
    images = {"input": as_picture(sample["lq"]), "target": as_picture(sample["gt"])}
    for mode in ("plain", "local"):
        images[mode] = read_image(settings[mode].pictures / f"{sample['name']}.png")
    side = min(SIDE, *images["target"].shape[:2])
    target, plain, local = (images[mode].mean(2) for mode in ("target", "plain", "local"))
    before, after = (means_of_squares(np.abs(visible(restored - target)), side) for restored in (plain, local))
    drop = np.maximum(0, before - after)
    worth = means_of_squares(target, side) * drop**2 / (before + 0.002)  # 0.002: half a step of 8 bits
    top, left, most = place_of_most(worth)
    return View(e, sample["name"], {m: image[top : top + side, left : left + side] for m, image in images.items()}, most)


def visible(error: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(error, (0, 0), 1) - cv2.GaussianBlur(error, (0, 0), 8)


def draw_view(view: View) -> bytes:
    """Input, plain, with TLC and target, the errors of the first three below; a JPEG file."""
    e = view.evidence
    plain, local = (next(r for r in results if r.name == view.name) for results in (e.plain, e.local))
    whole = {"input": plain.input_metrics, "plain": plain.metrics, "local": local.metrics}
    labels = {"input": "blurred input", "plain": view.network, "local": f"{view.network}-Local (TLC)"}
    errors = {mode: 255 * np.abs(view.error(mode)).mean(2) for mode in labels}
    panels = [
        Panel(f"{label}\n{quality_here(view.error(mode), whole[mode]['psnr'])}", view.images[mode], errors[mode])
        for mode, label in labels.items()
    ]
    figure = Figure(figsize=(12.8, 6.9), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 4)
    for axes in (*above, *below):
        axes.set(xticks=[], yticks=[])
    above[0].set_ylabel(view.name.replace("_", " "), fontsize=13)
    below[0].set_ylabel("error", fontsize=13)
    colours = {"cmap": "magma", "vmin": 0, "vmax": round(max(1, np.percentile(errors["input"], 98)))}
    draw_panels(above, below, panels, view.images["target"], colours, "absolute error, of 255,\nmean over the colours")
    return jpeg(figure)


def caption(view: View, file: str) -> str:
    """The picture in Markdown, and what it shows."""
    side = len(view.images["target"])
    plain, local = (psnr(view.error(mode)) for mode in ("plain", "local"))
    before, after = (
        next(r.metrics["psnr"] for r in results if r.name == view.name)
        for results in (view.evidence.plain, view.evidence.local)
    )
    shown = f"Part of a blurred photograph, restored by {view.network} without and with TLC, and the target; below, the errors"
    of = f"{view.network} on {view.name} ([author, licence](datasets/Sample/ATTRIBUTION.md))"
    return (
        f"![{shown}]({file})\n\n{of}: the {side}x{side} pixels, of all bundled photographs and networks for {title(TASK)}, "
        f"where the gain of TLC is seen best: there {local - plain:.2f} dB, in the whole picture {after - before:.2f} dB. "
        "`make evidence` finds them."
    )
