"""One picture: run networks on it, choose what is written, say what came of it, draw them side by side."""

import logging
from pathlib import Path

import numpy as np
import torch

from basicsr.engine.restoring.panels import Panel, draw
from basicsr.engine.restoring.safety import disagreement, explosion
from basicsr.errors import UserError
from basicsr.metrics import calculate_psnr
from basicsr.models.inference import Predict
from basicsr.options import display
from basicsr.utils.image import quantise

logger = logging.getLogger("basicsr")
NOTHING = 1 / 255  # mean change of a picture below which nothing worth the name was restored


def warn_of_nothing(label: str, change: np.ndarray, name: str) -> None:
    if (mean := float(np.abs(change).mean())) < NOTHING:
        logger.warning(
            "%s changed by %.1f/255 on average, next to nothing: either it has none of what %s removes, or not in the form "
            "that the network was trained on.",
            label,
            255 * mean,
            name,
        )


def compare(file: Path, shown: dict[str, np.ndarray], psnr: dict[str, float], truth: np.ndarray | None) -> None:
    panels = [Panel(f"{name}  {psnr[name]:.2f} dB" if psnr else name, picture) for name, picture in shown.items()]
    if truth is not None:
        panels.append(Panel("target", truth))
    draw(file, panels)
    logger.info("%s", display(file))


def safe_name(
    label: str, predictors: dict[str, Predict], wanted: str, image: np.ndarray, restored: dict[str, np.ndarray], remedy: str
) -> str:
    """The network whose picture is written: the wanted one, else the one without TLC, which is run where it was not."""
    plain = wanted.removesuffix("Local")
    names = list(dict.fromkeys(name for name in (wanted, plain) if name in predictors))
    for name in names:
        if name not in restored:
            restored[name] = run(predictors[name], image)
    for name in names:
        why = explosion(image, restored[name])
        if not why and remedy and name != plain and plain in restored and not explosion(image, restored[plain]):
            why = disagreement(restored[plain], restored[name])
        if not why:
            return name
        logger.warning("%s: what %s makes of it cannot be right, %s%s.", label, name, why, remedy if name != plain else "")
    raise UserError(f"{label}: nothing was written, since {why}; do the weights fit the photograph and the network?")


def run(predict: Predict, image: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (H, W, 3), clamped to [0, 1]; NaN where the network's output is no number, also where it is infinite."""
    tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
    out = predict(tensor)[0]
    return torch.where(out.isfinite(), out.clamp(0, 1), torch.nan).cpu().numpy().transpose(1, 2, 0)


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    return calculate_psnr(quantise(image)[..., ::-1], quantise(truth)[..., ::-1], crop_border=0)
