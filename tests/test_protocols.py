"""The six protocols against float64 NumPy, SciPy, scikit-image and OpenCV, and the deviations that make scripts disagree."""

import math
import re

import cv2
import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from scipy.ndimage import correlate, correlate1d
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from basicsr.engine.build import build_metrics
from basicsr.engine.testing.evaluate import evaluate, measure
from basicsr.errors import UserError
from basicsr.metrics import calculate_mae, calculate_psnr, calculate_ssim
from basicsr.metrics.protocols import PROTOCOLS
from basicsr.sections import ValOptions

SSIM = [name for name in PROTOCOLS if name != "noise8"]


def clean(seed: int = 0, height: int = 48, width: int = 56) -> np.ndarray:
    """(H, W, 3) RGB uint8: smooth waves and some edges."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / 8
    a, b, phase = random.uniform(0.4, 1.2, (3, 3))
    image = 128 + 80 * np.sin(a * y[..., None] + phase) * np.cos(b * x[..., None] + 2 * phase)
    image += 24 * ((y + x)[..., None] % 3 > 1.5)
    return image.clip(0, 255).round().astype(np.uint8)


def restored(gt: np.ndarray, seed: int = 0, sigma: float = 0.02) -> np.ndarray:
    """What a network may make of it: float32, also outside of [0, 1]."""
    return (gt / 255 + np.random.default_rng(seed + 100).normal(0, sigma, gt.shape)).astype(np.float32)


def volume(a: np.ndarray, b: np.ndarray, peak: float) -> float:
    """MATLAB's ssim of an array: a Gaussian over all axes, replicated borders, float64."""
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    line /= line.sum()

    def blur(x: np.ndarray) -> np.ndarray:
        for axis in range(x.ndim):
            x = correlate1d(x, line, axis, mode="nearest")
        return x

    a, b = a.astype(np.float64), b.astype(np.float64)
    mu_a, mu_b = blur(a), blur(b)
    var_a, var_b, cov = blur(a * a) - mu_a**2, blur(b * b) - mu_b**2, blur(a * b) - mu_a * mu_b
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    return float(
        ((2 * mu_a * mu_b + c1) * (2 * cov + c2) / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2))).mean(),
    )


def to_uint8(x: np.ndarray) -> np.ndarray:
    return np.rint(x.clip(0, 1) * np.float32(255)).astype(np.uint8)


def y_of(rgb: np.ndarray) -> np.ndarray:
    """scikit-image's conversion, rounded as MATLAB stores it."""
    return np.floor(rgb2ycbcr(rgb)[..., 0] + 0.5)


def wang(a: np.ndarray, b: np.ndarray) -> float:
    """Wang's index of one channel: dense windows, only where they are whole."""
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / np.outer(line, line).sum()
    mu_a, mu_b, aa, bb, ab = (correlate(x, window)[5:-5, 5:-5] for x in (a, b, a * a, b * b, a * b))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top = (2 * mu_a * mu_b + c1) * (2 * (ab - mu_a * mu_b) + c2)
    return float((top / ((mu_a**2 + mu_b**2 + c1) * (aa - mu_a**2 + bb - mu_b**2 + c2))).mean())


def realblur(z8: np.ndarray, x8: np.ndarray) -> tuple[float, float]:
    """The published steps, one by one, on RGB uint8: PSNR, SSIM."""
    z, x = z8.astype(np.float32) / 255, x8.astype(np.float32) / 255
    z = z * np.float32((x.astype(np.float64) * z).sum() / (z.astype(np.float64) ** 2).sum())
    grey = [cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) for one in (x, z)]
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_COUNT, 100, 0)
    _, matrix = cv2.findTransformECC(*grey, np.eye(3, dtype=np.float32), cv2.MOTION_HOMOGRAPHY, criteria, None, 5)
    size = x.shape[1::-1]
    warped = cv2.warpPerspective(z, matrix, size, flags=cv2.INTER_CUBIC + cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT)
    mask = cv2.warpPerspective(np.ones_like(x), matrix, size, flags=cv2.INTER_NEAREST + cv2.WARP_INVERSE_MAP)
    a, b = (warped * mask).astype(np.float64), (x * mask).astype(np.float64)
    psnr = 10 * math.log10(mask.sum() / ((a - b) ** 2).sum())
    words = {"gaussian_weights": True, "use_sample_covariance": False, "data_range": 1.0, "full": True}
    maps = [structural_similarity(b[..., c], a[..., c], **words)[1] * mask[..., c] for c in range(3)]
    ssim = [one[5:-5, 5:-5].sum() / mask[5:-5, 5:-5, c].sum() for c, one in enumerate(maps)]
    return psnr, float(np.mean(ssim))


