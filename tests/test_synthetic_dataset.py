"""Degradation on the fly against degrade.py's files; saturation against Pillow; bad pictures in a run; the raw crop path."""

import logging
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import REPOSITORY, make_pairs, picture, write
from PIL import Image, ImageEnhance
from torch.utils.data import DataLoader

from basicsr.data import DATASETS, PairedImageDataset, SyntheticDegradationDataset
from basicsr.data.augment import adjust_saturation, augment, random_crop, saturate
from basicsr.data.packing import write_lmdb
from basicsr.data.sampler import Draw
from basicsr.data.storage import open_storage
from basicsr.engine.preparing import degrade
from basicsr.errors import UserError
from basicsr.utils.image import as_float, decode_raw, read_image

NAMES = ("02_colosseum", "03_casa_mila", "05_spices")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """Three photographs of 160 x 90 in JPEG, PNG and grey PNG."""
    folder = tmp_path_factory.mktemp("data") / "sharp"
    folder.mkdir()
    for name, suffix in zip(NAMES, (".jpg", ".png", ".PNG"), strict=True):
        photograph = cv2.imread(str(REPOSITORY / f"datasets/Sample/test/target/{name}.jpg"))
        photograph = cv2.resize(photograph, (160, 90), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f"{name}{suffix}"), photograph if suffix != ".PNG" else photograph[..., 1])
    return folder


def on_the_fly(folder: Path, kind: str = "noise", **options) -> SyntheticDegradationDataset:
    return SyntheticDegradationDataset(dataroot_gt=str(folder), kind=kind, **options)


def paired(folder: Path, **options) -> PairedImageDataset:
    return PairedImageDataset(dataroot_gt=str(folder / "target"), dataroot_lq=str(folder / "input"), **options)


def by_pillow(folder: Path, name: str) -> np.ndarray:
    """(3, H, W) float32 in [0, 1]."""
    (file,) = folder.glob(f"{name}.*")
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1).astype(np.float32) / np.float32(255)


def pixels(image: torch.Tensor) -> np.ndarray:
    """(3, H, W) in [0, 1] -> (H, W, 3) in [0, 255], as float."""
    return image.numpy().transpose(1, 2, 0).astype(np.float64) * 255


def flat(folder: Path, value: int = 128, side: int = 64) -> Path:
    write(folder / "flat.png", np.full((side, side, 3), value, np.uint8))
    return folder


# Whole photographs.


@pytest.mark.parametrize(
    ("kind", "seed", "strength"),
    [
        ("noise", 0, {}),
        ("noise", 7, {"sigma": (5.0, 20.0), "cells": 2.0}),
        ("noise", 1, {"grey": 0.4, "chroma": 0.4, "jpeg": 0.7, "quality": (60.0, 90.0)}),
        ("blur", 0, {}),
        ("blur", 3, {"length": (1.0, 5.0), "noise_sigma": 0.5, "cells": 6.0}),
    ],
)
def test_whole_photographs_are_those_of_the_script(photographs, tmp_path, kind, seed, strength):
    assert not degrade.degrade_folder(photographs, tmp_path, kind=kind, seed=seed, workers=1, progress=False, **strength)
    data = on_the_fly(photographs, kind, seed=seed, **strength)
    assert len(data) == 3
    for index, name in enumerate(NAMES):
        sample = data[index]
        assert sample["name"] == name
        assert sample["lq"].dtype == sample["gt"].dtype == torch.float32
        with Image.open(tmp_path / f"{name}.png") as file:
            np.testing.assert_array_equal(pixels(sample["lq"]).round(), np.asarray(file))
        np.testing.assert_allclose(pixels(sample["lq"]), pixels(sample["lq"]).round(), atol=1e-4)  # 8 bits, no more
        np.testing.assert_array_equal(sample["gt"], by_pillow(photographs, name))


def test_an_lmdb_gives_the_same(photographs, tmp_path):
    write_lmdb(photographs, tmp_path / "sharp.lmdb", progress=False)
    packed = on_the_fly(tmp_path / "sharp.lmdb", io_backend={"type": "lmdb"})
    packed.check(progress=False)
    folder = on_the_fly(photographs)
    for index in (0, 1, 2, Draw(1, (0, 1), 32)):
        for side in ("lq", "gt"):
            assert torch.equal(packed[index][side], folder[index][side])


