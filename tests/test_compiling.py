"""A compiled net: one block of a kind is compiled, for all sizes, and what TLC made local is left out."""

import copy
import itertools
import logging
import time

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from basicsr.models import ImageRestorationModel, compiling, prediction, prepare_for_inference
from basicsr.models.compiling import Faster, _units, compiled
from basicsr.models.precision import precision_for
from basicsr.tlc import convert

pytestmark = pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.pool, self.conv = nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x).relu() * self.pool(x)


class Net(nn.Module):
    """Three blocks of one width, of which one stands by itself, and one of another."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(3), Block(3))
        self.last = Block(3)
        self.wide = nn.ModuleList([nn.Conv2d(3, 4, 1), Block(4), nn.Conv2d(4, 3, 1)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.blocks(x))
        for part in self.wide:
            x = part(x)
        return x


@pytest.fixture
def frames(monkeypatch):
    """How many functions were compiled since; by a compiler that needs none of another language."""
    compile_module = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **words: compile_module(self, backend="eager", **words))
    torch._dynamo.reset()
    counters.clear()
    seconds = itertools.count()
    monkeypatch.setattr(
        compiling, "timed", lambda run, image, device: (run(image), next(seconds))
    )  # so the compiled one is kept
    return lambda: counters["frames"]["ok"]


def images() -> list[Tensor]:
    return [torch.rand(1, 3, *size) for size in ((9, 12), (16, 8), (20, 20))]


def test_one_block_of_a_kind_for_all_sizes(frames):
    torch.manual_seed(0)
    net = Net().eval()
    assert [block.conv.in_channels for block in _units(net)] == [3, 3, 3, 4]
    run = prepare_for_inference(net, device="cpu", precision="fp32", compiled=True)
    plain = prepare_for_inference(copy.deepcopy(net), device="cpu", precision="fp32")
    for image in images():
        torch.testing.assert_close(run(image), plain(image), rtol=1e-5, atol=1e-5)
        assert frames() == 2
    # A second net, as the next validation makes of the same one, finds what is compiled; and sees weights that change.
    again = prepare_for_inference(net, device="cpu", precision="fp32", compiled=True)
    for parameter in net.parameters():
        parameter.data.mul_(2)
    changed = prepare_for_inference(copy.deepcopy(net), device="cpu", precision="fp32")
    for image in images():
        torch.testing.assert_close(run(image), changed(image), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(again(image), changed(image), rtol=1e-5, atol=1e-5)
    assert frames() == 2


def test_the_net_itself_is_not_compiled(frames):
    """It may be trained, or saved: its modules and names stay."""
    net = Net().eval()
    names = list(net.state_dict())
    twin = compiled(net)
    net(images()[0])
    assert frames() == 0
    assert list(twin.state_dict()) == names
    assert all(ours is theirs for ours, theirs in zip(twin.parameters(), net.parameters(), strict=True))


def test_local_layers_are_left_out(frames):
    """Whose windows follow the map: each size would be compiled again."""
    torch.manual_seed(0)
    net = convert(Net().eval(), train_size=8, base_size=8)
    run = prepare_for_inference(net, device="cpu", precision="fp32", compiled=True)
    plain = prepare_for_inference(copy.deepcopy(net), device="cpu", precision="fp32")
    for image in images():
        torch.testing.assert_close(run(image), plain(image), rtol=1e-5, atol=1e-5)
        assert frames() == 3  # the blocks of both widths up to the layer, and what follows, which has no weights


def test_a_net_without_blocks_is_compiled_whole(frames):
    run = prepare_for_inference(Block(3), device="cpu", precision="fp32", compiled=True)
    for image in images():
        run(image)
    assert frames() == 1


class Way:
    """A prediction that takes so many seconds, and more the first time, as compilers do."""

    def __init__(self, seconds: float, first: float = 0.0) -> None:
        self.seconds, self.first, self.runs = seconds, first, 0

    def __call__(self, image: Tensor) -> Tensor:
        time.sleep(self.seconds if self.runs else self.first)
        self.runs += 1
        return image + self.seconds


@pytest.mark.parametrize("compiled_is_faster", [True, False])
def test_the_faster_way_is_kept(compiled_is_faster, caplog):
    """Whatever the first image of a compiled net takes."""
    caplog.set_level(logging.INFO)
    fast, slow = Way(0, first=0.1), Way(0.02)
    ways = (fast, slow) if compiled_is_faster else (slow, fast)
    run, image = Faster(*ways, torch.device("cpu")), torch.zeros(1, 3, 4, 5)
    assert (run(image) == fast.seconds).all()
    assert (fast.runs, slow.runs) == (2, 2)
    for _ in range(3):
        run(image)
    assert (fast.runs, slow.runs) == (5, 2)
    (line,) = caplog.messages
    assert line.startswith("compile: images of 5x4 pixels take ")
    assert line.endswith("runs compiled." if compiled_is_faster else "runs not compiled.")


def test_a_way_that_fails_is_not_kept():
    def fails(image: Tensor) -> Tensor:
        raise MemoryError

    run = Faster(fails, Way(0), torch.device("cpu"))
    for _ in range(2):
        with pytest.raises(MemoryError):
            run(torch.zeros(1, 3, 4, 5))


def test_a_net_that_compiling_slows_down_runs_as_it_is(monkeypatch):
    net, slow = Net().eval(), Net().eval()
    slow.register_forward_hook(lambda *given: time.sleep(0.1))
    monkeypatch.setattr(prediction, "compiled_net", lambda net: slow)
    run = prepare_for_inference(net, device="cpu", precision="fp32", compiled=True)
    image = images()[0]
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(run(image), net(image))
    assert run.kept is run.plain


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training(checkpointing, frames):
    """Compiled, blocks learn what they learn otherwise; averages and predictions are of the net itself."""
    torch.manual_seed(0)
    nets = [Net()]
    nets.append(copy.deepcopy(nets[0]))
    models, figures = [ImageRestorationModel(net, device=torch.device("cpu")) for net in nets], []
    for model, through in zip(models, (False, True), strict=True):
        groups = [{"params": list(model.net.parameters()), "lr": 0.01, "base_lr": 0.01}]
        model.prepare_training(
            losses=[nn.L1Loss()],
            optimizer=torch.optim.SGD(groups),
            ema_decay=0.5,
            activation_checkpointing=checkpointing,
            compiled=through,
        )
        batches = [{"lq": image, "gt": image.flip(-1)} for image in (*images_of(3, (12, 12)), *images_of(2, (16, 16)))]
        figures.append([model.train_step([batch], lambda base_lr: base_lr)["loss"] for batch in batches])
        assert (frames() > 0) == through
    assert figures[1] == pytest.approx(figures[0], rel=1e-5)
    assert list(nets[1].state_dict()) == list(nets[0].state_dict())
    for ours, theirs in zip(nets[1].state_dict().values(), nets[0].state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    image = images()[0]
    torch.testing.assert_close(models[1].predict(image), models[0].predict(image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_sizes_are_numbers_where_gradients_are_compiled(training, monkeypatch):
    """By signs for them, PyTorch 2.13 does not compile NAFNet's for CPUs."""
    compile_module, seen = nn.Module.compile, []
    torch._dynamo.reset()

    def look(graph: torch.fx.GraphModule, given: list) -> torch.fx.GraphModule:
        seen.append(any(isinstance(x, torch.SymInt) for x in given))
        return graph

    monkeypatch.setattr(nn.Module, "compile", lambda self, **words: compile_module(self, backend=look, **words))
    model = ImageRestorationModel(Net(), device=torch.device("cpu"), compiled=True)
    groups = [{"params": list(model.net.parameters()), "lr": 0.01, "base_lr": 0.01}]
    model.prepare_training(losses=[nn.L1Loss()], optimizer=torch.optim.SGD(groups), compiled=True)
    for image in images():
        if training:
            model.train_step([{"lq": image, "gt": image}], lambda base_lr: base_lr)
        else:
            model.predict(image)
    assert seen
    assert set(seen) == {not training}


def images_of(count: int, size: tuple[int, int]) -> list[Tensor]:
    return list(torch.rand(count, 1, 3, *size, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("compiled_is_kept", [True, False])
def test_graphs_are_watched_of_what_is_not_compiled(compiled_is_kept, monkeypatch):
    """On a GPU, which is pretended: whoever watches what is compiled sees it run as it was."""
    monkeypatch.setattr(prediction, "compiled_net", copy.deepcopy)
    monkeypatch.setattr(prediction, "Recorder", lambda run, device, layout, watch: watch)
    monkeypatch.setattr(prediction, "Graphs", lambda run, net, watch, always: (run, watch))
    words = {"precision": precision_for("fp32", torch.device("cpu")), "layout": torch.contiguous_format, "cuda_graphs": "auto"}
    device = torch.device("cuda")
    assert prediction.predictor(Net(), device=device, compiled=False, **words)[1]()
    faster, watch = prediction.predictor(Net(), device=device, compiled=True, **words)
    faster.kept = faster.compiled if compiled_is_kept else faster.plain
    assert watch() != compiled_is_kept
