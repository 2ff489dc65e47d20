"""Losses against scipy and closed forms; learning rates against torch's schedulers and the recipes' figures."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from basicsr.errors import UserError
from basicsr.losses import LOSSES, CharbonnierLoss, EdgeLoss, L1Loss, MSELoss, PSNRLoss
from basicsr.models.schedule import SCHEDULERS, with_warmup

LR = 2e-4


def pair(seed: int = 0, shape: tuple[int, ...] = (2, 3, 20, 26)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    gt = torch.rand(shape, generator=generator)
    return gt + 0.1 * torch.randn(shape, generator=generator), gt


def numbers(*tensors: torch.Tensor) -> list[np.ndarray]:
    return [t.double().numpy() for t in tensors]


def test_l1_and_mse():
    x, y = pair()
    a, b = numbers(x, y)
    assert L1Loss()(x, y).item() == pytest.approx(np.abs(a - b).mean(), rel=1e-5)
    assert MSELoss()(x, y).item() == pytest.approx(((a - b) ** 2).mean(), rel=1e-5)


def test_psnr_loss_is_minus_the_psnr_averaged_over_images():
    x, y = pair()
    x[1] = y[1] + 0.5  # images of very different errors: the mean of logarithms is no logarithm of the mean
    a, b = numbers(x, y)
    psnr = [-10 * math.log10(((p - q) ** 2).mean()) for p, q in zip(a, b, strict=True)]
    assert PSNRLoss()(x, y).item() == pytest.approx(-sum(psnr) / 2, rel=1e-5)
    assert PSNRLoss(loss_weight=0.5)(x, y).item() == pytest.approx(-sum(psnr) / 4, rel=1e-5)


def test_psnr_loss_outside_the_range_and_at_equality():
    ones = torch.ones(1, 3, 4, 4)
    assert PSNRLoss()(2 * ones, ones).item() == pytest.approx(0, abs=1e-5)  # not clamped: the error is 1
    equal = ones.clone().requires_grad_()
    loss = PSNRLoss()(equal, ones)
    loss.backward()
    assert loss.item() == pytest.approx(-80, abs=1e-4)  # 10 log10 of 1e-8
    assert equal.grad.isfinite().all()


def test_charbonnier():
    x, y = pair()
    a, b = numbers(x, y)
    assert CharbonnierLoss()(x, y).item() == pytest.approx(np.sqrt((a - b) ** 2 + 1e-6).mean(), rel=1e-5)
    assert CharbonnierLoss()(y, y).item() == pytest.approx(1e-3)
    assert CharbonnierLoss(eps=0.5)(y, y).item() == pytest.approx(0.5)


def laplacian(x: np.ndarray) -> np.ndarray:
    """x - blur(up(blur(x))), blur with (.05, .25, .4, .25, .05) both ways and replicated borders."""
    taps = [0.05, 0.25, 0.4, 0.25, 0.05]

    def blur(image):
        return correlate1d(correlate1d(image, taps, axis=-1, mode="nearest"), taps, axis=-2, mode="nearest")

    up = np.zeros_like(x)
    up[..., ::2, ::2] = 4 * blur(x)[..., ::2, ::2]
    return x - blur(up)


@pytest.mark.parametrize("shape", [(2, 3, 20, 26), (1, 3, 7, 9), (1, 1, 5, 5)])
def test_edge_loss(shape):
    x, y = pair(1, shape)
    a, b = numbers(x, y)
    expected = np.sqrt((laplacian(a) - laplacian(b)) ** 2 + 1e-6).mean()
    assert EdgeLoss()(x, y).item() == pytest.approx(expected, rel=1e-5)
    assert EdgeLoss(loss_weight=0.05)(x, y).item() == pytest.approx(0.05 * expected, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES.names())
def test_losses_are_float32_and_differentiable(name):
    loss = LOSSES.build(name, {"loss_weight": 1, "reduction": "mean"})
    x, y = pair(2)
    half = x.half().requires_grad_()
    value = loss(half, y)
    assert value.dtype == torch.float32
    value.backward()
    assert half.grad.isfinite().all()
    assert loss(x, y) > loss(0.5 * (x + y), y)  # nearer is better
    with pytest.raises(UserError, match=r"train\.pixel_opt\.reduction: `sum` is unknown\. It is mean"):
        LOSSES.build(name, {"reduction": "sum"}, "train.pixel_opt")
    assert not list(loss.parameters())
    assert not loss.state_dict()


# Learning rates.


def build(name: str, **options):
    return SCHEDULERS.build(name, options, "train.scheduler")


@pytest.mark.parametrize("name", ["TrueCosineAnnealingLR", "CosineAnnealingLR"])
def test_cosine_against_torch(name):
    rate = build(name, T_max=40, eta_min=1e-7)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40, 1e-7)
    for iteration in range(41):
        assert rate(iteration, LR) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        scheduler.step()
    assert rate(10**6, LR) == 1e-7  # stays down after the end


def test_multistep_against_torch():
    rate = build("MultiStepLR", milestones=[7, 3], gamma=0.5)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 7], 0.5)
    for iteration in range(12):
        assert rate(iteration, LR) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


def test_restormers_recipe():
    """92k constant, then a cosine to 1e-6 over 208k."""
    rate = build("CosineAnnealingRestartCyclicLR", periods=[92000, 208000], restart_weights=[1, 1], eta_mins=[3e-4, 1e-6])
    assert {rate(i, 3e-4) for i in (0, 1, 50_000, 91_999, 92_000)} == {3e-4}
    assert rate(92_000 + 104_000, 3e-4) == pytest.approx((3e-4 + 1e-6) / 2)
    assert rate(92_001, 3e-4) < 3e-4
    for end in (300_000, 400_000):
        assert rate(end, 3e-4) == pytest.approx(1e-6)
    halved = build("CosineAnnealingRestartCyclicLR", periods=[10, 10], restart_weights=[1, 0.5], eta_mins=[0, 0])
    assert halved(10, LR) == LR / 2


def test_warmup_rises_linearly_and_joins():
    rate = with_warmup(build("TrueCosineAnnealingLR", T_max=100, eta_min=0), 10)
    assert [rate(i, LR) for i in range(10)] == pytest.approx([LR * k / 10 for k in range(1, 11)])
    assert rate(10, LR) == pytest.approx(LR * (1 + math.cos(math.pi * 0.1)) / 2)
    for off in (0, -1):
        assert with_warmup(build("TrueCosineAnnealingLR", T_max=100), off)(0, LR) == LR


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("TrueCosineAnnealingLR", {"T_max": 0}, "T_max is 0"),
        ("TrueCosineAnnealingLR", {"Tmax": 5}, "no option `Tmax`. Did you mean `T_max`"),
        ("CosineAnnealingRestartCyclicLR", {"periods": [5], "restart_weights": [1, 1], "eta_mins": [0]}, "as many entries"),
        ("CosineAnnealingRestartCyclicLR", {"periods": [], "restart_weights": [], "eta_mins": []}, "at least one iteration"),
        ("CosineAnnealingRestartCyclicLR", {"periods": [0], "restart_weights": [1], "eta_mins": [0]}, "at least one iteration"),
        ("MultiStep", {}, "Did you mean `MultiStepLR`"),
    ],
)
def test_bad_schedules(name, options, message):
    with pytest.raises(UserError, match=message):
        build(name, **options)


def test_a_loss_of_clamped_images():
    """MPRNet's denoising: a value above white counts as white, and teaches nothing."""
    restored = torch.tensor([[[[1.5, 0.25]]]], requires_grad=True)
    gt = torch.tensor([[[[0.5, 0.75]]]])
    loss = LOSSES.build("CharbonnierLoss", {"eps": 1e-3, "clamp": True})(restored, gt)
    loss.backward()
    assert loss.item() == pytest.approx(math.sqrt(0.25 + 1e-6))
    assert restored.grad[0, 0, 0, 0] == 0
    assert restored.grad[0, 0, 0, 1] == pytest.approx(-0.5, abs=1e-4)
    assert LOSSES.build("L1Loss", {})(restored, gt).item() == pytest.approx(0.75)
