"""demo.py --safe: pictures that cannot be right are restored without TLC, or not at all."""

import numpy as np
import pytest
from conftest import REPOSITORY, picture, write, write_yaml

from basicsr.engine.restoring.safety import disagreement, explosion
from basicsr.utils.image import read_image

NET = """
import torch
from torch import nn
from basicsr.archs import ARCHS
from basicsr.tlc import rule

class Step(nn.Identity):
    pass

class Wrong(nn.Module):
    def forward(self, x):
        return x * float("nan")

@rule(Step)
def wrong(module, site):
    return Wrong()

@ARCHS.register
class Toy(nn.Module):
    def __init__(self, *, level: float = 0.0) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(level))
        self.step = Step()

    def forward(self, x):
        return self.step(x) + self.level
"""


@pytest.fixture
def demo(root, run, forget_own_code):
    (root / "toy.py").write_text(NET, encoding="utf-8")
    write(root / "photo.png", picture(1, 64, 96))

    def call(*args: str, **network_g: object):
        opt = {"name": "safe", "num_gpu": 0, "custom_modules": ["toy.py"], "network_g": network_g}
        return run("demo", "-opt", write_yaml(root / "opt.yml", opt), "--input", "photo.png", "--output", "out.png", *args)

    return call


def test_what_tlc_broke_is_restored_without(demo, root):
    outcome = demo("--safe", type="ToyLocal")
    assert outcome.code == 0
    assert (
        "photo.png: what ToyLocal makes of it cannot be right, 18432 of its values are no numbers" in outcome.out + outcome.err
    )
    assert np.array_equal(read_image(root / "out.png"), read_image(root / "photo.png"))


def test_a_net_that_is_wrong_without_tlc_too_writes_nothing(demo, root):
    outcome = demo("--safe", type="ToyLocal", level=0.9)
    assert outcome.code == 2
    assert "photo.png: nothing was written, since the colour of the part around column " in outcome.err
    assert not (root / "out.png").exists()


def test_a_plain_net_is_watched_as_well(demo):
    assert demo("--safe", type="Toy").code == 0
    assert demo("--safe", type="Toy", level=0.9).code == 2


def test_the_comparison_is_drawn_all_the_same(demo, root):
    assert demo("--safe", "--compare", type="ToyLocal").code == 0
    assert (root / "out_compare.png").is_file()


def restorations() -> dict[str, np.ndarray]:
    image = scene()
    noise = np.random.default_rng(0).normal(0, 0.2, image.shape)
    blob, board, hole = image.copy(), image.copy(), image.copy()
    blob[40:80, 40:90, 0] += 0.4
    board[64:128, 64:128] += 0.25 * np.where(np.indices((64, 64)).sum(0) % 2, 1, -1)[..., None]
    hole[5, 6, 1] = np.nan
    return {"same": image, "noise": (image + noise).clip(0, 1), "blob": blob, "checkerboard": board, "nan": hole}


def scene() -> np.ndarray:
    """A smooth picture, (128, 160, 3)."""
    y, x = np.meshgrid(np.linspace(0, 3, 128), np.linspace(0, 4, 160), indexing="ij")
    return np.stack([0.5 + 0.2 * np.sin(x), 0.5 + 0.2 * np.cos(y), 0.5 + 0.1 * np.sin(x * y)], 2).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("same", ""),
        ("blob", "the colour of the part around column"),
        ("checkerboard", "the contrast of"),
        ("nan", "1 of its values"),
    ],
)
def test_explosion(name, words):
    why = explosion(scene(), restorations()[name])
    assert words in why
    assert bool(why) == bool(words)


def test_denoising_is_no_explosion():
    assert explosion(restorations()["noise"], scene()) == ""


@pytest.mark.parametrize("size", [(1, 1), (5, 200), (33, 31)])
def test_small_pictures(size):
    image = np.full((*size, 3), 0.5, np.float32)
    assert explosion(image, image) == ""
    assert "colour" in explosion(image, image + 0.5)


def test_tlc_that_does_harm_is_noticed_and_the_remedy_said(tmp_path, run):
    """HINet-AllNorms spoils flat parts without an explosion; the other bundled nets are left alone."""
    target = read_image(REPOSITORY / "datasets/Sample/test/target/01_beacon_street.jpg")[:256, :320]
    noise = np.random.default_rng(0).normal(0, 25 / 255, target.shape)
    write(tmp_path / "photo.png", np.rint((target + noise).clip(0, 1) * 255).astype(np.uint8))
    for net, harmed in (("HINet-AllNorms", True), ("NAFNet-SampleNoise", False)):
        name = net.partition("-")[0]
        weights = REPOSITORY / f"experiments/pretrained_models/{net}.safetensors"
        more = ("--weights", weights, "--net", f"{name}Local", "--output", tmp_path / f"{net}.png", "--device", "cpu", "--safe")
        outcome = run("restore", tmp_path / "photo.png", *more)
        assert outcome.code == 0, outcome
        assert (f"what {name}Local makes of it cannot be right, its parts are off" in outcome.out) == harmed
        assert ("--force_yml network_g:statistics=patches, or `statistics: patches` in network_g" in outcome.out) == harmed
        assert "statistics='patches'" not in outcome.out
        if harmed:
            assert (
                run("restore", tmp_path / "photo.png", *more[:-1], "--tlc", "off", "--output", tmp_path / "plain.png").code == 0
            )
            assert np.array_equal(read_image(tmp_path / f"{net}.png"), read_image(tmp_path / "plain.png"))
            patches = ("--force_yml", "network_g:statistics=patches")
            outcome = run("restore", tmp_path / "photo.png", *more, *patches)
            assert outcome.code == 0, outcome
            assert "cannot be right" not in outcome.out


def test_disagreement():
    image = scene()
    sharper = image + 0.05 * np.random.default_rng(0).standard_normal(image.shape)
    assert disagreement(image, image) == ""
    assert disagreement(image, image + 0.03) == ""  # colour alone: windows see what the whole picture hides
    assert disagreement(image, sharper) == ""  # details alone
    assert "in colour and 0.02" in disagreement(image, sharper + 0.03)
