"""The way back from a conversion, and what a printed net and its report say of one."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from torch import Tensor, nn

from basicsr.tlc import convert, revert, rule
from basicsr.tlc.local.layers import LocalAvgPool2d
from basicsr.tlc.rules import _RULES


class Gate(nn.Module):
    """A global mean in the forward itself."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mix(x.mean((2, 3), keepdim=True)).sigmoid()


class Net(nn.Module):
    """A norm, which is replaced, a pool inside a sequence, and forwards that are rewritten."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect")
        self.norm = nn.InstanceNorm2d(8, affine=True)
        self.weigh = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Sigmoid())
        self.gates = nn.Sequential(Gate(), Gate(), Gate())
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        return self.last(self.gates(x * self.weigh(x)))


SIZE = {"train_size": 16}


def made() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def image() -> Tensor:
    return torch.rand(1, 3, 40, 52, generator=torch.Generator().manual_seed(1))


def run(net: nn.Module) -> Tensor:
    with torch.no_grad():
        return net(image())


def everything(net: nn.Module) -> dict:
    """Modules, what they hold, and tensors, each the very object."""
    return {
        "modules": [(path, id(module), sorted(vars(module))) for path, module in net.named_modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()],
        "tensors": {key: id(value) for key, value in net.state_dict(keep_vars=True).items()},
        "text": str(net),
    }


@pytest.mark.parametrize("more", [{}, {"fast_imp": True}, {"statistics": "patches"}])
def test_everything_is_back_bit_for_bit(more: dict):
    net = made()
    before, want = everything(net), run(net)
    assert not torch.equal(run(convert(net, **SIZE, **more)), want)
    assert revert(net) is net
    assert everything(net) == before
    assert torch.equal(run(net), want)


def test_it_can_be_converted_again_with_other_settings():
    net, small, large = made(), convert(made(), **SIZE, base_size=8), convert(made(), **SIZE, base_size=24)
    convert(net, **SIZE, base_size=8)
    assert torch.equal(run(net), run(small))
    with pytest.raises(ValueError, match=r"converted before; call basicsr\.tlc\.revert first"):
        convert(net, **SIZE, base_size=24)
    convert(revert(net), **SIZE, base_size=24)
    assert torch.equal(run(net), run(large))
    assert not torch.equal(run(small), run(large))


def test_weights_modes_and_hooks_of_now_are_kept():
    net = convert(made().train(), **SIZE).eval()
    net.load_state_dict({key: torch.full_like(value, 0.1) for key, value in net.state_dict().items()}, assign=True)
    seen = []
    handle = net.norm.register_forward_hook(lambda module, args, output: seen.append(module))
    revert(net)
    assert all(torch.equal(value, torch.full_like(value, 0.1)) for value in net.state_dict().values())
    assert not any(module.training for module in net.modules())
    run(net)
    assert seen == [net.norm]
    handle.remove()
    run(net)
    assert len(seen) == 1


def test_the_net_itself_may_have_been_replaced():
    pool = nn.AdaptiveAvgPool2d(1)
    net = convert(pool, **SIZE)
    assert isinstance(net, LocalAvgPool2d)
    assert revert(net) is pool
    assert "forward" not in vars(pool)


def test_a_part_that_was_converted_before_stays_converted():
    net = made()
    before, want = everything(net), run(net)
    convert(net.gates, train_size=(1, 8, 16, 16))
    part = run(net)
    with pytest.raises(ValueError, match="not converted; its part gates is"):
        revert(net)
    convert(net, **SIZE)
    assert not torch.equal(run(net), part)
    assert torch.equal(run(revert(net)), part)
    revert(net.gates)
    assert torch.equal(run(net), want)
    assert everything(net) == before


def test_what_was_never_converted_is_an_error():
    with pytest.raises(ValueError, match=r"the net is not converted$"):
        revert(made())
    with pytest.raises(ValueError, match=r"the net is not converted$"):
        revert(revert(convert(made(), **SIZE)))


def test_a_rule_that_changes_its_module_in_place_is_undone():
    class Own(Gate):
        window = None

    @rule(Own)
    def local(module, site):
        module.window, module.pool = site.window, nn.Identity()
        module.register_buffer("extra", torch.ones(1))
        return module

    try:
        net = nn.Sequential(nn.Conv2d(3, 8, 1), Own()).eval()
        before, parts = {k: v.clone() for k, v in net.state_dict().items()}, list(net.modules())
        convert(net, **SIZE)
        assert net[1].window is not None
        net[1].train()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter += 1
        revert(net)
        assert net[1].window is None
        assert net[1].training
        assert list(net.modules()) == parts
        assert list(net.state_dict()) == list(before)
        assert all(torch.equal(value, before[key] + 1) for key, value in net.state_dict().items())
    finally:
        del _RULES[Own]


def copied(net: nn.Module) -> nn.Module:
    return copy.deepcopy(net)


def pickled(net: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(net))


def saved(net: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(net, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


@pytest.mark.parametrize("through", [copied, pickled, saved])
@pytest.mark.parametrize("statistics", ["window", "patches"])
def test_copies_and_pickles_can_be_reverted(through, statistics: str):
    net, plain = convert(made(), **SIZE, statistics=statistics), run(made())
    other, want = through(net), run(net)
    assert torch.equal(run(other), want)
    assert torch.equal(run(revert(other)), plain)
    assert torch.equal(run(net), want)  # the original is still local
    assert {id(p) for p in other.parameters()}.isdisjoint({id(p) for p in net.parameters()})


def test_the_way_back_takes_no_memory():
    net = made()
    plain = len(pickle.dumps(net))
    assert len(pickle.dumps(convert(net, **SIZE))) < plain + 20_000  # modules and graphs, but no weights
    kept = [t for swap in net._tlc_changes.replacements for t in swap.module.parameters()]
    assert {id(t) for t in kept} <= {id(p) for p in net.parameters()}


# What is printed -----------------------------------------------------------------------------------------------------


def test_a_printed_net_shows_rewritten_forwards():
    net = made()
    keys, kind = list(net.state_dict()), type(net.gates[0])
    lines = str(convert(net, **SIZE, base_size=(8, 12))).splitlines()
    assert sum("TLC: forward rewritten, window 8x12" in line for line in lines) == 3
    assert type(net.gates[0]) is kind
    assert list(net.state_dict()) == keys
    assert str(copy.deepcopy(net)) == str(net)
    assert "TLC" not in str(revert(net))


def test_rows_that_are_alike_are_one_line():
    report = convert(made(), **SIZE).tlc_report
    assert [row.path for row in report.converted if row.before == "Gate: mean"] == ["gates.0", "gates.1", "gates.2"]
    (line,) = [line for line in str(report).splitlines() if "Gate: mean" in line]
    assert line.startswith("3: gates.0, ... gates.2 ")
    two = convert(nn.Sequential(Gate(3), Gate(3)), **SIZE).tlc_report
    assert "2: 0, 1 " in str(two)


def test_places_that_are_left_alone_and_alike_are_one_line():
    class Median(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.flatten(2).median(2).values[..., None, None]

    report = convert(nn.Sequential(Median(), Median(), Median()), **SIZE).tlc_report
    assert len(report.left_alone) == 3
    assert sum("median" in line for line in str(report).splitlines()) == 1


def test_a_net_without_global_operations_is_told_in_a_sentence():
    text = str(convert(nn.Sequential(nn.Conv2d(3, 3, 1)), **SIZE).tlc_report)
    assert "no global operations" in text
    assert "map in training" not in text


def test_training_mode_is_reminded_of_and_left():
    net = made().train()
    convert(net, **SIZE)
    assert net.training
    assert "net.eval()" in str(net.tlc_report)
    assert "net.eval()" not in str(convert(made(), **SIZE).tlc_report)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "net.eval()" not in str(convert(nn.Conv2d(3, 3, 1).train(), **SIZE).tlc_report)
