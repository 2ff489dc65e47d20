"""Flicker: a scene that stands still has none, one that only moves next to none, and what alternates as much as it does so."""

import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from conftest import SMALL_NETS, film, smooth, write

from basicsr.archs import build_network
from basicsr.engine.flicker.clips import clips_of
from basicsr.engine.flicker.measure import Result, measure_clip
from basicsr.errors import UserError
from basicsr.metrics.flicker import Motion, flicker, motion


def scene(size: int = 96) -> np.ndarray:
    """(size, size, 3) uint8, detail of every direction that optical flow can follow."""
    noise = np.random.default_rng(0).standard_normal((size, size, 3)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), 2.5)
    return np.rint(np.clip(128 + 60 * blurred / blurred.std(), 0, 255)).astype(np.uint8)


# ---- the measure


def test_what_stands_still_does_not_flicker():
    moved = motion(scene(), scene())
    assert flicker(scene(), scene(), moved) == 0
    assert moved.seen.all()


@pytest.mark.parametrize(("right", "down"), [(3, 0), (0, -2), (4, 2)])
def test_what_only_moves_hardly_flickers(right, down):
    """A window that moves over a larger scene: its content goes the other way."""
    large = scene()
    before = large[10:74, 10:74]
    after = large[10 + down : 74 + down, 10 + right : 74 + right]
    moved = motion(before, after)
    inside = moved.flow[8:-8, 8:-8]
    assert np.median(inside, axis=(0, 1)) == pytest.approx([right, down], abs=0.1)
    still = float(np.abs(after.astype(float) - before).mean())
    assert flicker(before, after, moved) < 0.05 * still
    gone = np.zeros((64, 64), bool)  # what has come in at the borders was not seen before
    gone[:, 64 - right :] |= right > 0
    gone[: max(0, -down)] |= down < 0
    gone[64 - max(0, down) :] |= down > 0
    assert moved.seen[gone].mean() < 0.2
    assert moved.seen[~gone].mean() > 0.9


@pytest.mark.parametrize("amplitude", [2.0, 11.0])
def test_what_alternates_flickers_as_much(amplitude):
    large = scene().astype(np.float32)
    before, after = large[10:74, 10:74], large[10:74, 13:77]
    moved = motion(before.astype(np.uint8), after.astype(np.uint8))
    assert flicker(before, after + amplitude, moved) == pytest.approx(amplitude, rel=0.05)


def test_what_is_hidden_does_not_count():
    """A square that moves over a background that stands still uncovers what nobody can have seen."""
    after, back = scene(), np.flipud(scene(192))[:96, :96]
    before, square = back.copy(), scene(200)[150:182, 150:182]
    after = back.copy()
    before[32:64, 24:56], after[32:64, 32:64] = square, square
    moved = motion(before, after)
    uncovered = moved.seen[34:62, 24:31]
    assert uncovered.mean() < 0.35
    assert moved.seen.mean() > 0.85
    everything = moved._replace(seen=np.ones_like(moved.seen))
    assert flicker(before, after, moved) < 0.5 * flicker(before, after, everything)


def test_the_difference_is_that_of_the_interpolated_frame():
    """By hand: half a pixel to the right is the mean of two neighbours."""
    before = np.random.default_rng(1).integers(0, 256, (8, 12, 3)).astype(np.float64)
    after = np.random.default_rng(2).integers(0, 256, (8, 12, 3)).astype(np.float64)
    seen = np.zeros((8, 12), bool)
    seen[2:6, 3:9] = True
    flow = np.zeros((8, 12, 2), np.float32)
    flow[..., 0] = 0.5
    expected = np.abs(after[2:6, 3:9] - (before[2:6, 3:9] + before[2:6, 4:10]) / 2).mean()
    assert flicker(before, after, Motion(flow, seen)) == pytest.approx(expected, rel=1e-5)
    assert np.isnan(flicker(before, after, Motion(flow, np.zeros_like(seen))))


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [((15, 64), (15, 64), "64x15 pixels are too small"), ((32, 64), (32, 48), "64x32 and 48x32 pixels differ")],
)
def test_frames_without_motion(before, after, words):
    with pytest.raises(UserError, match=words):
        motion(np.zeros((*before, 3), np.uint8), np.zeros((*after, 3), np.uint8))


