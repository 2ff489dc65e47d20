"""Forwards that compute in another precision than their input's, as those of nets that run in half precision do."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from test_tlc_zoo import C, image, local, made, mean, normed
from torch import Tensor, nn


class WideGroupNorm(nn.GroupNorm):
    def __init__(self) -> None:
        super().__init__(2, C)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).type(x.dtype)


class WideNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.instance_norm(x.to(torch.float32), eps=1e-5).to(x.dtype)


class NamedPrecision(nn.Module):
    """Asks for the name of its input's type."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(C, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        half = "Half" in x.type()
        pooled = x.float().mean((2, 3), keepdim=True).half() if half else x.mean((2, 3), keepdim=True)
        return x * self.conv(pooled).sigmoid()


def _group_norm(m: nn.Module, x: Tensor) -> Tensor:
    return normed(x, 2) * m.weight.view(-1, 1, 1) + m.bias.view(-1, 1, 1)


def _gate(m: nn.Module, x: Tensor) -> Tensor:
    return x * m.conv(mean(x)).sigmoid()


CONVERTED: dict[str, tuple[type[nn.Module], Callable[[nn.Module, Tensor], Tensor]]] = {
    "WideGroupNorm": (WideGroupNorm, _group_norm),
    "WideNorm": (WideNorm, lambda m, x: normed(x, C)),
    "NamedPrecision": (NamedPrecision, _gate),
}


@pytest.mark.parametrize("name", CONVERTED)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 4e-3), (torch.bfloat16, 3e-2)])
def test_local_as_by_hand(name: str, dtype: torch.dtype, tolerance: float):
    kind, by_hand = CONVERTED[name]
    module, x = made(kind), image()
    want = by_hand(module, x).detach()
    module = module.to(torch.float32 if kind is WideGroupNorm else dtype)  # its weights meet a float32 map
    net = local(module)
    assert len(net.tlc_report.converted) == 1
    assert net.tlc_report.left_alone == ()
    with torch.no_grad():
        got = net(x.to(dtype))
    assert got.dtype == dtype
    assert (got.double() - want).abs().max() <= tolerance * want.abs().max()


def test_a_net_that_is_converted_first_runs_in_half_precision():
    module, x = made(NamedPrecision), image()
    want = _gate(module, x).detach()
    net = local(module.float()).half()
    with torch.no_grad():
        assert (net(x.half()).double() - want).abs().max() <= 4e-3 * want.abs().max()