def test_equal_names_in_two_folders_are_degraded_differently(tmp_path):
    for clip in ("a", "b"):
        flat(tmp_path / clip)
    data = on_the_fly(tmp_path)
    assert [data[i]["name"] for i in (0, 1)] == ["a/flat", "b/flat"]
    assert not torch.equal(data[0]["lq"], data[1]["lq"])


# Crops.


@pytest.mark.parametrize("kind", ["noise", "blur"])
def test_a_patch_follows_from_its_draw_alone(photographs, kind):
    options = {"use_flip": True, "use_rot": True, "saturation": 0.2}
    data, other = on_the_fly(photographs, kind, **options), on_the_fly(photographs, kind, **options, seed=9)
    first = data[Draw(0, (3, 14), 48)]
    data[Draw(1, (3, 15), 24)]
    for again in (data, other, pickle.loads(pickle.dumps(data))):
        sample = again[Draw(0, (3, 14), 48)]
        assert sample["lq"].shape == sample["gt"].shape == (3, 48, 48)
        assert torch.equal(sample["lq"], first["lq"])
        assert torch.equal(sample["gt"], first["gt"])
    changed = data[Draw(0, (3, 15), 48)]
    assert not torch.equal(changed["lq"], first["lq"])
    assert not torch.equal(changed["gt"], first["gt"])


def test_workers_change_nothing(photographs):
    data = on_the_fly(photographs, "blur", use_flip=True, use_rot=True)
    draws = [[Draw(number, (1, 3 * batch + number), 32) for number in range(3)] for batch in range(4)]
    alone = list(DataLoader(data, batch_sampler=draws, num_workers=0))
    for workers in (1, 2):
        for batch, expected in zip(DataLoader(data, batch_sampler=draws, num_workers=workers), alone, strict=True):
            assert batch["name"] == expected["name"]
            assert torch.equal(batch["lq"], expected["lq"])
            assert torch.equal(batch["gt"], expected["gt"])


def numbered(folder: Path, side: int = 100) -> Path:
    """A picture whose pixels tell their place: red the row, green the column."""
    rows, columns = np.mgrid[0:side, 0:side]
    write(folder / "numbered.png", np.dstack([rows, columns, 0 * rows]).astype(np.uint8))
    return folder


@pytest.mark.parametrize(
    ("kind", "nothing"), [("noise", {"sigma": (0.01, 0.01)}), ("blur", {"length": (0, 0), "noise_sigma": 0})]
)
def test_crops_reach_every_place_in_every_orientation(tmp_path, kind, nothing):
    data = on_the_fly(numbered(tmp_path), kind, use_flip=True, use_rot=True, **nothing)
    places, orientations = set(), set()
    for seed in range(300):
        sample = data[Draw(0, (0, seed), 98)]
        gt = pixels(sample["gt"]).round().astype(int)
        assert np.abs(pixels(sample["lq"]).round() - gt).max() <= 1  # the same place, the same orientation
        places.add((gt[..., 0].min(), gt[..., 1].min()))
        steps = gt[1, 0, :2] - gt[0, 0, :2], gt[0, 1, :2] - gt[0, 0, :2]
        orientations.add(tuple(map(tuple, steps)))
    assert places == {(top, left) for top in range(3) for left in range(3)}
    assert len(orientations) == 8


@pytest.mark.parametrize("options", [{}, {"use_flip": True}, {"use_rot": True}])
def test_flips_are_those_asked_for(tmp_path, options):
    data, seen = on_the_fly(numbered(tmp_path), **options), set()
    for seed in range(60):
        gt = pixels(data[Draw(0, (0, seed), 8)]["gt"]).round().astype(int)
        seen.add((*(gt[1, 0, :2] - gt[0, 0, :2]), *(gt[0, 1, :2] - gt[0, 0, :2])))
    expected = {(1, 0, 0, 1)}  # how row and column grow downwards, and to the right
    if "use_flip" in options:
        expected |= {(1, 0, 0, -1)}
    if "use_rot" in options:
        expected |= {(-1, 0, 0, 1), (0, 1, 1, 0), (0, 1, -1, 0)}  # upside down, transposed, one after the other
    assert seen == expected


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_stay_in_the_ground_truth(tmp_path, suffix):
    deep = picture(1, 40, 50, np.uint16)
    write(tmp_path / f"deep{suffix}", deep)
    data = on_the_fly(tmp_path, sigma=(1e-3, 1e-3))
    whole = data[0]
    np.testing.assert_allclose(whole["gt"].numpy(), deep.transpose(2, 0, 1) / 65535, atol=1e-7)
    for sample in (whole, data[Draw(0, (0, 0), 16)]):
        np.testing.assert_allclose(pixels(sample["lq"]), np.rint(pixels(sample["gt"])), atol=1.001)
        np.testing.assert_allclose(pixels(sample["lq"]), pixels(sample["lq"]).round(), atol=1e-4)
        assert np.abs(pixels(sample["gt"]) - pixels(sample["gt"]).round()).max() > 0.2


