"""Video files: read in their own colours, restored frame by frame into files with the same times, size and sound."""

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import film, picture, smooth, write, write_yaml

from basicsr.engine.restoring.jobs import Job
from basicsr.engine.restoring.videos import restore_video
from basicsr.errors import UserError
from basicsr.utils import video as videos

HALF = """
import torch
from torch import nn
from basicsr.archs import ARCHS

@ARCHS.register
class Half(nn.Module):
    def __init__(self, fails_above: float = 2.0) -> None:
        super().__init__()
        self.scale, self.fails_above = nn.Parameter(torch.full((1,), 0.5)), fails_above

    def forward(self, x):
        return x * (self.scale if x.mean() < self.fails_above else float("nan"))
"""
MATRICES = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}  # number in files: Kr and Kb


@pytest.fixture
def av():
    return pytest.importorskip("av", reason="PyAV is not installed: pip install av")


@pytest.fixture
def restore(root, run, forget_own_code):
    (root / "own.py").write_text(HALF, encoding="utf-8")
    torch.save({"scale": torch.full((1,), 0.5)}, root / "half.pth")
    opt = {"name": "x", "num_gpu": 0, "custom_modules": ["own.py"], "network_g": {"type": "Half"}}
    opt = write_yaml(root / "opt.yml", {**opt, "path": {"pretrain_network_g": "half.pth"}})
    return lambda *words: run("restore", "-opt", opt, *words)


def packets(path: Path, kind: str) -> list[tuple[float, bytes]]:
    import av

    with av.open(str(path)) as container:
        found = [p for p in container.demux() if p.stream.type == kind and p.size]
        return sorted((float(p.pts * p.time_base), bytes(p)) for p in found)


def frames_of(path: Path) -> np.ndarray:
    return np.stack(list(videos.read_frames(path)))


