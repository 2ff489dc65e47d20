"""Statistics from patches: norms of a whole image that see the statistics of training."""

import copy
import warnings
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from basicsr.archs import build_network
from basicsr.errors import UserError
from basicsr.tlc import convert
from basicsr.tlc.local.patches import SPACING, Sampler, _starts, _weights

PATCH = (1, 3, 16, 16)


class Net(nn.Module):
    """Norms at full resolution and at half of it, behind zero-padded convolutions."""

    def __init__(self, norm=lambda c: nn.InstanceNorm2d(c, affine=True)) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 8, 3, padding=1), norm(8)
        self.down, self.norm2 = nn.Conv2d(8, 8, 2, stride=2), norm(8)
        self.last = nn.ConvTranspose2d(8, 3, 2, stride=2)

    def forward(self, x):
        return x + self.last(F.relu(self.norm2(self.down(F.relu(self.norm1(self.first(x)))))))


def sampled(net: nn.Module) -> nn.Module:
    return convert(copy.deepcopy(net), train_size=PATCH, statistics="patches").eval()


def made(norm=lambda c: nn.InstanceNorm2d(c, affine=True)) -> nn.Module:
    torch.manual_seed(0)
    return Net(norm).double().eval()


@pytest.mark.parametrize("norm", [lambda c: nn.InstanceNorm2d(c, affine=True), nn.InstanceNorm2d, lambda c: nn.GroupNorm(2, c)])
def test_on_a_picture_of_equal_patches_it_equals_the_patch(norm):
    """All statistics are those of the patch alone, its zero-padded border included: away from borders so is the output."""
    net, patch = made(norm), torch.rand(1, 3, 16, 16, dtype=torch.float64)
    image = patch.repeat(1, 1, 7, 7)  # patches start at multiples of 16: 0, 48, 96
    out, expected = sampled(net)(image), net(patch)
    inner = slice(16 + 4, 32 - 4)
    assert torch.allclose(out[..., inner, inner], expected[..., 4:-4, 4:-4], atol=1e-6)  # log and exp of the variance
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        window = convert(copy.deepcopy(net), train_size=PATCH, base_size=16).eval()(image)
    assert (window[..., inner, inner] - expected[..., 4:-4, 4:-4]).abs().max() > 1e-2  # what it is for


def test_between_two_patches_statistics_are_interpolated():
    """On the middle line between two patches both count half."""
    sampler = Sampler((16, 16))
    norm = nn.InstanceNorm2d(4)
    net = convert(nn.Sequential(norm), train_size=(1, 4, 16, 16), statistics="patches").eval()
    x = torch.randn(1, 4, 16, 48, dtype=torch.float64) * torch.linspace(1, 3, 48) + torch.linspace(0, 5, 48)
    out = net(x)
    left, right = x[..., :16], x[..., 32:]
    mean = (left.mean((-2, -1)) + right.mean((-2, -1))) / 2
    eps = norm.eps
    variance = ((left.var((-2, -1), correction=0) + eps) * (right.var((-2, -1), correction=0) + eps)).sqrt()
    middle = x[..., 23:25].mean(-1)  # the average over both sides of the line, where weights are 1/2 -+ 1/64
    nearby = (middle - mean[..., None]) / variance[..., None].sqrt()
    assert torch.allclose(out[..., 23:25].mean(-1), nearby, atol=0.05)
    assert sampler.starts is None


def test_weights_sum_to_one_and_hit_the_centres():
    starts = _starts(200, 16)
    weights = _weights(starts, 16, 8, 100)
    assert torch.allclose(weights.sum(1), torch.ones(100))
    assert max(b - a for a, b in pairwise(starts)) <= SPACING * 16
    assert (starts[0], starts[-1]) == (0, 184)
    assert weights[0].tolist() == [1, *[0] * (len(starts) - 1)]
    assert _starts(10, 16) == _starts(16, 16) == [0]


@pytest.mark.parametrize("size", [(16, 16), (12, 16)])
def test_an_image_no_larger_than_a_patch_is_as_plain(size):
    net, x = made(), torch.rand(2, 3, *size, dtype=torch.float64)
    assert torch.equal(sampled(net)(x), sampled(net)(x))
    assert torch.allclose(sampled(net)(x), net(x), atol=1e-12)


