"""Attention between channels in the ways that authors write it: whatever the matrix makes of sums over the pixels.

Each module projects the whole map and attends between projections; its local form is `attend`, by torch's own operations, in
one cropped window after the other.
"""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from test_tlc_blended import hats
from test_tlc_zoo import WINDOW, C, gram, image, local, made, windows
from torch import Tensor, nn

CONVERTED: dict[str, type["Attending"]] = {}
GLOBAL: dict[str, tuple[type["Attending"], str]] = {}


class Attending(nn.Module):
    """Maps of 8 channels, two heads of 4."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Conv2d(C, 8, 1) for _ in range(3))
        self.temperature, self.project = nn.Parameter(torch.ones(2, 1, 1)), nn.Conv2d(8, C, 1)

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.q(x), self.k(x), self.v(x)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(N, 8, h, w) each -> (N, 8, h, w)."""
        n, c, h, w = q.shape
        q, k, v = (y.reshape(n, 2, c // 2, h * w) for y in (q, k, v))
        return self.mixed(q, k, v).reshape(n, c, h, w)

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(N, 2, 4, h * w) each."""
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        return self.matrix(q @ k.transpose(-2, -1) * self.temperature) @ v

    def matrix(self, scores: Tensor) -> Tensor:
        return scores.softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.attend(*self.maps(x)))

    def by_hand(self, x: Tensor) -> Tensor:
        return self.project(windows(self.attend, *self.maps(x)))


def converted(kind: type[Attending]) -> type[Attending]:
    CONVERTED[kind.__name__] = kind
    return kind


def reported(why: str) -> Callable[[type[Attending]], type[Attending]]:
    def register(kind: type[Attending]) -> type[Attending]:
        GLOBAL[kind.__name__] = (kind, why)
        return kind

    return register


# What is made of the scores ------------------------------------------------------------------------------------------


@converted
class Rectified(Attending):
    """DLGSANet (Li et al., ICCV 2023)."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def matrix(self, scores: Tensor) -> Tensor:
        return self.relu(scores)


@converted
class Squared(Attending):
    def matrix(self, scores: Tensor) -> Tensor:
        return F.relu(scores) ** 2


@converted
class Smooth(Attending):
    def matrix(self, scores: Tensor) -> Tensor:
        return F.gelu(scores) + torch.sigmoid(scores).sub(0.5)


@converted
class ExponentsOverOne(Attending):
    def matrix(self, scores: Tensor) -> Tensor:
        e = scores.exp()
        return e / (1 + e.sum(-1, keepdim=True))


@converted
class OverRows(Attending):
    """Softmax along the other side, in a layer; dropout does nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.softmax, self.drop = nn.Softmax(dim=-2), nn.Dropout(0.5)

    def matrix(self, scores: Tensor) -> Tensor:
        return self.drop(self.softmax(scores))


@converted
class TwoSparse(Attending):
    """The two and the three largest of each row, each with a product of its own (DRSformer, Chen et al., CVPR 2023)."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.tensor([0.2])) for _ in range(2))

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        n, heads, c, _ = q.shape
        scores = (q @ k.transpose(-2, -1)) * self.temperature
        outputs = []
        for count in (int(c / 2), int(c * 3 / 4)):
            mask = torch.zeros(n, heads, c, c, device=q.device, requires_grad=False)
            index = torch.topk(scores, k=count, dim=-1, largest=True)[1]
            mask.scatter_(-1, index, 1.0)
            sparse = torch.where(mask > 0, scores, torch.full_like(scores, float("-inf")))
            outputs.append(sparse.softmax(dim=-1) @ v)
        return outputs[0] * self.weights[0] + outputs[1] * self.weights[1]

    def by_hand(self, x: Tensor) -> Tensor:
        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (y.unflatten(1, (2, 4)) for y in (q, k, v))
            norms = [y.square().sum((-2, -1)).sqrt() for y in (q, k)]
            scores = gram(q, k) / (norms[0][..., :, None] * norms[1][..., None, :]) * self.temperature
            total = 0
            for weight, count in zip(self.weights, (2, 3), strict=True):
                kept = scores >= scores.sort(-1, descending=True).values[..., count - 1, None]
                total = total + weight * (scores.exp() * kept) / (scores.exp() * kept).sum(-1, keepdim=True)
            return torch.einsum("nhab,nhbij->nhaij", total, v).flatten(1, 2)

        return self.project(windows(attend, *self.maps(x)))


@converted
class Thresholded(Attending):
    def matrix(self, scores: Tensor) -> Tensor:
        low = scores.topk(2, dim=-1).values[..., -1:]
        return torch.where(scores < low, torch.zeros_like(scores), scores.softmax(-1))


@converted
class AboveTheMean(Attending):
    def matrix(self, scores: Tensor) -> Tensor:
        return scores * (scores > scores.mean(-1, keepdim=True)).to(scores.dtype)


@converted
class Masked(Attending):
    def matrix(self, scores: Tensor) -> Tensor:
        scores.masked_fill_(torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device), -1e9)
        return scores.softmax(-1)


@converted
class Biased(Attending):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(1, 2, 4, 4))

    def matrix(self, scores: Tensor) -> Tensor:
        scores += self.bias.expand(scores.shape[0], -1, -1, -1)
        return scores.softmax(-1)


