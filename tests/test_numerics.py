"""Every network, plain and with TLC, in every precision, on images that break careless arithmetic: finite, and near float64."""

import copy

import pytest
import torch
from conftest import SMALL_NETS, plain_and_local
from torch import Tensor

H, W = 40, 56
KINDS = ("plain", "local")
# Largest error against float64, relative to the largest value there, a fiftieth of white at least.
ERROR = {torch.float32: 2e-4, torch.bfloat16: 0.25, torch.float16: 0.04}


def checkerboard() -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    return ((rows + columns) % 2).expand(1, 3, H, W)


def one_pixel() -> Tensor:
    image = torch.zeros(1, 3, H, W)
    image[..., 17, 23] = 1
    return image


def noise(amplitude: float) -> Tensor:
    return amplitude * torch.randn(1, 3, H, W, generator=torch.Generator().manual_seed(0))


IMAGES = {
    "black": lambda: torch.zeros(1, 3, H, W),
    "white": lambda: torch.ones(1, 3, H, W),
    "constant": lambda: torch.full((1, 3, H, W), 0.3),
    "checkerboard": checkerboard,
    "one bright pixel": one_pixel,
    "across": lambda: torch.linspace(0, 1, W).expand(1, 3, H, W),
    "down": lambda: torch.linspace(0, 1, H)[:, None].expand(1, 3, H, W),
    "one row": lambda: torch.rand(1, 3, 1, W, generator=torch.Generator().manual_seed(1)),
    "one column": lambda: torch.rand(1, 3, H, 1, generator=torch.Generator().manual_seed(1)),
    "one": lambda: torch.full((1, 3, 1, 1), 0.5),
    "faint": lambda: noise(1e-6),
    "weak": lambda: noise(1e-3),
    "noise": lambda: noise(0.2) + 0.5,
    "strong": lambda: noise(1e2),
    "loud": lambda: noise(1e4),
}


def of_one_size() -> list[list[str]]:
    """Names of images, those of one size together: in one batch they take a fraction of the time."""
    sizes = {}
    for name, make in IMAGES.items():
        sizes.setdefault(make().shape, []).append(name)
    return list(sizes.values())


@pytest.fixture(scope="module")
def nets() -> dict:
    return {(name, kind): net for name, both in plain_and_local(24).items() for kind, net in zip(KINDS, both, strict=True)}


def final(net: torch.nn.Module, image: Tensor) -> Tensor:
    with torch.no_grad():
        out = net(image)
    return out if isinstance(out, Tensor) else out[-1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SMALL_NETS)
@pytest.mark.parametrize("dtype", ERROR, ids=str)
def test_finite_and_near_float64(name, kind, dtype, nets):
    net, errors = copy.deepcopy(nets[name, kind]).to(dtype), {}
    for names in of_one_size():
        if dtype == torch.float16:
            names = [image for image in names if image != "loud"]  # beyond half precision's range
        images = torch.cat([IMAGES[image]() for image in names]).to(dtype)
        wanted, found = final(nets[name, kind], images.double()), final(net, images)
        assert found.shape == wanted.shape, names
        for image, want, got in zip(names, wanted, found, strict=True):
            assert got.isfinite().all(), image
            if image == "faint" and dtype.itemsize < 4:
                continue  # layer norms make it as loud as any other image, and with it what was rounded away
            errors[image] = float((got.double() - want).abs().max() / want.abs().max().clamp(min=0.02))
    worst = {image: round(error, 5) for image, error in errors.items() if error >= ERROR[dtype]}
    assert not worst, worst


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SMALL_NETS)
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=str)
def test_no_image_of_a_batch_knows_of_the_others(name, kind, dtype, error, nets):
    """error: relative to the largest value of an image, a fiftieth of white at least."""
    images = torch.cat([make().to(dtype) for image, make in IMAGES.items() if not image.startswith("one ") and image != "one"])
    net = copy.deepcopy(nets[name, kind]).to(dtype)
    whole = final(net, images)
    scale = whole.abs().amax((1, 2, 3), keepdim=True).clamp(min=0.02)
    for order in ([3, 0, 5], [7], [2, 2], [6, 1, 4, 0], [9, 10]):
        difference = (final(net, images[order]) - whole[order]).abs() / scale[order]
        assert difference.max() < error, order
