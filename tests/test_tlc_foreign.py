"""What convert does to nets that it did not expect: it leaves no trace in them, carries over what hangs on their layers, and
says in a sentence what it cannot do."""

import functools
import importlib
import sys
import types
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.tlc import convert, local_group_norm, local_mean, rule
from basicsr.tlc.local.layers import LocalAvgPool2d, LocalInstanceNorm2d

C = 4
SIZE = {"train_size": (1, C, 16, 16)}


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(C)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.pool(x)


# What nets keep ------------------------------------------------------------------------------------------------------


class DictOfTensors(Normed):
    def __init__(self) -> None:
        super().__init__()
        self.cache, self.seen, self.nested = {}, [], [{"sizes": set()}]

    def forward(self, x: Tensor) -> Tensor:
        size = tuple(x.shape[-2:])
        if size not in self.cache:
            self.cache[size] = torch.linspace(0, 1, size[1], device=x.device, dtype=x.dtype)
        self.seen.append(x)
        self.nested[0]["sizes"].add(size)
        return self.norm(x) + self.cache[size]


class BufferOfNone(Normed):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pe", None)

    def forward(self, x: Tensor) -> Tensor:
        if self.pe is None or self.pe.shape[-1] != x.shape[-1]:
            self.pe = torch.linspace(0, 1, x.shape[-1], device=x.device, dtype=x.dtype)
        return self.norm(x) + self.pe


class BufferInForward(Normed):
    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "pe") or self.pe.shape[-1] < x.shape[-1]:
            self.register_buffer("pe", torch.linspace(0, 1, x.shape[-1], device=x.device, dtype=x.dtype), persistent=False)
        return self.norm(x) + self.pe[: x.shape[-1]]


@functools.lru_cache
def ramp(width: int) -> Tensor:
    return torch.linspace(0, 1, width).mul_(2).cumsum(0)


class SharedCache(Normed):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x) + ramp(x.shape[-1]).to(x)


@pytest.mark.parametrize("kind", [DictOfTensors, BufferOfNone, BufferInForward, SharedCache])
def test_tensors_of_the_dry_run_do_not_stay(kind: type[nn.Module]):
    ramp.cache_clear()
    net, plain = convert(kind(), **SIZE).to(torch.float64), kind().double()
    assert [row.path for row in net.tlc_report.converted] == ["norm"]
    assert list(net.state_dict()) == list(kind().state_dict())
    if kind is DictOfTensors:
        assert (net.cache, net.seen, net.nested) == ({}, [], [{"sizes": set()}])
    for width in (16, 24):  # a window of 24 covers them
        x = torch.randn(1, C, width, width, dtype=torch.float64)
        torch.testing.assert_close(net(x), plain(x))


def test_what_a_buffer_held_before_stays():
    net = BufferInForward()
    net(torch.rand(1, C, 8, 8))
    before = net.pe
    convert(net, **SIZE)
    assert net.pe is before
    assert net._non_persistent_buffers_set == {"pe"}


# Hooks ---------------------------------------------------------------------------------------------------------------


def test_hooks_move_to_the_local_layer_and_can_be_removed():
    net, seen = Normed().eval(), []
    handles = [
        net.norm.register_forward_pre_hook(lambda layer, args: seen.append(type(layer))),
        net.norm.register_forward_hook(lambda layer, args, kwargs, output: -output, with_kwargs=True),
    ]
    convert(net, **SIZE)
    seen.clear()
    x = torch.rand(1, C, 40, 40)
    negative = net(x)
    assert seen == [LocalInstanceNorm2d]
    for handle in handles:
        handle.remove()
    assert torch.equal(net(x), -negative)
    assert len(seen) == 1


def test_a_hook_that_mixes_positions_is_reported():
    net = Pooled().eval()
    net.pool.register_forward_hook(lambda layer, args, output: output / output.max())
    (row,) = convert(net, **SIZE).tlc_report.left_alone
    assert row.path == "pool"
    assert "max follows" in row.reason


def test_keyword_arguments_keep_their_names():
    class Keyword(Normed):
        def __init__(self) -> None:
            super().__init__()
            self.pool, self.groups = nn.AdaptiveAvgPool2d(1), nn.GroupNorm(2, C)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(input=x) * self.pool(input=x) + self.groups(input=x)

    for statistics in ("window", "patches"):
        net = convert(Keyword().eval(), **SIZE, statistics=statistics)
        assert len(net.tlc_report.converted) == 3
        assert net(torch.rand(1, C, 40, 40)).isfinite().all()


# Outputs -------------------------------------------------------------------------------------------------------------


class Head(nn.Module):
    def __init__(self, layer: bool) -> None:
        super().__init__()
        self.pool, self.conv = nn.AdaptiveAvgPool2d(1) if layer else None, nn.Conv2d(C, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.mean((2, 3), keepdim=True) if self.pool is None else self.pool(x))


