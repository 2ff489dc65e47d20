"""Between the colours of a video's samples and RGB.

ITU-R BT.601, BT.709, BT.2020: Y = Kr R + Kg G + Kb B, Cb = (B - Y) / (2 - 2 Kb), Cr = (R - Y) / (2 - 2 Kr). ITU-T H.273: the
numbers that files have for the matrices, and what limited and full range are. FFmpeg's swscale only brings chroma to the size
of luma and back: its own matrices lose the last bits of what has more than 8.
"""

from typing import Any

import cv2
import numpy as np

from basicsr.utils.image import as_float
from basicsr.utils.video.formats import Video

# Number -> Kr and Kb.
MATRICES = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087)}
MATRICES |= {9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
# The same on both sides: no range is changed.
_AS_IT_IS = {"src_color_range": "MPEG", "dst_color_range": "MPEG"}
_FULL = {"src_color_range": "JPEG", "dst_color_range": "JPEG"}


def rgb_of(frame: Any, video: Video) -> np.ndarray:
    """(H, W, 3) float32 RGB in [0, 1], upright, of a frame of PyAV."""
    if frame.format.is_rgb or video.grey:
        rgb = as_float(frame.reformat(format="rgb48le" if video.depth > 8 else "rgb24", **_FULL).to_ndarray())
    else:
        matrix, shift = _to_rgb(video)
        if video.depth > 8:
            samples = frame.reformat(format="yuv444p16le", **_AS_IT_IS).to_ndarray()
        else:
            named_full = frame.format.name.startswith("yuvj")  # swscale takes the range of these from their name
            samples = frame.reformat(**({"format": "yuvj444p", **_FULL} if named_full else {"format": "yuv444p", **_AS_IT_IS}))
            samples, matrix = samples.to_ndarray(channel_last=True), matrix * 256
        rgb = cv2.transform(samples.astype(np.float32), np.column_stack([matrix, shift])).clip(0, 1)
    return np.ascontiguousarray(np.rot90(rgb, video.turns))


def frame_of(av: Any, rgb: np.ndarray, video: Video, pixels: str) -> Any:
    """A frame of PyAV in the colours of a video, of (H, W, 3) RGB in [0, 1].

    Args:
        pixels: FFmpeg's name of a YUV format of 8 or 10 bits.
    """
    matrix, shift = _to_rgb(video)
    back = np.linalg.inv(matrix)
    samples = cv2.transform(rgb.astype(np.float32), np.column_stack([back, -back @ shift]))
    step = 1 << (6 if pixels.endswith("10le") else 8)
    samples = np.rint(samples / step).clip(0, 65536 // step - 1).astype(np.uint16) * np.uint16(step)
    frame = av.VideoFrame.from_ndarray(samples, format="yuv444p16le")
    frame = frame.reformat(format=pixels, **_AS_IT_IS)
    frame.colorspace, frame.color_range = video.matrix, 2 if video.full else 1
    return frame


def _to_rgb(video: Video) -> tuple[np.ndarray, np.ndarray]:
    """The matrix (3, 3) and the shift (3,) that make RGB in [0, 1] of samples of Y, Cb and Cr in 16 bits."""
    kr, kb = MATRICES[video.matrix]
    kg = 1 - kr - kb
    matrix = np.array([[1, 0, 2 - 2 * kr], [1, -(2 - 2 * kb) * kb / kg, -(2 - 2 * kr) * kr / kg], [1, 2 - 2 * kb, 0]])
    peak = 65536 - 65536 / (1 << video.depth)
    black, luma, chroma = (0, peak, peak) if video.full else (16 * 256, 219 * 256, 224 * 256)
    matrix = matrix / [luma, chroma, chroma]
    return matrix, -matrix @ [black, 128 * 256, 128 * 256]
