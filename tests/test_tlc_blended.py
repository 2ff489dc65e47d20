"""Channel attention in blended windows against its definition, window by window in float64; and the option that turns it on."""

import copy
import math
import pickle
import sys
import warnings
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL_NETS
from torch import Tensor, nn

import hubconf
from basicsr.archs import build_network
from basicsr.archs.local_arch import LocalAttention
from basicsr.archs.restormer_arch import Attention
from basicsr.engine import export
from basicsr.errors import UserError
from basicsr.tlc import Site, blended_starts, convert, local_channel_attention, rule

SHAPES = [  # n, heads, C, H, W; window
    ((1, 1, 2, 5, 7), (5, 7)),
    ((1, 2, 3, 6, 5), (9, 9)),
    ((1, 1, 2, 9, 9), (8, 8)),  # two windows, barely
    ((2, 2, 3, 9, 11), (4, 5)),
    ((3, 4, 2, 8, 8), (4, 4)),
    ((2, 1, 4, 10, 6), (7, 99)),
    ((2, 1, 4, 6, 10), (99, 7)),
    ((1, 3, 2, 23, 17), (5, 6)),
    ((1, 2, 2, 13, 30), (3, 8)),
    ((2, 2, 2, 5, 4), (1, 1)),
    ((1, 2, 2, 7, 9), (2, 3)),
    ((1, 2, 3, 7, 1), (3, 1)),
    ((1, 1, 1, 1, 1), (1, 1)),
]


def hats(size: int, window: int) -> Iterator[tuple[int, list[float]]]:
    """Each window's start, and what it counts for at its positions. All in halves of pixels, so that centres are whole."""
    window = min(window, size)
    starts = []
    while True:
        start = math.floor(len(starts) * window / 2)
        if start >= size - window:
            starts.append(size - window)
            break
        starts.append(start)
    starts = sorted(set(starts))
    centres = [2 * start + window - 1 for start in starts]
    for number, start in enumerate(starts):
        weights = []
        for position in range(start, start + window):
            before = [c for c in centres if c <= 2 * position]
            behind = [c for c in centres if c > 2 * position]
            if not before or not behind:  # outside of the outermost centres
                weights.append(float(centres[number] == (behind or before[::-1])[0]))
            elif centres[number] == before[-1]:
                weights.append((behind[0] - 2 * position) / (behind[0] - before[-1]))
            elif centres[number] == behind[0]:
                weights.append((2 * position - before[-1]) / (behind[0] - before[-1]))
            else:
                weights.append(0.0)
        yield start, weights


def blend(q: Tensor, k: Tensor, v: Tensor, temperature: Tensor | float, window: tuple[int, int]) -> Tensor:
    """q, k, v (N, heads, C, H, W): every window's attention, in float64, weighted by its hats -> (N, heads * C, H, W)."""
    q, k, v = (x.double() for x in (q, k, v))
    temperature = torch.as_tensor(temperature).double()
    total, sum_of_weights = torch.zeros_like(v), torch.zeros(v.shape[-2:]).double()
    for top, down in hats(v.shape[-2], window[0]):
        for left, across in hats(v.shape[-1], window[1]):
            weights = torch.outer(*(torch.tensor(hat, dtype=torch.float64) for hat in (down, across)))
            place = (..., slice(top, top + len(down)), slice(left, left + len(across)))
            a, b, c = (x[place].flatten(-2) for x in (q, k, v))
            matrix = (F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).transpose(-2, -1) * temperature).softmax(-1)
            total[place] += (matrix @ c).view(v[place].shape) * weights
            sum_of_weights[place] += weights
    torch.testing.assert_close(sum_of_weights, torch.ones_like(sum_of_weights))
    return total.flatten(1, 2)


def qkv(n: int, heads: int, c: int, h: int, w: int, scale: float = 1) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    level = torch.linspace(-1, 1, h * w).view(h, w)  # windows differ from one another
    q, k, v = (scale * (torch.randn(n, heads, c, h, w) + level) for _ in range(3))
    return q, k, v, 0.5 + torch.rand(heads, 1, 1)


def attend(q: Tensor, k: Tensor, v: Tensor, temperature: Tensor | float, window: tuple, weight: Tensor | None = None) -> Tensor:
    return local_channel_attention(q, k, v, temperature, window, weight, blended=True)


