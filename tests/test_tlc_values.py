"""Forwards that look at values, ask for a GPU, or do not run on shapes: what can be is converted, what was not seen is said."""

import copy

import pytest
import torch
from torch import Tensor, nn

from basicsr.tlc import convert, local_instance_norm, local_mean

C, SIZE, WINDOW = 4, {"train_size": (1, 4, 8, 8), "base_size": (5, 6)}, (5, 6)
VALUES = "its result depends on values: what the dry run did not take was not seen"


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.pool = nn.InstanceNorm2d(C), nn.AdaptiveAvgPool2d(1)

    def body(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return y * self.pool(x).sigmoid()


class LocalBlock:
    """The same by hand, with windows of 5x6."""

    def body(self, x: Tensor) -> Tensor:
        return local_instance_norm(x, WINDOW, None, None, 1e-5) * local_mean(x, WINDOW).sigmoid()


class Width(Block):
    """A mask as wide as a statistic says."""

    def forward(self, x: Tensor) -> Tensor:
        y, share = self.body(x), x.mean((1, 2, 3)).sigmoid()
        mask = torch.zeros_like(y)
        mask[..., : int(share[0] * 4)] = 1
        for i in range(y.shape[0]):
            half = (share[i] * (y.shape[2] // 4)).int()
            mask[i, :, 4 - half : 4 + half] = 1
        return y * mask


class Experts(Block):
    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Conv2d(C, C, 1) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return self.experts[int(x.mean((0, 2, 3)).argmax())](y)


class Branch(Block):
    def forward(self, x: Tensor) -> Tensor:
        assert x.isfinite().all()
        assert torch.equal(x, x)
        if x.max() > 1e6:
            x = x / 255
        return self.body(x) * x[0, 0, 0, 0].item() + x[0, :, 0, 0].tolist()[1]


class Masks(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        z = torch.zeros_like(y)
        z[y > 0.1] = y[y > 0.1]
        rows = torch.where(y > 1e6)[0]
        return z + y.masked_select(y > 1e6).sum() + rows.numel() * 0 + (y > 1e6).nonzero().sum()


class Hue(Block):
    """Values at the positions of masks, for the positions of the same masks."""

    def forward(self, x: Tensor) -> Tensor:
        y, high, low = self.body(x), x.amax(1), x.amin(1)
        hue = torch.zeros_like(high)
        hue[x[:, 2] == high] = 4.0 + ((x[:, 0] - x[:, 1]) / (high - low + 1e-8))[x[:, 2] == high]
        hue[low == high] = 0.0
        return y * hue.unsqueeze(1)


class Routed(Block):
    """Each expert is given the samples that are its own."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Conv2d(C, C, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y, index = self.body(x), x.mean((2, 3))[:, :3].topk(2, -1).indices
        out = torch.zeros_like(y)
        for number, expert in enumerate(self.experts):
            rows, _ = torch.where(index == number)
            if rows.numel():
                out[rows] += expert(y[rows])
        return out


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Hue, VALUES),
        (Routed, VALUES),
        (Width, VALUES),
        (Experts, f"{VALUES}; experts.1, experts.2 ... experts.4 did not run"),
        (Branch, VALUES),
        (Masks, VALUES),
    ],
)
def test_values_are_answered_and_what_was_not_seen_is_said(kind: type[nn.Module], says: str):
    torch.manual_seed(0)
    x = torch.randn(2, C, 20, 26, dtype=torch.float64)
    net = kind().double().eval()
    plain = net(x)
    covered = convert(copy.deepcopy(net), train_size=SIZE["train_size"], base_size=99)
    torch.testing.assert_close(covered(x), plain, rtol=1e-12, atol=1e-12)
    convert(net, **SIZE)
    assert [row.path for row in net.tlc_report.converted] == ["norm", "pool"]
    (row,) = (row for row in net.tlc_report.left_alone if VALUES in row.reason)
    assert (row.path, row.operation, row.reason) == ("(the net itself)", kind.__name__, says)
    assert row.where.startswith(__file__)
    by_hand = type("ByHand", (LocalBlock,), {"forward": kind.forward})()
    for name, part in net.named_children():
        setattr(by_hand, name, part)
    got, want = net(x), by_hand.forward(x)
    assert (got - want).abs().max() <= 1e-12 * want.abs().max()
    assert (got - plain).abs().max() > 1e-3 * plain.abs().max()


def test_clipped_by_a_mask():
    """An assignment to all positions of a mask is each position's own: nothing was missed."""

    class Clipped(Block):
        def forward(self, x: Tensor) -> Tensor:
            y = self.body(x)
            y[y > 1] = 1
            return y

    x = torch.randn(2, C, 20, 26, dtype=torch.float64)
    net = convert(Clipped().double().eval(), **SIZE)
    assert net.tlc_report.left_alone == ()
    torch.testing.assert_close(net(x), LocalBlock().body(x).clamp(max=1), rtol=1e-12, atol=1e-12)


def test_what_asks_for_a_gpu_stays_on_meta():
    class OnGPU(Block):
        def forward(self, x: Tensor) -> Tensor:
            y = self.body(x.cuda().to("cuda", torch.float32))
            y = y + torch.zeros(C, 1, 1, device="cuda") + torch.arange(3).cuda(0)[0]
            return y.cpu() + torch.ones(1).to(device="cuda").to("cpu") + x.to(torch.zeros(1))

    report = convert(OnGPU().eval(), **SIZE).tlc_report
    assert [row.path for row in report.converted] == ["norm", "pool"]
    assert report.left_alone == ()


def test_a_forward_that_asks_for_a_gpu_is_rewritten():
    class Gate(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            gate = x.mean((2, 3), keepdim=True) + torch.ones(C, 1, 1, device="cuda")
            return x * gate.cuda().to("cuda:0")

    (row,) = convert(Gate().eval(), **SIZE).tlc_report.converted
    assert (row.before, row.after) == ("Gate: mean", "local mean")


class Kernel(torch.autograd.Function):
    """As compiled ones are: not for tensors without values."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        if x.is_meta:
            raise RuntimeError("expected a tensor on a device")
        assert not x.any()
        return x.cumsum(-1)


class Scan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return Kernel.apply(x) * self.weight


class WithKernels(Block):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Scan(), Scan()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.body(self.first(x)))


def test_a_kernel_runs_on_zeros_and_its_module_is_reported():
    net = WithKernels().eval()
    seed = torch.random.get_rng_state()
    report = convert(net, **SIZE).tlc_report
    assert [row.path for row in report.converted] == ["norm", "pool"]
    rows = [row for row in report.left_alone if "ran on zeros" in row.reason]
    assert [(row.path, row.operation) for row in rows] == [("first", "Scan"), ("second", "Scan")]
    assert all("RuntimeError: expected a tensor on a device" in row.reason for row in rows)
    assert {row.path for row in report.left_alone if row.operation == "cumsum"} == {"first", "second"}
    assert net.first.count == 0
    assert not any(tensor.is_meta for tensor in net.state_dict().values())
    assert "forward" not in vars(net.first)
    assert torch.equal(torch.random.get_rng_state(), seed)


@torch.library.custom_op("tlc_tests::scan", mutates_args=())
def registered(x: Tensor) -> Tensor:
    """With torch.library, which knows no shapes of it."""
    return x.cumsum(-1)


def test_an_operation_that_is_registered_without_shapes_runs_on_zeros():
    class Registered(Scan):
        def forward(self, x: Tensor) -> Tensor:
            return registered(x) * self.weight

    net = WithKernels().eval()
    net.second = Registered()
    report = convert(net, **SIZE).tlc_report
    assert [row.path for row in report.converted] == ["norm", "pool"]
    rows = [row for row in report.left_alone if "ran on zeros" in row.reason]
    assert {(row.path, row.operation) for row in rows} == {("first", "Scan"), ("second", "Registered")}


def test_a_whole_net_may_run_on_zeros():
    class ToNumPy(Block):
        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) + float(x.numpy().mean())

    report = convert(ToNumPy().eval(), **SIZE).tlc_report
    assert [row.path for row in report.converted] == ["norm", "pool"]
    (row,) = report.left_alone
    assert row.path == "(the net itself)"
    assert "numpy" in row.reason


def test_a_net_for_one_size_is_for_tiles():
    class OneSize(Block):
        def __init__(self) -> None:
            super().__init__()
            self.position = nn.Parameter(torch.zeros(C, 8, 8))

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) + self.position

    class Asserted(Block):
        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[-1] == 8, "8 columns"
            return self.body(x)

    for kind in (OneSize, Asserted):
        with pytest.raises(ValueError, match=rf"{kind.__name__} takes images of 8x8 only, .*; run it on tiles of that size"):
            convert(kind().eval(), **SIZE)


def test_what_fails_on_zeros_too_says_why():
    class Raises(Block):
        def forward(self, x: Tensor) -> Tensor:
            return self.body(x).nothing

    says = (
        r"^the dry run of Raises at train_size \(1, 4, 8, 8\) failed, on zeros, too \(.*nothing.*\); give train_size .*kernels"
    )
    with pytest.raises(ValueError, match=says):
        convert(Raises().eval(), **SIZE)
