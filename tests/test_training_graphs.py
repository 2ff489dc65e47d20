"""When a training step becomes a CUDA graph, on any machine: by a GPU that a test makes up. Of real ones: test_cuda.py."""

import contextlib
import logging
import random
import re
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import make_pairs, write_yaml
from test_train_step import batch, gradients, same_rate, small_net
from torch import Tensor, nn

from basicsr.errors import UserError
from basicsr.kernels import choice
from basicsr.losses import L1Loss
from basicsr.models import ImageRestorationModel, training_graphs
from basicsr.models.recording import FASTER
from basicsr.models.training_graphs import TrainingGraph, training_graph


class Gpu:
    """Graphs that run what they have recorded, and a clock on which a pass takes as long as a test says."""

    def __init__(self) -> None:
        self.plain, self.graph, self.error = 10.0, 1.0, None
        self.recorded: list[torch.Size] = []
        self.replays = 0

    def recording(self, run, maps, pool, stream):
        if self.error:
            raise self.error
        self.recorded.append(maps[0].shape)
        places = [parameter.grad.data_ptr() for parameter in self.parameters if parameter.grad is not None]

        def replay(*given: Tensor) -> Tensor:
            assert [p.grad.data_ptr() for p in self.parameters if p.grad is not None] == places
            self.replays += 1
            return run(*given)

        return replay

    def event(self, enable_timing: bool) -> SimpleNamespace:
        def elapsed(end: SimpleNamespace) -> float:
            return self.graph if end.replays > start.replays else self.plain

        start = SimpleNamespace(synchronize=lambda: None, elapsed_time=elapsed)
        start.record = lambda: setattr(start, "replays", self.replays)
        return start


@pytest.fixture
def gpu(monkeypatch) -> Gpu:
    made, stream = Gpu(), SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "Event", made.event)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", tuple)
    monkeypatch.setattr(training_graphs, "Recording", made.recording)
    return made


def ready(net: nn.Module, gpu: Gpu | None, *, always: bool = False, **options: object) -> ImageRestorationModel:
    model = ImageRestorationModel(net, device=torch.device("cpu"))
    groups = [{"params": list(net.parameters()), "lr": 1e-3, "base_lr": 1e-3, "weight_decay": 0.1}]
    model.prepare_training(losses=[L1Loss()], optimizer=torch.optim.AdamW(groups), max_grad_norm=0.1, **options)
    if gpu is not None:
        gpu.parameters = list(net.parameters())
        model.graph = TrainingGraph(model._gradients, net.parameters(), model.device, always=always)
    return model


def step(model: ImageRestorationModel, *sides: int, seed: int = 0) -> dict[str, float]:
    return model.train_step([batch(side=side, seed=seed) for side in sides], same_rate)


class Unused(nn.Module):
    """With a parameter that no output shows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


@pytest.mark.parametrize("make", [small_net, Unused])
@pytest.mark.parametrize("sides", [(16,), (16, 16, 16)])
def test_weights_are_those_of_a_training_without(make, sides, gpu):
    torch.manual_seed(0)
    nets = [make(), make()]
    nets[1].load_state_dict(nets[0].state_dict())
    models = [ready(nets[0], gpu), ready(nets[1], None)]
    for seed in range(8):
        figures = [step(model, *sides, seed=seed) for model in models]
        assert figures[0] == pytest.approx(figures[1], rel=1e-6)
    assert gpu.replays > 4
    for (name, ours), theirs in zip(nets[0].state_dict().items(), nets[1].state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def test_from_the_fourth_batch_of_a_shape(gpu):
    model = ready(small_net(), gpu)
    for count, replays in enumerate([0, 0, 0, 1, 2, 3], start=1):
        step(model, 16)
        assert gpu.replays == replays, count
    assert len(gpu.recorded) == 1
    for replays in (3, 3, 3, 4, 5):
        step(model, 24)
        assert gpu.replays == replays
    assert [shape[-1] for shape in gpu.recorded] == [16, 24]


@pytest.mark.parametrize(("graph", "kept"), [(FASTER * 10 - 0.1, True), (FASTER * 10 + 0.1, False)])
def test_a_graph_that_is_no_faster_is_given_up(graph, kept, gpu, caplog):
    gpu.graph = graph
    model = ready(small_net(), gpu)
    for _ in range(9):
        step(model, 16)
    assert gpu.replays == (6 if kept else 2)
    assert (model.graph.recording is not None) == kept
    assert len(gpu.recorded) == 1
    assert not caplog.records


def test_always_is_from_the_third_whatever_the_time(gpu):
    gpu.graph = 100.0
    model = ready(small_net(), gpu, always=True)
    for replays in (0, 0, 1, 2, 3, 4):
        step(model, 16)
        assert gpu.replays == replays


def test_predictions_get_its_memory_and_it_is_recorded_again(gpu):
    model = ready(small_net(), gpu)
    for _ in range(6):
        step(model, 16)
    model.eval()  # as before saving
    assert model.graph.recording is not None
    model.predict(batch()["lq"])
    assert model.graph.recording is None
    before = gpu.replays
    expected = ready(small_net(), None)
    expected.net.load_state_dict(model.net.state_dict())
    for each in (model, expected):
        step(each, 16, seed=9)
    assert gpu.replays == before + 1
    assert len(gpu.recorded) == 2
    for name, gradient in gradients(expected.net).items():
        assert torch.equal(gradients(model.net)[name], gradient)


class Reading(Unused):
    """It reads a value back, which a graph cannot."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 if x.mean().item() > -1 else 2)