@converted
class HeadsMixed(Attending):
    """By 1x1 convolutions, before and after the softmax (Shazeer et al., 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1, bias=False)

    def matrix(self, scores: Tensor) -> Tensor:
        return self.after(self.before(scores).softmax(-1))


@converted
class Layered(Attending):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4), nn.LayerNorm(4))

    def matrix(self, scores: Tensor) -> Tensor:
        return self.layers(scores).softmax(-1)


@converted
class WeightedSum(Attending):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(2))

    def matrix(self, scores: Tensor) -> Tensor:
        first, second = self.w.exp() / self.w.exp().sum()
        return first * scores.softmax(-1) + second * scores.relu().square()


@converted
class SeveralAdded(Attending):
    """Matrices that are each applied, to v and to q."""

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT
        return scores.softmax(-1) @ v + 0.3 * (scores.relu() @ v) - torch.sigmoid(scores) @ q


@converted
class PooledTemperature(Attending):
    """What a layer makes of a mean is in the matrix, too."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Linear(8, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, c, h, w = q.shape
        scale = self.scale(q.mean((2, 3))).sigmoid().view(n, 2, 1, 1)
        q, k, v = (y.reshape(n, 2, c // 2, h * w) for y in (q, k, v))
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        return ((scores * scale).softmax(-1) @ v).reshape(n, c, h, w)


# How the scores are made ---------------------------------------------------------------------------------------------


@converted
class DividedByNorms(Attending):
    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q = q / (torch.linalg.norm(q, dim=-1, keepdim=True) + 1e-6)
        k = k / k.norm(dim=-1, keepdim=True).clamp_min(1e-6)
        return (q @ k.mT * self.temperature).softmax(-1) @ v


@converted
class ByRoots(Attending):
    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q = self.temperature * q * torch.rsqrt(q.pow(2).sum(-1, keepdim=True) + 1e-6)
        k = k * ((k * k).sum(dim=-1, keepdim=True) + 1e-6) ** -0.5
        return torch.einsum("bhcd,bhdn->bhcn", torch.einsum("bhcn,bhdn->bhcd", q, k).softmax(-1), v)


@converted
class NormsAfterwards(Attending):
    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        norms = torch.norm(q, p=2, dim=-1, keepdim=True) @ torch.norm(k, dim=-1, keepdim=True).transpose(-2, -1)
        return torch.softmax(torch.matmul(q, k.transpose(-2, -1)) / (norms + 1e-8), dim=-1) @ v


@converted
class QAlone(Attending):
    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (F.normalize(q, dim=-1, eps=1e-6) @ k.transpose(-2, -1) * k.shape[-1] ** -0.5).softmax(-1) @ v


@converted
class ScaledBySize(Attending):
    """Not normalised; the number of pixels is that of a window."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, c, h, w = q.shape
        scores = torch.bmm(q.view(n, c, -1) * (h * w) ** -0.5, k.view(n, c, -1).permute(0, 2, 1)) / (h * w) ** 0.5
        return torch.bmm(scores.sigmoid(), v.view(n, c, h * w)).view(n, c, h, w)


@converted
class OneMap(Attending):
    """q = k = v, normalised (with norms of this and that order of dimensions)."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        x = F.normalize(q.flatten(2), dim=2)
        return (x @ x.transpose(1, 2)).softmax(-1).matmul(x).view_as(q)


@converted
class Centred(Attending):
    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q = F.normalize(q - q.mean(-1, keepdim=True), dim=-1)
        return (q @ F.normalize(k, dim=-1).transpose(-2, -1) * self.temperature).softmax(-1) @ v


@converted
class Covariance(Attending):
    """Centred maps, which are also the values."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, c, h, w = q.shape
        q = q - F.adaptive_avg_pool2d(q, 1)
        x = q.flatten(2)
        return ((x @ x.mT / (h * w - 1)).softmax(-1) @ x).view(n, c, h, w)


@converted
class Standardised(Attending):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, c, h, w = q.shape
        q, k = (y - y.mean((2, 3), keepdim=True) for y in (q, k))
        q, k, v = q.flatten(2), k.flatten(2), v.flatten(2)
        q = q / (q.std(-1, keepdim=True) + 1e-5)
        k = k / torch.sqrt(k.var(-1, keepdim=True, unbiased=False) + 1e-5)
        return ((q @ k.transpose(1, 2) / (h * w)).softmax(-1) @ v).view(n, c, h, w)


@converted
class Farthest(Attending):
    """Channel attention of DANet (Fu et al., CVPR 2019)."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, c, h, w = q.size()
        energy = torch.bmm(q.view(n, c, -1), k.view(n, c, -1).permute(0, 2, 1))
        energy = torch.max(energy, -1, keepdim=True)[0].expand_as(energy) - energy
        return torch.bmm(F.softmax(energy, dim=-1), v.view(n, c, -1)).view(n, c, h, w)


@converted
class Pairs(Attending):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q.flatten(2).unsqueeze(2) * k.flatten(2).unsqueeze(1)).mean(-1)
        return (scores.softmax(-1) @ v.flatten(2)).view_as(v)


# Layouts -------------------------------------------------------------------------------------------------------------


@converted
class Fused(Attending):
    """The numbers of channels and pixels change places."""

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, scale=2.0)


