"""Metrics against scipy and scikit-image in float64, closed forms, and recorded values of the published evaluation."""

import math
import sys

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio

from basicsr.errors import UserError
from basicsr.metrics import METRICS, calculate_niqe, calculate_psnr, calculate_ssim, calculate_ssim_channelwise, metric, niqe

PAIRED = [calculate_psnr, calculate_ssim, calculate_ssim_channelwise]

# The published evaluation scripts on `image_pair`; their SSIM and Y run in float32.
RECORDED = {
    (41, 64, 80, 5.0, 0): (34.05159704157483, 38.85460662841797, 0.9740869998931885, 0.9655249685849194, 0.9488543038730501),
    (41, 64, 80, 5.0, 4): (34.10298860093378, 38.83241271972656, 0.9754382967948914, 0.9658816030955844, 0.948756854260057),
    (42, 97, 131, 20.0, 0): (
        22.159025483182315,
        26.984169006347656,
        0.8148909211158752,
        0.5864927161235772,
        0.5138208153612492,
    ),
    (42, 97, 131, 20.0, 4): (22.145846829366832, 26.978349685668945, 0.814917802810669, 0.584888972412962, 0.5118327670449324),
}


def image_pair(seed: int, height: int, width: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Two (H, W, 3) uint8 images: smooth waves with noise that grows to the right, and a noisy copy."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = np.empty((3, height, width))
    for c in range(3):
        a, b, phase = random.uniform(0.5, 3, 3)
        waves[c] = 0.5 + 0.35 * np.sin(a * np.pi * y / height + phase) * np.cos(b * np.pi * x / width)
    waves += 0.1 * random.standard_normal(waves.shape) * (x / width)
    clean = (waves.clip(0, 1).astype(np.float32).transpose(1, 2, 0) * 255).round().astype(np.uint8)
    noisy = clean + noise * np.random.default_rng(seed + 1000).standard_normal(clean.shape)
    return clean, noisy.clip(0, 255).round().astype(np.uint8)


def ssim_map(a: np.ndarray, b: np.ndarray, peak: float) -> np.ndarray:
    """SSIM by its definition: one dense Gaussian of 11 samples an axis, replicated borders, float64."""
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = line
    for _ in range(a.ndim - 1):
        window = np.multiply.outer(window, line)
    window /= window.sum()
    a, b = a.astype(np.float64), b.astype(np.float64)
    mu_a, mu_b, aa, bb, ab = (correlate(x, window, mode="nearest") for x in (a, b, a * a, b * b, a * b))
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    luminance = (2 * mu_a * mu_b + c1) / (mu_a**2 + mu_b**2 + c1)
    return luminance * (2 * (ab - mu_a * mu_b) + c2) / (aa - mu_a**2 + bb - mu_b**2 + c2)


@pytest.mark.parametrize(("case", "values"), RECORDED.items())
def test_recorded_values(case, values):
    *image, border = case
    gt, restored = image_pair(*image)
    psnr, psnr_y, ssim, ssim_y, ssim_channelwise = values
    assert calculate_psnr(restored, gt, border) == pytest.approx(psnr, abs=1e-9)
    assert calculate_psnr(restored, gt, border, test_y_channel=True) == pytest.approx(psnr_y, abs=1e-5)
    assert calculate_ssim(restored, gt, border) == pytest.approx(ssim, abs=1e-5)
    assert calculate_ssim(restored, gt, border, test_y_channel=True) == pytest.approx(ssim_y, abs=1e-6)
    assert calculate_ssim_channelwise(restored, gt, border) == pytest.approx(ssim_channelwise, abs=1e-9)


@pytest.mark.parametrize("size", [(29, 37), (4, 7)])
def test_ssim_of_colour_is_the_volume(size):
    a, b = image_pair(1, *size, 15.0)
    want = ssim_map(a, b, 255)
    assert calculate_ssim(a, b, 0) == pytest.approx(want.mean(), abs=1e-7)


@pytest.mark.parametrize("shape", [(29, 37), (29, 37, 1)])
def test_ssim_of_one_channel_is_two_dimensional(shape):
    a, b = (x[..., 0] for x in image_pair(2, 29, 37, 15.0))
    assert calculate_ssim(a.reshape(shape), b.reshape(shape), 0) == pytest.approx(ssim_map(a, b, 255).mean(), abs=1e-7)


@pytest.mark.parametrize("noise", [1, 20])
@pytest.mark.parametrize("left", [1, 230])
@pytest.mark.parametrize("change", [0, -20])
def test_ssim_keeps_its_precision_far_from_grey(noise, left, change):
    """Bright images, edges of black and white, a shift of brightness: float32 sums of plain squares would be too coarse."""
    random = np.random.default_rng(3)
    flat = np.full((24, 30, 3), 230)
    flat[:, :15] = left
    a, b = (x + random.integers(-noise, noise + 1, flat.shape) for x in (flat, flat + change))
    a, b = a.clip(0, 255).astype(np.uint8), b.clip(0, 255).astype(np.uint8)
    assert calculate_ssim(a, b, 0) == pytest.approx(ssim_map(a, b, 255).mean(), abs=2e-6)


def test_channelwise_ssim_is_the_mean_over_the_valid_region():
    a, b = image_pair(4, 33, 26, 15.0)
    want = np.mean([ssim_map(a[..., c], b[..., c], 255)[5:-5, 5:-5].mean() for c in range(3)])
    assert calculate_ssim_channelwise(a, b, 0) == pytest.approx(want, abs=1e-9)


def test_y_of_bgr_images_equals_that_of_scikit_image():
    a, b = image_pair(5, 31, 28, 15.0)
    y_a, y_b = (rgb2ycbcr(x[..., ::-1])[..., 0] for x in (a, b))
    assert calculate_psnr(a, b, 0, test_y_channel=True) == pytest.approx(
        peak_signal_noise_ratio(y_a, y_b, data_range=255), abs=1e-9
    )
    assert calculate_ssim(a, b, 0, test_y_channel=True) == pytest.approx(ssim_map(y_a, y_b, 255).mean(), abs=1e-7)


@pytest.mark.parametrize(("channel", "weight"), [(0, 24.966), (1, 128.553), (2, 65.481)])
def test_y_weighs_blue_green_red(channel, weight):
    black = np.zeros((8, 8, 3), np.uint8)
    colour = black.copy()
    colour[..., channel] = 255
    want = 20 * math.log10(255 / weight)
    assert calculate_psnr(colour, black, 0, test_y_channel=True) == pytest.approx(want, abs=1e-9)
    one = torch.from_numpy(colour / 255).permute(2, 0, 1)
    assert calculate_psnr(one, one * 0, 0, "CHW", test_y_channel=True) == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize(("dtype", "peak"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1), (np.float64, 1)])
