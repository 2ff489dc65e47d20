"""A video written anew with other frames: the same size, times, colours and sound, whole or not at all."""

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from basicsr.errors import UserError
from basicsr.utils.files import private, temporary_beside, writing
from basicsr.utils.video.colours import frame_of, rgb_of
from basicsr.utils.video.formats import WRITTEN_VIDEOS, Video
from basicsr.utils.video.reading import decoded, opened, pyav

# The first that FFmpeg was built with: H.264 nearly without loss, else MPEG-4.
ENCODERS = {"libx264": {"crf": "16"}, "mpeg4": {"qmin": "2", "qmax": "2"}}
_HDR = {16: "PQ", 18: "HLG"}  # curves of ITU-R BT.2100
_MPEG4_TICKS = 60000  # a second, at most
_SUBSAMPLED = {(2, 2): "420", (1, 2): "422"}
_OF_CONTAINERS = ("encoder", "major_brand", "minor_version", "compatible_brands")


def remarks(video: Video, target: Path) -> list[str]:
    """What is lost of a video in a file of this name, or may surprise, in sentences."""
    encoder, pixels = _encoder(pyav(video.path), video)
    depth = 10 if pixels.endswith("10le") else 8
    held = _held(target)
    left = [f"{kind} ({codec or 'unknown'})" for kind, codec in video.others if kind != "audio" or codec not in held]
    said = {
        "its frames are interlaced, which networks have not learnt: deinterlace it first": video.interlaced,
        f"its brightness follows {_HDR.get(video.curve)}, which networks have not learnt: look at what comes out": (
            video.curve in _HDR
        ),
        f"its {video.depth} bits become {depth}": video.depth > depth,
        "its transparency is left out": video.alpha,
        f"{', '.join(left)} cannot be copied and is left out": bool(left),
        "it is written as 4:4:4, which some players do not show": "444" in pixels,
        "it is written as MPEG-4, since this FFmpeg has no libx264": encoder == "mpeg4",
    }
    return [sentence for sentence, so in said.items() if so]


def rewrite(video: Video, target: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Write a video with every frame changed: times, rate, colours and range, depth to 10 bits, aspect and sound stay.

    Rotated frames are written upright. See `remarks` for what does not stay.

    Args:
        target: suffix in WRITTEN_VIDEOS.
        change: (H, W, 3) float32 RGB in [0, 1], upright, to the same shape and range.

    Raises:
        UserError: the source cannot be read (see `examine`), or the target not be written. Nothing is left of it then, nor
            when `change` raises, or the user interrupts.
    """
    av, temporary = pyav(video.path), temporary_beside(target)
    try:
        with _output(av, temporary, target) as out, opened(video.path) as (container, stream):
            _write_all(video, target, container, stream, out, change)
        with _writing(target):
            os.replace(temporary, target)
    finally:
        with contextlib.suppress(OSError):  # it need not be there, nor its folder
            temporary.unlink()


@contextlib.contextmanager
def _output(av: Any, file: Path, target: Path) -> Iterator[Any]:
    """The container of `target` in a file of another name."""
    with contextlib.ExitStack() as stack:
        with _writing(target):
            file.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(private(file))
            out = av.open(str(file), "w", format=WRITTEN_VIDEOS[target.suffix.lower()])
        try:
            yield out
        except BaseException:
            with contextlib.suppress(OSError, ValueError):  # a disk that is full is so for its last words as well
                out.close()
            raise
        with _writing(target):
            out.close()


def _write_all(video: Video, target: Path, container: Any, stream: Any, out: Any, change: Callable) -> None:
    av = pyav(video.path)
    encoder = _add_video(av, video, stream, out)
    copies = {s.index: out.add_stream_from_template(s) for s in container.streams.audio if _codec_held(s, out)}
    about = {key: value for key, value in container.metadata.items() if key not in _OF_CONTAINERS}
    out.metadata.update(about)
    step = max(1, round(1 / (video.rate * stream.time_base)))
    last, count = None, 0
    for item in decoded(video.path, container, stream):
        if isinstance(item, av.Packet):
            if item.stream.index in copies:
                item.stream = copies[item.stream.index]
                with _writing(target):
                    out.mux(item)
            continue
        count += 1
        rgb = change(rgb_of(item, video))
        if not np.isfinite(rgb).all():
            raise UserError(
                f"{target}: is not written, since frame {count} holds values that are no numbers (NaN or infinite)."
            )
        frame = frame_of(av, rgb, video, encoder.pix_fmt)
        ordered = item.pts is not None and (last is None or item.pts > last)
        last = item.pts if ordered else 0 if last is None else last + step
        frame.pts, frame.time_base = last, stream.time_base
        with _writing(target):
            out.mux(encoder.encode(frame))
    with _writing(target):
        out.mux(encoder.encode(None))


def _add_video(av: Any, video: Video, stream: Any, out: Any) -> Any:
    """The stream that frames go to."""
    name, pixels = _encoder(av, video)
    added = out.add_stream(name, rate=video.rate, options=ENCODERS[name])
    added.height, added.width = video.size
    added.pix_fmt = pixels
    context = added.codec_context
    context.time_base = stream.time_base
    if name == "mpeg4" and stream.time_base.denominator > _MPEG4_TICKS:
        context.time_base = Fraction(1, _MPEG4_TICKS)
    context.colorspace, context.color_range = video.matrix, 2 if video.full else 1
    context.color_primaries, context.color_trc = video.primaries, video.curve
    if aspect := stream.sample_aspect_ratio:
        context.sample_aspect_ratio = 1 / aspect if video.turns % 2 else aspect
    return added


def _encoder(av: Any, video: Video) -> tuple[str, str]:
    """The encoder's name and its pixels: the chroma of the source, as far as the size can be divided by it."""
    name = next(name for name in ENCODERS if name in av.codecs_available)
    if name == "mpeg4":
        return name, "yuv420p"
    parts = (2, 2) if video.grey else video.chroma
    whole = not any(length % part for length, part in zip(video.size, parts, strict=True))
    chroma = _SUBSAMPLED.get(parts, "444") if whole else "444"
    return name, f"yuv{chroma}p{'10le' if video.depth > 8 else ''}"


def _held(target: Path) -> set[str]:
    """Names of the codecs that a file of this name can hold."""
    with pyav(target).open(io.BytesIO(), "w", format=WRITTEN_VIDEOS[target.suffix.lower()]) as container:
        return container.supported_codecs


def _codec_held(stream: Any, out: Any) -> bool:
    return stream.codec_context is not None and stream.codec_context.codec.canonical_name in out.supported_codecs


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    """What the system or FFmpeg says of the file that is written, as of every other one."""
    with writing(target):
        try:
            yield
        except pyav(target).error.FFmpegError as error:  # some are OSErrors, some are not
            raise OSError(error.errno, error.strerror) from None
