"""Restored image laid over its ground truth, as the published evaluation on RealBlur does before it measures.

J. Rim, H. Lee, J. Won, S. Cho, "Real-world blur dataset for learning and benchmarking deblurring algorithms", ECCV 2020, after
R. Koehler et al., ECCV 2012. G. D. Evangelidis, E. Z. Psarakis, "Parametric image alignment using enhanced correlation
coefficient maximization", IEEE TPAMI 30(10), 2008: ECC.
"""

import threading
from functools import lru_cache

import cv2
import numpy as np

from basicsr.errors import UserError

_STEPS = 100  # of ECC, always all of them
_PREFILTER = 5


def aligned(restored: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The restored image with the brightness of its ground truth, warped onto it by a homography; and where it then is.

    Args: restored, truth: (H, W, 3) RGB or (H, W, 1), uint8.

    Returns:
        The restored image, (H, W, C) float32, white about 1, and the mask (H, W) of pixels that it covers, 0 or 1.

    Raises:
        UserError: no alignment is found (ECC does not converge), or the restored image is black.
    """
    # Several metrics ask for the same pair, one after the other.
    found = _cache.aligned(restored.tobytes(), truth.tobytes(), restored.shape)
    return found[0].copy(), found[1].copy()


def _aligned(restored: bytes, truth: bytes, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    z, x = (np.frombuffer(data, np.uint8).reshape(shape).astype(np.float32) / 255 for data in (restored, truth))
    power = float((z.astype(np.float64) ** 2).sum())
    if power == 0:
        raise UserError("the restored image is black, and cannot be aligned with its ground truth")
    z *= np.float32(float((x.astype(np.float64) * z).sum()) / power)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _STEPS, 0)
    start = np.eye(3, dtype=np.float32)
    try:
        _, matrix = cv2.findTransformECC(_grey(x), _grey(z), start, cv2.MOTION_HOMOGRAPHY, criteria, None, _PREFILTER)
    except cv2.error as error:
        reason = " ".join((error.err or str(error)).split())
        raise UserError(f"it cannot be aligned with its ground truth: ECC does not converge ({reason[:120]})") from None
    size = (shape[1], shape[0])
    warped = cv2.warpPerspective(
        z, matrix, size, flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT
    ).reshape(shape)
    ones = np.ones(shape[:2], np.float32)
    mask = cv2.warpPerspective(
        ones, matrix, size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_CONSTANT, borderValue=0
    )
    if not mask.any():
        raise UserError("it cannot be aligned with its ground truth: ECC moves it out of the picture")
    return warped, mask


class _Cache(threading.local):
    """Each thread measures images of its own."""

    def __init__(self) -> None:
        self.aligned = lru_cache(maxsize=2)(_aligned)


_cache = _Cache()


def _grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.shape[2] == 3 else image[..., 0]
