"""A clip restored in several ways at once, and what each frame has to say of them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from tqdm import tqdm

from basicsr.engine.flicker.clips import Clip, Frame
from basicsr.engine.testing.evaluate import as_one_view, measure
from basicsr.engine.testing.results import mean
from basicsr.errors import UserError
from basicsr.metrics.flicker import flicker, motion
from basicsr.models.inference import Predict
from basicsr.utils.image import quantise

INPUT, TRUTH = "input", "ground truth"
ERROR = "flicker of the error"
Pictures = dict[str, np.ndarray]  # by way, (H, W, 3) uint8 RGB


@dataclass(frozen=True)
class Measured:
    """A frame: by way, figures by name. `flicker` is there where the frame before it is."""

    name: str
    figures: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Result:
    """A clip. strips: by way, (frames, W, 3) uint8 RGB: one row of pixels over time."""

    clip: Clip
    frames: list[Measured]
    strips: dict[str, np.ndarray] = field(default_factory=dict)


def measure_clip(
    clip: Clip,
    ways: Mapping[str, Predict],
    metrics: Mapping[str, Callable],
    on_frame: Callable[[str, Pictures], None] | None = None,
) -> Result:
    """Restore a clip in every way, and measure every frame of them, of the input and of the ground truth.

    Args:
        ways: by name, (1, C, H, W) in [0, 1] to (1, 3, H, W) or (1, 1, H, W). Of several views in one, their mean is the input.
        metrics: of a restored picture and its ground truth, as `build_metrics` makes them.
        on_frame: called with a frame's name and its pictures.

    Raises:
        UserError: a frame that cannot be read, restored or measured, with its name.
    """
    frames, rows, before = [], {}, None
    for frame, pictures, figures in tqdm(_restored(clip, ways, metrics), clip.name, clip.length, leave=False, unit="frame"):
        if before is not None and frame.number - before[0] == clip.step:
            _add_flicker(frame.name, figures, before[1], pictures)
        if not rows:
            row = _telling_row([pictures[way] for way in ways])
        for way, picture in pictures.items():
            rows.setdefault(way, []).append(picture[row])
        if on_frame is not None:
            on_frame(frame.name, pictures)
        frames.append(Measured(frame.name, figures))
        before = frame.number, pictures
    return Result(clip, frames, {way: np.stack(lines) for way, lines in rows.items()})


def means(results: list[Result]) -> dict[str, dict[str, float]]:
    """By way, the mean of each figure over all frames that have it, without infinite ones, as tests of pictures have it."""
    values: dict[str, dict[str, list[float]]] = {}
    for figures in (frame.figures for result in results for frame in result.frames):
        for way, own in figures.items():
            for name, value in own.items():
                values.setdefault(way, {}).setdefault(name, []).append(value)
    return {way: {name: mean(of) for name, of in own.items()} for way, own in values.items()}


def _restored(
    clip: Clip, ways: Mapping[str, Predict], metrics: Mapping[str, Callable]
) -> Iterator[tuple[Frame, Pictures, dict[str, dict[str, float]]]]:
    """Each frame with its pictures in order, the input first and the ground truth last, and what metrics say of them."""
    for frame in clip.frames():
        try:
            restored = {way: _run(predict, frame.lq) for way, predict in ways.items()}
            seen = as_one_view(frame.lq, len(next(iter(restored.values()))))
            shown = {INPUT: frame.lq if seen is None else seen, **restored}
            figures = {way: measure(metrics, x, frame.gt)[0] if frame.gt is not None else {} for way, x in shown.items()}
        except UserError as error:
            raise UserError(f"{frame.name}: {error}") from None
        if frame.gt is not None:
            shown[TRUTH], figures[TRUTH] = frame.gt, {}
        yield frame, {way: _picture(frame.name, x) for way, x in shown.items()}, figures


def _picture(name: str, image: torch.Tensor) -> np.ndarray:
    """(H, W, 3) uint8 RGB of (3, H, W), or of (1, H, W) in grey."""
    if image.shape[0] not in (1, 3):
        raise UserError(
            f"{name}: flicker is measured of pictures in colour or grey, and this one has {image.shape[0]} channels."
        )
    return quantise(image.expand(3, -1, -1).numpy().transpose(1, 2, 0))


def _run(predict: Predict, image: torch.Tensor) -> torch.Tensor:
    restored = predict(image[None])[0].float().cpu()
    if broken := int((~torch.isfinite(restored)).sum()):
        raise UserError(f"{broken} of the values that the network makes of it are no numbers")
    return restored


def _add_flicker(name: str, figures: dict[str, dict[str, float]], before: Pictures, after: Pictures) -> None:
    """One motion for all, so that a way is not the steadier for what its own pictures hide."""
    reference = TRUTH if TRUTH in after else INPUT
    try:
        moved = motion(before[reference], after[reference])
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    if not moved.seen.any():
        return
    for way, own in figures.items():
        own["flicker"] = flicker(before[way], after[way], moved)
        if TRUTH in after and way != TRUTH:
            errors = (frame[way].astype(np.float32) - frame[TRUTH] for frame in (before, after))
            own[ERROR] = flicker(*errors, moved)


def _telling_row(pictures: list[np.ndarray]) -> int:
    """The row in which the ways differ most; that in the middle where they do not."""
    spread = np.ptp(np.stack(pictures).astype(np.float32), axis=0).mean((1, 2))
    return int(spread.argmax()) if spread.any() else len(spread) // 2
