"""`exclude` and `include`: what stays as it is; and layers that are local by themselves, which are left to it."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from test_tlc_zoo import (
    SIZE,
    C,
    ChannelGate,
    RestormerAttention,
    SqueezeExcite,
    attended,
    each,
    image,
    linear,
    local,
    made,
    mean,
    normed,
)
from torch import Tensor, nn

from basicsr.archs import build_network, with_words
from basicsr.commands import words
from basicsr.commands.parser import Parser
from basicsr.errors import UserError
from basicsr.tlc import convert
from basicsr.tlc.local.layers import LocalAvgPool2d

# Patterns ------------------------------------------------------------------------------------------------------------


class Both(nn.Module):
    """Two statistics of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean((2, 3), keepdim=True) + x.amax((2, 3), keepdim=True)


class Net(nn.Module):
    """A norm, a gate with nn.Linear, a forward with two statistics, attention between channels."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm12 = nn.InstanceNorm2d(C), nn.GroupNorm(2, C)
        self.body = nn.Sequential(SqueezeExcite(), Both())
        self.attn = RestormerAttention()

    def forward(self, x: Tensor) -> Tensor:
        return self.attn(self.body(self.norm12(self.norm1(x))))


ALL = {"norm1", "norm12", "body.0", "body.1", "attn"}


@pytest.mark.parametrize(
    ("exclude", "stays", "reason"),
    [
        ("norm1", {"norm1"}, "norm1"),
        ("norm1*", {"norm1", "norm12"}, "norm1*"),
        (("norm12", "attn"), {"norm12", "attn"}, None),
        ("body", {"body.0", "body.1"}, "body"),
        ("*od*.0", {"body.0"}, "*od*.0"),
        ("*:GroupNorm", {"norm12"}, "*:GroupNorm"),
        ("*:SqueezeExcite", {"body.0"}, "*:SqueezeExcite"),
        ("body.0.avg_pool", {"body.0"}, "body.0.avg_pool"),
        ("body.0:AdaptiveAvg*", {"body.0"}, "body.0:AdaptiveAvg*"),
        ("attn:attention between channels", {"attn"}, "attn:attention between channels"),
        ("attn:bmm", {"attn"}, "attn:bmm"),
        ("body.1:*m[ae]*", {"body.1"}, "body.1:*m[ae]*"),
    ],
)
@pytest.mark.filterwarnings("ignore:. norms see maps")
def test_what_is_excluded_stays(exclude: object, stays: set[str], reason: str | None):
    module, x = made(Net), image()
    keys = list(module.state_dict())
    net = local(module, exclude=exclude)
    report = net.tlc_report
    assert {row.path for row in report.converted} == ALL - stays
    assert {row.path.removesuffix(".avg_pool") for row in report.left_alone} == stays
    assert all(row.reason.startswith("excluded by '") for row in report.left_alone)
    assert reason is None or {row.reason for row in report.left_alone} == {f"excluded by {reason!r}"}
    assert list(net.state_dict()) == keys
    with torch.no_grad():
        expected = by_hand(made(Net), x, stays)
        assert (net(x) - expected).abs().max() <= 1e-9 * expected.abs().max()


def by_hand(net: nn.Module, x: Tensor, stays: set[str]) -> Tensor:
    """What stays runs as it is; the others, window by window."""
    x = net.norm1(x) if "norm1" in stays else normed(x, C)
    scale, shift = (p.view(-1, 1, 1) for p in (net.norm12.weight, net.norm12.bias))
    x = net.norm12(x) if "norm12" in stays else normed(x, 2) * scale + shift
    gate = net.body[0]
    x = gate(x) if "body.0" in stays else x * linear(linear(mean(x), gate.fc[0]).relu(), gate.fc[2]).sigmoid()
    x = net.body[1](x) if "body.1" in stays else x * mean(x) + each(x, lambda crop: crop.amax((2, 3)))
    return net.attn(x) if "attn" in stays else net.attn.by_hand(x)


@pytest.mark.parametrize(
    ("include", "exclude", "local_paths"),
    [
        ("body", (), {"body.0", "body.1"}),
        (["norm*", "attn"], (), {"norm1", "norm12", "attn"}),
        ("*", "*norm*", {"body.0", "body.1", "attn"}),
        ("norm*", "norm1", {"norm12"}),
        ("*:mean", (), {"body.0", "body.1"}),
    ],
)
@pytest.mark.filterwarnings("ignore:. norms see maps")
def test_what_is_not_included_stays(include: object, exclude: object, local_paths: set[str]):
    report = local(made(Net), include=include, exclude=exclude).tlc_report
    assert {row.path for row in report.converted} == local_paths
    others = {row.path.removesuffix(".avg_pool") for row in report.left_alone if "included" not in row.reason}
    assert not others or exclude
    assert all(row.reason.startswith(("not included by '", "excluded by '")) for row in report.left_alone)


def test_one_operation_of_a_forward_stays_and_the_rest_is_rewritten():
    x = image()
    for exclude, want in (
        ("*:amax", x * mean(x) + x.amax((2, 3), keepdim=True)),
        ("*:mean", x * x.mean((2, 3), keepdim=True) + each(x, lambda crop: crop.amax((2, 3)))),
    ):
        net = local(made(Both), exclude=exclude)
        assert (net(x) - want).abs().max() <= 1e-10 * want.abs().max()
        assert [row.reason for row in net.tlc_report.left_alone] == [f"excluded by {exclude!r}"]
        assert len(net.tlc_report.converted) == 1


def test_a_module_that_does_without_no_part_is_declined_as_a_whole():
    """Linear layers that are given both statistics."""
    net, x = local(made(ChannelGate), exclude="*:max_pool2d"), image()
    reasons = {row.operation: row.reason for row in net.tlc_report.left_alone}
    assert net.tlc_report.converted == ()
    assert "a part of it is excluded by '*:max_pool2d'" in reasons["avg_pool2d"]
    assert reasons["max_pool2d_with_indices"] == "excluded by '*:max_pool2d'"
    assert torch.equal(net(x), made(ChannelGate)(x))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"exclude": "nrom1"}, "exclude: 'nrom1' (did you mean 'norm1', 'norm12'?) matches nothing global in the net"),
        ({"exclude": "Norm1"}, "did you mean 'norm1'"),  # case-sensitive
        ({"exclude": ["norm1", "attn.project_out"]}, "'attn.project_out' matches nothing global"),
        ({"include": "attn:mean"}, "include: 'attn:mean' (did you mean 'attn:bmm'?) matches nothing global"),
        ({"exclude": "zzz"}, "where there is 'norm1', 'norm12'"),
        ({"include": []}, "include holds no pattern"),
        ({"exclude": [3]}, "a pattern of module names"),
        ({"exclude": ""}, "a pattern of module names"),
    ],
)
def test_patterns_that_match_nothing(options: dict, says: str):
    module, x = made(Net), image()
    with pytest.raises(ValueError, match=r"pattern|nothing global") as caught:
        local(module, **options)
    assert says in str(caught.value)
    assert torch.equal(module(x), made(Net)(x))
    assert not hasattr(module, "tlc_report")


def test_a_net_without_anything_global_has_nothing_to_exclude():
    with pytest.raises(ValueError, match="where there is none"):
        local(nn.Sequential(nn.Conv2d(C, C, 1)), exclude="0")


def test_patches_need_a_norm_that_is_selected():
    with pytest.raises(ValueError, match=r"the net has none that is to become local"):
        convert(made(Net), train_size=8, statistics="patches", exclude="norm*")


def test_in_options_files():
    plain = {"type": "NAFNet", "width": 4, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}
    blocks = {row.path for row in build_network({**plain, "tlc": True}).tlc_report.converted}
    for options in (
        {**plain, "tlc": {"exclude": ["middle*", "encoders.1"]}},
        {**plain, "type": "NAFNetLocal", "exclude": ["middle*", "encoders.1"]},
        with_words(plain, exclude=["middle*", "encoders.1"], include=None),
    ):
        report = build_network(options).tlc_report
        assert {row.path for row in report.converted} == {p for p in blocks if not p.startswith(("middle", "encoders.1"))}
        assert {row.reason for row in report.left_alone} == {"excluded by 'middle*'", "excluded by 'encoders.1'"}
    only = build_network({**plain, "type": "NAFNetLocal", "include": "middle*"}).tlc_report
    assert {row.path for row in only.converted} == {p for p in blocks if p.startswith("middle")}
    with pytest.raises(UserError, match=r"g.tlc: exclude: 'midle\*' .did you mean 'middle_blks"):
        build_network({**plain, "tlc": {"exclude": "midle*"}})
    with pytest.raises(UserError, match=r"network_g.exclude"):
        build_network({**plain, "type": "NAFNetLocal", "exclude": {"a": 1}})


def test_on_the_command_line():
    parser = Parser()
    words.tlc(parser)
    words.windows(parser)
    args = parser.parse_args(["--exclude", "SCM*", "*:mean", "--include", "body", "--window", "96"])
    assert words.settings(args) == {"base_size": 96, "exclude": ["SCM*", "*:mean"], "include": ["body"]}
    assert words.settings(parser.parse_args([])) == {}
    opt = importlib.import_module("basicsr.options").parse({"name": "n", "network_g": {"type": "NAFNet"}}, "here")
    assert words.with_settings(opt, args).network_g.as_dict()["tlc"]["exclude"] == ["SCM*", "*:mean"]
    with pytest.raises(UserError, match="--exclude is a setting of TLC, which --tlc off turns off"):
        words.with_settings(opt, parser.parse_args(["--exclude", "a", "--tlc", "off"]))


# Local by themselves -------------------------------------------------------------------------------------------------


class BoxPool(nn.Module):
    """A pool with the published one's attributes, written anew: prefix sums over its window, borders replicated."""

    def __init__(self, kernel_size: tuple | None = None, base_size: tuple | None = None) -> None:
        super().__init__()
        self.kernel_size, self.base_size, self.auto_pad, self.fast_imp = kernel_size, base_size, True, False

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel_size is None:
            self.kernel_size = tuple(side * base // 8 for side, base in zip(x.shape[2:], self.base_size, strict=True))
        h, w = x.shape[2:]
        k1, k2 = min(h, self.kernel_size[0]), min(w, self.kernel_size[1])
        if (k1, k2) == (h, w):
            return F.adaptive_avg_pool2d(x, 1)
        sums = F.pad(x.cumsum(-1).cumsum(-2), (1, 0, 1, 0))
        out = sums[..., k1:, k2:] - sums[..., :-k1, k2:] - sums[..., k1:, :-k2] + sums[..., :-k1, :-k2]
        top, left = (k1 - 1) // 2, (k2 - 1) // 2
        return F.pad(out / (k1 * k2), (left, k2 - 1 - left, top, k1 - 1 - top), mode="replicate")


class Gated(nn.Module):
    def __init__(self, **settings: object) -> None:
        super().__init__()
        self.pool, self.conv = BoxPool(**settings), nn.Conv2d(C, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(self.pool(x))


@pytest.mark.parametrize("base_size", [(5, 6), (12, 12), (4, 4)])
def test_a_pool_whose_window_follows_the_first_image_gets_this_conversion_s(base_size: tuple):
    x = image()
    module = made(lambda: Gated(base_size=base_size))
    net = local(module)
    assert isinstance(net.pool, LocalAvgPool2d)
    (row,) = net.tlc_report.converted
    assert (row.path, row.window, row.note) == ("pool", (5, 6), "its own window would have followed the first image")
    assert net.tlc_report.left_alone == ()
    want = x * module.conv(mean(x))
    assert (net(x) - want).abs().max() <= 1e-10 * want.abs().max()
    torch.testing.assert_close(
        local(made(lambda: Gated(base_size=base_size)), base_size=99)(x), x * module.conv(x.mean((2, 3), True))
    )


@pytest.mark.parametrize("kernel_size", [(3, 4), (99, 99)])
def test_a_pool_whose_window_is_set_is_local(kernel_size: tuple):
    x = image()
    module = made(lambda: Gated(kernel_size=kernel_size))
    want = module(x)
    net = local(module)
    assert net.tlc_report.converted == net.tlc_report.left_alone == ()
    assert torch.equal(net(x), want)


def test_other_pools_are_not_taken_for_it():
    report = convert(nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), nn.AvgPool2d(3, 1, 1)), train_size=(1, C, 8, 8)).tlc_report
    assert report.converted == report.left_alone == ()