def by_hand(protocol: str, out: np.ndarray, gt: np.ndarray) -> tuple[float, float | None]:
    """PSNR and SSIM of float RGB against the RGB uint8 truth."""
    rounded, clamped = to_uint8(out), out.clip(0, 1).astype(np.float64)
    if protocol in ("rgb8", "noise8"):
        ssim = volume(rounded, gt, 255) if protocol == "rgb8" else None
        return peak_signal_noise_ratio(gt, rounded, data_range=255), ssim
    if protocol == "y8":
        a, b = y_of(rounded), y_of(gt)
        return peak_signal_noise_ratio(b, a, data_range=255), wang(a, b)
    if protocol == "realblur":
        return realblur(rounded, gt)
    psnr = peak_signal_noise_ratio(gt / 255, clamped, data_range=1)
    if protocol == "float":
        return psnr, volume(clamped, gt / 255, 1)
    return psnr, structural_similarity(gt / 255, clamped, channel_axis=-1, data_range=1)


def images(seed: int = 0, sigma: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    gt = clean(seed)
    return restored(gt, seed, sigma), gt


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_values(protocol, seed):
    out, gt = images(seed)
    psnr, ssim = by_hand(protocol, out, gt)
    bgr = out[..., ::-1], gt[..., ::-1]
    assert calculate_psnr(*bgr, protocol=protocol) == pytest.approx(psnr, abs=2e-5)
    if ssim is not None:
        assert calculate_ssim(*bgr, protocol=protocol) == pytest.approx(ssim, abs=2e-6)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_one_value_whatever_carries_the_pixels(protocol):
    """As validation has them, tensors of exact v / 255; and as one's own script may, channels first."""
    out, gt = (x[..., ::-1] for x in images(2))
    want = calculate_psnr(out, gt, protocol=protocol)
    for truth in (gt / 255, (gt / 255).astype(np.float32), gt.astype(np.uint16) * 257):
        assert calculate_psnr(out, truth, protocol=protocol) == pytest.approx(want, abs=1e-6)
    chw = [torch.from_numpy(x.copy()).permute(2, 0, 1) for x in (out, gt)]
    assert calculate_psnr(*chw, input_order="CHW", protocol=protocol) == pytest.approx(want, abs=1e-9)
    if protocol in ("rgb8", "y8", "noise8", "realblur"):  # they round in any case
        assert calculate_psnr(to_uint8(out), gt, protocol=protocol) == want


def test_sixteen_bits_of_ground_truth_stay_sixteen_where_the_protocol_has_them():
    gt = np.random.default_rng(3).integers(0, 65536, (24, 20, 3)).astype(np.uint16)
    out = (gt / 65535 + 1e-4).clip(0, 1).astype(np.float32)
    want = peak_signal_noise_ratio(gt / 65535, out.astype(np.float64), data_range=1)
    assert calculate_psnr(out, gt, protocol="dpdd") == pytest.approx(want, abs=1e-3)
    assert want > 70
    assert calculate_psnr(out, gt, protocol="rgb8") == pytest.approx(
        peak_signal_noise_ratio(np.rint(gt / 257), to_uint8(out), data_range=255), abs=1e-9
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_grey(protocol):
    out, gt = (x[..., 1] for x in images(4))
    psnr = calculate_psnr(out, gt, protocol=protocol)
    if protocol in ("float", "dpdd"):
        assert psnr == pytest.approx(peak_signal_noise_ratio(gt / 255, out.clip(0, 1).astype(float), data_range=1), abs=1e-4)
    elif protocol == "realblur":
        assert psnr == pytest.approx(realblur(*(np.dstack([x] * 3) for x in (to_uint8(out), gt)))[0], abs=0.05)
    else:
        assert psnr == pytest.approx(peak_signal_noise_ratio(gt, to_uint8(out), data_range=255), abs=1e-9)


# Why scripts disagree: each deviation moves the figure as the published comparisons of scripts say.


def test_y_that_is_not_rounded_reads_higher():
    """By about .03 dB at 34 dB and .09 at 39."""
    for sigma, level, least, most in ((0.037, 34, 0.01, 0.06), (0.0205, 39, 0.04, 0.18)):
        out, gt = (x[..., ::-1] for x in images(5, sigma))
        rounded, as_float = (
            calculate_psnr(to_uint8(out), gt, **words) for words in ({"protocol": "y8"}, {"test_y_channel": True})
        )
        assert rounded == pytest.approx(level, abs=1)
        assert least < as_float - rounded < most


def test_y_of_opencv_reads_lower():
    """JPEG's range: 20 log10(219 / 255) = -1.3 dB."""
    out, gt = images(6)
    out = to_uint8(out)
    wrong = [cv2.cvtColor(x, cv2.COLOR_RGB2YCrCb)[..., 0] for x in (out, gt)]
    difference = calculate_psnr(*wrong) - calculate_psnr(out[..., ::-1], gt[..., ::-1], protocol="y8")
    assert difference == pytest.approx(20 * math.log10(219 / 255), abs=0.1)


def test_rounding_where_floats_are_meant_reads_lower():
    out, gt = images(7, 0.0103)
    unrounded = calculate_psnr(out, gt, protocol="float")
    assert unrounded == pytest.approx(39.9, abs=0.4)
    assert 0.02 < unrounded - calculate_psnr(out, gt, protocol="rgb8") < 0.1


def test_ssim_channel_by_channel_reads_lower_than_the_volume():
    out, gt = images(8, 0.05)
    assert calculate_ssim(out, gt, protocol="dpdd") < calculate_ssim(out, gt, protocol="float") - 0.01


def test_the_peak_is_not_guessed_and_what_exceeds_white_is_clamped():
    out, gt = images(9)
    bright = out.copy()
    bright[0, 0] = 1.0001
    for protocol in ("float", "dpdd"):
        assert calculate_psnr(bright, gt, protocol=protocol) == pytest.approx(
            calculate_psnr(bright.clip(0, 1), gt, protocol=protocol), abs=1e-12
        )
    dark = np.zeros((16, 16, 3), np.uint8)
    assert calculate_psnr(dark + 1, dark, protocol="rgb8") == pytest.approx(20 * math.log10(255), abs=1e-6)


# RealBlur


def shifted(gain: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A truth; the same, darker, from two pixels beside; and with a little noise."""
    wide = cv2.resize(clean(10, 40, 44), (176, 160), interpolation=cv2.INTER_CUBIC)
    truth, moved = wide[8:-8, 8:-8], wide[9:-7, 10:-6]
    noise = np.random.default_rng(11).normal(0, 0.01, moved.shape)
    return truth, moved, (gain * (moved / 255 + noise)).clip(0, 1).astype(np.float32)


def test_gain_and_shift_are_undone():
    truth, moved, out = shifted(0.8)
    plain = calculate_psnr(out, truth, protocol="rgb8")
    found = calculate_psnr(out, truth, protocol="realblur")
    at_its_place = calculate_psnr((out / 0.8).astype(np.float32), moved, protocol="rgb8")
    assert plain < 25 < 38 < found
    assert found == pytest.approx(at_its_place, abs=1.5)  # bicubic sampling takes some of the noise
    psnr, ssim = realblur(to_uint8(out[..., ::-1]), truth[..., ::-1])
    assert found == pytest.approx(psnr, abs=1e-4)
    assert calculate_ssim(out, truth, protocol="realblur") == pytest.approx(ssim, abs=1e-5)


@pytest.mark.parametrize(
    ("picture", "says"),
    [
        (np.zeros((32, 32, 3), np.uint8), "the restored image is black"),
        (np.full((32, 32, 3), 90, np.uint8), "cannot be aligned with its ground truth: ECC"),
    ],
)
def test_what_cannot_be_aligned_is_an_error(picture, says):
    for metric in (calculate_psnr, calculate_ssim):
        with pytest.raises(UserError, match=says):
            metric(picture, clean(12, 32, 32), protocol="realblur")


# Mean absolute error


def test_mae():
    out, gt = images(13)
    assert calculate_mae(out, gt, protocol="dpdd") == pytest.approx(np.abs(out.clip(0, 1) - gt / 255).mean(), abs=1e-6)
    want = np.abs(to_uint8(out).astype(float) - gt).mean() / 255
    assert calculate_mae(out, gt, protocol="rgb8") == pytest.approx(want, abs=1e-9)
    assert calculate_mae(to_uint8(out), gt) == pytest.approx(want, abs=1e-9)
    assert calculate_mae(gt, gt) == 0
    assert not calculate_mae.higher_is_better


# In a file


def metrics(words: dict, **val: object) -> dict:
    return build_metrics(ValOptions(metrics={"x": words}, **val))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_file_measures_as_python_does(protocol):
    """Samples are (C, H, W) RGB tensors in [0, 1]; protocols that do not round get what is not rounded."""
    out, gt = images(14)
    tensors = [torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1) for x in (out, (gt / 255).astype(np.float32))]
    named = metrics({"type": "calculate_psnr", "protocol": protocol})
    want = calculate_psnr(out[..., ::-1], gt[..., ::-1], protocol=protocol)
    assert measure(named, *tensors)[0]["x"] == pytest.approx(want, abs=1e-6)
    assert f"protocol {protocol}: " in named["x"].protocol


def test_lines_are_all_different():
    lines = [metrics({"type": "calculate_psnr", "protocol": name})["x"].protocol for name in PROTOCOLS]
    lines += [metrics({"type": "calculate_ssim", "protocol": name})["x"].protocol for name in SSIM]
    assert len(set(lines)) == 11
    assert lines[1] == "PSNR, protocol y8: clamped and rounded to uint8, Y of BT.601 rounded to uint8, peak 255"
    assert metrics({"type": "calculate_mae", "protocol": "dpdd"})["x"].protocol.endswith(", lower is better")


def test_the_manual_names_them_all():
    text = (REPOSITORY / "docs/evaluate.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| .*(?:clamped|rgb8)", text, re.MULTILINE)
    assert rows == list(PROTOCOLS)


def test_use_image_false_measures_what_is_not_rounded():
    out, gt = images(15)
    tensors = [torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1) for x in (out, (gt / 255).astype(np.float32))]
    named = metrics({"type": "calculate_psnr", "crop_border": 0, "test_y_channel": False}, use_image=False)
    assert named["x"].protocol == "PSNR, RGB, float32, no border"
    assert measure(named, *tensors)[0]["x"] == pytest.approx(calculate_psnr(out, gt, protocol="float"), abs=1e-5)
    own = metrics({"type": "calculate_psnr", "protocol": "rgb8"}, use_image=False)
    assert measure(own, *tensors)[0]["x"] == pytest.approx(calculate_psnr(out, gt, protocol="rgb8"), abs=1e-6)
    rounded = metrics({"type": "calculate_psnr"})
    assert measure(rounded, *tensors)[0]["x"] == pytest.approx(calculate_psnr(to_uint8(out), gt), abs=1e-9)


@pytest.mark.parametrize(("protocol", "smallest"), [("y8", 11), ("dpdd", 7), ("realblur", 11), ("rgb8", 1)])
def test_the_smallest_picture_of_an_ssim(protocol, smallest):
    assert metrics({"type": "calculate_ssim", "protocol": protocol})["x"].smallest == (smallest, smallest)
    if smallest > 1 and protocol != "realblur":
        small = clean(16, smallest - 1, 20)
        with pytest.raises(UserError, match=f"give at least {smallest}x{smallest}"):
            calculate_ssim(small, small, protocol=protocol)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"protocol": "y9"}, r"val\.metrics\.x\.protocol: `y9` is unknown\. Did you mean `y8`\?"),
        ({"protocol": "y8", "crop_border": 4}, r"val\.metrics\.x\.crop_border is 4, but no protocol cuts a border"),
        ({"protocol": "rgb8", "test_y_channel": True}, r"test_y_channel is true, but protocol rgb8 compares all channels"),
        ({"protocol": "y8", "test_y_channel": False}, r"test_y_channel is false, but protocol y8 compares Y"),
        ({"protocol": "float", "data_range": 255}, r"data_range is 255, but protocol float has 1; leave data_range out"),
        ({"type": "calculate_ssim", "protocol": "noise8"}, r"x\.protocol: no SSIM is published by noise8; take rgb8"),
        ({"type": "calculate_mae", "protocol": "y8"}, r"val\.metrics\.x\.protocol: `y8` is unknown"),
        ({"type": "calculate_ssim_channelwise", "protocol": "y8"}, "calculate_ssim_channelwise has no option `protocol`"),
    ],
)
def test_what_contradicts_a_protocol_is_said_at_once(words, says):
    with pytest.raises(UserError, match=says):
        metrics({"type": "calculate_psnr", **words})


def test_words_that_agree_with_a_protocol_are_taken():
    agreeing = {"type": "calculate_psnr", "protocol": "y8", "crop_border": 0, "test_y_channel": True, "data_range": 255}
    assert metrics(agreeing)["x"].protocol.startswith("PSNR, protocol y8")


def test_python_is_told_as_well():
    out, gt = images(17)
    with pytest.raises(UserError, match=r"`rgb9` is unknown\. Did you mean `rgb8`"):
        calculate_psnr(out, gt, protocol="rgb9")
    with pytest.raises(UserError, match="crop_border is 2, but no protocol"):
        calculate_psnr(out, gt, 2, protocol="rgb8")
    with pytest.raises(UserError, match=r"data_range is 255\.0, but with `use_image: false` white is 1"):
        metrics({"type": "calculate_psnr", "data_range": 255}, use_image=False)


# What cannot be measured


def sample(lq: np.ndarray, gt: np.ndarray, name: str) -> dict:
    tensors = [torch.from_numpy(x / np.float32(255)).permute(2, 0, 1) for x in (lq, gt)]
    return {"lq": tensors[0], "gt": tensors[1], "name": name}


def test_an_input_that_alone_cannot_be_aligned_costs_nobody_the_figure(caplog):
    """And a restored image that cannot be is named, and in no mean."""
    gt = clean(18, 64, 64)
    black = np.zeros_like(gt)
    images = [sample(black, gt, "dark"), sample(gt, gt, "fine"), sample(black, gt, "lost")]
    restored = iter([images[0]["gt"][None], images[1]["gt"][None], images[2]["lq"][None]])
    named = metrics({"type": "calculate_psnr", "protocol": "realblur"})
    with caplog.at_level("WARNING", "basicsr"):
        found = evaluate(lambda image: next(restored), images, named)
    assert [image.name for image in found.images] == ["dark", "fine"]
    assert "dark: there are no figures of the degraded image (x: the restored image is black" in caplog.text
    assert math.isnan(found.images[0].input_metrics["x"])
    assert found.images[0].metrics["x"] > 40
    assert list(found.failed) == ["image 3"]
    assert "the restored image is black, and cannot be aligned" in found.failed["image 3"]


def test_two_views_are_measured_as_their_mean():
    gt = clean(19, 24, 24)
    left, right = (restored(gt, seed) for seed in (1, 2))
    views = {**sample(gt, gt, "x"), "lq": torch.from_numpy(np.dstack([left, right])).permute(2, 0, 1)}
    found = evaluate(lambda image: image[:, :3], [views], metrics({"type": "calculate_psnr", "protocol": "dpdd"}))
    assert found.images[0].metrics["x"] == pytest.approx(calculate_psnr(left, gt, protocol="dpdd"), abs=1e-5)
    both = calculate_psnr((left.clip(0, 1) + right.clip(0, 1)) / 2, gt, protocol="dpdd")
    assert found.images[0].input_metrics["x"] == pytest.approx(both, abs=0.02)
    assert both > found.images[0].metrics["x"] + 2


def test_a_grey_picture_is_measured_and_written_grey(tmp_path):
    gt = clean(20, 24, 24)[..., 1:2]
    found = evaluate(lambda image: image, [sample(gt, gt, "x")], metrics({"type": "calculate_psnr"}), save_dir=tmp_path)
    assert found.images[0].metrics["x"] == math.inf
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "x.png"), cv2.IMREAD_UNCHANGED), gt[..., 0])


def test_an_input_of_other_channels_has_no_figures():
    gt = clean(21, 24, 24)
    odd = {**sample(gt, gt, "x"), "lq": torch.rand(4, 24, 24)}
    found = evaluate(lambda image: image[:, :3], [odd], metrics({"type": "calculate_psnr"}))
    assert found.images[0].input_metrics == {}
