"""One step of training, against torch alone and formulas by hand: accumulation, EMA, groups, checkpointing, precision."""

import copy
import csv
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import SMALL_NETS, make_pairs, write_yaml
from torch import Tensor, nn

from basicsr.archs import build_network
from basicsr.engine.build import build_optimizer
from basicsr.errors import UserError
from basicsr.losses import CharbonnierLoss, L1Loss, PSNRLoss
from basicsr.models import schedule
from basicsr.models.memory import checkpoint_blocks
from basicsr.models.optimizer import skips_itself
from basicsr.models.restoration_model import ImageRestorationModel
from basicsr.tlc import convert
from basicsr.tlc.local import functional
from basicsr.training_sections import OptimizerOptions
from basicsr.utils.checkpoint import read_weights

LR = 1e-3


def same_rate(base_lr: float) -> float:
    return base_lr


def batch(count: int = 2, side: int = 16, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    gt = torch.rand(count, 3, side, side, generator=generator)
    return {"lq": (gt + 0.1 * torch.randn(gt.shape, generator=generator)).clamp(0, 1), "gt": gt}


def small_net(name: str = "NAFNet", seed: int = 0) -> nn.Module:
    """With no parameter at 0, as NAFNet's residual scales are at first: every part has a gradient."""
    torch.manual_seed(seed)
    net = build_network({"type": name, **SMALL_NETS[name]})
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net


def ready(net: nn.Module, precision: str = "fp32", kind: type = torch.optim.Adam, **options: object) -> ImageRestorationModel:
    model = ImageRestorationModel(net, device=torch.device("cpu"), precision=precision)
    groups = [{"params": list(net.parameters()), "lr": LR, "base_lr": LR}]
    model.prepare_training(**{"losses": [L1Loss()], "optimizer": kind(groups), **options})
    return model


def gradients(net: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in net.named_parameters()}


def parts_of(whole: dict[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    return [dict(zip(whole, part, strict=True)) for part in zip(*(x.chunk(count) for x in whole.values()), strict=True)]


# Accumulation.


@pytest.mark.parametrize("loss", [PSNRLoss, CharbonnierLoss])
@pytest.mark.parametrize("count", [2, 3, 6])
def test_accumulated_micro_batches_are_the_big_batch(loss, count):
    """Figures, gradients and, by SGD, weights; Adam divides by gradients near 0 and would blow rounding up."""
    whole = batch(6)
    models = [ready(small_net(), kind=torch.optim.SGD, losses=[loss()], max_grad_norm=0.01) for _ in range(2)]
    figures = [models[0].train_step([whole], same_rate), models[1].train_step(parts_of(whole, count), same_rate)]
    for key in ("loss", "psnr", "grad_norm"):
        assert figures[1][key] == pytest.approx(figures[0][key], rel=1e-4)
    assert figures[0]["grad_norm"] > 0.01  # clipping is at work
    expected, accumulated = (gradients(model.net) for model in models)
    for name in expected:
        torch.testing.assert_close(accumulated[name], expected[name], rtol=1e-3, atol=1e-6)
    for a, b in zip(models[0].net.parameters(), models[1].net.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_the_loss_is_the_mean_over_the_batch_not_the_sum():
    whole = batch(6)
    net = small_net()
    expected = (copy.deepcopy(net)(whole["lq"]) - whole["gt"]).abs().double().mean().item()
    assert ready(net).train_step(parts_of(whole, 3), same_rate)["loss"] == pytest.approx(expected, rel=1e-5)


# EMA.


class OneNumber(nn.Module):
    """Restores with a factor that SGD moves by hand-made steps."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.w * x


def test_ema_against_the_formula():
    """ema <- d ema + (1 - d) w after every step, starting from the weights after the first step."""
    net, decay = OneNumber(), 0.8
    model = ready(net, kind=torch.optim.SGD, ema_decay=decay)
    ema = None
    for number in range(6):
        sample = batch(seed=number)
        sample["gt"] = sample["gt"] + 2  # the gradient never changes its sign
        before = net.w.item()
        model.train_step([sample], lambda base_lr: 50 * base_lr)
        assert net.w.item() > before
        ema = net.w.item() if ema is None else decay * ema + (1 - decay) * net.w.item()
        assert model.ema.module.w.item() == pytest.approx(ema, rel=1e-6)
    assert model.ema.module.w.item() < net.w.item()
    image = torch.rand(1, 3, 4, 4)
    torch.testing.assert_close(model.predict(image), image * ema)  # the averaged weights restore


# Groups of parameters.


def optimizer_of(net: nn.Module, *groups: dict, kind: str = "AdamW", **options: object) -> torch.optim.Optimizer:
    return build_optimizer(net, OptimizerOptions(type=kind, lr=LR, groups=groups, **options))


def names_in(net: nn.Module, optimizer: torch.optim.Optimizer) -> list[set[str]]:
    names = {id(p): name for name, p in net.named_parameters()}
    return [{names[id(p)] for p in group["params"]} for group in optimizer.param_groups]


def test_groups_by_pattern():
    net = small_net()
    every = {name for name, _ in net.named_parameters()}
    optimizer = optimizer_of(
        net, {"match": r"^intro\.", "lr_mult": 0.1}, {"match": r"\.bias$", "weight_decay": 0}, weight_decay=0.01
    )
    first = {name for name in every if name.startswith("intro.")}
    second = {name for name in every if name.endswith(".bias")} - first  # the first pattern that matches has it
    assert names_in(net, optimizer) == [first, second, every - first - second]
    assert "intro.bias" in first
    assert [group["base_lr"] for group in optimizer.param_groups] == pytest.approx([LR / 10, LR, LR])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0, 0.01]
    assert isinstance(optimizer, torch.optim.AdamW)


@pytest.mark.parametrize("kind", ["Adam", "AdamW"])
def test_the_optimizer_is_torchs_own_in_double_precision(kind):
    """Fused steps run over the memory of weights and gradients at once: their layouts must agree."""
    net = small_net("HINet").double().to(memory_format=torch.channels_last)
    twin = copy.deepcopy(net)
    plain = getattr(torch.optim, kind)(twin.parameters(), lr=LR, weight_decay=0.01, foreach=False, fused=False)
    fused = optimizer_of(net, kind=kind, weight_decay=0.01)
    assert fused.param_groups[0]["fused"]
    image = torch.rand(1, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        for model, optimizer in ((net, fused), (twin, plain)):
            optimizer.zero_grad()
            model(image)[-1].square().mean().backward()
            optimizer.step()
    for one, other in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_a_pattern_for_everything_leaves_no_rest():
    net = small_net()
    optimizer = optimizer_of(net, {"match": ""}, kind="Adam", betas=(0.5, 0.9))
    assert names_in(net, optimizer) == [{name for name, _ in net.named_parameters()}]
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.9)


@pytest.mark.parametrize("groups", [[{"match": "^nothing"}], [{"match": "^intro"}, {"match": r"^intro\.weight"}]])
def test_a_pattern_without_parameters_is_refused(groups):
    with pytest.raises(UserError, match=rf"optim_g.groups.{len(groups) - 1}.match: no parameter is left"):
        optimizer_of(small_net(), *groups)


def test_schedules_scale_the_rate_of_each_group():
    net = small_net()
    model = ready(net, optimizer=optimizer_of(net, {"match": "^intro", "lr_mult": 0.25}, {"match": "^ending", "lr_mult": 0}))
    rate = schedule.with_warmup(schedule.TrueCosineAnnealingLR(T_max=100), 4)
    frozen = net.ending.weight.clone()
    for iteration in (0, 2, 50, 99):
        model.train_step([batch()], lambda base_lr, i=iteration: rate(i, base_lr))
        full = LR * (iteration + 1) / 4 if iteration < 4 else LR * (1 + math.cos(math.pi * iteration / 100)) / 2
        assert [group["lr"] for group in model.optimizer.param_groups] == pytest.approx([full / 4, 0, full])
    assert torch.equal(net.ending.weight, frozen)


# Learning rates past the end.


@pytest.mark.parametrize(
    ("name", "options", "last"),
    [
        ("TrueCosineAnnealingLR", {"T_max": 10, "eta_min": 1e-6}, 1e-6),
        ("CosineAnnealingLR", {"T_max": 10, "eta_min": 1e-6}, 1e-6),
        (
            "CosineAnnealingRestartCyclicLR",
            {"periods": [4, 6], "restart_weights": [1, 0.5], "eta_mins": [1e-4, 1e-6]},
            1e-6,
        ),
        ("MultiStepLR", {"milestones": [3, 10], "gamma": 0.1}, LR / 100),
    ],
)
def test_past_the_end_of_a_schedule_the_last_rate_stays(name, options, last):
    rate = schedule.SCHEDULERS.build(name, options)
    assert rate(9, LR) > last
    assert [rate(i, LR) for i in (10, 11, 25, 10**7)] == pytest.approx([last] * 4)


# Activation checkpointing.


@pytest.mark.parametrize("name", SMALL_NETS)
def test_checkpointed_activations_change_nothing(name):
    """Same gradients, weights, and names of parameters."""
    models = [ready(small_net(name), activation_checkpointing=on, max_grad_norm=0.01) for on in (False, True)]
    for _ in range(2):
        figures = [model.train_step([batch(side=32)], same_rate) for model in models]
        assert figures[0] == pytest.approx(figures[1], rel=1e-6)
    for a, b in zip(gradients(models[0].net).values(), gradients(models[1].net).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    plain, checkpointed = (model.net.state_dict() for model in models)
    assert plain.keys() == checkpointed.keys()
    for key in plain:
        torch.testing.assert_close(plain[key], checkpointed[key], rtol=1e-6, atol=1e-7)
    image = batch(1, 24)["lq"]
    assert torch.equal(*(model.predict(image) for model in models))


@pytest.mark.parametrize("name", SMALL_NETS)
def test_checkpointed_blocks_run_again_in_the_backward_pass(name):
    net = small_net(name)
    count = {}
    for path, module in net.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda *_, path=path: count.update({path: count.get(path, 0) + 1}))
    out = net(batch(1, 32)["lq"])
    once = dict(count)
    assert checkpoint_blocks(net) > 0
    count.clear()
    out = net(batch(1, 32)["lq"])
    assert count == once
    sum(stage.sum() for stage in (out if isinstance(out, (list, tuple)) else [out])).backward()
    again = {path for path in count if count[path] > once[path]}
    assert len(again) > len(once) / 2
    assert all(count[path] <= 2 * once[path] for path in again)  # once more, not once for every level


def test_copies_of_checkpointed_nets_are_independent():
    """A copy's blocks must not run the original's weights."""
    net = small_net()
    checkpoint_blocks(net)
    twin = copy.deepcopy(net)
    image = batch(1)["lq"]
    before = twin(image).detach()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    torch.testing.assert_close(twin(image).detach(), before, rtol=0, atol=0)
    assert not torch.allclose(net(image), before)


def test_the_average_of_a_checkpointed_net_is_independent():
    model = ready(small_net(), ema_decay=0.9, activation_checkpointing=True)
    model.train_step([batch()], same_rate)
    plain = small_net()
    plain.load_state_dict(model.ema.module.state_dict())
    with torch.no_grad():
        for parameter in model.net.parameters():
            parameter.add_(1)
    image = batch(1)["lq"]
    torch.testing.assert_close(model.predict(image), plain.eval()(image).detach())


def test_checkpointing_keeps_dropout():
    """The second computation must drop the same: against the same net without checkpoints."""

    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            block = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Dropout(0.5), nn.GELU(), nn.Conv2d(8, 3, 3, padding=1))
            self.blocks = nn.ModuleList([block, copy.deepcopy(block)])

        def forward(self, x: Tensor) -> Tensor:
            for one in self.blocks:
                x = one(x)
            return x

    torch.manual_seed(0)
    net = Dropping()
    results = []
    for on in (False, True):
        model = ready(copy.deepcopy(net), activation_checkpointing=on)
        torch.manual_seed(5)
        model.train_step([batch(), batch(seed=1)], same_rate)
        results.append(gradients(model.net))
    for name in results[0]:
        torch.testing.assert_close(results[1][name], results[0][name])


def test_a_net_without_blocks_cannot_be_checkpointed():
    with pytest.raises(UserError, match="activation_checkpointing: OneNumber has no Sequential"):
        ready(OneNumber(), activation_checkpointing=True)


# Steps that are not finite.


class Scaled(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)
        nn.init.constant_(self.layer.weight, scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def state_of(model: ImageRestorationModel) -> dict[str, object]:
    """Weights, moments and EMA, copied."""
    ema = None if model.ema is None else model.ema.state_dict()
    return copy.deepcopy({"net": model.net.state_dict(), "optimizer": model.optimizer.state_dict()["state"], "ema": ema})


def assert_same(first: object, second: object) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_without_a_finite_loss_changes_nothing(precision, value, fused):
    """Decided by Python, or by a fused optimiser itself."""
    model = ready(small_net(), precision=precision, ema_decay=0.9, kind=partial(torch.optim.AdamW, fused=fused))
    assert skips_itself(model.optimizer) == fused
    model.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, enabled=precision == "fp16")
    assert model.train_step([batch()], same_rate)["skipped"] == 0
    before = state_of(model)
    assert before["optimizer"]
    bad = batch()
    bad["lq"][1, 2, 3, 4] = value
    figures = model.train_step([batch(), bad], same_rate)
    assert figures["skipped"] == 1
    assert not math.isfinite(figures["loss"])
    for key, content in state_of(model).items():
        assert_same(content, before[key])
    assert model.train_step([batch()], same_rate)["skipped"] == 0  # and it goes on
    assert not torch.equal(next(model.net.parameters()), next(iter(before["net"].values())))


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_fused_steps_are_those_of_the_optimiser(kind):
    """Also where the restored image is the truth, to the bit: its PSNR is infinite, and weights decay."""
    net = nn.Conv2d(3, 3, 1)
    nn.init.dirac_(net.weight)
    nn.init.zeros_(net.bias)
    models = [ready(copy.deepcopy(net), kind=partial(kind, weight_decay=0.1, fused=fused)) for fused in (True, False)]
    ones = {"lq": torch.ones(1, 3, 4, 4), "gt": torch.ones(1, 3, 4, 4)}
    for given in (ones, batch(), batch(seed=1)):
        figures = [model.train_step([given], same_rate) for model in models]
        assert figures[0] == pytest.approx(figures[1], rel=1e-6)
        assert figures[0]["skipped"] == 0
        assert (figures[0]["psnr"] == math.inf) == (given is ones)
    for ours, theirs in zip(models[0].net.parameters(), models[1].net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    assert "found_inf" not in vars(models[0].optimizer)


def test_a_finite_gradient_of_an_infinite_loss_changes_nothing():
    """A net whose output overflows in float16: the L1 loss is infinite, its gradient is a sign."""
    net = Scaled(3e4)
    before = copy.deepcopy(net.state_dict())
    model = ready(net, precision="fp16")
    ones = torch.ones(1, 3, 4, 4)
    figures = model.train_step([{"lq": ones, "gt": 0 * ones}], same_rate)
    assert figures["loss"] == math.inf
    assert math.isfinite(figures["grad_norm"])
    assert figures["skipped"] == 1
    assert_same(net.state_dict(), before)
    assert not model.optimizer.state


def test_an_overflow_in_float16_lowers_the_scale():
    net = Scaled(0.5)
    expected = copy.deepcopy(net)
    model = ready(net, precision="fp16")
    model.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, backoff_factor=0.25)
    before = state_of(model)
    figures = model.train_step([batch()], same_rate)
    assert math.isfinite(figures["loss"])
    assert figures["skipped"] == 1
    assert model.scaler.get_scale() == 2.0**38
    for key, content in state_of(model).items():
        assert_same(content, before[key])
    for _ in range(30):
        figures = model.train_step([batch()], same_rate)
        if not figures["skipped"]:
            break
    assert not figures["skipped"]
    assert 1 < model.scaler.get_scale() < 2.0**38
    (expected(batch()["lq"]) - batch()["gt"]).abs().mean().backward()
    norm = torch.cat([p.grad.flatten() for p in expected.parameters()]).norm().item()
    assert figures["grad_norm"] == pytest.approx(norm, rel=0.02)  # of the gradient itself, not of the scaled one


def test_validation_has_a_precision_of_its_own():
    net = small_net()
    exact = net(batch()["lq"])
    rough = ready(copy.deepcopy(net), precision="bf16").predict(batch()["lq"])
    out = ready(copy.deepcopy(net), precision="bf16", validation_precision="fp32").predict(batch()["lq"])
    torch.testing.assert_close(out, exact, rtol=0, atol=1e-6)
    assert (rough - exact).abs().max() > 1e-4


def test_outputs_of_another_size_are_refused():
    model = ready(nn.Conv2d(3, 3, 3))
    with pytest.raises(UserError, match=r"Conv2d makes \(2, 3, 14, 14\) where the ground truth is \(2, 3, 16, 16\)"):
        model.train_step([batch()], same_rate)


def test_the_norm_is_taken_before_clipping_and_the_step_after():
    net = OneNumber()
    model = ready(net, kind=torch.optim.SGD, max_grad_norm=2.0)
    ones = torch.ones(1, 3, 4, 4)
    figures = model.train_step([{"lq": 7 * ones, "gt": 0 * ones}], same_rate)
    assert figures["grad_norm"] == pytest.approx(7)
    assert net.w.item() == pytest.approx(1 - LR * 2, abs=1e-6)


# What skipped steps leave behind, through the loop.


@pytest.fixture
def data(root: Path) -> Path:
    return make_pairs(root / "datasets/Set", names=tuple("abcde"))


def failing_at(monkeypatch: pytest.MonkeyPatch, iterations: Sequence[int]) -> None:
    """The loss is NaN in these iterations, counted from 1."""
    count, value = [0], PSNRLoss.value

    def sometimes(self, restored, gt):
        count[0] += 1
        return value(self, restored, gt) * (math.nan if count[0] in iterations else 1)

    monkeypatch.setattr(PSNRLoss, "value", sometimes)


def test_skipped_steps_are_counted_with_their_images(data, root, train_options, monkeypatch, run):
    failing_at(monkeypatch, [2, 5])
    names: list[list[str]] = []
    step = ImageRestorationModel.train_step

    def recording(self, micro_batches: list[dict], rate: Callable) -> dict[str, float]:
        names.append([name for one in micro_batches for name in one["name"]])
        return step(self, micro_batches, rate)

    monkeypatch.setattr(ImageRestorationModel, "train_step", recording)
    train_options["logger"]["save_checkpoint_freq"] = 1
    train_options["logger"]["keep_checkpoints"] = "all"
    outcome = run("train", "-opt", write_yaml(root / "opt.yml", train_options))
    assert outcome.code == 0
    with open(root / "experiments/run/skipped_steps.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["iter"], row["images"].split()) for row in rows] == [("2", names[1]), ("5", names[4])]
    assert all(math.isnan(float(row["loss"])) for row in rows)
    weights = [read_weights(root / f"experiments/run/models/net_g_{i}.pth") for i in range(1, 7)]
    assert_same(weights[1], weights[0])
    assert_same(weights[4], weights[3])
    assert any(not torch.equal(weights[2][key], weights[1][key]) for key in weights[0])
    state = torch.load(root / "experiments/run/training_states/6.state", weights_only=True)
    assert (state["skipped"], state["skipped_in_a_row"]) == (2, 0)
    lines = [line for line in outcome.out.splitlines() if line.startswith("iter ")]
    assert ["steps skipped" in line for line in lines] == [True, False, True]
    assert ", 1 steps skipped" in lines[0]


def test_skipped_steps_that_come_again_are_written_once(data, root, train_options, monkeypatch, run):
    failing_at(monkeypatch, [2, 5])
    train_options["logger"]["save_checkpoint_freq"] = 1
    opt = write_yaml(root / "opt.yml", train_options)
    assert run("train", "-opt", opt).code == 0
    failing_at(monkeypatch, [4])  # counted from the state
    again = "path:resume_state=experiments/run/training_states/4.state"
    assert run("train", "-opt", opt, "--force_yml", again).code == 0
    with open(root / "experiments/run/skipped_steps.csv", newline="") as file:
        assert [row["iter"] for row in csv.DictReader(file)] == ["2"]


def test_too_many_skipped_steps_end_the_run(data, root, train_options, monkeypatch, run):
    """Three in a row, after one alone that does not count."""
    failing_at(monkeypatch, [1, 3, 4, 5])
    train_options["train"]["max_skipped_steps"] = 3
    outcome = run("train", "-opt", write_yaml(root / "opt.yml", train_options))
    assert outcome.code == 2
    errors = [line for line in outcome.err.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert "iteration 5: 3 steps in a row" in errors[0]
    assert "experiments/run/skipped_steps.csv" in errors[0]
    assert "Lower train.optim_g.lr" in errors[0]
    assert len((root / "experiments/run/skipped_steps.csv").read_text().splitlines()) == 1 + 4
    assert not (root / "experiments/run/models/net_g_6.pth").exists()


# Precision.


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_losses_see_float32_outside_of_autocast(precision):
    seen = []

    class Spy(nn.Module):
        def forward(self, restored: Tensor, gt: Tensor) -> Tensor:
            value = (restored - gt).square().mean()
            seen.append((restored.dtype, gt.dtype, torch.is_autocast_enabled("cpu"), value.dtype))
            return PSNRLoss()(restored, gt)

    half = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    model = ready(small_net(), precision=precision, losses=[Spy()])
    inside = []
    model.net.ending.register_forward_hook(lambda _m, _i, out: inside.append(out.dtype))
    figures = model.train_step([batch()], same_rate)
    assert inside == [half]  # the network does compute in it
    assert [entry[1:] for entry in seen] == [(torch.float32, False, torch.float32)]
    exact = ready(small_net(), losses=[PSNRLoss()]).train_step([batch()], same_rate)
    assert figures["loss"] == pytest.approx(exact["loss"], abs=0.3)
    assert {p.dtype for p in model.net.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in model.net.parameters()} == {torch.float32}
    assert model.predict(batch()["lq"]).dtype == torch.float32


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["NAFNet", "HINet"])
def test_local_statistics_are_float32_at_least_under_autocast(name, precision, monkeypatch):
    """Under prediction in half precision, what the sliding means sum up is float32 or more."""
    seen = []
    sliding_sum = functional._sliding_sum

    def recording(x: Tensor, *rest: object) -> Tensor:
        seen.append(x.dtype)
        return sliding_sum(x, *rest)

    net = convert(small_net(name), train_size=(1, 3, 16, 16), base_size=24)
    image = batch(1, 48)["lq"]
    exact = ImageRestorationModel(net, device=torch.device("cpu")).predict(image)
    monkeypatch.setattr(functional, "_sliding_sum", recording)
    half = ImageRestorationModel(net, device=torch.device("cpu"), precision=precision).predict(image)
    assert seen
    assert set(seen) <= {torch.float32, torch.float64}
    assert (half - exact).abs().max() < 0.1
    assert (half - exact).abs().max() > 0
