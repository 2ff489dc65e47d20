"""Optimisers and schedules by any name: torch's, other packages', one's own; switched where they tell training from use."""

import copy
import csv

import pytest
import torch
from conftest import make_pairs, write_yaml
from pydantic import ValidationError
from test_train_step import LR, batch, ready, same_rate, small_net

from basicsr.engine.build import build_optimizer
from basicsr.errors import UserError
from basicsr.models.optimizer import OPTIMIZERS, settings_of
from basicsr.models.restoration_model import ImageRestorationModel
from basicsr.models.schedule import make_schedule
from basicsr.training_sections import OptimizerOptions

AVERAGED = '''
import torch


class Averaged(torch.optim.Optimizer):
    """Gradient descent whose weights outside of training are the mean of all that it went through."""

    def __init__(self, params, lr: float = 0.1, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "count": 0, "training": False})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            assert group["training"]
            group["count"] += 1
            for p in group["params"]:
                p -= group["lr"] * p.grad
                mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                mean += (p - mean) / group["count"]

    @torch.no_grad()
    def train(self) -> None:
        for group in self.param_groups:
            for p in group["params"] if not group["training"] else ():
                if "last" in self.state[p]:
                    p.copy_(self.state[p]["last"])
            group["training"] = True

    @torch.no_grad()
    def eval(self) -> None:
        for group in self.param_groups:
            for p in group["params"] if group["training"] else ():
                if "mean" in self.state[p]:
                    self.state[p]["last"] = p.clone()
                    p.copy_(self.state[p]["mean"])
            group["training"] = False


def halving(iteration: int, base_lr: float, *, half_life: int = 10) -> float:
    return base_lr * 0.5 ** (iteration / half_life)


def negative(iteration, base_lr):
    return -base_lr


def text(iteration, base_lr):
    return "1e-3"


def broken(iteration, base_lr):
    raise KeyError("rates")


class Rates:
    def __init__(self, iteration, base_lr):
        pass
'''


@pytest.fixture
def place(root, forget_own_code, monkeypatch):
    (root / "own_optimizer.py").write_text(AVERAGED)
    make_pairs(root / "datasets/Set")
    return root


def options(**more: object) -> OptimizerOptions:
    return OptimizerOptions(**{"lr": LR, **more})


@pytest.mark.parametrize("name", OPTIMIZERS.names())
@pytest.mark.parametrize("dotted", ["", "torch.optim:"])
def test_torchs_optimizers_are_torchs(name, dotted):
    """Two steps by the plain and the dotted name, and by torch alone."""
    net = small_net()
    twin = copy.deepcopy(net)
    optimizer = build_optimizer(net, options(type=dotted + name))
    reference = getattr(torch.optim, name)(twin.parameters(), lr=LR, weight_decay=0, foreach=False)
    assert type(optimizer) is type(reference)
    for _ in range(2):
        for trained, steps in ((net, optimizer), (twin, reference)):
            steps.zero_grad()
            trained(batch()["lq"]).square().mean().backward()
            steps.step()
    for one, other in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    assert any(not torch.equal(one, start) for one, start in zip(net.parameters(), small_net().parameters(), strict=True))


def test_arguments_reach_the_class():
    groups = ({"match": "bias", "lr_mult": 0.5},)
    optimizer = build_optimizer(small_net(), options(type="SGD", momentum=0.9, nesterov=True, weight_decay=0.1, groups=groups))
    for group, lr in zip(optimizer.param_groups, (LR / 2, LR), strict=True):
        assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, True, 0.1)
        assert group["lr"] == group["base_lr"] == lr
    assert build_optimizer(small_net(), options(type="Adam")).param_groups[0]["betas"] == (0.9, 0.999)
    assert build_optimizer(small_net(), options(type="Adam", foreach=True)).param_groups[0]["fused"] is None


