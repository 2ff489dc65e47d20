"""When a prediction becomes a CUDA graph, on any machine: with graphs that only remember. What real ones give: test_cuda.py."""

import copy
import logging
import threading
from types import SimpleNamespace

import pytest
import torch
from conftest import make_pairs, write_yaml
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from basicsr.errors import UserError
from basicsr.kernels import Cells
from basicsr.kernels.cells import note_tables
from basicsr.models import ImageRestorationModel, prepare_for_inference
from basicsr.models.cuda_graphs import KEPT, LARGEST, Graphs
from basicsr.models.recording import FASTER, NoWaiting


class Net(nn.Conv2d):
    """Counts the images that it runs on itself."""

    def __init__(self) -> None:
        super().__init__(3, 3, 1)
        self.ran = 0

    def forward(self, x: Tensor) -> Tensor:
        self.ran += 1
        return super().forward(x)


class Recorder:
    """Graphs that run the net as it was when they were made."""

    def __init__(self, net: Net) -> None:
        self.net, self.sizes, self.parts, self.error, self.where = net, [], [], None, 0

    def record(self, image: Tensor, *, within: float):
        if self.error:
            raise self.error
        self.sizes.append(tuple(image.shape[-2:]))
        self.parts.append(within)
        now = copy.deepcopy(self.net)
        return lambda given: now(given) if given.shape == image.shape else None

    def current(self) -> int:
        return self.where


@pytest.fixture
def made() -> SimpleNamespace:
    torch.manual_seed(0)
    net = Net()
    recorder = Recorder(net)
    return SimpleNamespace(net=net, recorder=recorder, graphs=Graphs(net, net, recorder))


def run(made: SimpleNamespace, *sizes: tuple[int, int]) -> list[bool]:
    """Which images of these sizes the net itself ran on; each result is that of the net."""
    itself = []
    for height, width in sizes:
        image, before = torch.rand(1, 3, height, width), made.net.ran
        out = made.graphs(image)
        itself.append(made.net.ran > before)
        assert torch.equal(out, nn.Conv2d.forward(made.net, image))
    return itself


A, B, C, D, E = (4, 5), (5, 4), (6, 6), (7, 3), (8, 8)


def test_from_the_second_of_a_size_in_a_row(made):
    assert run(made, A, A, A, B, A, B, B) == [True, False, False, True, False, True, False]
    assert made.recorder.sizes == [A, B]
    assert made.recorder.parts == [FASTER, FASTER]


def test_always_is_from_the_first(made):
    made.graphs.always = True
    assert run(made, A, B, A) == [False, False, False]
    assert made.recorder.parts == [float("inf")] * 2


def test_large_images_run_without_unless_always(made):
    large = (1, LARGEST + 1)
    assert run(made, large, large, (1, LARGEST), (1, LARGEST)) == [True, True, True, False]
    made.graphs.always = True
    assert run(made, large) == [False]


