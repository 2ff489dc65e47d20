"""Decoding: a sentence for what cannot be read, and frames as images are in memory. Numbers of colours are those of H.273."""

import contextlib
import importlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from tqdm import tqdm

from basicsr.errors import UserError
from basicsr.utils.image import check_pixels
from basicsr.utils.video.colours import MATRICES, rgb_of
from basicsr.utils.video.formats import Video

_SAYS_NONE = (0, 2)  # RGB; unspecified
_BT601, _BT709, _HD = 6, 1, 720  # players take BT.709 from so many rows on, where a file does not say
_FULL = 2
_LATE = 1.0  # seconds that may be missing from what a file says of its length


def pyav(path: Path) -> ModuleType:
    """The package; UserError that says how to install it where it is not there."""
    try:
        return importlib.import_module("av")
    except ImportError:
        raise UserError(
            f"{path}: videos need the package PyAV: pip install 'tlc-restoration[video]', or pip install av"
        ) from None


def examine(path: Path) -> Video:
    """Decode every frame once, so that what is damaged is known before hours of work.

    Raises:
        UserError: PyAV is not installed; no video; a frame that is damaged, too large, or of another size than the first; a
            file that ends before its time; colours that are coded in a way that is not read.
    """
    video, count = None, 0
    with opened(path) as (container, stream), tqdm(desc=f"reading {path.name}", unit="frame", leave=False) as bar:
        bar.total = stream.frames or None
        for frame in frames_of(path, container, stream):
            video, count = video or _video(path, container, stream, frame), count + 1
            bar.update()
    if video is None:
        raise UserError(f"{path}: the video has no frames.")
    return Video(**{**vars(video), "frames": count})


def read_frames(path: Path) -> Iterator[np.ndarray]:
    """Frames in order, (H, W, 3) float32 RGB in [0, 1], upright.

    Raises:
        UserError: as `examine`, at the frame.
    """
    video = None
    with opened(path) as (container, stream):
        for frame in frames_of(path, container, stream):
            video = video or _video(path, container, stream, frame)
            yield rgb_of(frame, video)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container, and the stream of its video; what FFmpeg finds wrong with the file inside the block is a UserError."""
    av = pyav(path)
    try:
        with av.open(str(path)) as container:
            cover = av.stream.Disposition.attached_pic
            streams = [stream for stream in container.streams.video if not stream.disposition & cover]
            if not streams:
                raise UserError(f"{path}: holds no video; name a file with moving pictures.")
            if streams[0].codec_context is None:
                raise UserError(f"{path}: how its video is coded is not known to PyAV {av.__version__}; convert it to H.264.")
            check_pixels((streams[0].codec_context.height, streams[0].codec_context.width), path)
            yield container, streams[0]
    except av.error.FFmpegError as error:
        raise UserError(f"{path}: cannot be read as a video ({error.strerror}); replace or remove the file.") from None


def frames_of(path: Path, container: Any, stream: Any) -> Iterator[Any]:
    """The video's frames alone, as `decoded`."""
    av = pyav(path)
    return (item for item in decoded(path, container, stream) if isinstance(item, av.VideoFrame))


def decoded(path: Path, container: Any, stream: Any) -> Iterator[Any]:
    """Frames of the video, and between them packets of the other streams, as they lie in the file.

    Raises:
        UserError: a frame that is damaged, or of another size than the first; the file ends before its time.
    """
    av = pyav(path)
    count, packets, end, size = 0, 0, 0.0, None
    for packet in container.demux():
        if packet.size and packet.pts is not None:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream.index != stream.index:
            if packet.size:  # the last one is empty
                yield packet
            continue
        packets += bool(packet.size)
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            raise _damaged(path, count, error.strerror) from None
        for frame in frames:
            if frame.is_corrupt:
                raise _damaged(path, count, "a part of it is missing")
            size, count = size or (frame.width, frame.height), count + 1
            if size != (frame.width, frame.height):
                raise UserError(
                    f"{path}: frame {count} has {frame.width}x{frame.height} pixels, the first one {size[0]}x{size[1]}; "
                    "cut the video there."
                )
            yield frame
    _refuse_cut_off(path, container, stream, packets, end)


def _refuse_cut_off(path: Path, container: Any, stream: Any, packets: int, end: float) -> None:
    """Of files that say how long they are; others may end anywhere."""
    kind = container.format.name
    if "mov" in kind and packets < stream.frames:
        raise UserError(f"{path}: is cut off: it ends after frame {packets} of {stream.frames}; copy it anew, or cut it there.")
    seconds = (container.duration or 0) / 1e6
    if ("matroska" in kind or kind == "avi") and end < seconds - _LATE:
        raise UserError(f"{path}: is cut off: it ends after {end:.1f} of {seconds:.1f} seconds; copy it anew, or cut it there.")


def _video(path: Path, container: Any, stream: Any, frame: Any) -> Video:
    """What the first frame tells; the number of frames is not known yet."""
    coded = frame.format
    if frame.colorspace not in MATRICES and frame.colorspace not in _SAYS_NONE:
        raise UserError(f"{path}: its colours are coded in a way that is not read (matrix {frame.colorspace}); convert it.")
    turns = round(frame.rotation / 90) % 4
    whole = type(coded)(coded.name, 16, 16)
    chroma = (1, 1) if coded.is_rgb else (16 // whole.chroma_height(), 16 // whole.chroma_width())
    grey = coded.name.startswith(("gray", "ya", "mono"))
    return Video(
        path=path,
        size=(frame.width, frame.height) if turns % 2 else (frame.height, frame.width),
        frames=0,
        rate=stream.average_rate or stream.guessed_rate or Fraction(25),
        turns=turns,
        depth=max(part.bits for part in coded.components),
        chroma=chroma[::-1] if turns % 2 else chroma,
        grey=grey,
        alpha=any(part.is_alpha for part in coded.components),
        interlaced=frame.interlaced_frame,
        matrix=frame.colorspace if frame.colorspace in MATRICES else _BT709 if frame.height >= _HD else _BT601,
        full=grey or frame.color_range == _FULL or coded.name.startswith("yuvj"),
        primaries=stream.codec_context.color_primaries,
        curve=stream.codec_context.color_trc,
        others=tuple((s.type, _codec(s)) for s in container.streams if s.index != stream.index),
    )


def _codec(stream: Any) -> str:
    return stream.codec_context.codec.canonical_name if stream.codec_context is not None else ""


def _damaged(path: Path, before: int, why: str) -> UserError:
    return UserError(f"{path}: frame {before + 1} is damaged ({why}); replace the file, or cut the video before it.")