def test_a_class_without_weight_decay_does_without():
    assert "weight_decay" not in build_optimizer(small_net(), options(type="torch.optim:Rprop")).param_groups[0]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"type": "SDG"}, "train.optim_g.type: no optimizer is called `SDG`. Did you mean `SGD`?"),
        (
            {"type": "os:system"},
            "train.optim_g.type: `os:system` cannot be an optimizer, as it is no class derived from",
        ),
        ({"type": "torch.optim:SDG"}, "train.optim_g.type: torch.optim has no class or function `SDG`. Did you mean `SGD`?"),
        ({"type": "torch.optim:LBFGS"}, "train.optim_g: torch.optim:LBFGS evaluates the loss several times a step"),
        ({"type": "SGD", "momentm": 0.9}, "train.optim_g.momentm: SGD has no option `momentm`. Did you mean `momentum`?"),
        ({"type": "SGD", "betas": (0.9, 0.9)}, "train.optim_g.betas: SGD has no option `betas`"),
        ({"type": "SGD", "nesterov": True}, "train.optim_g: SGD: Nesterov momentum requires a momentum"),
        ({"type": "SGD", "momentum": "much"}, "train.optim_g.momentum: 'much' does not fit"),
        ({"type": "torch.optim:Rprop", "weight_decay": 0.1}, "train.optim_g.weight_decay: Rprop has no option `weight_decay`"),
        ({"type": "Adam", "params": [1]}, "train.optim_g.params: Adam has no option `params`"),
    ],
)
def test_mistakes_are_one_sentence(more, message):
    with pytest.raises(UserError) as error:
        build_optimizer(small_net(), options(**more))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_betas_are_checked_with_the_options():
    with pytest.raises(ValidationError, match="less than 1"):
        options(type="Adam", betas=(0.9, 1.0))


# Optimisers that tell training from use.