@pytest.mark.parametrize("shape", [(16, 12), (16, 12, 3)])
def test_constant_images(dtype, peak, shape):
    """A constant offset: PSNR is 20 log10(peak / offset), and only SSIM's first factor is left."""
    dark, bright = 0.2, 0.6
    a, b = (np.full(shape, v * peak, dtype) for v in (dark, bright))
    assert calculate_psnr(a, b, 0) == pytest.approx(20 * math.log10(1 / (bright - dark)), abs=1e-4)
    want = (2 * dark * bright + 1e-4) / (dark**2 + bright**2 + 1e-4)
    assert calculate_ssim(a, b, 0) == pytest.approx(want, abs=2e-5)
    assert calculate_ssim_channelwise(a, b, 0) == pytest.approx(want, abs=2e-5)


def test_peak_is_not_guessed_from_dark_pixels():
    a = np.zeros((16, 16, 3), np.uint8)
    b = a.copy()
    b[::2] = 1
    assert calculate_psnr(a, b, 0) == pytest.approx(20 * math.log10(255) + 10 * math.log10(2), abs=1e-9)
    assert calculate_ssim(a, b, 0) == pytest.approx(ssim_map(a, b, 255).mean(), abs=1e-7)
    assert calculate_ssim(a, b, 0) > 0.9 > 0.1 > ssim_map(a, b, 1).mean()


@pytest.mark.parametrize("function", PAIRED)
@pytest.mark.parametrize("y", [False, True])
def test_one_value_whatever_carries_the_pixels(function, y):
    a, b = image_pair(6, 24, 20, 10.0)
    want = function(a, b, 2, test_y_channel=y)

    def value(convert, **options):
        return pytest.approx(function(convert(a), convert(b), 2, test_y_channel=y, **options), abs=1e-6)

    def read_only(x):
        x = x.copy()
        x.setflags(write=False)
        return x

    assert want == value(lambda x: x / 255)
    assert want == value(lambda x: x.astype(np.uint16) * 257)
    assert want == value(lambda x: x.astype(np.float32), data_range=255)
    assert want == value(lambda x: x.astype(np.int64), data_range=255)
    assert want == value(lambda x: x[::-1])
    assert want == value(read_only)
    assert want == value(torch.from_numpy)
    assert want == value(lambda x: x.transpose(2, 0, 1), input_order="CHW")
    assert want == value(lambda x: torch.from_numpy(x).permute(2, 0, 1), input_order="CHW")
    assert want == value(lambda x: torch.from_numpy(x / 255).float().requires_grad_())
    assert want == pytest.approx(function(torch.from_numpy(a), b, 2, test_y_channel=y), abs=1e-12)
    assert want == pytest.approx(function(a[2:-2, 2:-2], b[2:-2, 2:-2], 0, test_y_channel=y), abs=1e-12)
    assert want == pytest.approx(function(b, a, 2, test_y_channel=y), abs=1e-6)