# ---- reading


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("depth", [8, 10])
def test_colours_are_those_that_the_file_says(depth, matrix, full, av, tmp_path):
    """By the equations of BT.601, BT.709 and BT.2020, in float64; FFV1 keeps every sample."""
    kr, kb = MATRICES[matrix]
    scale = 1 << depth - 8
    wanted = np.array([[200, 90, 40], [30, 160, 220], [128, 128, 128], [255, 255, 255], [0, 0, 0]]) / 255
    r, g, b = wanted.T
    y = kr * r + (1 - kr - kb) * g + kb * b
    u, v = (b - y) / (2 * (1 - kb)), (r - y) / (2 * (1 - kr))
    if full:
        peak = 256 * scale - 1
        yuv = np.stack([peak * y, peak * u + 128 * scale, peak * v + 128 * scale])
    else:
        yuv = scale * np.stack([16 + 219 * y, 128 + 224 * u, 128 + 224 * v])
    samples = np.rint(yuv).astype(np.uint16 if depth > 8 else np.uint8)  # (3, colours)
    planes = np.ascontiguousarray(np.repeat(np.repeat(samples[:, None, :], 16, 1), 8, 2))  # (3, 16, 8 * colours)
    name = "yuv444p10le" if depth > 8 else "yuv444p"
    path = tmp_path / "x.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 16, planes.shape[2], name
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 2 if full else 1
        frame = av.VideoFrame(planes.shape[2], 16, name)
        for plane, values in zip(frame.planes, planes, strict=True):
            rows = np.zeros((16, plane.line_size // values.itemsize), values.dtype)
            rows[:, : values.shape[1]] = values
            plane.update(rows.tobytes())
        frame.pts = 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    (image,) = videos.read_frames(path)
    assert image.dtype == np.float32
    error = np.abs(image[8, 4::8] - wanted).max()
    assert error < (0.5 if depth > 8 else 1.8) / 255, error  # half a step of Y and of U or V is up to so much
    look = videos.examine(path)
    assert (look.matrix, look.full, look.depth, look.chroma) == (matrix, full, depth, (1, 1))


def test_what_a_file_does_not_say_is_taken_as_players_take_it(av, tmp_path):
    assert videos.examine(film(tmp_path / "small.mp4", [smooth(0)])).matrix == 6
    assert videos.examine(film(tmp_path / "hd.mp4", [np.zeros((720, 32, 3), np.uint8)])).matrix == 1


def test_a_rotated_video_is_upright(av, tmp_path):
    """By the transformation matrix of QuickTime's file format: x is shown as y, y as -x."""
    path = film(tmp_path / "x.mp4", [smooth(0)], turned=True)
    look = videos.examine(path)
    assert look.size == (48, 32)
    (image,) = videos.read_frames(path)
    assert np.abs(image * 255 - np.rot90(smooth(0), -1)).mean() < 2


# ---- restoring


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_times_sound_title_and_aspect_stay(suffix, av, restore, root):
    times = [0, 1, 2, 7, 8, 20]  # a variable rate
    source = film(
        root / f"clip{suffix}",
        [smooth(n) for n in range(6)],
        times=times,
        sound="aac",
        sample_aspect_ratio=Fraction(4, 3),
        colorspace=1,
        color_range=1,
        color_primaries=1,
        color_trc=1,
    )
    outcome = restore(source)
    assert outcome.code == 0, outcome
    target = root / f"clip_restored{suffix}"
    assert [round(t * 25, 1) for t, _ in packets(target, "video")] == times
    assert packets(target, "audio") == packets(source, "audio")
    assert len(packets(target, "audio")) > 5
    before, after = frames_of(source), frames_of(target)
    assert before.shape == after.shape == (6, 32, 48, 3)
    assert np.abs(after - before / 2).mean() * 255 < 1
    with av.open(str(target)) as container:
        assert container.metadata["title"] == "a title"
        (stream,) = container.streams.video
        assert stream.sample_aspect_ratio == Fraction(4, 3)
        assert stream.codec_context.name == "h264"
        about = stream.codec_context
        assert (about.colorspace, about.color_range, about.color_primaries, about.color_trc) == (1, 1, 1, 1)
    assert sorted(p.name for p in root.iterdir()) == sorted([source.name, target.name, "half.pth", "opt.yml", "own.py"])


@pytest.mark.parametrize(
    ("pixels", "codec", "size", "written", "said"),
    [
        ("yuv420p", "libx264", (32, 48), "yuv420p", ""),
        ("yuvj420p", "mjpeg", (32, 48), "yuv420p", ""),
        ("yuv422p", "ffv1", (32, 48), "yuv422p", ""),
        ("yuv420p", "ffv1", (31, 47), "yuv444p", "4:4:4, which some players"),
        ("yuv420p10le", "libx264", (32, 48), "yuv420p10le", ""),
        ("yuv444p12le", "ffv1", (32, 48), "yuv444p10le", "its 12 bits become 10"),
        ("yuva420p", "ffv1", (32, 48), "yuv420p", "its transparency is left out"),
        ("gray", "ffv1", (32, 48), "yuv420p", ""),
        ("bgr0", "ffv1", (32, 48), "yuv444p", "4:4:4"),
    ],
)
def test_pixels_stay_as_they_are_coded(pixels, codec, size, written, said, av, restore, root):
    source = film(root / "in.mkv", [smooth(n, *size) for n in range(3)], pixels=pixels, codec=codec)
    outcome = restore(source, "--output", "out.mkv")
    assert outcome.code == 0, outcome
    assert said in outcome.out
    assert bool(said) == ("warning: in.mkv: " in outcome.out)
    before, after = videos.examine(source), videos.examine(root / "out.mkv")
    assert (before.size, before.frames, before.full, before.matrix) == (after.size, after.frames, after.full, after.matrix)
    with av.open(str(root / "out.mkv")) as container:
        assert container.streams.video[0].pix_fmt.replace("yuvj", "yuv") == written
    before, after = frames_of(source), frames_of(root / "out.mkv")
    assert np.abs(after - before / 2).mean() * 255 < 1
    if pixels == "gray":
        assert np.ptp(after, axis=3).max() < 3 / 255


def test_a_rotated_video_is_written_upright(av, restore, root):
    source = film(root / "x.mp4", [smooth(n) for n in range(2)], turned=True, sample_aspect_ratio=Fraction(4, 3))
    assert restore(source).code == 0
    with av.open(str(root / "x_restored.mp4")) as container:
        frame = next(container.decode(video=0))
        assert (frame.height, frame.width, frame.rotation) == (48, 32, 0)
        assert container.streams.video[0].sample_aspect_ratio == Fraction(3, 4)


def test_without_libx264_it_is_mpeg_4(av, restore, root, monkeypatch):
    monkeypatch.setattr(videos.writing, "ENCODERS", {"no_such": {}, "mpeg4": videos.writing.ENCODERS["mpeg4"]})
    source = film(root / "x.mp4", [smooth(n, 31, 47) for n in range(3)], pixels="yuv444p", rate=Fraction(90000, 3003))
    outcome = restore(source)
    assert "written as MPEG-4" in outcome.out
    assert np.abs(frames_of(root / "x_restored.mp4") - frames_of(source) / 2).mean() * 255 < 2
    times = [t for t, _ in packets(root / "x_restored.mp4", "video")]
    assert times == pytest.approx([0, 3003 / 90000, 6006 / 90000], abs=1e-4)


def test_a_sound_that_the_container_cannot_hold_is_named(av, restore, root):
    source = film(root / "x.avi", [smooth(n) for n in range(2)], codec="mpeg4", sound="adpcm_ms")
    outcome = restore(source, "--output", "y.mp4")
    assert outcome.code == 0, outcome
    assert "warning: x.avi: audio (adpcm_ms) cannot be copied and is left out." in outcome.out
    assert not packets(root / "y.mp4", "audio")


def test_curves_and_interlaced_frames_are_warned_of(av, tmp_path):
    source = film(tmp_path / "x.mkv", [smooth(0)], pixels="yuv420p10le", colorspace=9, color_primaries=9, color_trc=16)
    (remark,) = videos.remarks(videos.examine(source), tmp_path / "y.mp4")
    assert "its brightness follows PQ" in remark
    fields = 1 << 18 | 1 << 29  # FFmpeg's flags of an encoder
    source = film(tmp_path / "x.mpg", [smooth(n) for n in range(3)], codec="mpeg2video", flags=fields)
    (remark,) = videos.remarks(videos.examine(source), tmp_path / "y.mp4")
    assert "interlaced" in remark


def test_a_folder_of_photographs_and_videos(av, restore, root):
    for name in ("films/b.png", "films/c.jpg"):
        write(root / name, picture(1))
    film(root / "films/a.mp4", [smooth(n) for n in range(2)])
    film(root / "films/deep/d.avi", [smooth(n) for n in range(2)], codec="mpeg4")
    (root / "films/notes.txt").touch()
    outcome = restore("films", "--output", "out")
    assert outcome.code == 0, outcome
    assert "films: 2 pictures, 2 videos; left out: 1 .txt (notes.txt)" in outcome.out
    written = sorted(path.relative_to(root / "out").as_posix() for path in (root / "out").rglob("*.*"))
    assert written == ["a.mp4", "b.png", "c.jpg", "deep/d.avi.mp4"]
    assert "4 of 4 are restored already" in restore("films", "--output", "out", "--resume").out
    assert restore("films/**/*.avi", "--output", "other").code == 0
    assert (root / "other/deep/d.avi.mp4").is_file()


def test_a_frame_is_compared(av, run, root):
    film(root / "x.mp4", [smooth(n) for n in range(3)])
    net = {"type": "NAFNetLocal", "width": 4, "enc_blk_nums": [1], "middle_blk_num": 1, "dec_blk_nums": [1], "train_size": 16}
    opt = write_yaml(root / "opt.yml", {"name": "x", "num_gpu": 0, "network_g": net})
    assert run("restore", "x.mp4", "-opt", opt, "--compare", "--output", "out/y.mkv").code == 0
    assert sorted(p.name for p in (root / "out").iterdir()) == ["y.mkv", "y_compare.png"]


def test_safe_restores_the_whole_video_without_tlc(av, tmp_path, caplog):
    """Where one frame cannot be right: half of them with it would flicker."""
    source = film(tmp_path / "x.mp4", [smooth(n) for n in (0, 0, 8, 0)])

    def local(image: torch.Tensor) -> torch.Tensor:
        return image * 0 if image[:, 1].mean() > 0.5 else image * 0.9

    predictors = {"Net": lambda image: image * 0.95, "NetLocal": local}
    job = Job(source, tmp_path / "y.mp4", None, "x.mp4")
    assert restore_video(job, predictors, "NetLocal", 3, compare=False, safe=True, remedy="") == [job.target]
    ratio = frames_of(job.target).mean((1, 2, 3)) / frames_of(source).mean((1, 2, 3))
    assert ratio == pytest.approx(0.95, abs=0.01)
    assert "x.mp4, frame 3: what NetLocal makes of it cannot be right" in caplog.text


# ---- what cannot be


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def cut_before(path: Path, number: int) -> None:
    import av

    with av.open(str(path)) as container:
        start = [packet.pos for packet in container.demux(video=0) if packet.size][number]
    path.write_bytes(path.read_bytes()[:start])


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    start = data.find(b"mdat") + 900
    data[start : start + 100] = bytes(100)
    path.write_bytes(data)


def two_sizes(root: Path) -> None:
    parts = [film(root / f"{n}.mts", [smooth(0, 32, width)] * 3).read_bytes() for n, width in enumerate((48, 64))]
    (root / "x.mts").write_bytes(b"".join(parts))


def only_sound(path: Path) -> None:
    import av

    with av.open(str(path), "w") as out:
        track = out.add_stream("aac", rate=48000, layout="mono")
        heard = av.AudioFrame.from_ndarray(np.zeros((1, 1920), np.int16), format="s16", layout="mono")
        heard.rate = 48000
        out.mux(track.encode(heard))
        out.mux(track.encode(None))


def noisy(count: int) -> list[np.ndarray]:
    return [np.random.default_rng(n).integers(0, 255, (32, 48, 3), np.uint8) for n in range(count)]


WRONG = {
    "x.mp4: cannot be read as a video": lambda root: (root / "x.mp4").write_text("no video"),
    "x.avi: cannot be read as a video": lambda root: (root / "x.avi").touch(),
    "x.mp4: holds no video": lambda root: only_sound(root / "x.mp4"),
    "x.mp4: frame 1 is damaged": lambda root: damage(film(root / "x.mp4", noisy(30))),
    "x.mp4: is cut off: it ends after frame 7 of 9": lambda root: cut_before(film(root / "x.mp4", noisy(9), codec="mpeg4"), 7),
    "x.mp4: how its video is coded is not known to PyAV": lambda root: cut(film(root / "x.mp4", noisy(9)), 0.02),
    "x.mkv: is cut off: it ends after 2.": lambda root: cut(film(root / "x.mkv", noisy(100), codec="ffv1"), 0.6),
    "x.mts: frame 4 has 64x32 pixels, the first one 48x32": two_sizes,
    "x.mkv: its colours are coded in a way that is not read (matrix 8)": lambda root: film(
        root / "x.mkv", [smooth(0)], colorspace=8
    ),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_what_is_wrong_is_one_sentence_and_nothing_is_written(sentence, av, restore, root):
    WRONG[sentence](root)
    before = {path: path.read_bytes() for path in root.iterdir()}
    source = next(path for path in root.iterdir() if path.stem == "x")
    outcome = restore(source)
    assert outcome.code == 2
    assert f"error: {source.parent / sentence}" in outcome.err
    assert "Traceback" not in outcome.err
    assert {path: path.read_bytes() for path in root.iterdir()} == before


def test_a_video_may_have_so_many_pixels(av, restore, root, monkeypatch):
    monkeypatch.setenv("TLC_MAX_PIXELS", "1000")
    outcome = restore(film(root / "x.mp4", [smooth(0)]))
    assert "x.mp4: has 48x32 pixels, more than the limit of 1,000" in outcome.err


def test_one_bad_video_of_several_fails_alone(av, restore, root):
    film(root / "films/a.mp4", [smooth(0)])
    (root / "films/b.mp4").write_text("no video")
    outcome = restore("films")
    assert outcome.code == 1
    assert "1 of 2 files failed: b.mp4" in outcome.out
    assert [path.name for path in (root / "films_restored").iterdir()] == ["a.mp4"]


def test_no_numbers_are_not_written(av, restore, root):
    film(root / "x.mp4", [smooth(n) for n in (0, 1, 20)])
    outcome = restore("x.mp4", "--force_yml", "network_g:fails_above=0.5")
    assert outcome.code == 2
    assert "x_restored.mp4: is not written, since frame 3 holds values that are no numbers" in outcome.err
    assert sorted(path.name for path in root.iterdir()) == ["half.pth", "opt.yml", "own.py", "x.mp4"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_an_interruption_leaves_nothing(stop, av, tmp_path):
    source = film(tmp_path / "x.mp4", [smooth(n) for n in range(5)], sound="aac")
    (tmp_path / "y.mp4").write_bytes(b"what was there")
    seen = []

    def change(image: np.ndarray) -> np.ndarray:
        seen.append(image)
        if len(seen) == 4:
            raise stop
        return image

    with pytest.raises(stop):
        videos.rewrite(videos.examine(source), tmp_path / "y.mp4", change)
    assert (tmp_path / "y.mp4").read_bytes() == b"what was there"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_written(av, tmp_path):
    source = film(tmp_path / "x.mp4", [smooth(0)])
    with pytest.raises(UserError, match=r"x\.mp4/y\.mp4: cannot be written"):
        videos.rewrite(videos.examine(source), source / "y.mp4", lambda image: image)


# Needs no PyAV: nothing is read.
NOT_ASKED = {
    ("x.mp4", "--output", "y.png"): "y.png: x.mp4 is a video, and written as one of .mp4, .m4v, .mov, .mkv",
    ("x.mp4", "--output", "y.webm"): "y.webm: x.mp4 is a video, and written as one of",
    ("a.png", "--output", "y.mp4"): "y.mp4: a.png is no video; name a picture, such as y.png",
    ("x.mp4", "x.mkv", "--output", "y.mp4"): "y.mp4: 2 files do not fit into one; name a folder",
    ("x.mp4", "--output", "x.mp4"): "the output x.mp4 would replace the input",
    ("x.mp4", "--target", "a.png"): "--target is for photographs; `tlc flicker --lq x.mp4 --gt a.png` measures a video",
    ("x.mp4", "--value-range", "0", "1"): "--value-range: a video says itself what black and white are; leave it out, or x.mp4",
}


@pytest.mark.parametrize("words", NOT_ASKED)
def test_words_that_do_not_fit_a_video(words, restore, root):
    (root / "x.mp4").touch()
    (root / "x.mkv").touch()
    write(root / "a.png", picture(0))
    outcome = restore(*words)
    assert outcome.code == 2
    assert NOT_ASKED[words] in outcome.err.replace(f"{root}/", "")


def test_without_pyav(restore, root, monkeypatch):
    (root / "x.mp4").touch()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "av", None)
        outcome = restore("x.mp4")
    assert outcome.code == 2
    advice = "videos need the package PyAV: pip install 'tlc-restoration[video]', or pip install av"
    assert outcome.err.splitlines()[-1] == f"error: x.mp4: {advice}"
