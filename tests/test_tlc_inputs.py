"""Nets whose forwards take more than the image."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from basicsr.archs import build_network
from basicsr.errors import UserError
from basicsr.tlc import convert, local_mean

C, SIZE = 4, {"train_size": (1, 4, 8, 8), "base_size": (5, 6)}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.squeeze = nn.Linear(C, C)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.squeeze(x.mean((2, 3)))[..., None, None]


class Guided(nn.Module):
    """A vector of 16 numbers scales the channels; the net's own forward holds a statistic, too."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.scale = Block(), nn.Linear(16, C)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        y = self.block(x * self.scale(t).sigmoid()[..., None, None])
        return y * y.mean((2, 3), keepdim=True)


class WithPrior(Guided):
    def forward(self, x: Tensor, prior: Tensor | None = None) -> Tensor:
        return super().forward(x, prior)


def by_hand(net: Guided, x: Tensor, t: Tensor) -> Tensor:
    x = x * net.scale(t).sigmoid()[..., None, None]
    y = x * net.block.squeeze(local_mean(x, (5, 6)).expand_as(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return y * local_mean(y, (5, 6))


@pytest.mark.parametrize("kind", [Guided, WithPrior])
@pytest.mark.parametrize("inputs", [lambda image: (image, image.new_zeros(1, 16)), (..., torch.zeros(1, 16))])
def test_a_vector_beside_the_image(kind: type[Guided], inputs: object):
    torch.manual_seed(0)
    net, x, t = kind().double().eval(), torch.randn(2, C, 20, 26, dtype=torch.float64), torch.randn(2, 16).double()
    with torch.no_grad():
        plain, want = net(x, t), by_hand(net, x, t)
        covered = convert(copy.deepcopy(net), train_size=SIZE["train_size"], base_size=99, inputs=inputs)
        got = convert(net, **SIZE, inputs=inputs)(x, t)
        assert (covered(x, t) - plain).abs().max() <= 1e-12 * plain.abs().max()
    assert net.tlc_report.left_alone == ()
    assert [row.path for row in net.tlc_report.converted] == ["block", "(the net itself)"]
    assert (got - want).abs().max() <= 1e-12 * want.abs().max()
    assert (got - plain).abs().max() > 1e-3 * plain.abs().max()


def test_what_is_missing_is_said():
    with pytest.raises(ValueError, match=r"needs t besides the image; give inputs=lambda image: \(image, t\), .*{t: \["):
        convert(Guided(), **SIZE)
    with pytest.raises(ValueError, match="prior is None by default: it may need inputs="):
        convert(WithPrior(), **SIZE)
    with pytest.raises(ValueError, match=r"^inputs gives Tensor; it is to give a tuple"):
        convert(Guided(), **SIZE, inputs=lambda image: image)


def built(**inputs: object) -> nn.Module:
    return build_network({"type": f"{__name__}:Guided", "tlc": {**SIZE, "inputs": inputs}}).eval()


def test_zeros_from_the_options_file():
    net, x = built(t=[1, 16]), torch.rand(2, C, 20, 26)
    with torch.no_grad():
        want = net(x, torch.zeros(2, 16))
        for other in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert torch.equal(other(x), want)
        assert not torch.equal(net(x, t=torch.ones(2, 16)), want)
    assert len(net.tlc_report.converted) == 2


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"tt": [1, 16]}, r"network_g\.tlc\.inputs\.tt: the forward of Guided takes no `tt`\. Did you mean `t`\?"),
        ({"t": [1, 0]}, r"network_g\.tlc\.inputs\.t: \[1, 0\] is no shape"),
        ({"t": "wide"}, r"network_g\.tlc\.inputs: .* does not fit"),
        ({"t": [1, 5]}, r"network_g\.tlc: the dry run of Guided .* failed"),
    ],
)
def test_other_options_are_refused(inputs: dict, says: str):
    with pytest.raises(UserError, match=says):
        built(**inputs)