def test_the_pixels_of_all_images_of_a_batch_count(made):
    for _ in range(2):
        made.graphs(torch.rand(2, 3, 1, LARGEST // 2 + 1))
    assert made.recorder.sizes == []
    for _ in range(2):
        made.graphs(torch.rand(2, 3, 1, LARGEST // 2))
    assert made.recorder.sizes == [(1, LARGEST // 2)]
    assert made.graphs(torch.rand(0, 3, 4, 4)).shape == (0, 3, 4, 4)


def test_the_sizes_used_last_are_kept(made):
    assert KEPT == 4
    run(made, A, A, B, B, C, C, D, D, A, E, E)  # B is the one that was not used for longest
    assert run(made, A, C, D, E, B) == [False, False, False, False, True]
    assert run(made, B) == [False]
    assert made.recorder.sizes == [A, B, C, D, E, B]


def test_a_type_of_image_is_a_kind_of_its_own(made):
    run(made, A, A)
    assert made.graphs(torch.rand(1, 3, *A, dtype=torch.float64).float()).dtype == torch.float32
    made.net.double()
    made.graphs(torch.rand(1, 3, *A, dtype=torch.float64))
    assert made.recorder.sizes == [A]


def test_a_graph_that_is_no_faster_is_not_tried_again(made, caplog):
    record = made.recorder.record
    made.recorder.record = lambda image, within: record(image, within=within) and None
    assert run(made, A, A, A) == [True, True, True]
    assert made.recorder.sizes == [A]
    assert not caplog.records


@pytest.mark.parametrize(("always", "level"), [(False, logging.INFO), (True, logging.WARNING)])
def test_what_cannot_be_recorded_runs_without_and_one_line_says_so(always, level, made, caplog):
    caplog.set_level(logging.INFO, "basicsr")
    made.graphs.always = always
    made.recorder.error = RuntimeError("CUDA out of memory.\nTried to allocate")
    assert run(made, A, A, A, B, B) == [True] * 5
    assert [record.getMessage() for record in caplog.records] == [
        "Images of 5x4 pixels run without a CUDA graph: CUDA out of memory."
    ]
    assert caplog.records[0].levelno == level


def test_new_memory_of_weights_drops_the_graphs(made):
    run(made, A, A, B, B)
    made.net.weight.data = made.net.weight.data * 2
    assert run(made, A, B, B) == [True, True, False]
    assert made.recorder.sizes == [A, B, B]


def test_out_of_memory_drops_the_graphs_and_tries_again(made, monkeypatch):
    run(made, A, A)
    plain, left = made.graphs.run, [torch.cuda.OutOfMemoryError("CUDA out of memory")]

    def full(image: Tensor) -> Tensor:
        if left:
            raise left.pop()
        return plain(image)

    made.graphs.run = full
    assert run(made, B, A) == [True, True]  # the graph of A is gone
    left.append(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        made.graphs(torch.rand(1, 3, *B))


def test_whoever_watches_sees_the_operations(made):
    run(made, A, A)
    with FlopCounterMode(display=False) as counter:
        made.graphs(torch.rand(1, 3, *A))
    assert counter.get_total_flops() > 0
    seen = []
    hook = made.net.register_forward_hook(lambda *_: seen.append(True))
    assert run(made, A) == [True]
    assert seen
    hook.remove()
    assert run(made, A) == [False]
    made.net.requires_grad_(False)
    traced = torch.jit.trace(lambda image: made.graphs(image), torch.rand(1, 3, *A))
    assert "conv" in str(traced.graph)


def test_inside_of_autocast_images_run_without(made, monkeypatch):
    """The copies of weights that the caller's autocast holds go when it ends."""
    with monkeypatch.context() as patch:
        patch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")  # which it never is without a GPU
        assert run(made, A, A) == [True, True]
    assert run(made, A, A) == [True, False]


def test_another_stream_and_another_thread_run_without(made):
    run(made, A, A)
    made.recorder.where = 1
    assert run(made, A, A) == [True, True]
    made.recorder.where = 0
    with made.graphs.lock:
        thread = threading.Thread(target=lambda: outcome.append(run(made, A)))
        outcome: list = []
        thread.start()
        thread.join()
    assert outcome == [[True]]
    assert run(made, A) == [False]


def test_tables_of_kernels_are_noted():
    """Also those that are in the cache already."""
    cells = Cells(((0, 3), (3, 7)), ((0, 5),), ((0, 1), (0, 2)), ((0, 1),))
    like, noted = torch.zeros(1), []
    before = [cells.places(like.device), cells.covers(like.device), *cells.memberships(like), cells.shares(like)]
    with note_tables(noted):
        again = [cells.places(like.device), cells.covers(like.device), *cells.memberships(like), cells.shares(like)]
    cells.places(like.device)
    assert all(a is b is c for a, b, c in zip(before, again, noted, strict=True))


# ---- what breaks a recording


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x[x > 0.5],
        lambda x: x.max().item(),
        lambda x: x if x.max() > 0 else -x,
        lambda x: x.nonzero(),
        lambda x: x.to("meta"),
        lambda x: torch.empty(1, 3, 4, 5, device="meta").copy_(x),
        lambda x: x.clone().index_put_((x > 0.5,), torch.zeros(())),
    ],
)
def test_waiting_is_found(operation):
    x = torch.rand(1, 3, 4, 5)
    for mode in (torch.inference_mode, torch.no_grad):
        with mode(), NoWaiting() as watch:
            operation(x)
        assert watch.reason.startswith("the network waits for the GPU (aten.")


def test_what_does_not_wait_may_run():
    x = torch.rand(1, 3, 4, 5)
    with torch.inference_mode(), NoWaiting() as watch:
        x[..., torch.tensor([0, 2])].half()
        torch.where(x > 0.5, x, 0.0).mean().clamp(min=0)
    assert watch.reason is None


# ---- where it is asked for


def test_asked_for_without_a_gpu():
    with pytest.raises(UserError, match="cuda_graphs: true needs a CUDA GPU, and this runs on cpu; take auto"):
        prepare_for_inference(nn.Conv2d(3, 3, 1), device="cpu", cuda_graphs=True)
    prepare_for_inference(nn.Conv2d(3, 3, 1), device="cpu", precision="fp32")(torch.rand(1, 3, 4, 4))


def test_asked_for_in_a_file(root, run, test_options):
    make_pairs(root / "datasets/Set")
    file = write_yaml(root / "x.yml", {**test_options, "val": {**test_options["val"], "cuda_graphs": True}})
    outcome = run("test", "-opt", file)
    assert outcome.code == 2
    assert "val.cuda_graphs: true needs a CUDA GPU" in outcome.err
    assert not (root / "results").exists()  # an earlier run's results are where they were
    outcome = run("test", "-opt", file, "--force_yml", "val:cuda_graphs=maybe")
    assert outcome.code == 2
    assert "val.cuda_graphs: input should be 'auto', true or false (it is 'maybe')" in outcome.err


def test_training_lets_go_of_graphs():
    """They hold memory that steps need, and in half precision the weights of before."""
    model = ImageRestorationModel(nn.Conv2d(3, 3, 1), device=torch.device("cpu"))
    model.predict(torch.rand(1, 3, 4, 4))
    before = model.run
    assert model.run is before
    model.train()
    model.predict(torch.rand(1, 3, 4, 4))
    assert model.run is not before