# Strength.


def test_patches_see_the_range_of_noise(tmp_path):
    """The field is as wide as a photograph's: nearly one level a patch of 24, log-uniform over the patches."""
    data = on_the_fly(flat(tmp_path), sigma=(4, 32))
    noise = np.array([pixels(data[Draw(0, (0, seed), 24)]["lq"]) - 128 for seed in range(400)])
    levels = np.sqrt(noise.var(axis=(1, 2, 3)) - 1 / 12)  # less the rounding
    assert 3.5 < levels.min() < 4.8
    assert 26 < levels.max() < 35
    shares, _ = np.histogram(levels, [0, 8, 16, 64])
    np.testing.assert_allclose(shares / 400, 1 / 3, atol=0.09)  # octaves of 4 to 32; 0.024 is a standard deviation
    assert abs(noise.mean()) < 0.2


def test_cell_size_sets_how_much_of_the_range_a_patch_sees(tmp_path):
    def spread(**options) -> float:
        data = on_the_fly(flat(tmp_path), sigma=(2, 30), **options)
        noise = np.array([pixels(data[Draw(0, (0, seed), 64)]["lq"]) - 128 for seed in range(40)])
        blocks = noise.reshape(40, 4, 16, 4, 16, 3).std(axis=(2, 4, 5)).reshape(40, 16)
        return np.median(blocks.max(axis=1) / blocks.min(axis=1))

    assert spread(cells=4) == spread(cell_size=180) == spread()
    assert spread(cells=36) == spread(cell_size=20)
    assert spread(cell_size=20) > 3 * spread()


def test_patches_are_blurred_by_the_length_they_name(tmp_path):
    """The variance of a dot along its streak, L^2 / 12 in linear light for an even motion of length L."""
    y, x = np.mgrid[0:64, 0:64] - 31.5
    dot = np.exp(-(x**2 + y**2) / (2 * 1.5**2)) ** (1 / 2.2)
    write(tmp_path / "dot.png", np.repeat(np.rint(255 * dot).astype(np.uint8)[..., None], 3, axis=2))
    for low, high in ((0.0, 0.0), (8.0, 8.0)):
        data = on_the_fly(tmp_path, "blur", length=(low, high), noise_sigma=0)
        variances = []
        for seed in range(8):
            light = (pixels(data[Draw(0, (0, seed), 64)]["lq"])[..., 0] / 255) ** 2.2
            light[light < 1e-3] = 0  # what 8 bits leave of the far tails
            variances.append(np.sum(light * (x**2 + y**2)) / light.sum())
        length = np.sqrt(12 * max(0, np.mean(variances) - 2 * 1.5**2))
        assert length == pytest.approx(high, abs=0.9)


def test_motion_brings_in_what_lies_beside_the_crop(tmp_path):
    """Black crops in white: only what lies beside a crop can make it brighter; a mirrored border could not."""
    options = {"length": (12, 12), "noise_sigma": 0}
    image = picture(1, 120, 120)
    write(tmp_path / "a/x.png", image)
    data, bright = on_the_fly(tmp_path / "a", "blur", **options), np.zeros(4)
    for seed in range(12):
        draw = Draw(0, (0, seed), 40)
        match = cv2.matchTemplate(image, pixels(data[draw]["gt"]).round().astype(np.uint8), cv2.TM_SQDIFF)
        top, left = np.unravel_index(match.argmin(), match.shape)
        near, far = np.full_like(image, 255), np.full_like(image, 255)
        near[top : top + 40, left : left + 40] = 0
        far[max(0, top - 10) : top + 50, max(0, left - 10) : left + 50] = 0
        samples = {}
        for name, surroundings in (("near", near), ("far", far)):
            write(tmp_path / name / "x.png", surroundings)
            samples[name] = on_the_fly(tmp_path / name, "blur", **options)[draw]
            assert samples[name]["gt"].max() == 0
        lq = pixels(samples["near"]["lq"])
        assert lq[8:-8, 8:-8].max() == 0  # motion of 12 pixels reaches six each way
        assert samples["far"]["lq"].max() == 0
        bright += [edge[12:-12].max() > 60 for edge in (lq[0], lq[-1], lq[:, 0], lq[:, -1])]
    assert bright.min() >= 9  # but where the crop lies at the border of the photograph