# ---- clips


class Pictures(torch.utils.data.Dataset):
    """Pictures of these names; each is as bright as its place says."""

    has_gt = False

    def __init__(self, *names: str) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def __getitem__(self, index: int) -> dict:
        return {"name": self.names[index], "lq": torch.full((3, 16, 16), index / 10)}


@pytest.mark.parametrize(
    ("names", "clips"),
    [
        (("000_00000009", "000_00000010", "001_00000001", "001_00000002"), {"000": [9, 10], "001": [1, 2]}),  # REDS
        (("GOPR0384_11_00-000001", "GOPR0384_11_00-000002", "GOPR0384_11_05-000002"), {"GOPR0384_11_00": [1, 2]}),
        (("a/2", "a/10", "a/1", "b/1", "b/2"), {"a": [1, 2, 10], "b": [1, 2]}),
        (("frame9", "frame10", "alone"), {"frame": [9, 10]}),
        (("1", "2"), {"clip": [1, 2]}),
    ],
)
def test_clips_are_found_by_names(names, clips):
    found = clips_of(Pictures(*names), None)
    assert {clip.name: [frame.number for frame in clip.frames()] for clip in found} == clips
    assert [clip.length for clip in clips_of(Pictures(*names), 2)] == [2] * len(clips)


def test_pictures_that_do_not_follow_one_another_are_no_clip():
    with pytest.raises(UserError, match="no two pictures follow one another: the names of a clip's frames differ"):
        clips_of(Pictures("x", "y", "z_1"), None)


def measured(*names: str) -> Result:
    (clip,) = clips_of(Pictures(*names), None)
    return measure_clip(clip, {"double": lambda image: (2 * image).clamp(0, 1)}, {})


def test_frames_that_are_missing_are_not_jumped_over():
    result = measured("a_10", "a_20", "a_40", "a_50")
    assert result.clip.step == 10
    flickers = [frame.figures["input"].get("flicker") for frame in result.frames]
    assert flickers[0] is flickers[2] is None
    assert [flickers[1], flickers[3]] == pytest.approx([25.5, 25.5], abs=0.6)  # a tenth of 255, from 8-bit pictures
    assert result.frames[1].figures["double"]["flicker"] == pytest.approx(51, abs=0.6)
    assert result.strips["input"].shape == (4, 16, 3)


@pytest.mark.parametrize("channels", [1, 6])
def test_pictures_that_are_not_rgb(channels):
    class Others(Pictures):
        def __getitem__(self, index: int) -> dict:
            return {"name": self.names[index], "lq": torch.full((channels, 16, 16), index / 10)}

    (clip,) = clips_of(Others("a_1", "a_2"), None)
    ways = {"same": lambda image: image}
    if channels == 6:
        with pytest.raises(UserError, match="a_1: flicker is measured of pictures in colour or grey, and this one has 6"):
            measure_clip(clip, ways, {})
    else:
        assert measure_clip(clip, ways, {}).frames[1].figures["same"]["flicker"] == pytest.approx(25.5, abs=0.6)


# ---- the command


@pytest.fixture
def weights(root):
    torch.manual_seed(0)
    torch.save({"params": build_network({"type": "NAFNet", **SMALL_NETS["NAFNet"]}).state_dict()}, root / "net.pth")
    return ("--weights", "net.pth", "--train-size", "16", "--window", "16", "--device", "cpu")


def alternating(root) -> None:
    """The same still scene in each frame; the degraded frames are brighter by 10 in turn."""
    for number in range(4):
        picture = scene(32) // 2 + 30
        write(root / f"sharp/000_{number:08d}.png", picture)
        write(root / f"blurry/000_{number:08d}.png", picture + 10 * (number % 2))