@pytest.mark.parametrize("layer", [True, False])
@pytest.mark.parametrize("container", [tuple, dict])
def test_what_is_handed_out_keeps_its_size(layer: bool, container: type):
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = Pooled(), Head(layer)

        def forward(self, x: Tensor) -> object:
            outputs = {"map": self.body(x), "score": self.head(x)}
            return outputs if container is dict else tuple(outputs.values())

    net = convert(Auxiliary().eval(), **SIZE)
    assert [row.path for row in net.tlc_report.converted] == ["body.pool"]
    (row,) = net.tlc_report.left_alone
    assert row.path == ("head.pool" if layer else "head")
    assert "nothing to do" in row.reason
    outputs = net(torch.rand(1, C, 40, 40))
    shapes = [tuple(x.shape) for x in (outputs.values() if container is dict else outputs)]
    assert shapes == [(1, C, 40, 40), (1, 1, 1, 1)]


def test_one_layer_that_does_not_fit_does_not_keep_the_others():
    class Some(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList(nn.InstanceNorm2d(C) for _ in range(5))
            self.pool = nn.AdaptiveAvgPool2d(1)

        def forward(self, x: Tensor) -> Tensor:
            for norm in self.norms:
                x = norm(x)
            return x * self.pool(x) / self.norms[3].num_features

    net = convert(Some().eval(), **SIZE)
    assert [row.path for row in net.tlc_report.converted] == ["norms.0", "norms.1", "norms.2", "norms.4", "pool"]
    assert [row.path for row in net.tlc_report.left_alone] == ["norms.3"]
    assert {layer.window for layer in (*net.norms[:3], net.pool)} == {(24, 24)}
    assert isinstance(net.pool, LocalAvgPool2d)
    assert net(torch.rand(1, C, 40, 40)).isfinite().all()


def test_a_rule_for_a_module_that_is_given_vectors(monkeypatch: pytest.MonkeyPatch):
    rules = importlib.import_module("basicsr.tlc.rules")
    monkeypatch.setattr(rules, "_RULES", dict(rules._RULES))

    class Vectors(nn.Linear):
        pass

    @rule(Vectors)
    def never(module: Vectors, site: object) -> nn.Module:
        raise AssertionError

    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), Vectors(C, 2))
    rows = {row.path: row.reason for row in convert(net, **SIZE).tlc_report.left_alone}
    assert "nothing to do" in rows["0"]
    assert "no rows and columns" in rows["2"]


def test_a_forward_that_a_rule_sets_stays(monkeypatch: pytest.MonkeyPatch):
    rules = importlib.import_module("basicsr.tlc.rules")
    monkeypatch.setattr(rules, "_RULES", dict(rules._RULES))

    @rule(Normed)
    def double(module: Normed, site: object) -> nn.Module:
        local = nn.Identity()
        local.forward = lambda x: 2 * x
        return local

    x = torch.rand(1, C, 8, 8)
    assert torch.equal(convert(nn.Sequential(Normed()), **SIZE)(x), 2 * x)


# Sentences -----------------------------------------------------------------------------------------------------------


class TwoArguments(Normed):
    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.norm(x) * sigma


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (TwoArguments, r"^the forward of TwoArguments needs sigma .* inputs=lambda image: \(image, sigma\), .*{sigma: \["),
        (lambda: nn.DataParallel(Normed()), r"^the net is wrapped in nn\.DataParallel; convert the net inside"),
    ],
)
def test_why_there_is_no_dry_run(build, says: str):
    with pytest.raises(ValueError, match=says) as caught:
        convert(build(), **SIZE)
    assert "give train_size" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_part_is_named():
    net = nn.Sequential(nn.Identity(), torch.jit.script(Normed()))
    with pytest.raises(ValueError, match=r"^1 is in TorchScript"):
        convert(net, **SIZE)


class Whole:
    """An integer of another library."""

    def __int__(self) -> int:
        return 24

    def __eq__(self, other: object) -> bool:
        return other == 24

    __hash__ = None


@pytest.mark.parametrize("base", [24, 24.0, Whole(), [24, 24.0], torch.Size((24, 24))])
def test_whole_numbers_of_any_type(base: object):
    report = convert(Normed(), train_size=(1, C, 16.0, 16), base_size=base).tlc_report
    assert report.base_size == (24, 24)
    assert all(type(size) is int for size in (*report.base_size, *report.train_size))


@pytest.mark.parametrize("base", [24.5, "24", (24, None), [24], float("nan"), float("inf")])
def test_other_sizes_are_refused(base: object):
    with pytest.raises(ValueError, match=r"^base_size is .*; give"):
        convert(Normed(), **SIZE, base_size=base)


