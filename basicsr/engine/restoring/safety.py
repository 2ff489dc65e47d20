"""Whether a restored photograph can be one: restoration changes details, not how parts of a picture look from afar."""

import cv2
import numpy as np

BLOCK = 32  # side of the parts that are looked at, in pixels
# On the bundled photographs the truth itself is up to 0.12 away in colour (noise that was clipped at black), and has up to 2.9
# times the contrast (blur in parts that are nearly flat).
SHIFT = 0.2  # of a part's mean colour
CONTRAST, EXCESS = 3.0, 0.1  # times the contrast before, and this more
# On them, where TLC does good it changes parts by up to 0.0032 in contrast on average, and by up to 0.0075 in mean colour, not
# by both; where it does harm, in HINet-AllNorms, by at least 0.0080 in contrast and 0.0033 in colour.
MEAN_SHIFT, MEAN_CONTRAST = 0.003, 0.006


def explosion(image: np.ndarray, restored: np.ndarray) -> str:
    """Why `restored` cannot be `image` restored, or ''.

    Blur, noise, rain and compression leave the mean colour of a part of 32x32 pixels about as it was, and restoration does not
    multiply its contrast. Colour blobs, blocks and checkerboards do.

    Args: image, restored: (H, W, 3) in [0, 1]; restored may hold anything.
    """
    if not np.isfinite(restored).all():
        return f"{np.count_nonzero(~np.isfinite(restored))} of its values are no numbers"
    (before, contrast), (after, contrast_after) = map(_parts, (image, restored))
    shifts = np.abs(after - before).max(axis=2)
    if shifts.max() > SHIFT:
        return f"the colour of {_where(shifts, image.shape)} is off by {shifts.max():.2f} (1 is white)"
    excess = contrast_after - (CONTRAST * contrast + EXCESS)
    if excess.max() > 0:
        i = np.unravel_index(excess.argmax(), excess.shape)
        return f"the contrast of {_where(excess, image.shape)} grew from {contrast[i]:.2f} to {contrast_after[i]:.2f}"
    return ""


def disagreement(plain: np.ndarray, local: np.ndarray) -> str:
    """Why TLC did harm to `local`, by the picture without TLC, or ''.

    TLC changes details, and colours where windows see what the whole picture hides. Where parts of 32x32 pixels have on average
    another colour and another contrast than without it, norms met in windows what they did not learn with.

    Args: plain, local: (H, W, 3) in [0, 1].
    """
    (colour, contrast), (colour_local, contrast_local) = _parts(plain), _parts(local)
    shift = float(np.abs(colour_local - colour).max(axis=2).mean())
    change = float(np.abs(contrast_local - contrast).mean())
    if shift <= MEAN_SHIFT or change <= MEAN_CONTRAST:
        return ""
    return f"its parts are off by {shift:.3f} in colour and {change:.3f} in contrast on average, beside those without TLC"


def _parts(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean colour (h, w, 3) and standard deviation (h, w) of each part."""
    size = tuple(max(1, round(length / BLOCK)) for length in image.shape[1::-1])  # columns, rows
    image = image.astype(np.float32)
    mean, square = (cv2.resize(x, size, interpolation=cv2.INTER_AREA).reshape(*size[::-1], 3) for x in (image, image**2))
    return mean, np.sqrt(np.maximum(square - mean**2, 0).mean(axis=2))


def _where(values: np.ndarray, shape: tuple[int, ...]) -> str:
    row, column = np.unravel_index(values.argmax(), values.shape)
    y, x = ((i + 0.5) * length / count for i, length, count in zip((row, column), shape, values.shape, strict=False))
    return f"the part around column {x:.0f}, row {y:.0f}"