def test_a_folder_of_frames(weights, root, run):
    alternating(root)
    outcome = run("flicker", *weights, "--gt", "sharp", "--lq", "blurry", "--output", "out", "--force_yml", "val:save_img=true")
    assert outcome.code == 0, outcome
    report = json.loads((root / "out/report.json").read_text())
    ways = ["input", "NAFNet", "patches of 16", "NAFNetLocal", "ground truth"]
    assert list(report["means"]) == ways
    means = report["means"]
    assert means["ground truth"] == {"flicker": 0}
    assert means["input"]["flicker"] == means["input"]["flicker of the error"] == pytest.approx(10, abs=0.01)
    assert set(means["NAFNetLocal"]) == {"psnr", "ssim", "flicker", "flicker of the error"}
    assert means["input"]["psnr"] == pytest.approx(20 * np.log10(255 / 10), abs=0.01)  # two of four have no error
    (clip,) = report["clips"]
    assert [frame["name"] for frame in clip["frames"]] == [f"000_{number:08d}" for number in range(4)]
    saved = {path.relative_to(root / "out").as_posix() for path in (root / "out").rglob("*.*")}
    frames = {f"visualization/{w}/000_{n:08d}.png" for w in ("NAFNet", "patches_of_16", "NAFNetLocal") for n in range(4)}
    assert saved == {"report.json", "table.md", "000.png"} | frames
    table = (root / "out/table.md").read_text()
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:7]] == ways
    assert "moved by the optical flow of the ground truth, of 255." in table
    assert "Means over 4 frames of 1 clip, 3 of them with one before." in table
    # What was restored is what its figures are of.
    first, second = (cv2.imread(str(root / f"out/visualization/NAFNetLocal/000_{n:08d}.png")).astype(float) for n in (0, 1))
    expected = np.abs(second - first).mean()
    assert clip["frames"][1]["figures"]["NAFNetLocal"]["flicker"] == pytest.approx(expected, rel=1e-4)


def test_frames_that_are_their_truth(weights, root, run):
    alternating(root)
    shutil.copytree(root / "sharp", root / "same")
    outcome = run("flicker", *weights, "--gt", "sharp", "--lq", "same", "--max_images", "2", "--output", "out")
    assert outcome.code == 0, outcome
    row = next(line for line in (root / "out/table.md").read_text().splitlines() if line.startswith("| input"))
    assert [cell.strip() for cell in row.split("|")[2:4]] == ["-", "1.00"]


def test_without_ground_truth(weights, root, run):
    alternating(root)
    outcome = run("flicker", *weights, "--lq", "blurry", "--max_images", "2", "--force_yml", "val:save_img=false")
    assert outcome.code == 0, outcome
    (folder,) = (root / "results").iterdir()
    means = json.loads((folder / "report.json").read_text())["means"]
    assert means["input"] == {"flicker": pytest.approx(10, abs=0.05)}
    assert "of the input" in (folder / "table.md").read_text()
    assert "PSNR" not in (folder / "table.md").read_text()  # nothing was compared


def test_several_data_sets(weights, root, run):
    """The first is measured, and the others are named."""
    alternating(root)
    sets = {f"test_{n}": {"name": str(n), "type": "SingleImageDataset", "dataroot_lq": "blurry"} for n in range(3)}
    more = "--force_yml", *(f"datasets:{key}:{word}={value}" for key, own in sets.items() for word, value in own.items())
    outcome = run("flicker", *weights, "--lq", "blurry", "--output", "out", *more)
    assert outcome.code == 0, outcome
    assert "datasets.test is measured alone; left out: test_0, test_1, test_2." in outcome.out