def test_training_is_as_plain():
    net, x = made(), torch.rand(2, 3, 64, 64, dtype=torch.float64)
    assert torch.allclose(sampled(net).train()(x), net.train()(x), atol=1e-12)


@pytest.mark.parametrize("size", [(64, 64), (16, 100), (90, 34)])
def test_every_image_of_a_batch_has_its_own(size):
    net, x = sampled(made()), torch.rand(3, 3, *size, dtype=torch.float64)
    assert torch.allclose(net(x), torch.cat([net(image[None]) for image in x]), atol=1e-10)
    assert torch.allclose(net(x=x), net(x), atol=1e-12)  # by name as well


def test_nothing_is_left_behind_also_after_an_error():
    net = sampled(made())
    norms = [net.norm1, net.norm2]
    before = net(torch.rand(1, 3, 64, 64, dtype=torch.float64))
    with pytest.raises(RuntimeError):
        net(torch.rand(1, 4, 64, 64, dtype=torch.float64))
    assert net.norm1.sampler.starts is None
    assert not net.norm1.sampler.recording
    assert all(not norm.samples for norm in norms)
    assert torch.isfinite(before).all()


def test_flat_and_half_precision_images_stay_finite():
    net = sampled(made()).float()
    assert torch.isfinite(net(torch.full((1, 3, 64, 64), 0.5))).all()
    with torch.autocast("cpu", torch.bfloat16):
        out = net(torch.rand(1, 3, 64, 64))
    assert torch.isfinite(out).all()


def test_state_dict_and_report():
    net = made()
    local = sampled(net)
    assert list(local.state_dict()) == list(net.state_dict())
    rows = local.tlc_report.converted
    assert [(row.path, row.after, row.size, row.window) for row in rows] == [
        ("norm1", "SampledNorm", (16, 16), (16, 16)),
        ("norm2", "SampledNorm", (8, 8), (8, 8)),
    ]


def test_a_copy_has_its_own_sampler():
    net = sampled(made())
    other = copy.deepcopy(net)
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    assert torch.equal(other(x), net(x))
    assert other.norm1.sampler is other.norm2.sampler is not net.norm1.sampler


def test_gradients_reach_the_image():
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    sampled(made())(x).square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().max() > 0


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match="leave it out"):
        convert(nn.Conv2d(3, 3, 3), train_size=PATCH, statistics="patches")
    with pytest.raises(ValueError, match="'window' or 'patches'"):
        convert(made(), train_size=PATCH, statistics="patch")
    with pytest.raises(ValueError, match="cannot be exported"):
        torch.jit.trace(sampled(made()).float(), torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"\(N, C, H, W\)"):
        sampled(made())(torch.rand(3, 64, 64, dtype=torch.float64))


def test_option_of_the_yaml():
    options = {"wf": 4, "depth": 2, "hin_position_left": 0, "hin_position_right": 1, "train_size": 32, "statistics": "patches"}
    net = build_network({"type": "HINetLocal", **options})
    assert {row.after for row in net.tlc_report.converted} == {"SampledNorm"}
    with pytest.raises(UserError, match=r"network_g: statistics='patches' is for .*\."):
        build_network({"type": "NAFNetLocal", "width": 4, "train_size": 32, "statistics": "patches"})


def test_norms_on_large_maps_are_warned_of():
    with pytest.warns(UserWarning, match=r"2 norms see maps .* norm1: .*statistics='patches'"):
        convert(made(), train_size=PATCH)


@pytest.mark.parametrize("change", ["deep", "no padding", "reflect", "patches"])
def test_no_warning_without_the_danger(change):
    net = made()
    if change == "deep":
        net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.InstanceNorm2d(8))
    elif change == "no padding":
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8))
    elif change == "reflect":
        net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), nn.InstanceNorm2d(8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert(net, train_size=PATCH, statistics="patches" if change == "patches" else "window")


def test_compiled_it_is_the_same():
    net, x = sampled(made()), torch.rand(1, 3, 64, 90, dtype=torch.float64)
    assert torch.allclose(torch.compile(net, backend="eager")(x), net(x), atol=1e-12)
