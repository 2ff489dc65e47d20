"""Which files are videos, and what is known of one that was looked through."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

# Suffix of a file that is written -> FFmpeg's name of the container.
WRITTEN_VIDEOS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
VIDEOS = (*WRITTEN_VIDEOS, ".webm", ".avi", ".mts", ".m2ts", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ogv")


@dataclass(frozen=True)
class Video:
    """A video file, of which every frame can be decoded.

    Attributes:
        size: height and width as shown, after the rotation that the file asks for.
        frames: how many there are.
        rate: frames a second, on average.
        turns: quarter turns to the left that put a stored frame upright.
        depth: bits of a sample.
        chroma: rows and columns of luma to one of chroma as shown, (2, 2) for 4:2:0; (1, 1) for RGB.
        grey, alpha, interlaced: of the frames.
        matrix: between RGB and YUV, FFmpeg's number; that which players take where the file says none.
        full: whether black and white are 0 and the largest value, instead of 16 and 235 of 255.
        primaries, curve: numbers of H.273 for what the colours are mixed of, and for the curve of brightness.
        others: kind and codec of what else the file holds, such as ('audio', 'aac').
    """

    path: Path
    size: tuple[int, int]
    frames: int
    rate: Fraction
    turns: int
    depth: int
    chroma: tuple[int, int]
    grey: bool
    alpha: bool
    interlaced: bool
    matrix: int
    full: bool
    primaries: int
    curve: int
    others: tuple[tuple[str, str], ...]


def is_video(path: Path) -> bool:
    """Whether a file's suffix is that of a video which is read."""
    return path.suffix.lower() in VIDEOS