@pytest.mark.parametrize(("shape", "window"), SHAPES)
@pytest.mark.parametrize("projected", [True, False])
def test_the_definition(shape: tuple, window: tuple, projected: bool):
    q, k, v, temperature = qkv(*shape)
    want = blend(q, k, v, temperature, window)
    weight = torch.randn(5, want.shape[1]) if projected else None
    want = want if weight is None else F.conv2d(want, weight.double()[..., None, None])
    torch.testing.assert_close(attend(q, k, v, temperature, window, weight).double(), want, rtol=1e-4, atol=1e-5)
    wide = [x.double() for x in (q, k, v, temperature)]
    exact = attend(*wide, window, None if weight is None else weight.double())
    torch.testing.assert_close(exact, want, rtol=1e-10, atol=1e-12)
    last = [x.flatten(1, 2).contiguous(memory_format=torch.channels_last).view_as(x) for x in wide[:3]]
    torch.testing.assert_close(attend(*last, wide[3], window, weight if weight is None else weight.double()), exact)


@pytest.mark.parametrize("size", range(1, 40))
def test_starts(size: int):
    for window in range(1, 42):
        starts = blended_starts(size, window)
        assert starts == [start for start, _ in hats(size, window)]
        assert starts[-1] == size - min(size, window)
        assert all(0 < b - a <= -(-window // 2) for a, b in pairwise(starts))


def test_nothing_jumps():
    """From row to row the matrix changes by a hat's slope at most. Values of one show it: its columns' sums."""
    q, k, _, _ = qkv(1, 1, 4, 64, 64)
    strength = torch.linspace(0, 6, 64).view(64, 1)  # windows have very different matrices
    q, k = q * strength, k * (6 - strength)
    v = torch.zeros_like(q)
    v[:, :, 0] = 1
    jumps = [
        local_channel_attention(q, k, v, 8.0, (32, 32), blended=blended).diff(dim=-2).abs().max() for blended in (False, True)
    ]
    assert jumps[1] < jumps[0] / 4


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float16, 500.0), (torch.bfloat16, 1e15)])
@pytest.mark.parametrize("projected", [True, False])
def test_large_half_values(dtype: torch.dtype, scale: float, projected: bool):
    """A sum of squares over a window would overflow in half precision."""
    q, k, v, temperature = (x.to(dtype) for x in qkv(2, 2, 4, 24, 30, scale))
    want = blend(q, k, v, temperature, (15, 16))
    weight = (torch.randn(8, 8) / 8).to(dtype) if projected else None
    want = want if weight is None else F.conv2d(want, weight.double()[..., None, None])
    got = attend(q, k, v, temperature, (15, 16), weight)
    assert got.dtype == dtype
    assert (got.double() - want).abs().max() <= 4 * torch.finfo(dtype).eps * want.abs().max()


def test_precision_under_autocast():
    q, k, v, temperature = qkv(1, 2, 4, 9, 11)
    want = attend(q, k, v, temperature, (4, 5))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(attend(q, k, v, temperature, (4, 5)), want)


def test_gradients():
    q, k, v, temperature = (x.double().requires_grad_() for x in qkv(1, 1, 2, 4, 5))
    assert torch.autograd.gradcheck(lambda *x: attend(*x, (2, 3)), (q, k, v, temperature), fast_mode=True)


def test_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch):
    q, k, v, temperature = (x.double() for x in qkv(2, 2, 3, 23, 17))
    want = blend(q, k, v, temperature, (9, 8))
    monkeypatch.setattr(sys.modules["basicsr.tlc.local.covering"], "_STRIP", 1)
    torch.testing.assert_close(attend(q, k, v, temperature, (9, 8)), want, rtol=1e-10, atol=1e-12)