@converted
class FusedMasked(Attending):
    """The scale is that of the number of pixels."""

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = torch.ones(4, 4, dtype=torch.bool, device=q.device).tril()
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


@converted
class PixelsFirst(Attending):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, c, h, w = q.shape
        q, k, v = (y.flatten(2).transpose(1, 2) for y in (q, k, v))
        scores = F.normalize(q, dim=1).transpose(-2, -1) @ F.normalize(k, dim=1)
        return (v @ scores.softmax(-1).transpose(1, 2)).transpose(1, 2).reshape(n, c, h, w)


@converted
class Tokens(Attending):
    """S-MSA of MST++ (Cai et al., CVPR-W 2022): the heads are taken apart, and turned, when there are q, k and v."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24, bias=False)

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.qkv(self.v(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2).chunk(3, 1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, c, h, w = q.shape
        tokens = [y.permute(0, 2, 3, 1).reshape(n, h * w, 2, c // 2).permute(0, 2, 1, 3) for y in (q, k, v)]
        q, k, v = (y.transpose(-2, -1) for y in tokens)
        scores = F.normalize(k, dim=-1, p=2) @ F.normalize(q, dim=-1, p=2).transpose(-2, -1)
        out = (scores * self.temperature).softmax(dim=-1) @ v
        return out.permute(0, 3, 1, 2).reshape(n, h, w, c).permute(0, 3, 1, 2)


@converted
class Unflattened(Attending):
    """Rows and columns are never put together."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.einsum("n a h w, n b h w -> n a b", q, k)
        norms = [y.square().sum((2, 3)).clamp(min=1e-12).sqrt() for y in (q, k)]
        scores = scores / (norms[0].unsqueeze(-1) * norms[1].unsqueeze(1))
        return torch.einsum("...ab,...bhw->...ahw", scores.softmax(-1), v)