def test_a_notebook_cell_may_be_run_again(monkeypatch: pytest.MonkeyPatch):
    rules = importlib.import_module("basicsr.tlc.rules")
    monkeypatch.setattr(rules, "_RULES", dict(rules._RULES))
    for reason in ("first", "second"):

        @rule(Normed)
        def mine(module: Normed, site: object, reason: str = reason) -> str:
            return reason

    assert convert(nn.Sequential(Normed()), **SIZE).tlc_report.left_alone[0].reason == "second"
    with pytest.raises(ValueError, match=r"rule for Normed already: .*mine"):
        rule(Normed)(lambda module, site: "other")


def test_lines_are_the_users_and_not_those_of_einops(monkeypatch: pytest.MonkeyPatch):
    code = "def reduce(x, *args):\n    return x.mean((2, 3), keepdim=True)\nrearrange = repeat = einsum = reduce\n"
    einops = types.ModuleType("einops")
    exec(compile(code, "/site-packages/einops/_backends.py", "exec"), einops.__dict__)
    monkeypatch.setitem(sys.modules, "einops", einops)

    class Reduced(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = sys.modules["einops"].reduce(x)
            return x * y if y.shape[-1] == 1 and x.shape[-1] > 3 else x

    (row,) = convert(Reduced(), **SIZE).tlc_report.left_alone
    assert row.where == f"{__file__}:{Reduced.forward.__code__.co_firstlineno + 1}"


# Norms ---------------------------------------------------------------------------------------------------------------


def test_patches_need_norms_that_run_once():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.last = nn.Conv2d(C, C, 3, padding=1), nn.InstanceNorm2d(C), nn.GroupNorm(2, C)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(2):
                x = self.norm(self.conv(x))
            return self.last(x)

    net = convert(Twice().eval(), **SIZE, statistics="patches")
    assert [row.path for row in net.tlc_report.converted] == ["last"]
    (row,) = net.tlc_report.left_alone
    assert "more than once in one pass" in row.reason
    assert net(torch.rand(1, C, 64, 64)).isfinite().all()


def by_hand(x: Tensor) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) / (x.var((2, 3), keepdim=True, unbiased=False) + 1e-5).sqrt()


@pytest.mark.parametrize("norm", [F.instance_norm, lambda x: F.group_norm(x, 2), by_hand])
@pytest.mark.parametrize("stride", [1, 4])
def test_norms_in_forwards_on_large_maps_are_warned_of(norm, stride: int):
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(C, C, 3, stride=stride, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return norm(self.conv(x))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = convert(Functional(), **SIZE).tlc_report
    assert report.converted
    assert ["1 norms see maps" in str(warning.message) for warning in caught] == ([True] if stride == 1 else [])


class MeanGate(nn.Module):
    """What follows on the mean is a convolution, or linear layers that see vectors."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        self.flat, self.mix = flat, nn.Linear(4, 4) if flat else nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.flat:
            return x * self.mix(x.mean((2, 3))).sigmoid().view(x.shape[0], 4, 1, 1)
        return x * self.mix(x.mean((2, 3), keepdim=True)).sigmoid()


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(
    ("size", "windows"), [((40, 52), (17, 29)), ((20, 52), (1, 29)), ((40, 20), (17, 1)), ((20, 20), (1, 1))]
)
def test_a_gate_is_computed_for_the_windows_there_are(flat: bool, size: tuple, windows: tuple):
    """Of 24x24, inside the map; at its borders they repeat."""
    torch.manual_seed(0)
    net, seen = convert(MeanGate(flat).double().eval(), train_size=(1, 4, 16, 16)), []
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    net.mix.register_forward_hook(lambda module, args, output: seen.append(args[0].shape))
    with torch.no_grad():
        got = net(x)
        weight = net.mix.weight.view(4, 4)
        mean = local_mean(x, (24, 24)).expand_as(x)
        want = x * (torch.einsum("oc,nchw->nohw", weight, mean) + net.mix.bias.view(-1, 1, 1)).sigmoid()
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    assert tuple(seen[-1]) == ((2 * windows[0] * windows[1], 4) if flat else (2, 4, *windows))


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("stride", [None, (2, 2)])
def test_norms_have_gradients(groups: int, stride: tuple | None):
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 8, dtype=torch.float64, requires_grad=True)
    weight, bias = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    inputs = (x, weight.detach().requires_grad_(), bias.detach().requires_grad_())
    assert torch.autograd.gradcheck(lambda x, w, b: local_group_norm(x, groups, (4, 3), w, b, 0.1, stride), inputs)
    with torch.no_grad():  # works in place
        plain = local_group_norm(x, groups, (4, 3), weight, bias, 0.1, stride)
    torch.testing.assert_close(local_group_norm(x, groups, (4, 3), weight, bias, 0.1, stride), plain, rtol=1e-12, atol=1e-12)
