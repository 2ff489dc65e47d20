"""Reports say what is so: of what is not used, makes no difference, is stretched to the image, or is left to chance."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.tlc import convert
from basicsr.tlc.report import LeftAlone

C, SIZE = 4, {"train_size": (1, 4, 8, 8), "base_size": (5, 6)}
NOTHING = "nothing to do"


def rows(net: nn.Module, **options: object) -> list[LeftAlone]:
    return list(convert(net.eval(), **{**SIZE, **options}).tlc_report.left_alone)


class Encoder(nn.Module):
    """Two vectors beside the map."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.pool = nn.Sequential(nn.Conv2d(C, C, 1), nn.LeakyReLU(0.1, inplace), nn.AdaptiveAvgPool2d(1))
        self.mlp = nn.Sequential(nn.Linear(C, C), nn.LeakyReLU(0.1, inplace), nn.Linear(C, C))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return 2 * x, self.mlp(self.pool(x).flatten(1)), x.mean((2, 3))


class Contrasted(nn.Module):
    """The vectors are for a loss in training."""

    def __init__(self, uses: str, inplace: bool = False) -> None:
        super().__init__()
        self.uses, self.encoder, self.pool = uses, Encoder(inplace), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> object:
        y, code, mean = self.encoder(x)
        if self.uses == "value":
            return y * self.pool(y) * code[0, 0].item()
        if self.uses == "view":
            y[:, :2] = y[:, :2] * code[:, :2, None, None]
            y[:, 2:].mul_(mean[:, 2:, None, None])
        y = y * self.pool(y)
        return {"nothing": y, "view": y, "output": [y, code, mean]}[self.uses]


def test_what_reaches_no_output_is_not_used():
    for inplace in (False, True):
        net = Contrasted("nothing", inplace)
        found = {row.path: row for row in rows(net)}
        assert found.keys() == {"encoder", "encoder.pool.2"}
        assert all(row.reason == f"it is not used, its result reaches no output: {NOTHING}" for row in found.values())
        assert [row.path for row in net.tlc_report.converted] == ["pool"]


def test_what_is_used_by_any_way_is():
    for uses in ("view", "output", "value"):
        unused = [row.path for row in rows(Contrasted(uses)) if "not used" in row.reason]
        assert unused == (["encoder"] if uses == "value" else [])


def test_what_makes_no_difference_is_nothing_to_do():
    class OneChannel(nn.Module):
        """Attention among one channel."""

        def forward(self, x: Tensor) -> Tensor:
            q = x[:, :1].flatten(2)
            matrix = F.normalize(q, dim=-1) @ F.normalize(q, dim=-1).transpose(-2, -1)
            return x + (matrix.softmax(-1) @ q).view(x.shape[0], 1, *x.shape[2:])

    class OneGate(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x.mean((2, 3), keepdim=True)[:, :1].softmax(1)

    for kind in (OneChannel, OneGate):
        (row,) = rows(kind())
        assert row.reason == f"it makes no difference where its statistic is taken: {NOTHING}"


def gated(made: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: made(x.mean((2, 3), keepdim=True), x)


def thresholded_attention(x: Tensor) -> Tensor:
    q, k = F.normalize(x.flatten(2), dim=-1), F.normalize((x * x).flatten(2), dim=-1)
    return x + (F.relu(q @ k.transpose(1, 2) - 0.8) @ x.flatten(2)).view(x.shape)


@pytest.mark.parametrize(
    "forward",
    [
        gated(lambda mean, x: torch.where(mean > 3, x, -x)),
        gated(lambda mean, x: x * torch.round(mean / 4)),
        gated(lambda mean, x: x + (mean - 3).clamp(min=0) * x),
        lambda x: x - (x > 30).to(x.dtype).mean((2, 3), keepdim=True),
        thresholded_attention,
    ],
    ids=["where", "round", "clamp", "a share of pixels", "attention"],
)
def test_thresholds_that_random_maps_do_not_reach_are_not_said_to_make_no_difference(forward):
    class Thresholds(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return forward(x)

    reasons = {row.reason for row in rows(Thresholds())}
    assert len(reasons) == 1
    assert reasons.pop().startswith("on random maps it makes no difference where its statistic is taken, so that no local form")


class Prompt(nn.Module):
    """A weighted sum of learned maps, as large as the image."""

    def __init__(self) -> None:
        super().__init__()
        self.maps, self.weigh = nn.Parameter(torch.rand(1, 5, C, 6, 6)), nn.Linear(C, 5)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.weigh(x.mean((2, 3))).softmax(-1)
        prompt = (weights[:, :, None, None, None] * self.maps).sum(1)
        return x + F.interpolate(prompt, x.shape[-2:], mode="bilinear")


class Embedding(nn.Module):
    """Positions, as tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.rand(1, 36, C))

    def forward(self, x: Tensor) -> Tensor:
        return x + F.interpolate(self.tokens.transpose(1, 2).reshape(1, C, 6, 6), x.shape[-2:], mode="bicubic")


class Pyramid(nn.Module):
    """What is stretched is the image's own; 3x3 kernels are no learned maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(C, C, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.interpolate(self.conv(F.adaptive_avg_pool2d(x, 3)), x.shape[-2:])


def test_learned_maps_that_are_stretched():
    for kind in (Prompt, Embedding, Pyramid):
        found = [row for row in rows(kind()) if "stretched" in row.reason]
        assert len(found) == (kind is not Pyramid)
        assert all(row.reason.startswith("its learned map of 6x6 is stretched to the image's size") for row in found)
        assert all(row.where.startswith(__file__) for row in found)


def test_every_grid_is_reported():
    class Grid(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            n, c, h, w = x.shape
            y = x.permute(0, 2, 3, 1).reshape(n, 2, h // 2, 2, w // 2, c).permute(0, 2, 4, 1, 3, 5).reshape(-1, 4, c)
            y = ((y @ y.mT).softmax(-1) @ y).view(n, h // 2, w // 2, 2, 2, c).permute(0, 3, 1, 4, 2, 5)
            return y.reshape(n, h, w, c).permute(0, 3, 1, 2)

    found = rows(nn.Sequential(Grid(), nn.Conv2d(C, C, 1), Grid(), Grid()))
    assert [(row.path, row.operation) for row in found] == [(path, "view as a grid") for path in "023"]


def test_chance_is_said():
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x, 0.5, training=True) + torch.randn_like(x)

    (row,) = rows(nn.Sequential(Noisy(), nn.Dropout(0.5), nn.InstanceNorm2d(C)))
    assert (row.path, row.operation) == ("0", "Noisy")
    assert row.reason.startswith("it draws random numbers")


def test_a_map_that_is_padded_to_a_window_of_fixed_size_is_local():
    class Windowed(nn.Module):
        """On a map of 4x4 in training, which is padded to one window of 8x8; of square images."""

        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[2] == x.shape[3]
            y = F.pixel_unshuffle(x, 4)
            n, c, h, w = y.shape
            y = F.pad(y, (0, -w % 8, 0, -h % 8))
            rows, columns = y.shape[2] // 8, y.shape[3] // 8
            t = y.view(n, c, rows, 8, columns, 8).permute(0, 2, 4, 3, 5, 1).reshape(-1, 64, c)
            t = (t @ t.mT).softmax(-1) @ t
            y = t.view(n, rows, columns, 8, 8, c).permute(0, 5, 1, 3, 2, 4).reshape(y.shape)
            return F.pixel_shuffle(y[:, :, :h, :w], 4)

    for train in (16, 32, 64):
        assert rows(Windowed(), train_size=(1, C, train, train)) == []
