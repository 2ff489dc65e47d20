"""LPIPS, DISTS, FID and NIQE: what is said without their packages or weights, what the packages are handed, and their figures.

Without the extra `perceptual`, small packages of the same names stand in; with it the real ones run too, with random weights.
"""

import csv
import importlib
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import make_pairs, picture, write_yaml

from basicsr.errors import UserError
from basicsr.metrics import METRICS, calculate_dists, calculate_fid, calculate_lpips, fid, niqe, perceptual

CACHES = (perceptual._lpips, perceptual._dists, fid._inception, niqe._evaluator)
PACKAGES = ("torchvision", "torchmetrics", "torch_fidelity", "pyiqa")
FIRST = {"lpips": "torchmetrics", "dists": "torchmetrics", "fid": "torchmetrics", "niqe": "pyiqa"}
# What is asked of each package. A network's figure tells which channel it was handed where.
STAND_IN = {
    "torchvision/__init__.py": "",
    "torchvision/models.py": "",
    "torch_fidelity.py": "",
    "torchmetrics/__init__.py": "",
    "torchmetrics/image/__init__.py": "",
    "torchmetrics/functional/__init__.py": "",
    "torchmetrics/functional/image/__init__.py": "",
    "torchmetrics/image/lpip.py": """
from torch import nn

class Net(nn.Module):
    def forward(self, a, b, normalize):
        assert normalize and a.shape == b.shape and a.shape[:2] == (1, 3) and 0 <= a.min() <= a.max() <= 1
        return ((a - b).mean((0, 2, 3)) * a.new_tensor([1, 10, 100])).sum().reshape(1, 1, 1, 1)

class LearnedPerceptualImagePatchSimilarity:
    def __init__(self, net_type, normalize):
        assert net_type in ("alex", "vgg") and normalize
        self.net = Net()
""",
    "torchmetrics/functional/image/dists.py": """
from torch import nn

class DISTSNetwork(nn.Module):
    def forward(self, a, b):
        return ((a - b).mean((0, 2, 3)) * a.new_tensor([1, 10, 100])).sum()
""",
    "torchmetrics/image/fid.py": """
import torch
from torch import nn

class Inception(nn.Module):
    def forward(self, x):
        assert x.dtype == torch.uint8 and x.shape[1] == 3
        return torch.cat([x.float().mean((2, 3)), x.new_zeros(len(x), 2045)], 1)

class FrechetInceptionDistance:
    def __init__(self, feature, antialias=True):
        assert antialias is False if feature == 2048 else feature.num_features == 2048
        self.inception, self.sums = Inception() if feature == 2048 else feature, {}

    def update(self, images, real):
        self.sums[real] = self.inception(images).mean(0)

    def compute(self):
        return (self.sums[True] - self.sums[False]).norm()
""",
    "pyiqa.py": "def create_metric(name, device):\n    return lambda x: x.mean()\n",
}


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Writes these files of optional packages where Python finds them first; a source of None: there is no such package."""

    def write(files: dict[str, str | None]) -> None:
        folder = tmp_path / "packages"
        for name, source in files.items():
            if source is None:
                monkeypatch.setitem(sys.modules, name, None)
            else:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(source)
        monkeypatch.syspath_prepend(folder)
        importlib.invalidate_caches()

    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in PACKAGES}
    for name in kept:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    for cache in CACHES:
        cache.cache_clear()
    yield write
    for cache in CACHES:
        cache.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
        del sys.modules[name]


def options_with(test_options: dict, **metrics: dict) -> dict:
    return {**test_options, "val": {**test_options["val"], "metrics": {**test_options["val"]["metrics"], **metrics}}}


@pytest.mark.parametrize("command", ["test", "train", "sweep"])
@pytest.mark.parametrize("name", FIRST)
def test_without_the_package_one_sentence_before_any_image(name, command, packages, root, run, test_options, train_options):
    packages(dict.fromkeys(PACKAGES))
    make_pairs(root / "datasets/Set", height=200, width=200)
    opt = options_with(train_options if command == "train" else test_options, **{name: {"type": f"calculate_{name}"}})
    opt["datasets"] = {**opt["datasets"], "val": {"name": "Val", **test_options["datasets"]["test"]}}
    more = ("--train_size", "16") if command == "sweep" else ()
    outcome = run(command, "-opt", write_yaml(root / "opt.yml", opt), *more)
    extra = "niqe" if name == "niqe" else "perceptual"
    assert outcome.code == 2
    assert (
        f"val.metrics.{name}: calculate_{name} needs the package {FIRST[name]}, which is not installed; "
        f'run `pip install "tlc-restoration[{extra}]"`.'
    ) in outcome.err
    assert outcome.err.strip().count("\n") == 0
    assert not (root / "results").exists()


@pytest.mark.parametrize(
    ("name", "missing"),
    [("lpips", "torchvision"), ("dists", "torchvision"), ("fid", "torch_fidelity"), ("fid", "torchmetrics")],
)
def test_the_package_that_is_missing_is_named(name, missing, packages):
    packages({**STAND_IN, missing: None})
    with pytest.raises(UserError, match=rf"calculate_{name} needs the package {missing}, which is not installed"):
        METRICS.get(f"calculate_{name}").ready()


@pytest.mark.parametrize("name", ["lpips", "dists"])
def test_a_torchvision_for_another_torch_is_one_sentence(name, packages):
    packages({**STAND_IN, "torchvision/__init__.py": "raise RuntimeError('operator torchvision::nms does not exist\\nmore')"})
    with pytest.raises(UserError) as raised:
        METRICS.get(f"calculate_{name}").ready()
    text = str(raised.value)
    assert "torchvision, which cannot be used here (RuntimeError: operator torchvision::nms does not exist); run `pip" in text
    assert f"a torchvision made for torch {torch.__version__}" in text


OFFLINE = "from urllib.error import URLError\nclass Wanting:\n    def __init__(self, *a, **k): raise URLError('no network')\n"
WEIGHTS = {
    "lpips": ("torchmetrics/image/lpip.py", "LearnedPerceptualImagePatchSimilarity = Wanting", perceptual._WEIGHTS["alex"]),
    "dists": ("torchmetrics/functional/image/dists.py", "DISTSNetwork = Wanting", perceptual._WEIGHTS["vgg"]),
    "fid": ("torchmetrics/image/fid.py", "FrechetInceptionDistance = Wanting", fid._WEIGHTS),
    "niqe": ("pyiqa.py", "create_metric = Wanting", niqe._WEIGHTS),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_offline_the_sentence_has_the_url_and_the_place(name, packages, tmp_path, root, run, test_options):
    file, source, url = WEIGHTS[name]
    packages({**STAND_IN, file: OFFLINE + source})
    make_pairs(root / "datasets/Set", height=200, width=200)
    opt = options_with(test_options, **{name: {"type": f"calculate_{name}"}})
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", opt))
    place = tmp_path / "hub/hub" / ("pyiqa" if name == "niqe" else "checkpoints") / url.rpartition("/")[2]
    assert outcome.code == 2
    assert f"calculate_{name} needs the weights {url}, which cannot be downloaded (URLError: " in outcome.err
    assert f"and put them at {place}." in outcome.err
    assert outcome.err.strip().count("\n") == 0
    assert not (root / "results").exists()


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
@pytest.mark.parametrize("name", ["lpips", "dists", "fid"])
def test_weights_that_are_none_are_named(name, content, packages):
    file, source, url = WEIGHTS[name]
    place = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    packages(
        {
            **STAND_IN,
            file: OFFLINE.replace("raise URLError('no network')", f"torch.load({str(place)!r})").replace(
                "from urllib.error import URLError", "import torch"
            )
            + source,
        }
    )
    with pytest.raises(UserError, match=rf"calculate_{name}: its weights .*{place.name} cannot be used .*remove it"):
        METRICS.get(f"calculate_{name}").ready()


def test_a_device_that_is_not_there_is_said_before(root, run, test_options):
    make_pairs(root / "datasets/Set")
    psnr = {"type": "calculate_psnr", "crop_border": 0, "device": "cuda:99"}
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", options_with(test_options, psnr=psnr)))
    assert outcome.code == 2
    assert "val.metrics.psnr.device: `cuda:99` cannot be used here (" in outcome.err
    assert not (root / "results").exists()


@pytest.mark.parametrize("function", [calculate_lpips, calculate_dists])
def test_networks_are_handed_rgb_in_zero_to_one(function, packages):
    packages(STAND_IN)
    bgr, black = np.zeros((40, 44, 3), np.uint8), np.zeros((40, 44, 3), np.uint8)
    bgr[2:-2, 2:-2] = (51, 102, 204)  # 0.2, 0.4, 0.8
    want = 0.8 + 4 + 20
    assert function(bgr, black, 2) == pytest.approx(want, rel=1e-5)
    chw = torch.from_numpy(bgr / 255).permute(2, 0, 1)
    assert function(chw, chw * 0, 2, "CHW") == pytest.approx(want, rel=1e-5)
    assert function(chw * 2, chw * 0, 2, "CHW") == pytest.approx(1 + 8 + 40, rel=1e-5)  # clamped
    assert function(chw * 100, chw * 0, 2, "CHW", data_range=100) == pytest.approx(want, rel=1e-5)
    assert function(bgr[..., 0], black[..., 0], 2) == pytest.approx(0.2 * 111, rel=1e-5)
    with pytest.raises(UserError, match="differ in shape"):
        function(bgr, black[1:])


def test_lpips_by_the_protocol_of_dpdd_is_not_rounded(packages):
    packages(STAND_IN)
    black = np.zeros((32, 32, 3), np.uint8)
    grey = np.full((32, 32, 3), 0.3001, np.float32)
    assert calculate_lpips(grey, black, protocol="dpdd") == pytest.approx(0.3001 * 111, rel=1e-5)
    assert calculate_lpips(grey, black, protocol="rgb8") == pytest.approx(77 / 255 * 111, rel=1e-5)
    assert calculate_lpips.takes(protocol="dpdd") == "float"
    assert calculate_lpips.takes() == "uint8"
    with pytest.raises(UserError, match="y8 has no LPIPS; take rgb8, float or dpdd"):
        calculate_lpips(grey, black, protocol="y8")


def test_images_that_pooling_leaves_nothing_of_are_refused(packages, root, run, test_options):
    packages(STAND_IN)
    small = np.zeros((30, 40, 3), np.uint8)
    with pytest.raises(UserError, match="30x40 pixels is too small for LPIPS; give at least 31 a side"):
        calculate_lpips(small, small)
    assert calculate_lpips(small, small, net="vgg") == 0
    make_pairs(root / "datasets/Set")
    opt = options_with(test_options, lpips={"type": "calculate_lpips"})
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", opt))
    assert outcome.code == 2
    assert "32x24, but lpips needs 31x31" in outcome.err


def test_protocols_say_network_weights_range_and_size():
    for function, words in (
        (
            calculate_lpips,
            ("LPIPS, RGB, uint8", "0.1, AlexNet", "torchvision's alexnet-owt-7be5be79.pth", "[0, 1], not resized"),
        ),
        (calculate_dists, ("DISTS, RGB, uint8", "VGG16", "torchvision's vgg16-397923af.pth", "[0, 1], not resized")),
        (
            calculate_fid,
            ("Inception v3", "torch-fidelity's weights-inception-2015-12-05-6726825d.pth", "299x299", "2,048 images"),
        ),
        (niqe.calculate_niqe, ("pyiqa's, for non-commercial use", "niqe_modelparameters.mat", "luma")),
    ):
        line = function.protocol()
        assert all(word in line for word in words), line
        assert "border of 4 px cut" in function.protocol(crop_border=4)
    assert "VGG16 with torchvision's vgg16" in calculate_lpips.protocol(net="vgg")
    assert calculate_lpips.protocol(protocol="dpdd").startswith("LPIPS, protocol dpdd: clamped, not rounded, RGB")


def test_a_test_has_fid_of_the_set_and_lpips_of_images(packages, root, run, test_options):
    packages(STAND_IN)
    make_pairs(root / "datasets/Set", height=40, width=48)
    opt = options_with(test_options, **{name: {"type": f"calculate_{name}"} for name in ("fid", "lpips", "dists")})
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", opt), "--tlc", "both")
    assert outcome.code == 0, outcome
    report = json.loads((root / "results/run/report.json").read_text())
    for one in report["runs"]:
        assert set(one["metrics"]) == set(one["input_metrics"]) == {"psnr", "fid", "lpips", "dists"}
        assert one["metrics"]["fid"] != one["input_metrics"]["fid"]
        assert all(set(image["metrics"]) == {"psnr", "lpips", "dists"} for image in one["images"])
    plain, local = (one["metrics"]["fid"] for one in report["runs"])
    assert report["gain"]["Set"]["fid"] == pytest.approx(plain - local)
    header = next(csv.reader((root / "results/run/images.csv").open()))
    assert "lpips" in header
    assert "fid" not in header
    assert "fid is biased for fewer than 2,048 images, and these are 3" in outcome.out + outcome.err
    assert "FID of all restored images" in (root / "results/run/table.md").read_text()


# From here on the real packages.

needs_extra = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in PACKAGES[:3]), reason="needs the extra `perceptual`"
)


@pytest.fixture(scope="module")
def random_weights():
    """torchvision's and torch-fidelity's networks with random weights in the place of those that are downloaded."""
    from torch_fidelity import feature_extractor_inceptionv3 as inception
    from torchvision.models import _api, alexnet, vgg16

    made = {}

    def weights(url: str, **_words: object) -> dict[str, torch.Tensor]:
        if url not in made:
            torch.manual_seed(len(made))
            made[url] = (alexnet if "alexnet" in url else vgg16)().state_dict()
        return made[url]

    def left_as_it_is(self, _state: None) -> None:
        torch.manual_seed(9)
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter, std=0.05)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_api, "load_state_dict_from_url", weights)
        patch.setattr(inception, "load_state_dict_from_url", lambda *_args, **_words: None)
        patch.setattr(inception.FeatureExtractorInceptionV3, "load_state_dict", left_as_it_is)
        for cache in CACHES:
            cache.cache_clear()
        yield weights
    for cache in CACHES:
        cache.cache_clear()


def rgb64(bgr: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(bgr[..., ::-1].copy()).permute(2, 0, 1)[None].double() / 255


def noisy(image: np.ndarray, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 20, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


@needs_extra
@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_is_the_papers_formula(net, random_weights):
    """Equation 1 in float64: unit features, weighted squared differences, means over the pixels, sum over the layers."""
    from torchmetrics.functional.image import lpips as package
    from torchvision.models import alexnet, vgg16

    make, ends = {"alex": (alexnet, (1, 4, 7, 9, 11)), "vgg": (vgg16, (3, 8, 15, 22, 29))}[net]
    network = make()
    network.load_state_dict(random_weights(perceptual._WEIGHTS[net]))
    learned = torch.load(Path(package.__file__).with_name("lpips_models") / f"{net}.pth", map_location="cpu", weights_only=True)
    shift, scale = (
        torch.tensor(row, dtype=torch.float64).view(1, 3, 1, 1) for row in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450))
    )
    a, b = picture(1, 64, 80), noisy(picture(1, 64, 80), 2)
    layers, found = [], network.features.double().eval()
    for image in (a, b):
        x, kept = (rgb64(image) * 2 - 1 - shift) / scale, []
        with torch.no_grad():
            for number, layer in enumerate(found[: ends[-1] + 1]):
                x = layer(x.clone())
                if number in ends:
                    kept.append(x / x.norm(dim=1, keepdim=True).clamp_min(1e-12))
        layers.append(kept)
    weights = [learned[f"lin{number}.model.1.weight"].double() for number in range(5)]
    want = sum(float((w * (x - y) ** 2).sum(1).mean()) for w, x, y in zip(weights, *layers, strict=True))
    assert want > 1e-3
    assert calculate_lpips(a, b, net=net) == pytest.approx(want, rel=1e-4)
    assert calculate_lpips(a, b, net=net) == pytest.approx(calculate_lpips(b, a, net=net), rel=1e-6)
    assert calculate_lpips(a, a, net=net) == 0


@needs_extra
def test_dists_is_the_papers_formula(random_weights):
    """Equations 5 to 7 in float64; the poolings are square roots of blurred squares, with a Hann window of 3x3, stride 2."""
    from torchmetrics.functional.image import dists as package
    from torchvision.models import vgg16

    network = vgg16()
    network.load_state_dict(random_weights(perceptual._WEIGHTS["vgg"]))
    learned = torch.load(package._PATH_WEIGHT_DISTS, map_location="cpu", weights_only=True)
    total = float(learned["alpha"].double().sum() + learned["beta"].double().sum())
    hann = torch.tensor([0.5, 1.0, 0.5], dtype=torch.float64)
    window = torch.outer(hann, hann) / 4
    mean, std = (
        torch.tensor(row, dtype=torch.float64).view(1, 3, 1, 1) for row in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    a, b = picture(1, 64, 80), noisy(picture(1, 64, 80), 2)
    stages = []
    for image in (a, b):
        kept, x = [rgb64(image)], (rgb64(image) - mean) / std
        with torch.no_grad():
            for number, layer in enumerate(network.features.double().eval()[:30]):
                if isinstance(layer, torch.nn.MaxPool2d):
                    kernel = window.expand(x.shape[1], 1, 3, 3)
                    x = (F.conv2d(x**2, kernel, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()
                else:
                    x = layer(x.clone())
                if number in (3, 8, 15, 22, 29):
                    kept.append(x)
        stages.append(kept)
    similarity, start = 0.0, 0
    for x, y in zip(*stages, strict=True):
        x, y = x[0].flatten(1), y[0].flatten(1)
        end = start + len(x)
        texture = (2 * x.mean(1) * y.mean(1) + 1e-6) / (x.mean(1) ** 2 + y.mean(1) ** 2 + 1e-6)
        covariance = ((x - x.mean(1, keepdim=True)) * (y - y.mean(1, keepdim=True))).mean(1)
        structure = (2 * covariance + 1e-6) / (x.var(1, correction=0) + y.var(1, correction=0) + 1e-6)
        for word, values in (("alpha", texture), ("beta", structure)):
            similarity += float((learned[word].double().flatten()[start:end] * values).sum()) / total
        start = end
    assert 1 - similarity > 1e-3
    assert calculate_dists(a, b) == pytest.approx(1 - similarity, rel=1e-3)
    assert calculate_dists(a, a) == pytest.approx(0, abs=1e-5)


@needs_extra
def test_fid_is_the_distance_of_two_gaussians(random_weights):
    """In float64, the trace of the root of the product of the covariances as the nuclear norm of the product of their roots."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    pairs = [(noisy(picture(seed, 40, 56), seed), picture(seed, 40, 56)) for seed in range(6)]
    found = [calculate_fid(*pair) for pair in pairs]
    network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])  # the package's own forward
    images = [[torch.from_numpy(bgr[..., ::-1].copy()).permute(2, 0, 1)[None] for bgr in pair] for pair in pairs]
    with torch.no_grad():
        want = np.stack([np.stack([network(image)[0][0].numpy() for image in pair]) for pair in images])
    np.testing.assert_allclose(np.stack(found), want, rtol=1e-4, atol=1e-5 * np.abs(want).max())
    assert want.std(0).max() > 0
    a, b = (np.float64(want[:, side]) for side in (0, 1))
    roots = [(x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b)]
    distance = np.square(a.mean(0) - b.mean(0)).sum() + sum(np.square(root).sum() for root in roots)
    distance -= 2 * np.linalg.norm(roots[0] @ roots[1].T, "nuc")
    assert fid.frechet_distance(found) == pytest.approx(distance, rel=1e-2)