class InGrids(RestormerAttention):
    """Attention that cuts its map into windows, side by side, when it is told to."""

    def __init__(self, **settings: object) -> None:
        super().__init__()
        vars(self).update(settings)

    def grids(self, x: Tensor) -> Tensor:
        rows = x.unfold(2, 3, 3).unfold(3, 4, 4)  # (N, C, h, w, 3, 4)
        self.counts = rows.shape
        return rows.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)

    def grids_inverse(self, parts: Tensor) -> Tensor:
        n, c, h, w = self.counts[:4]
        return parts.unflatten(0, (n, h, w)).permute(0, 3, 1, 4, 2, 5).reshape(n, c // 3, 3 * h, 4 * w)

    def forward(self, x: Tensor) -> Tensor:
        mine = vars(self)
        if not mine.get("tlc_flag", mine.get("kernel_size") or mine.get("base_size")):
            return super().forward(x)
        qkv = self.grids(self.qkv_dwconv(self.qkv(x)).cumsum(-1))
        q, k, v = (y.reshape(len(y), self.num_heads, C // self.num_heads, -1) for y in qkv.chunk(3, 1))
        matrix = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * self.temperature).softmax(-1)
        return self.project_out(self.grids_inverse((matrix @ v).reshape(-1, C, 3, 4)))


@pytest.mark.parametrize(
    ("settings", "follows"),
    [({"kernel_size": (3, 4)}, False), ({"tlc_flag": True}, False), ({"kernel_size": None, "base_size": (3, 4)}, True)],
)
def test_attention_that_cuts_windows_itself(settings: dict, follows: bool):
    net = convert(nn.Sequential(made(lambda: InGrids(**settings))), train_size=(1, C, 12, 12))
    assert net.tlc_report.converted == ()
    (row,) = net.tlc_report.left_alone
    assert (row.path, row.operation) == ("0", "InGrids")
    assert row.reason.startswith("already local")
    assert ("follows the first image" in row.reason) == follows


@pytest.mark.parametrize("settings", [{}, {"tlc_flag": False, "kernel_size": (3, 4)}, {"kernel_size": None}])
def test_attention_that_cuts_windows_only_when_it_is_told_to(settings: dict):
    x, module = image(), made(lambda: InGrids(**settings))
    net = local(module)
    assert [row.after for row in net.tlc_report.converted] == ["local channel attention"]
    q, k, v = module.qkv_dwconv(module.qkv(x)).view(x.shape[0], 3, 2, C // 2, *SIZE).unbind(1)
    want = module.project_out(attended(q, k, v, module.temperature))
    assert (net(x) - want).abs().max() <= 1e-10 * want.abs().max()