def means(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [optimizer.state[p]["mean"] for group in optimizer.param_groups for p in group["params"]]


def test_weights_are_switched_for_predictions_and_back_for_steps(place):
    net, plain = small_net(), small_net()
    model = ready(net, optimizer=build_optimizer(net, options(type="own_optimizer:Averaged")))
    reference = ready(plain, kind=torch.optim.SGD)
    for number in range(3):
        for each in (model, reference):
            each.train_step([batch(seed=number)], same_rate)
        model.predict(batch()["lq"])
        for p, mean in zip(net.parameters(), means(model.optimizer), strict=True):
            assert torch.equal(p, mean)
    assert not torch.equal(net.intro.weight, plain.intro.weight)
    model.train()
    for p, other in zip(net.parameters(), plain.parameters(), strict=True):  # predictions left no trace
        torch.testing.assert_close(p, other, rtol=0, atol=1e-7)


def test_what_an_optimizer_counts_is_none_of_its_settings(place):
    optimizer = build_optimizer(small_net(), options(type="own_optimizer:Averaged"))
    assert settings_of(optimizer) == [{"lr": LR, "base_lr": LR, "weight_decay": 0.0}]
    decoupled = settings_of(build_optimizer(small_net(), options(type="AdamW")))[0]
    assert decoupled.keys() == build_optimizer(small_net(), options(type="AdamW")).param_groups[0].keys() - {"params"}


def test_a_moving_average_of_averages_is_refused(place):
    net = small_net()
    with pytest.raises(UserError, match=r"train\.ema_decay: Averaged averages the weights by itself"):
        ready(net, optimizer=build_optimizer(net, options(type="own_optimizer:Averaged")), ema_decay=0.9)


def schedule_free(train_options: dict, kind: str, total: int = 6) -> dict:
    train = {**train_options["train"], "total_iter": total, "optim_g": {"type": kind, "lr": 1e-3}}
    train["scheduler"] = {"type": "MultiStepLR", "milestones": []}
    pair = {"dataroot_gt": "datasets/Set/target", "dataroot_lq": "datasets/Set/input"}
    data = {**train_options["datasets"], "val": pair}
    return {**train_options, "train": train, "datasets": data, "val": {**train_options["val"], "val_freq": 2}}


@pytest.mark.parametrize("kind", ["own_optimizer:Averaged", "schedulefree:AdamWScheduleFree"])
def test_a_run_saves_what_it_validates_and_goes_on_from_it(kind, place, run, train_options):
    """Stopped after half of it at a checkpoint and resumed: the same weights and figures as in one go."""
    if kind.startswith("schedulefree"):
        pytest.importorskip("schedulefree")
    whole = schedule_free(train_options, kind)
    assert run("train", "-opt", write_yaml(place / "whole.yml", whole)).code == 0
    for total in (4, 6):
        half = {**schedule_free(train_options, kind, total), "name": "parts"}
        half["logger"] = whole["logger"] = {**whole["logger"], "save_checkpoint_freq": 2}
        assert run("train", "-opt", write_yaml(place / "parts.yml", half), "--auto_resume").code == 0
    saved = [torch.load(place / f"experiments/{name}/models/net_g_6.pth")["params"] for name in ("run", "parts")]
    for key, value in saved[0].items():
        torch.testing.assert_close(value, saved[1][key], rtol=0, atol=1e-7)
    tables = [list(csv.DictReader((place / f"experiments/{name}/metrics.csv").open())) for name in ("run", "parts")]
    validated = [[float(row["val_psnr"]) for row in table if row["val_psnr"]] for table in tables]
    assert len(validated[0]) == 3
    assert validated[0] == pytest.approx(validated[1], abs=1e-4)

    test = {**whole, "name": "tested", "path": {"pretrain_network_g": "experiments/run/models/net_g_6.pth"}}
    test["datasets"] = {"val": whole["datasets"]["val"]}
    outcome = run("test", "-opt", write_yaml(place / "test.yml", test))
    assert f"{validated[0][-1]:.2f}" in outcome.out  # the file holds the weights that were validated


def test_another_optimizer_does_not_take_over_a_state(place, run, train_options):
    assert run("train", "-opt", write_yaml(place / "opt.yml", train_options)).code == 0
    train_options["train"] = {**train_options["train"], "total_iter": 8, "optim_g": {"type": "SGD", "lr": 1e-3}}
    outcome = run("train", "-opt", write_yaml(place / "opt.yml", train_options), "--auto_resume")
    assert outcome.code == 2
    assert "its optimizer is Adam, train.optim_g.type is SGD; undo that change" in outcome.err
    train_options["train"]["optim_g"] = {"type": "AdamW", "lr": 1e-3}  # which keeps the same averages
    assert run("train", "-opt", write_yaml(place / "opt.yml", train_options), "--auto_resume").code == 0


def test_models_without_an_optimizer_predict():
    model = ImageRestorationModel(small_net(), device=torch.device("cpu"))
    assert model.predict(batch()["lq"]).shape == (2, 3, 16, 16)
    assert not model.net.training


# Schedules.


def test_a_schedule_of_ones_own(place):
    rate = make_schedule("own_optimizer:halving", {"half_life": 4})
    assert [rate(i, LR) for i in (0, 4, 8)] == pytest.approx([LR, LR / 2, LR / 4])
    assert make_schedule("own_optimizer:halving", {})(10, LR) == pytest.approx(LR / 2)


def test_a_run_follows_it(place, run, train_options):
    train_options["train"]["scheduler"] = {"type": "own_optimizer:halving", "half_life": 2}
    assert run("train", "-opt", write_yaml(place / "opt.yml", train_options)).code == 0
    rows = list(csv.DictReader((place / "experiments/run/metrics.csv").open()))
    assert [float(row["lr"]) for row in rows] == pytest.approx([1e-3 * 0.5 ** (i / 2) for i in (1, 3, 5)])


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("torch.optim.lr_scheduler:StepLR", {"step_size": 3}, "cannot be a scheduler: it has to be a function of `iteration`"),
        ("own_optimizer:Rates", {}, "cannot be a scheduler: it has to be a function"),
        ("own_optimizer:halving", {"halflife": 3}, r"train.scheduler.halflife: halving has no option .* mean `half_life`\?"),
        ("own_optimizer:halving", {"half_life": 0}, "train.scheduler: own_optimizer:halving: division by zero"),
        ("own_optimizer:halving", {"iteration": 3}, "halving has no option `iteration`"),
        ("own_optimizer:negative", {}, r"returns -1.0 for iteration 0 and base_lr 1, which is no learning rate"),
        ("own_optimizer:text", {}, "returns '1e-3' for iteration 0"),
        ("own_optimizer:broken", {}, "train.scheduler: own_optimizer:broken: 'rates'"),
        ("own_optimizer:halvin", {}, r"own_optimizer has no class or function `halvin`. Did you mean `halving`\?"),
    ],
)
def test_what_is_no_schedule(name, arguments, message, place):
    with pytest.raises(UserError, match=message):
        make_schedule(name, arguments)