@pytest.mark.parametrize("function", PAIRED)
def test_channel_order_matters_for_y_alone(function):
    a, b = image_pair(7, 24, 20, 10.0)
    b[..., 0] = a[..., 0]  # no noise in blue
    assert function(a, b, 0) == pytest.approx(function(a[..., ::-1], b[..., ::-1], 0), abs=1e-7)
    y, y_wrong = (function(x, z, 0, test_y_channel=True) for x, z in ((a, b), (a[..., ::-1], b[..., ::-1])))
    assert abs(y - y_wrong) > 1e-3


def test_single_channel_is_its_own_y():
    a, b = (x[..., 1] for x in image_pair(8, 24, 20, 10.0))
    assert calculate_psnr(a, b, 0, test_y_channel=True) == calculate_psnr(a, b, 0)


def test_identical_images():
    a, _ = image_pair(9, 24, 20, 0.0)
    assert calculate_psnr(a, a.copy(), 0) == math.inf  # a warning would fail: RuntimeWarning is an error in this suite
    assert calculate_ssim(a, a.copy(), 0) == 1
    assert calculate_ssim_channelwise(a, a.copy(), 0) == pytest.approx(1, abs=1e-12)


def test_ssim_is_not_lowered_by_autocast():
    a, b = image_pair(10, 24, 20, 10.0)
    want = calculate_ssim(a, b, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert calculate_ssim(a, b, 0) == want


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("function", PAIRED)
def test_cuda_equals_cpu(function):
    a, b = image_pair(11, 64, 80, 10.0)
    want = function(a, b, 0)
    assert function(torch.from_numpy(a).cuda(), torch.from_numpy(b).cuda(), 0) == pytest.approx(want, abs=1e-6)
    assert function(torch.from_numpy(a).cuda(), b, 0) == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("function", PAIRED)
@pytest.mark.parametrize(
    ("a", "b", "options", "text"),
    [
        (np.zeros((16, 16), np.uint8), np.zeros((16, 16), np.float32), {}, "uint8 and float32; convert"),
        (np.zeros((16, 16), np.uint8), np.zeros((16, 17), np.uint8), {}, "differ in shape"),
        (np.zeros((16, 16), np.uint8), np.zeros((16, 16, 3), np.uint8), {}, "differ in shape"),
        (np.zeros((16, 18), np.uint8), np.zeros((16, 18), np.uint8), {"crop_border": 8}, "leaves nothing of an image of 16x18"),
        (np.zeros((16, 16), np.uint8), np.zeros((16, 16), np.uint8), {"crop_border": -1}, "crop_border -1"),
        (np.zeros((16, 16, 4), np.uint8), np.zeros((16, 16, 4), np.uint8), {}, "1 or 3 channels"),
        (np.zeros((3, 16, 16), np.uint8), np.zeros((3, 16, 16), np.uint8), {}, "does not fit input_order 'HWC'"),
        (np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16, 3), np.uint8), {"input_order": "CHW"}, "does not fit"),
        (np.zeros((1, 3, 16, 16)), np.zeros((1, 3, 16, 16)), {"input_order": "CHW"}, "give one image"),
        (np.zeros((16, 16)), np.zeros((16, 16)), {"input_order": "WHC"}, "use 'HWC' or 'CHW'"),
        (np.zeros((16, 16), int), np.zeros((16, 16), int), {}, "int64 have no known peak"),
        (np.zeros((16, 16)), np.zeros((16, 16)), {"data_range": 0}, "data_range is 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(function, a, b, options, text):
    with pytest.raises(UserError, match=text):
        function(a, b, **{"crop_border": 0, **options})


def test_channelwise_ssim_needs_a_whole_window():
    a = np.zeros((20, 11), np.uint8)
    assert calculate_ssim_channelwise(a, a, 0) == 1
    with pytest.raises(UserError, match="18x9 pixels"):
        calculate_ssim_channelwise(a, a, 1)


def test_registered_under_the_names_of_published_files():
    a, b = image_pair(12, 16, 16, 10.0)
    options = {"img1": a, "img2": b, "crop_border": 0, "test_y_channel": True}
    for function in PAIRED:
        assert METRICS.build(function.__name__, options) == function(a, b, 0, test_y_channel=True)
    assert METRICS.get("calculate_niqe") is calculate_niqe
    with pytest.raises(UserError, match="Did you mean `crop_border`"):
        METRICS.build("calculate_psnr", {"img1": a, "img2": b, "crop_boarder": 0})


def test_a_metric_says_what_it_measures():
    assert calculate_psnr.protocol() == "PSNR, RGB, uint8, no border"
    assert calculate_psnr.protocol(crop_border=4, test_y_channel=True, input_order="CHW", dtype="float32", data_range=1.0) == (
        "PSNR, Y of BT.601, float32, peak 1, border of 4 px cut"
    )
    texts = [f.protocol(test_y_channel=y) for f in PAIRED for y in (False, True)] + [calculate_niqe.protocol()]
    assert len(set(texts)) == len(texts)
    assert [(f.higher_is_better, f.needs_gt) for f in (*PAIRED, calculate_niqe)] == [(True, True)] * 3 + [(False, False)]


def test_a_metric_of_ones_own_has_options_of_its_own(monkeypatch):
    monkeypatch.setattr(METRICS, "_entries", dict(METRICS._entries))

    @metric(higher_is_better=False, needs_gt=True, protocol=lambda dtype="uint8", power=1: f"errors to the {power}, {dtype}")
    def my_error(img1, img2, power: int = 1):
        return (np.abs(img1.astype(float) - img2) ** power).mean()

    a, b = image_pair(13, 16, 16, 10.0)
    assert METRICS.build("my_error", {"img1": a, "img2": b, "power": 2}) == pytest.approx(((a - b.astype(float)) ** 2).mean())
    assert my_error.protocol(power=2) == "errors to the 2, uint8"
    assert (my_error.higher_is_better, my_error.needs_gt) == (False, True)


def test_no_border_is_cut_unless_it_is_asked_for():
    a, b = image_pair(14, 24, 20, 10.0)
    for function in PAIRED:
        assert function(a, b) == function(a, b, 0) != function(a, b, 4)
        assert METRICS.build(function.__name__, {"img1": a, "img2": b}) == function(a, b)


@pytest.fixture
def pyiqa_source(tmp_path, monkeypatch):
    """Writes a package `pyiqa` with the given source where Python finds it first."""

    def write(source: str) -> None:
        (tmp_path / "pyiqa.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "pyiqa", raising=False)

    niqe._evaluator.cache_clear()
    yield write
    niqe._evaluator.cache_clear()


@pytest.mark.parametrize(
    "source",
    [
        "raise ModuleNotFoundError('No module named torchvision')",
        "raise OSError('libtorchvision.so: undefined symbol\\nsecond line')",
        "raise RuntimeError('operator torchvision::nms does not exist')",
    ],
)
def test_niqe_without_a_working_pyiqa_says_what_to_install(pyiqa_source, source):
    pyiqa_source(source)
    with pytest.raises(UserError, match=r'(?s)torchvision.*pip install "tlc-restoration\[niqe\]"') as raised:
        calculate_niqe(np.zeros((96, 192, 3), np.uint8), 0)
    assert "\n" not in str(raised.value)


def test_niqe_hands_rgb_in_zero_to_one_to_pyiqa(pyiqa_source):
    """The stand-in returns one number from which the three channels can be read."""
    pyiqa_source(
        "def create_metric(name, device):\n"
        "    assert name == 'niqe'\n"
        "    return lambda x: (x.mean((0, 2, 3)) * x.new_tensor([100, 10, 1])).sum() + 1000 * (x.shape == (1, 3, 96, 200))\n"
    )
    bgr = np.zeros((100, 204, 3), np.uint8)
    bgr[2:-2, 2:-2] = (51, 102, 204)  # 0.2, 0.4, 0.8
    assert calculate_niqe(bgr, 2) == pytest.approx(1000 + 80 + 4 + 0.2, abs=1e-3)
    chw = torch.from_numpy(bgr / 255).permute(2, 0, 1)
    assert calculate_niqe(chw, 2, "CHW", img2=None) == pytest.approx(1000 + 80 + 4 + 0.2, abs=1e-3)
    assert calculate_niqe(chw * 2, 2, "CHW") == pytest.approx(1000 + 100 + 8 + 0.4, abs=1e-3)  # clamped


def test_niqe_needs_two_blocks():
    with pytest.raises(UserError, match="190x96 pixels"):
        calculate_niqe(np.zeros((190, 96, 3), np.uint8), 0)