def test_videos(weights, root, run):
    pytest.importorskip("av", reason="PyAV is not installed: pip install av")
    for folder in "ab":
        film(root / folder / "x.mp4", [smooth(number // 2) for number in range(4)])
        film(root / folder / "sharp.mp4", [smooth(0)] * 4)
    videos = ("--lq", "a/x.mp4", "b/x.mp4", "--gt", "a/sharp.mp4", "b/sharp.mp4")
    outcome = run("flicker", *weights, *videos, "--output", "out")
    assert outcome.code == 0, outcome
    report = json.loads((root / "out/report.json").read_text())
    first, second = report["clips"]
    assert first["name"] != second["name"]
    assert first["means"] == second["means"]
    assert first["means"]["ground truth"]["flicker"] < 0.5
    assert [frame["figures"]["input"]["flicker"] for frame in first["frames"][1:]] == pytest.approx([0, 2, 0], abs=0.7)
    assert len(list((root / "out").glob("*.png"))) == 2
    film(root / "short.mp4", [smooth(0)] * 3)
    assert "short.mp4 has 3 frames" in run("flicker", *weights, "--lq", "a/x.mp4", "--gt", "short.mp4").err
    film(root / "one.mp4", [smooth(0)])
    assert "one.mp4: has one frame; flicker is between two" in run("flicker", *weights, "--lq", "one.mp4").err


def test_an_earlier_runs_results_are_moved_away(weights, root, run):
    alternating(root)
    for moved in (0, 1):
        outcome = run("flicker", *weights, "--lq", "blurry", "--max_images", "2", "--force_yml", "name=x")
        assert outcome.code == 0, outcome
        assert outcome.out.count("The earlier results of this name were moved to results/flicker_x_archived_") == moved
    assert len(list((root / "results").glob("flicker_x*/report.json"))) == 2


WRONG = {
    ("--lq", "x.mp4", "blurry"): "--lq and --gt: x.mp4 is a video and blurry is not; give videos alone, or folders alone",
    ("--gt", "x.mp4"): "--gt x.mp4: name the degraded video with --lq",
    ("--lq", "x.mp4", "--gt", "x.mp4", "y.mp4"): "--gt and --lq: 2 and 1 videos are no pairs",
    ("--lq", "unnumbered"): "no two pictures follow one another",
    ("--lq", "blurry", "--output", "net.pth"): "--output net.pth: is a file; name a folder",
}


@pytest.mark.parametrize("words", WRONG)
def test_what_cannot_be_measured(words, weights, root, run):
    alternating(root)
    write(root / "unnumbered/a.png", scene(32))
    write(root / "unnumbered/b.png", scene(32))
    outcome = run("flicker", *weights, *words)
    assert outcome.code == 2
    assert WRONG[words] in outcome.err.replace(f"{root}/", "")
    assert not (root / "results").exists()


def test_a_clip_that_fails_fails_alone(weights, root, run):
    alternating(root)
    for number in range(2):
        write(root / f"blurry/001_{number}.png", scene(8))
    outcome = run("flicker", *weights, "--lq", "blurry", "--output", "out", "--force_yml", "val:save_img=false")
    assert outcome.code == 1
    assert "error: 001_1: frames of 8x8 pixels are too small for optical flow" in outcome.out
    assert "1 of 2 clips failed: 001" in outcome.out
    assert [clip["name"] for clip in json.loads((root / "out/report.json").read_text())["clips"]] == ["000"]


# ---- the clips of docs/video.md


def test_clips_pan_over_the_photographs(root, script, monkeypatch):
    module = script("moving_clips")
    photograph = np.random.default_rng(0).random((500, 800, 3)).astype(np.float32)
    assert np.abs(module.frame(photograph, 30, 7) - photograph[7:487, 30:670]).max() < 1e-5
    for name in module.PHOTOGRAPHS:
        large = cv2.resize(scene(), (800, 500), interpolation=cv2.INTER_CUBIC)
        write(root / f"datasets/Sample/test/target/{name}.jpg", large)
    monkeypatch.setattr("sys.argv", ["moving_clips.py", "--frames", "4", "--output", "out"])
    assert module.main() == 0
    assert len(list((root / "out").iterdir())) == 4 * len(module.PHOTOGRAPHS)
    first, second = (cv2.imread(str(root / f"out/05_spices_{n:04d}.png")) for n in (1, 2))
    moved = np.median(motion(first, second).flow, axis=(0, 1))
    assert moved == pytest.approx([6 + 2 * 6, -12], abs=0.3)  # a quarter of its bend: sine from 1 to 0