@converted
class HeadsAmongSamples(Attending):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, c, h, w = q.shape
        q, k, v = (y.reshape(n * 2, c // 2, h * w) for y in (q, k, v))
        scores = torch.bmm(F.normalize(q, dim=-1), F.normalize(k, dim=-1).transpose(1, 2))
        scores = (scores.view(n, 2, c // 2, c // 2) * self.temperature).softmax(-1).view(n * 2, c // 2, c // 2)
        return torch.bmm(scores, v).view(n, c, h, w)


@converted
class HeadByHead(Attending):
    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        outputs = []
        for i in range(2):
            scores = F.normalize(q[:, i], dim=-1) @ F.normalize(k[:, i], dim=-1).transpose(-2, -1)
            outputs.append(scores.softmax(-1) @ v[:, i])
        return torch.stack(outputs, 1)


@converted
class NormalisedTogether(Attending):
    """q and k are taken apart, and into heads, after their norms."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, c, h, w = q.shape
        q, k = F.normalize(torch.cat([q, k], 1).flatten(2), dim=-1).chunk(2, dim=1)
        q, k, v = (y.reshape(n, 2, c // 2, h * w) for y in (q, k, v))
        return ((q @ k.transpose(-2, -1)).softmax(-1) @ v).view(n, c, h, w)


class Layers(Attending):
    """Attention between three layers, each a row of all channels and pixels (LLFormer, Wang et al., AAAI 2023)."""

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        return (torch.stack([self.q(x), self.k(x), self.v(x)], 1),)

    def by_hand(self, x: Tensor) -> Tensor:
        return self.project(windows(self.attend, *self.maps(x)))


@converted
class LayerAttention(Layers):
    def attend(self, x: Tensor) -> Tensor:
        n, count, c, h, w = x.size()
        rows = x.view(n, count, -1)
        energy = torch.bmm(rows, x.view(n, count, -1).permute(0, 2, 1))
        energy = torch.max(energy, -1, keepdim=True)[0].expand_as(energy) - energy
        out = torch.bmm(F.softmax(energy, -1), rows).view(n, count, c, h, w)
        return (self.temperature.view(2, 1, 1)[0] * out + x).sum(1)


@converted
class LayersNormalised(Layers):
    def attend(self, x: Tensor) -> Tensor:
        rows = F.normalize(x.flatten(2) - x.flatten(2).mean(-1, keepdim=True), dim=-1)
        return ((rows @ rows.transpose(-2, -1)).softmax(-1) @ x.flatten(2)).view(x.shape).sum(1)


@converted
class LayersOfMaps(Layers):
    def attend(self, x: Tensor) -> Tensor:
        c, h, w = x.shape[2:]
        scores = torch.einsum("blchw,bmchw->blm", x, x) / (c * h * w)
        return torch.einsum("blm,bmchw->blchw", scores.softmax(-1), x).mean(1)


# What is not of sums -------------------------------------------------------------------------------------------------


@reported("rule")
class ByMaxima(Attending):
    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ((q / q.amax(-1, keepdim=True)) @ k.transpose(-2, -1)).softmax(-1) @ v


@reported("rule")
class NormalisedAndMoved(Attending):
    """What is added is a map, and not one value for all pixels."""

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ((F.normalize(q, dim=-1) + 0.01 * v) @ k.transpose(-2, -1)).softmax(-1) @ v


@reported("rule")
class OtherSize(Attending):
    """The matrix is one of smaller maps."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = F.avg_pool2d(q, 2).flatten(2), F.avg_pool2d(k, 2).flatten(2)
        return ((q @ k.transpose(1, 2)).softmax(-1) @ v.flatten(2)).view_as(v)


@pytest.mark.parametrize("name", CONVERTED)
def test_local_as_by_hand(name: str):
    module, x = made(CONVERTED[name]), image()
    with torch.no_grad():
        plain, want = module(x), module.by_hand(x)
        net = local(copy.deepcopy(module))
        got = net(x)
        covered = local(copy.deepcopy(module), base_size=99)(x)
        assert torch.equal(pickle.loads(pickle.dumps(net))(x), got)
    assert net.tlc_report.left_alone == ()
    assert {row.window for row in net.tlc_report.converted} == {WINDOW}
    assert (got - want).abs().max() <= 1e-10 * want.abs().max()
    assert (got - plain).abs().max() > 1e-3 * plain.abs().max()
    assert (covered - plain).abs().max() <= 1e-10 * plain.abs().max()


@pytest.mark.parametrize("name", GLOBAL)
def test_reported(name: str):
    module, x = made(GLOBAL[name][0]), image((8, 8))
    with torch.no_grad():
        want = module(x)
        report = local(module).tlc_report
        assert torch.equal(module(x), want)
    assert GLOBAL[name][1] in " ".join(row.reason for row in report.left_alone)


@pytest.mark.parametrize("name", ["TwoSparse", "Covariance", "PixelsFirst", "LayerAttention", "Unflattened"])
def test_blended_as_by_hand(name: str):
    module, x = made(CONVERTED[name]), image()
    total = 0
    with torch.no_grad():
        maps = module.maps(x)
        for top, down in hats(9, 5):
            for left, across in hats(13, 6):
                crops = (y[..., top : top + 5, left : left + 6].contiguous() for y in maps)
                weights = torch.outer(*(torch.tensor(hat, dtype=torch.float64) for hat in (down, across)))
                total = total + F.pad(module.attend(*crops) * weights, (left, 7 - left, top, 4 - top))
        want = module.project(total)
        got = local(module, attention="blended")(x)
    assert (got - want).abs().max() <= 1e-10 * want.abs().max()


@pytest.mark.parametrize("name", ["TwoSparse", "HeadsMixed", "Covariance", "ByRoots", "Tokens"])
@pytest.mark.parametrize("attention", ["published", "blended"])
def test_batches_half_precision_and_gradients(name: str, attention: str):
    net, x = local(made(CONVERTED[name]), attention=attention), image()
    with torch.no_grad():
        want = net(x)
        torch.testing.assert_close(torch.cat([net(one[None]) for one in x]), want, rtol=1e-11, atol=1e-11)
    net(x).square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
    with torch.no_grad():
        low = net.bfloat16()(x.bfloat16())
    assert low.dtype == torch.bfloat16
    assert (low.double() - want).abs().mean() < 0.05 * want.std()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("attention", ["published", "blended"])
@pytest.mark.parametrize("name", ["TwoSparse", "Covariance", "ScaledBySize"])
def test_traced_for_maps_of_any_size(name: str, attention: str):
    net, x = local(made(CONVERTED[name]), attention=attention), image((8, 14))
    with torch.no_grad():
        traced = torch.jit.trace(net, image(), check_trace=False)
        torch.testing.assert_close(traced(x), net(x), rtol=1e-6, atol=1e-6)


def test_means_that_are_far_from_zero():
    """Sums of squares are near those of means there."""
    module, x = made(Covariance), image()
    with torch.no_grad():
        module.q.bias += 1000
        want = module.by_hand(x)
        got = local(module).float()(x.float())
    assert (got - want).abs().max() <= 1e-3 * (want - want.mean()).abs().max()
