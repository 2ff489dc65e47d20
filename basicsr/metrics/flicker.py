"""Flicker: how much a picture changes from frame to frame beyond what moved.

After the warping error of W.-S. Lai et al., "Learning Blind Video Temporal Consistency", ECCV 2018: here as a mean of absolute
differences, and with the optical flow of one reference for all that is compared. What is hidden in one of both frames is found
as by N. Sundaram, T. Brox, K. Keutzer, "Dense Point Trajectories by GPU-Accelerated Large Displacement Optical
Flow", ECCV 2010, eq. 5. Optical flow: T. Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016, by OpenCV.

Two frames at a time, so that it is no metric of METRICS, which are of one picture.
"""

from typing import NamedTuple

import cv2
import numpy as np

from basicsr.errors import UserError

SMALLEST = 16  # side in pixels of the smallest frame in which motion is looked for
PROTOCOL = "flicker: mean absolute difference from the frame before, moved by the optical flow of {reference}, of 255"
_RELATIVE, _ABSOLUTE = 0.01, 0.5  # Sundaram et al.: what forward and backward flow may differ by


class Motion(NamedTuple):
    """From a frame to the one before it.

    Attributes:
        flow: (H, W, 2) float32; what is at (x, y) was at (x, y) + flow in the frame before, in pixels.
        seen: (H, W) bool; whether it was there, inside the frame and not hidden.
    """

    flow: np.ndarray
    seen: np.ndarray


def motion(before: np.ndarray, after: np.ndarray) -> Motion:
    """The motion between two frames.

    Args:
        before, after: (H, W, 3) uint8, RGB, one after the other.

    Raises:
        UserError: frames of different sizes, or smaller than 16x16 pixels.
    """
    if before.shape != after.shape:
        raise UserError(f"frames of {before.shape[1]}x{before.shape[0]} and {after.shape[1]}x{after.shape[0]} pixels differ.")
    if min(after.shape[:2]) < SMALLEST:
        height, width = after.shape[:2]
        raise UserError(f"frames of {width}x{height} pixels are too small for optical flow; give at least 16x16.")
    old, new = (cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in (before, after))
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = search.calc(new, old, None)
    back = warped(search.calc(old, new, None), flow)
    disagreement = np.square(flow + back).sum(2)
    hidden = disagreement > _RELATIVE * (np.square(flow).sum(2) + np.square(back).sum(2)) + _ABSOLUTE
    x, y = _places(flow)
    height, width = flow.shape[:2]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return Motion(flow, inside & ~hidden)


def warped(before: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """A frame moved to where the next one has it, (H, W, C) float32, by bilinear interpolation; `flow` as in `Motion`."""
    x, y = _places(flow)
    return cv2.remap(before.astype(np.float32), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def flicker(before: np.ndarray, after: np.ndarray, moved: Motion) -> float:
    """Mean absolute difference of a frame and the one before it, moved to its place, where it was seen in both.

    Args:
        before, after: (H, W, C), any type and unit: frames, or their errors.
        moved: the motion between them.

    Returns:
        In the unit of the frames, lower is steadier; 0 for a scene that stands still; NaN where nothing is seen in both.
        Moving detail adds to it by being interpolated, so that figures are to be read beside that of the ground truth: less
        than that is blur, more is flicker.
    """
    if not moved.seen.any():
        return float("nan")
    difference = np.abs(after.astype(np.float32) - warped(before, moved.flow))
    return float(difference[moved.seen].mean(dtype=np.float64))


def _places(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows, (H, W) float32 each, where what is in a frame was before."""
    y, x = np.mgrid[0 : flow.shape[0], 0 : flow.shape[1]].astype(np.float32)
    return x + flow[..., 0], y + flow[..., 1]