# Restormer's layer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("window", [(4, 5), (11, 3), (99, 99)])
@pytest.mark.parametrize("mode", ["tiles", "autograd", "autocast"])
def test_restormers_layer(bias: bool, layout: torch.memory_format, window: tuple, mode: str):
    torch.manual_seed(0)
    attention = Attention(6, 3, bias).eval()
    x = torch.randn(2, 6, 11, 9).to(memory_format=layout)
    q, k, v = attention.qkv_dwconv(attention.qkv(x)).detach().view(2, 3, 3, 2, 11, 9).unbind(1)
    temperature = attention.temperature.detach()
    want = attention.double().project_out(blend(q, k, v, temperature, window)).detach()
    layer, norm = LocalAttention(attention.float(), window, blended=True).eval(), nn.Identity()
    tolerance = 0.03 if mode == "autocast" else 1e-5
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"), torch.set_grad_enabled(mode == "autograd"):
        before = x.clone()
        alone, added = layer(x), layer(x, norm)
    assert torch.equal(x, before)
    assert added.stride() == x.stride()
    torch.testing.assert_close(alone.double(), want, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(added.double(), x + want, rtol=tolerance, atol=tolerance)


def small(name: str = "RestormerLocal", **more: object) -> nn.Module:
    torch.manual_seed(0)
    size = {"train_size": 32, "base_size": 48} if name.endswith("Local") else {}
    return build_network({"type": name, **SMALL_NETS[name.removesuffix("Local")], **size, **more}).eval()


def run(net: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return net(x)


def test_a_net():
    net, published, plain = small(attention="blended"), small(), small("Restormer")
    images = torch.rand(3, 3, 101, 83)
    got = run(net, images)
    assert (got - run(published, images)).abs().max() > 1e-4
    torch.testing.assert_close(got, torch.cat([run(net, image[None]) for image in images]), rtol=0, atol=1e-5)
    torch.testing.assert_close(got, net(images).detach(), rtol=0, atol=1e-5)  # with autograd: no tiles
    few = images[..., :48, :48]
    torch.testing.assert_close(run(net, few), run(plain, few), rtol=0, atol=1e-5)
    torch.testing.assert_close(run(net.train(), images), run(plain.train(), images), rtol=0, atol=1e-5)
    assert net.to("meta").eval()(torch.empty(1, 3, 101, 83, device="meta")).shape == (1, 3, 101, 83)


def test_copies_and_pickles():
    net, image = small(attention="blended"), torch.rand(1, 3, 64, 72)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(run(other, image), run(net, image))
        assert other.tlc_report == net.tlc_report


def test_compiled():
    net, image = LocalAttention(Attention(2, 1, bias=False), (6, 8), blended=True).eval(), torch.rand(1, 2, 7, 11)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(run(compiled, image), run(net, image), rtol=0, atol=1e-5)


# The option ----------------------------------------------------------------------------------------------------------


def test_the_report_says_so():
    report = small(attention="blended").tlc_report
    assert report.attention == report.as_dict()["attention"] == "blended"
    assert {row.note for row in report.converted} == {"blended"}
    assert "attention blended" in report.summary()
    published = small().tlc_report
    assert published.attention == "published"
    assert "blended" not in str(published)
    assert published == small(attention="published").tlc_report
    with pytest.warns(UserWarning, match="fast_imp has no effect on 8 of 8"):
        report = small(attention="blended", fast_imp=True).tlc_report
    assert {row.note for row in report.converted} == {"blended; fast_imp does not apply: exact"}


def test_spellings_of_the_option():
    image = torch.rand(1, 3, 64, 72)
    want = run(small(attention="blended"), image)
    tlc = {"train_size": 32, "base_size": 48, "attention": "blended"}
    assert torch.equal(run(small("Restormer", tlc=tlc), image), want)
    hub = hubconf.restormer_local(train_size=32, base_size=48, attention="blended", **SMALL_NETS["Restormer"])
    assert hub.tlc_report == small(attention="blended").tlc_report


def test_what_cannot_be_is_said():
    words = r"is unknown\..* It is published or blended\.$"
    with pytest.raises(UserError, match=r"^network_g\.attention: `blend` " + words):
        small(attention="blend")
    with pytest.raises(UserError, match=r"^network_g\.tlc\.attention: `window` " + words):
        small("Restormer", tlc={"attention": "window"})
    with pytest.raises(UserError, match=r"^network_g: attention='blended' is for attention between channels, .* leave it out"):
        small("NAFNetLocal", attention="blended")


class Mine(nn.Module):
    """A user's own attention."""

    def __init__(self) -> None:
        super().__init__()
        self.window, self.blended, self.qkv = (1 << 30, 1 << 30), False, nn.Conv2d(3, 9, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(1, (3, 1, 3)).unbind(1)
        return local_channel_attention(q, k, v, 1.0, self.window, blended=self.blended)


class Heedless(Mine):
    pass


@pytest.fixture(autouse=True)
def _rules(monkeypatch: pytest.MonkeyPatch):
    """Rules that a test registers end with it."""
    module = sys.modules["basicsr.tlc.rules"]
    monkeypatch.setattr(module, "_RULES", dict(module._RULES))


def test_a_users_rule():
    @rule(Mine, blends=True)
    def local(module: Mine, site: Site) -> Mine:
        module.window, module.blended = site.window, site.blended
        return module

    @rule(Heedless)
    def heedless(module: Heedless, site: Site) -> Heedless:
        module.window = site.window
        return module

    net = convert(nn.Sequential(Mine(), Heedless()).eval(), train_size=(1, 3, 16, 16), attention="blended")
    assert [module.blended for module in net] == [True, False]
    assert [row.note.partition(":")[0] for row in net.tlc_report.converted] == ["blended", "attention='blended' does not apply"]
    net = convert(nn.Sequential(Mine()).eval(), train_size=(1, 3, 16, 16))
    assert not net[0].blended
    with pytest.raises(ValueError, match="blends=True"):
        convert(nn.Sequential(Heedless()).eval(), train_size=(1, 3, 16, 16), attention="blended")


class Rewritten(nn.Module):
    """As Restormer writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature, self.qkv = nn.Parameter(torch.tensor([[[0.7]], [[1.4]]])), nn.Conv2d(6, 18, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = (y.reshape(b, 2, c // 2, h * w) for y in self.qkv(x).chunk(3, dim=1))
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        return ((q @ k.transpose(-2, -1) * self.temperature).softmax(dim=-1) @ v).reshape(b, c, h, w)


class Tokens(nn.Module):
    """As XCiT does, whose tokens have lost rows and columns."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = CrossCovariance()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)


class CrossCovariance(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.temperature, self.qkv = nn.Parameter(torch.tensor([[[0.7]], [[1.4]]])), nn.Linear(6, 18)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 4, 1).unbind(0)
        attention = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * self.temperature).softmax(dim=-1)
        return (attention @ v).permute(0, 3, 1, 2).reshape(b, n, c)


@pytest.mark.parametrize("kind", [Rewritten, Tokens])
def test_forwards_that_are_rewritten(kind: type[nn.Module]):
    torch.manual_seed(0)
    module, x = kind().double().eval(), torch.randn(2, 6, 21, 30).double()
    inner = module if kind is Rewritten else module.attention
    weight = inner.qkv.weight.view(18, 6, 1, 1)
    q, k, v = F.conv2d(x, weight, inner.qkv.bias).detach().view(2, 3, 2, 3, 21, 30).unbind(1)
    want = blend(q, k, v, inner.temperature.detach(), (12, 18)) + (x if kind is Tokens else 0)
    net = convert(nn.Sequential(module), train_size=(1, 6, 16, 16), base_size=(12, 18), attention="blended")
    assert [(row.after, row.note) for row in net.tlc_report.converted] == [("local channel attention", "blended")]
    torch.testing.assert_close(run(net, x), want, rtol=1e-10, atol=1e-10)
    assert torch.equal(run(pickle.loads(pickle.dumps(net)), x), run(net, x))


# Exported ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize("window", [(4, 4), (8, 24), (33, 5), (2, 3), (1, 1), (50, 50)])
def test_what_is_recorded_holds_for_every_size(window: tuple, projected: bool):
    weight = torch.rand(4, 6) if projected else None
    example = torch.randn(3, 1, 2, 3, 20, 24)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        recorded = torch.jit.trace(lambda q, k, v: attend(q, k, v, 2.0, window, weight), tuple(example), check_trace=False)
    for h, w in [(7, 9), (16, 40), (33, 5), (30, 45), (1, 6), (12, 12)]:
        q, k, v = torch.randn(3, 2, 2, 3, h, w, generator=torch.Generator().manual_seed(1))
        want = blend(q, k, v, 2.0, window)
        want = want if weight is None else F.conv2d(want, weight.double()[..., None, None])
        torch.testing.assert_close(recorded(q, k, v).double(), want, rtol=1e-4, atol=1e-5)


def check_exported(net: nn.Module, kind: str) -> None:
    exported = export.load_exported(export.export_net(net.requires_grad_(False), kind), kind)
    for n, h, w in [(2, 32, 48), (1, 80, 64), (1, 101, 83)]:
        image = torch.rand(n, 3, h, w)
        torch.testing.assert_close(exported(image), run(net, image), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_exported_nets(kind: str):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    check_exported(small(attention="blended"), kind)


def test_torch_export():
    """Of one layer: what the exporter proves of sizes takes minutes for many."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 1), Attention(6, 2, bias=False), nn.Conv2d(6, 3, 1)).eval()
    convert(net, train_size=(1, 3, 32, 32), attention="blended")
    try:
        check_exported(net, "torch")
    except UserError as error:  # an old torch
        pytest.skip(str(error))