@pytest.mark.parametrize("always", [False, True])
def test_what_cannot_be_recorded_trains_without_and_one_line_says_so(always, gpu, caplog):
    caplog.set_level(logging.INFO, "basicsr")
    gpu.error = RuntimeError("operation not permitted when stream is capturing.\nMore")
    for net, reason in ((small_net(), "operation not permitted when stream is capturing"), (Reading(), "the network waits")):
        caplog.clear()
        model = ready(net, gpu, always=always)
        for _ in range(5):
            step(model, 16)
        assert model.graph.recording is None
        (record,) = caplog.records
        assert record.getMessage().startswith(f"Training runs without a CUDA graph: {reason}")
        assert record.levelno == (logging.WARNING if always else logging.INFO)
    assert gpu.recorded == []


class Drawing(Unused):
    """It leaves a part out now and then, by a random number of the CPU's, of which a graph would keep one for all batches."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.draw = draw

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.draw() < 0.5 else x + self.conv(x) / 2


@pytest.mark.parametrize("watch", [True, False])
@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: torch.rand(1).tolist()[0]])
def test_a_net_that_draws_random_numbers_on_the_cpu_trains_without(draw, watch, gpu, caplog):
    caplog.set_level(logging.INFO, "basicsr")
    model = ready(Drawing(draw), gpu)
    model.graph.watch = watch
    for _ in range(5):
        step(model, 16)
    assert gpu.recorded == []
    assert "without a CUDA graph: the network draws random numbers on the CPU, new ones for each batch." in caplog.text


def test_what_is_compiled_is_not_watched(gpu):
    """A function that torch.compile sees in a mode is not compiled any more."""
    model = ready(Reading(), gpu)
    model.graph.watch = False
    for _ in range(5):
        step(model, 16)
    assert gpu.replays == 2


@pytest.mark.parametrize(
    ("device", "processes", "checkpointing", "reason"),
    [
        ("cpu", 1, False, "needs a CUDA GPU, and this runs on cpu; take auto, or leave it out."),
        ("cuda", 4, False, "is for one process, and 4 train here together; take auto"),
        (
            "cuda",
            1,
            True,
            "keeps all that the backward pass needs, and train.activation_checkpointing: true does not; take auto",
        ),
    ],
)
def test_where_there_are_none(device, processes, checkpointing, reason):
    def asked(word: str | bool) -> TrainingGraph | None:
        words = {"processes": processes, "checkpointing": checkpointing, "compiled": False}
        return training_graph(word, None, [], torch.device(device), **words)

    with pytest.raises(UserError, match=re.escape(f"train.cuda_graphs: true {reason}")):
        asked(True)
    assert asked("auto") is None
    assert asked(False) is None


def test_kernels_may_be_many_where_a_graph_is_or_is_to_be(gpu):
    gpu.graph = 100.0
    model, seen = ready(small_net(), gpu), []
    model.net.register_forward_hook(lambda *given: seen.append(choice._together))
    for _ in range(8):
        step(model, 16)
    assert seen == [True] * 5 + [False] * 3
    assert not choice._together


def test_where_there_is_one(gpu):
    net = small_net()
    words = {"processes": 1, "checkpointing": False, "compiled": True}
    made = {word: training_graph(word, None, net.parameters(), torch.device("cuda"), **words) for word in (True, False, "auto")}
    assert made[False] is None
    assert [made[word].always for word in (True, "auto")] == [True, False]
    assert not made[True].watch  # what is compiled


def test_asked_for_in_a_file(root, run, train_options):
    make_pairs(root / "datasets/Set")
    train_options["train"]["cuda_graphs"] = True
    outcome = run("train", "-opt", write_yaml(root / "x.yml", train_options))
    assert outcome.code == 2
    assert "train.cuda_graphs: true needs a CUDA GPU, and this runs on cpu" in outcome.err
    assert not (root / "experiments").exists()