def test_a_crop_may_be_the_whole_photograph(photographs):
    for kind in ("noise", "blur"):
        sample = on_the_fly(photographs, kind, use_rot=True)[Draw(0, (0, 3), 90)]
        assert sample["lq"].shape == (3, 90, 90)


# Saturation.


@pytest.mark.parametrize("factor", [0.0, 0.8, 1.0, 1.2, 1.9])
def test_saturation_is_pillows(factor):
    rgb = picture(2, 40, 40)
    expected = np.asarray(ImageEnhance.Color(Image.fromarray(rgb)).enhance(factor), np.float64)
    result = adjust_saturation(rgb / np.float32(255), factor)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result * 255, expected, atol=1.6)  # Pillow rounds the grey and the result


def factor_of(before: np.ndarray, after: np.ndarray) -> float:
    """The factor by which the differences between the channels have grown."""
    a, b = (x.astype(np.float64) for x in (before, after))
    a, b = a - a.mean(axis=2, keepdims=True), b - b.mean(axis=2, keepdims=True)
    return float((a * b).sum() / (a * a).sum())


def test_saturation_of_pairs_is_the_same_and_one_in_three(tmp_path):
    muted = (96 + picture(1).astype(int) // 4).astype(np.uint8)  # far from clipping
    write(tmp_path / "target/x.png", muted)
    write(tmp_path / "input/x.png", muted[..., ::-1])
    plain, augmented = paired(tmp_path), paired(tmp_path, saturation=0.2)
    factors = []
    for seed in range(600):
        before, after = plain[Draw(0, (0, seed), 16)], augmented[Draw(0, (0, seed), 16)]
        gt, lq = (factor_of(pixels(before[side]), pixels(after[side])) for side in ("gt", "lq"))
        assert gt == pytest.approx(lq, abs=1e-4)
        factors.append(gt)
    changed = np.array([factor for factor in factors if abs(factor - 1) > 1e-6])
    assert len(changed) / 600 == pytest.approx(1 / 3, abs=0.08)  # 4 standard deviations
    assert 0.8 <= changed.min() < 0.83
    assert 1.17 < changed.max() <= 1.2
    assert np.mean(changed) == pytest.approx(1, abs=0.04)


def test_saturation_comes_before_the_degradation(tmp_path):
    """So the noise keeps its level and the degraded patch its eight bits, and both sides have the same colours."""
    write(tmp_path / "x.png", (96 + picture(1).astype(int) // 4).astype(np.uint8))
    for seed in range(20):
        sample = on_the_fly(tmp_path, saturation=1.0, sigma=(1e-3, 1e-3))[Draw(0, (0, seed), 16)]
        np.testing.assert_allclose(pixels(sample["lq"]), pixels(sample["gt"]), atol=0.51)
        np.testing.assert_allclose(pixels(sample["lq"]), pixels(sample["lq"]).round(), atol=1e-4)


def test_without_saturation_the_draws_are_those_of_before(tmp_path):
    make_pairs(tmp_path)
    data = paired(tmp_path, use_flip=True, use_rot=True)
    for seed in range(8):
        rng = np.random.default_rng((0, seed))
        crop = random_crop([data.storages[0].read("b")], 16, rng)
        (expected,) = augment(crop, True, True, rng)
        np.testing.assert_array_equal(data[Draw(1, (0, seed), 16)]["gt"].numpy(), expected.transpose(2, 0, 1))
        state = rng.bit_generator.state
        saturate(crop, 0.0, rng)
        assert rng.bit_generator.state == state


# Bad pictures.


def spoil(path: Path) -> None:
    """A whole header and end, and rubbish between: only decoding finds out."""
    data = bytearray(path.read_bytes())
    data[60:400] = bytes(340)
    path.write_bytes(bytes(data))


@pytest.fixture
def messages(caplog, monkeypatch) -> Callable[[], list[str]]:
    """messages(): what was logged so far."""
    monkeypatch.setattr(logging.getLogger("basicsr"), "propagate", True)
    caplog.set_level(logging.WARNING, "basicsr")
    return lambda: caplog.messages


@pytest.mark.parametrize("make", [paired, lambda folder, **options: on_the_fly(folder / "target", **options)])
def test_a_bad_picture_gives_way_to_the_next(tmp_path, messages, make):
    make_pairs(tmp_path, names=tuple("abcd"))
    for name in "bd":
        spoil(tmp_path / f"target/{name}.png")
    strict, lenient = make(tmp_path), make(tmp_path, bad_images="skip")
    with pytest.raises(UserError, match=r"target/b\.png"):
        strict[Draw(1, (0, 1), 16)]
    strict.check(progress=False)  # looks at headers and ends alone
    for _ in range(3):
        for bad, substitute in ((1, 2), (3, 0)):
            sample, expected = lenient[Draw(bad, (0, 1), 16)], strict[Draw(substitute, (0, 1), 16)]
            assert sample["name"] == expected["name"] == "abcd"[substitute]
            assert torch.equal(sample["lq"], expected["lq"])
            assert torch.equal(sample["gt"], expected["gt"])
    first, second = messages()  # one a file
    assert re.fullmatch(r"\S*target/b\.png: is damaged: its PNG chunk IDAT .*; the next picture takes its place\.", first)
    assert "target/d.png" in second
    with pytest.raises(UserError, match=r"target/b\.png"):  # an evaluation leaves nothing out in silence
        lenient[1]


def test_no_good_picture_ends_the_run(tmp_path):
    make_pairs(tmp_path, names=("a", "b"))
    for name in "ab":
        spoil(tmp_path / f"input/{name}.png")
    with pytest.raises(UserError, match="none of the training pictures can be decoded"):
        paired(tmp_path, bad_images="skip")[Draw(1, (0, 0), 16)]


def test_pairs_that_do_not_fit_when_decoded(tmp_path):
    """As with an LMDB whose meta_info.txt does not tell the truth."""
    make_pairs(tmp_path)
    write(tmp_path / "input/a.png", picture(1, 24, 30))
    write(tmp_path / "input/b.png", picture(1, 12, 12))
    write(tmp_path / "target/b.png", picture(1, 12, 12))
    with pytest.raises(UserError, match="a: ground truth and degraded image are of different sizes"):
        paired(tmp_path)[Draw(0, (0, 0), 16)]
    with pytest.raises(UserError, match="b: is 12x12, less than a crop of 16"):
        paired(tmp_path)[Draw(1, (0, 0), 16)]
    assert paired(tmp_path, bad_images="skip")[Draw(0, (0, 0), 16)]["name"] == "c"


def test_check_with_skip_warns_and_leaves_out(tmp_path, messages):
    make_pairs(tmp_path, names=tuple("abcde"))
    (tmp_path / "input/a.png").write_bytes(b"")
    write(tmp_path / "input/b.png", picture(1, 24, 31))
    for side in ("input", "target"):
        write(tmp_path / side / "d.png", picture(1, 12, 40))
    faults = (
        r"unreadable: \S*input/a.png: is an empty file; ground truth and degraded image of different sizes: "
        r"b \(32x24 and 31x24\); smaller than gt_size 16: d \(40x12\); "
    )
    with pytest.raises(UserError, match=faults + "replace or remove these files, or set bad_images: skip"):
        paired(tmp_path, gt_size=16).check(progress=False)
    data = paired(tmp_path, gt_size=16, bad_images="skip")
    data.check(progress=False)
    (text,) = messages()
    assert re.fullmatch(faults + r"2 of 5 are left\.", text)
    assert len(data) == 2
    assert [data[i]["name"] for i in range(2)] == ["c", "e"]
    data.check(progress=False)
    assert len(messages()) == 1


def test_check_of_photographs_names_every_fault(tmp_path):
    for name in "abc":
        write(tmp_path / f"{name}.png", picture(1))
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:-30])
    with pytest.raises(UserError, match=r"a.png: is an empty file, .*b.png: is a truncated PNG.*gt_size 25: c \(32x24\)"):
        on_the_fly(tmp_path, gt_size=25).check(progress=False)
    (tmp_path / "c.png").unlink()
    with pytest.raises(UserError, match=r"replace or remove these files\.$"):  # nothing is left to go on with
        on_the_fly(tmp_path, bad_images="skip").check(progress=False)


# Options.


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "needs the option `kind`"),
        ({"kind": "nois"}, "kind: `nois` is unknown. Did you mean `noise`? It is noise or blur."),
        (
            {"kind": "noise", "length": [1, 5]},
            "length does not belong to kind `noise`, which has sigma, cells, grey, chroma, jpeg, quality, cell_size.",
        ),
        ({"kind": "noise", "noise_sigma": 2}, "noise_sigma does not belong to kind `noise`"),
        ({"kind": "blur", "sigma": [3, 60]}, "sigma does not belong to kind `blur`, which has length, cells, noise_sigma"),
        ({"kind": "noise", "sigma": [60, 3]}, "sigma: 60 3 is no range"),
        ({"kind": "noise", "sigma": [3, 9, 60]}, "sigma"),
        ({"kind": "blur", "length": [-1, 3]}, "length: -1 3 is no range"),
        ({"kind": "blur", "noise_sigma": -1}, "noise_sigma: -1"),
        ({"kind": "noise", "cells": 0}, "cells: 0"),
        ({"kind": "blur", "cell_size": 0}, "cell_size: 0"),
        ({"kind": "noise", "cell_size": -3, "cells": 2}, "cell_size: -3"),
        ({"kind": "noise", "seed": -1}, "seed is -1"),
        ({"kind": "blur", "grey": 0.5}, "grey does not belong to kind `blur`"),
        ({"kind": "noise", "jpeg": 2}, "jpeg: 2 is no probability"),
        ({"kind": "noise", "quality": [70, 90]}, "without jpeg"),
        ({"kind": "noise", "sigmas": 3}, "Did you mean `sigma`?"),
        ({"kind": "noise", "dataroot_lq": "x"}, "no option `dataroot_lq`"),
        ({"kind": "noise", "gt_size": 0}, "gt_size is 0"),
        ({"kind": "noise", "saturation": 1.5}, "saturation is 1.5"),
        ({"kind": "noise", "saturation": -0.2}, "saturation is -0.2"),
        ({"kind": "noise", "bad_images": "skipp"}, "bad_images: `skipp` is unknown. Did you mean `skip`? It is fail or skip."),
        ({"kind": "noise", "io_backend": {"type": "dsk"}}, "dataroot_gt: the storage `dsk` is unknown"),
        ({"kind": "noise", "io_backend": {"typ": "disk"}}, "io_backend.typ: unknown option. Did you mean `type`?"),
    ],
)
def test_mistakes_are_one_sentence(photographs, options, says):
    with pytest.raises(UserError) as error:
        DATASETS.build("SyntheticDegradationDataset", {"dataroot_gt": str(photographs), **options}, "datasets.train")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_options_of_pairs(tmp_path):
    make_pairs(tmp_path)
    for options, says in (({"saturation": 2.0}, "saturation is 2.0"), ({"bad_images": "no"}, "bad_images is 'no'")):
        with pytest.raises(UserError, match=says):
            paired(tmp_path, **options)


