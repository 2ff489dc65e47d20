"""`tlc prepare` of rain, real noise, Gaussian noise, defocus and RealBlur, on small archives of the published layouts."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import picture, write
from scipy import ndimage

from basicsr.engine.preparing import dfwb, dpdd, sidd
from basicsr.engine.preparing.crops import boxes


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png") if path.is_file())


def test_sidd(tmp_path, monkeypatch, run):
    monkeypatch.setattr(sidd, "CROP", 16)
    monkeypatch.setattr(sidd, "STEP", 12)
    scene = tmp_path / "SIDD/Data/0001_001_S6_00100_00060_3200_L"
    for seed, word in enumerate(("NOISY", "GT")):
        file = write(scene / f"0001_{word}_SRGB_010.png", picture(seed, 30, 40))
        file.rename(file.with_suffix(".PNG"))
    outcome = run("prepare", "sidd", "--input", tmp_path / "SIDD", "--output", tmp_path / "out")
    assert outcome.code == 0, outcome
    assert "of 1 pictures; the published set has 320" in outcome.out
    names = [f"0001_SRGB_010_s{number:03d}.png" for number in range(1, 10)]
    assert files_in(tmp_path / "out/train/input_crops") == files_in(tmp_path / "out/train/gt_crops") == names
    crop = cv2.imread(str(tmp_path / "out/train/gt_crops/0001_SRGB_010_s006.png"))[..., ::-1]
    np.testing.assert_array_equal(crop, picture(1, 30, 40)[12:28, 24:40])  # second row, flush with the border
    again = run("prepare", "sidd", "--input", tmp_path / "SIDD", "--output", tmp_path / "out")
    assert "0 cut now, 9 were there already" in again.out
    linked = run("prepare", "sidd", "--input", tmp_path / "SIDD", "--output", tmp_path / "out", "--link")
    assert (linked.code, "--link: crops are cut" in linked.err) == (2, True)
    (scene / "0001_GT_SRGB_010.PNG").unlink()
    alone = run("prepare", "sidd", "--input", tmp_path / "SIDD", "--output", tmp_path / "other")
    assert (alone.code, "without a partner" in alone.err) == (2, True)


def test_dfwb(tmp_path, monkeypatch, run):
    for word, value in {"CROP": 16, "STEP": 12, "LARGE": 28}.items():
        monkeypatch.setattr(dfwb, word, value)
    for folder, size in {"DIV2K": (30, 40), "Flickr2K": (28, 40), "WaterlooED": (10, 12), "BSD400": (12, 10)}.items():
        write(tmp_path / "Downloads" / folder / "a.png", picture(0, *size))
    outcome = run("prepare", "dfwb", "--input", tmp_path / "Downloads", "--output", tmp_path / "out")
    assert outcome.code == 0, outcome
    assert "1 pictures; the published set has 2,650" in outcome.out
    whole = ["BSD400-a_s001.png", "Flickr2K-a_s001.png", "WaterlooED-a_s001.png"]
    assert files_in(tmp_path / "out") == sorted([*whole, *(f"DIV2K-a_s{number:03d}.png" for number in range(1, 10))])
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "out" / whole[1]))[..., ::-1], picture(0, 28, 40))
    (tmp_path / "Downloads/BSD400/a.png").unlink()
    (tmp_path / "Downloads/BSD400").rmdir()
    absent = run("prepare", "dfwb", "--input", tmp_path / "Downloads", "--output", tmp_path / "other")
    assert (absent.code, "lacks BSD400" in absent.err) == (2, True)


def test_dpdd(tmp_path, monkeypatch, run):
    for word, value in {"CROP": 16, "STEP": 8, "CENTRE": 10}.items():
        monkeypatch.setattr(dpdd, word, value)
    archive = tmp_path / "DPDD"
    for split in ("train/train", "val"):
        for place, side in enumerate(dpdd.SIDES):
            for number in (9, 10):
                write(archive / split / side / f"{side[-1]}_{number}.png", picture(10 * number + place, 24, 40, np.uint16))
    outcome = run("prepare", "dpdd", "--input", archive, "--output", tmp_path / "out")
    assert outcome.code == 0, outcome
    names = [files_in(tmp_path / f"out/train/{side}_crops") for side in dpdd.SIDES]
    assert names[0] == names[1] == names[2] == names[3]
    assert len(names[0]) == 2 * (8 - 2)  # of 2 x 4 crops the 30 % that are least sharp, rounded down, are left out
    assert all(name.startswith(("C_9_", "C_10_")) for name in names[0])
    crop = cv2.imread(str(tmp_path / "out/val/inputL_crops/C_9_s001.png"), cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert crop.dtype == np.uint16
    np.testing.assert_array_equal(crop, picture(90, 24, 40, np.uint16)[7:17, 15:25])
    first = cv2.imread(str(tmp_path / "out/train/target_crops/C_10_s001.png"), cv2.IMREAD_UNCHANGED)[..., ::-1]
    kept = dpdd.sharp_boxes(archive / "train/train/target/t_10.png")
    assert len(kept) == 6
    top, left = kept[0][:2]
    np.testing.assert_array_equal(first, picture(103, 24, 40, np.uint16)[top : top + 16, left : left + 16])
    (archive / "val/inputR/R_9.png").unlink()
    uneven = run("prepare", "dpdd", "--input", archive, "--output", tmp_path / "other")
    assert (uneven.code, "different numbers of pictures: inputL 2, inputR 1" in uneven.err) == (2, True)


def test_the_blurred_crops_of_a_scene_are_the_least_sharp():
    """A published scene has 4 x 7 crops, of which 8 go."""
    assert len(boxes((1120, 1680), dpdd.CROP, dpdd.STEP)) == 28
    noise = np.random.default_rng(0).random((32, 32)).astype(np.float32)
    crops = [ndimage.gaussian_filter(noise, sigma) for sigma in (0, 3, 1, 2)]
    assert np.argsort(dpdd.sharpness(crops)).tolist() == [1, 3, 2, 0]
    score = dpdd.sharpness(crops)
    assert (score[0], score[1]) == (1, 0)
    flat = (
        ndimage.sobel(crops[1].astype(np.float64), 1, mode="mirror"),
        ndimage.sobel(crops[1].astype(np.float64), 0, mode="mirror"),
    )
    ours = [cv2.Sobel(crops[1], cv2.CV_64F, *axis, ksize=3) for axis in ((1, 0), (0, 1))]
    np.testing.assert_allclose(np.hypot(*ours).sum(), np.hypot(*flat).sum(), rtol=1e-5)


def test_rain13k(tmp_path, run):
    for side in ("input", "target"):
        for number, name in enumerate(("1", "2", "3")):
            odd = name == "3" and side == "input"
            write(tmp_path / "in/train/Rain13K" / side / f"{name}.png", picture(number, 16, 20 if odd else 24))
        write(tmp_path / "in/test/Test2800" / side / "926_10.png", picture(0))
        write(tmp_path / "in/test/Rain100L" / side / "a.png", picture(0))
    write(tmp_path / "in/test/Test2800/input/926_10(1).png", picture(0))
    outcome = run("prepare", "rain13k", "--input", tmp_path / "in", "--output", tmp_path / "out")
    assert outcome.code == 0, outcome
    assert files_in(tmp_path / "out/train/input") == files_in(tmp_path / "out/train/target") == ["1.png", "2.png"]
    assert files_in(tmp_path / "out/test/Test2800/input") == ["926_10.png"]
    assert files_in(tmp_path / "out/test/Rain100L/target") == ["a.png"]
    said = outcome.out + outcome.err
    assert "926_10(1).png is left out: it is a second 926_10.png" in said
    assert "pairs of different sizes are left out: 3" in said
    empty = run("prepare", "rain13k", "--input", tmp_path / "out/test/Test2800/input", "--output", tmp_path / "other")
    assert (empty.code, "holds neither train nor test" in empty.err) == (2, True)


def realblur(root: Path) -> Path:
    folder = "RealBlur-J_ECC_IMCORR_centroid_itensity_ref/scene001"
    for number in (1, 2):
        write(root / folder / f"blur/blur_{number}.png", picture(number))
        write(root / folder / f"gt/gt_{number}.png", picture(number + 10))
    lines = [f"{folder}/gt/gt_{number}.png {folder}/blur/blur_{number}.png " for number in (1, 2)]
    (root / "RealBlur_J_test_list.txt").write_text("\n".join(lines) + "\n")
    return root


def test_realblur(tmp_path, run):
    root = realblur(tmp_path / "RealBlur")
    outcome = run("prepare", "realblur", "--input", root, "--output", tmp_path / "out")
    assert outcome.code == 0, outcome
    names = ["scene001_blur_1.png", "scene001_blur_2.png"]
    assert files_in(tmp_path / "out/RealBlur_J/test/input") == files_in(tmp_path / "out/RealBlur_J/test/target") == names
    truth = cv2.imread(str(tmp_path / "out/RealBlur_J/test/target/scene001_blur_2.png"))[..., ::-1]
    np.testing.assert_array_equal(truth, picture(12))
    next(root.rglob("gt_2.png")).unlink()
    absent = run("prepare", "realblur", "--input", root, "--output", tmp_path / "other")
    assert (absent.code, "lists what is not there" in absent.err, "gt_2.png" in absent.err) == (2, True, True)


@pytest.mark.parametrize("name", ["sidd", "dfwb", "dpdd", "rain13k", "realblur"])
def test_a_folder_of_another_layout_is_named(name, tmp_path, run):
    (tmp_path / "in/strange").mkdir(parents=True)
    outcome = run("prepare", name, "--input", tmp_path / "in", "--output", tmp_path / "out")
    assert outcome.code == 2
    assert "strange" in outcome.err
    assert not (tmp_path / "out").exists()
