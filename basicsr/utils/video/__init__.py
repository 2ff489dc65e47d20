"""Video files, through the optional package PyAV: looked through, read frame by frame, and written anew with other frames.

In memory a frame is what an image is: float32 (H, W, 3), RGB, in [0, 1], upright.
"""

from basicsr.utils.video.formats import VIDEOS, WRITTEN_VIDEOS, Video, is_video
from basicsr.utils.video.reading import examine, read_frames
from basicsr.utils.video.writing import remarks, rewrite

__all__ = ["VIDEOS", "WRITTEN_VIDEOS", "Video", "examine", "is_video", "read_frames", "remarks", "rewrite"]