def test_the_example_needs_photographs_alone(photographs):
    """Its data sets are built from the words of the file, with folders of photographs in place of those it names."""
    example = yaml.safe_load((REPOSITORY / "options/train/Sample/NAFNet-SharpPhotosOnly.yml").read_text())
    for part in ("train", "val"):
        options = {**example["datasets"][part], "dataroot_gt": str(photographs)}
        assert "dataroot_lq" not in options
        for word in ("name", "batch_size_per_gpu", "num_worker_per_gpu"):  # the loader's
            options.pop(word, None)
        data = DATASETS.build(options.pop("type"), options, part)
        assert isinstance(data, SyntheticDegradationDataset)
        assert data[0]["lq"].shape == (3, 90, 160)


# Pixels as the files have them.


@pytest.mark.parametrize("name", ["grey", "alpha", "colour"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_crop_of_raw_pixels_is_a_crop_of_the_image(tmp_path, name, dtype):
    image = picture(1) if dtype == np.uint8 else picture(1, dtype=np.uint16)
    image = image / np.float32(65535) if dtype == np.float32 else image
    image = {"grey": image[..., 0], "colour": image, "alpha": np.dstack([image, image[..., 0]])}[name]
    path = write(tmp_path / f"x.{'tif' if dtype == np.float32 else 'png'}", image)
    raw, fmt = decode_raw(path.read_bytes(), path)
    whole = read_image(path)
    assert raw.dtype == fmt.dtype == dtype
    assert raw.shape == whole.shape == (24, 32, 3)
    np.testing.assert_array_equal(as_float(raw[4:9, ::-1].swapaxes(0, 1)), whole[4:9, ::-1].swapaxes(0, 1))
    np.testing.assert_array_equal(open_storage(tmp_path, "disk", where="x").read("x"), whole)
    peak = {np.uint8: 255, np.uint16: 65535, np.float32: 1}[dtype]
    expected = np.repeat(image[..., None], 3, axis=2) if name == "grey" else image[..., :3]
    np.testing.assert_allclose(whole, expected.astype(np.float64) / peak, atol=1e-7)
