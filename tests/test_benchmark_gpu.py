"""tlc benchmark on a GPU: what is counted, and what is said of it, with a card that a test makes up."""

import json
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import SMALL_NETS
from torch import Tensor, nn
from torch.autograd import DeviceType

from basicsr.archs import with_tlc, with_words
from basicsr.commands import benchmark
from basicsr.engine.benchmark import measure, meters, show
from basicsr.engine.benchmark.floor import count, work_of
from basicsr.engine.benchmark.results import Case, Kernels, Result, Timing, as_dict, from_dict


class FakeCard(meters.Meter):
    """A GPU of 1000 GFLOP/s and 100 GB/s, on which the first run takes a second and others a millisecond more each time."""

    rows = 8

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.runs = self.released = 0

    def seconds(self, work):
        work()
        self.runs += 1
        return 1.0 if self.runs < 3 else 0.01 + self.runs / 1000

    def memory(self):
        return 1.0

    def peak(self):
        return 1.5

    def kernels(self, work):
        work()
        return Kernels(7, 0.004)

    def product_rate(self, precision):
        return 1000.0

    def copy_rate(self):
        return 100.0

    def release(self):
        self.released += 1


def case(name: str, precision: str = "fp32", **changes: object) -> Case:
    plain = {"type": name, **SMALL_NETS[name]}
    local = with_words(plain, train_size=16)
    return replace(Case(plain, local, (40, 32), precision, "cuda", False, None, 1, 0.0), **changes)


def result(name: str, precision: str, plain: float | None, local: float | None, size: tuple[int, int] = (1280, 720)) -> Result:
    timings = [
        None if seconds is None else Timing(seconds, (seconds,), 0.5, Kernels(800 + number, 0.9 * seconds))
        for number, seconds in enumerate((plain, local))
    ]
    return Result(case(name, precision, size=size), 2000.0, 500000.0, *timings, 6.0, 3000.0)


# ---- the floor


class Pair(nn.Module):
    """Two convolutions that are one block."""

    def __init__(self) -> None:
        super().__init__()
        self.widen = nn.Conv2d(4, 8, 3, padding=1, bias=False)
        self.narrow = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(self.widen(x).relu())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.InstanceNorm2d(4, affine=True)
        self.body = nn.Sequential(Pair(), Pair())

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.norm(self.first(x)))


def test_the_floor_is_what_one_counts_by_hand():
    with torch.device("meta"):
        work = count(Net(), torch.empty(1, 3, 10, 20))
    first, pair = 3 * 4 * 9, 4 * 8 * 9 + 8 * 4
    assert work.gmacs == pytest.approx(200 * (first + 2 * pair) / 1e9)
    weights = (first + 4) + (4 + 4) + 2 * (pair + 4)
    maps = 200 * ((3 + 4) + 2 * (4 + 4))  # the first convolution, then two blocks; what is in them does not count
    assert work.values == weights + maps


def test_the_floor_of_a_published_net():
    """Restormer at 256x256: its 44 blocks by width and level, eight convolutions between them, and the weights."""
    work = work_of({"type": "Restormer"}, (256, 256))
    assert work.gmacs == pytest.approx(148, rel=0.01)
    pixels = 256 * 256
    blocks = 2 * pixels * (4 * 48 + 6 * 96 / 4 + 6 * 192 / 16 + 8 * 384 / 64 + 6 * 192 / 16 + 6 * 96 / 4 + (4 + 4) * 96)
    ends = pixels * ((3 + 48) + (96 + 3))
    down = pixels * ((48 + 24) + (96 + 48) / 4 + (192 + 96) / 16)
    up = pixels * ((384 + 768) / 64 + (192 + 384) / 16 + (96 + 192) / 4)
    reduce = pixels * ((384 + 192) / 16 + (192 + 96) / 4)
    assert work.values == 26126644 + blocks + ends + down + up + reduce


@pytest.mark.parametrize("name", SMALL_NETS)
def test_the_floor_grows_with_the_image(name):
    small, large = (work_of({"type": name, **SMALL_NETS[name]}, (side, side)) for side in (64, 128))
    weights = small.values - (large.values - small.values) / 3
    assert large.gmacs == pytest.approx(4 * small.gmacs, rel=0.01)
    with torch.device("meta"):
        net = measure.build_network({"type": name, **SMALL_NETS[name]})
    assert weights == pytest.approx(sum(p.numel() for p in net.parameters()), rel=0.02)


# ---- measuring


def test_a_network_on_a_card_that_is_made_up():
    card = FakeCard()
    cases = [case("NAFNet"), case("NAFNet", "bf16"), case("HINet")]
    found = list(measure.in_this_process(cases, card))
    assert [(r.case.label, r.case.precision) for r in found] == [("NAFNet", "fp32"), ("NAFNet", "bf16"), ("HINet", "fp32")]
    assert card.released == 6  # before and after each
    first = found[0]
    assert first.plain.runs == pytest.approx((1.0, 0.013))
    assert first.plain.seconds == pytest.approx(0.013)  # the first run warms up
    assert first.local.runs == pytest.approx((1.0, 0.014))
    assert first.plain.memory == 0.5
    assert first.plain.kernels == Kernels(7, 0.004)
    work = work_of(first.case.plain, (32, 40))
    assert first.traffic == pytest.approx(4 * work.values / 1e9)
    assert found[1].traffic == pytest.approx(2 * work.values / 1e9)  # half precision
    assert first.floor == max(2 * work.gmacs / 1000, first.traffic / 100)
    assert first.share == pytest.approx(2 * work.gmacs / 1000 / 0.013)
    assert first.copy_share == pytest.approx(first.traffic / 100 / 0.013)


def test_runs_end_when_the_time_is_up_or_there_are_enough():
    few, many = (next(measure.in_this_process([case("NAFNet", budget=budget)], FakeCard())) for budget in (0.0, 60.0))
    assert len(few.plain.runs) == 2
    assert len(many.plain.runs) == len(many.local.runs) == measure.MOST_RUNS


class FullCard(FakeCard):
    """On which the second network does not fit, and which counts no kernels."""

    def seconds(self, work):
        if self.runs == 1:
            self.runs += 1
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 64.00 GiB.")
        return super().seconds(work)

    def kernels(self, work):
        return None


def test_what_does_not_fit_is_said_and_left_out():
    (found,) = measure.in_this_process([case("NAFNet")], FullCard())
    assert found.local is None
    assert found.ratio is None
    assert found.plain.kernels is None
    row = show.table([found])[1]
    assert "out of memory" in row
    assert from_dict(json.loads(json.dumps(as_dict(found)))) == found


class BrokenCard(FakeCard):
    def seconds(self, work):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


@pytest.mark.parametrize(("first_tells", "memory"), [(True, 0.5), (False, 0.1)])
def test_which_prediction_shows_its_memory(first_tells, memory):
    """On a GPU the first: later ones may be CUDA graphs, whose memory is taken for free."""
    card = FakeCard()
    card.first_tells = first_tells
    card.peak = lambda: 1.5 if card.runs <= 2 else 1.1
    (result,) = measure.in_this_process([case("NAFNet")], card)
    for timing in (result.plain, result.local):
        assert timing.memory == pytest.approx(memory)
    assert meters.Card.first_tells
    assert not meters.Meter.first_tells


def test_a_fault_of_a_kernel_is_no_lack_of_memory():
    with pytest.raises(RuntimeError, match="illegal memory access"):
        list(measure.in_this_process([case("NAFNet")], BrokenCard()))


class Event:
    """As `torch.cuda.Event`, which tells milliseconds."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None: ...

    def synchronize(self) -> None: ...

    def elapsed_time(self, end: "Event") -> float:
        return 12.5


def test_a_cards_clock_and_rates(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(meters, "COPIED", 1 << 20)
    monkeypatch.setattr(meters.Card, "rows", 16)
    card = meters.Card(torch.device("cpu"))
    ran = []
    assert card.seconds(lambda: ran.append(1)) == 0.0125
    assert ran == [1]
    assert card.copy_rate() == pytest.approx(2 * 2**20 / 0.0125 / 1e9)  # read and written
    assert card.product_rate("fp32") == pytest.approx(2 * 16**3 / 0.0125 / 1e9)


def test_kernels_are_what_ran_on_the_gpu():
    def event(device: DeviceType, us: float) -> SimpleNamespace:
        return SimpleNamespace(device_type=device, time_range=SimpleNamespace(elapsed_us=lambda: us))

    events = [event(DeviceType.CPU, 900), event(DeviceType.CUDA, 40), event(DeviceType.CUDA, 2.5)]
    found = meters.summed(events)
    assert found.count == 2
    assert found.seconds == pytest.approx(42.5e-6)
    assert meters.summed(events[:1]) is None  # it was not allowed to look


# ---- what is said


def test_the_table():
    lines = show.table([result("HINet", "bf16", 0.0218, 0.0241), result("MPRNet", "fp32", 1.25, None)])
    assert lines == [
        "network   size      precision time          Local         ratio floor    product copy  kernels Local  in kernels "
        "Local    memory   Local",
        "HINet     1280x720  bf16      21.8 ms       24.1 ms       1.11  8 ms     37%     9%    800     801    19.6 ms    "
        "21.7 ms  0.50 GiB 0.50 GiB",
        "MPRNet    1280x720  fp32      1.25 s        out of memory -     8 ms     1%      0%    800     -      1.12 s     "
        "-        0.50 GiB -",
    ]


def test_json_holds_all_and_gives_it_back():
    given = replace(result("HINet", "bf16", 0.02, 0.03), case=case("HINet", modules=(measure.Path("a/b.py"),)))
    document = json.loads(json.dumps(as_dict(given)))
    assert document["plain"]["kernels"] == {"count": 800, "seconds": pytest.approx(0.018)}
    assert document["floor"] == pytest.approx(0.008)
    assert document["ratio"] == pytest.approx(1.5)
    assert document["share"] == pytest.approx(0.4)
    assert document["copy_share"] == pytest.approx(0.1)
    assert document["case"]["modules"] == [str(measure.Path("a/b.py"))]
    assert from_dict(document) == given


def test_the_picture_shows_every_panel():
    nets = ("HINet", "NAFNet")
    one = [result(net, "bf16", 0.02, 0.03) for net in nets]
    more = [
        *one,
        *(result(net, "fp32", 0.2, None) for net in nets),
        *(result(net, "bf16", 0.01, 0.02, (64, 48)) for net in nets),
    ]
    few, many = (cv2.imdecode(np.frombuffer(show.picture(r, "a card"), np.uint8), 1) for r in (one, more))
    assert many.shape[1] > 1.8 * few.shape[1]  # a column for each precision
    assert many.shape[0] > 1.7 * few.shape[0]  # a row for each size


def test_the_command_on_a_card(run, root, monkeypatch):
    """All cases in this process, half precision with its floor, and the names of what is written."""
    monkeypatch.setattr("basicsr.utils.dist.pick_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA Test")
    monkeypatch.setattr(meters, "meter_for", lambda _: FakeCard())
    monkeypatch.setattr(benchmark, "NETS", SMALL_NETS)
    words = ["--nets", "NAFNet", "MPRNet", "--sizes", "40x32", "--seconds", "0.01", "--output", "results/card"]
    end = run("benchmark", *words, "--precisions", "bf16", "fp32")
    assert end.code == 0, end.out
    document = json.loads((root / "results/card.json").read_text())
    assert document["device"] == "NVIDIA Test"
    cases = [(r["case"]["plain"]["type"], r["case"]["precision"]) for r in document["results"]]
    assert cases == [("NAFNet", "bf16"), ("NAFNet", "fp32"), ("MPRNet", "bf16"), ("MPRNet", "fp32")]
    assert all(r["plain"]["kernels"]["count"] == 7 and r["floor"] > 0 for r in document["results"])
    assert "in kernels" in end.out
    assert cv2.imread(str(root / "results/card.png")) is not None


def test_on_a_cpu_nothing_of_a_gpu_is_said():
    """Not even as a blank."""
    card = meters.Meter(torch.device("cpu"))
    card.rows = 64
    (found,) = measure.in_this_process([case("NAFNet", device="cpu")], card)
    words = json.dumps(as_dict(found))
    assert not [word for word in ("kernels", "floor", "copy", "traffic") if word in words]
    assert show.table([found])[0].split() == [word.strip() for word in show.HEAD]
    assert with_tlc(found.case.local, False) == found.case.plain


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and make test-gpu")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_network_on_a_real_card(precision):
    (found,) = measure.in_this_process([case("NAFNet", precision, budget=0.5)], meters.meter_for(torch.device("cuda")))
    for timing in (found.plain, found.local):
        assert timing.kernels.count > 20  # a convolution each at least
        assert timing.kernels.seconds > 0
        assert 0 < timing.seconds < 1
        assert 0 < timing.memory < 1
    assert 10 < found.copy_rate < 20000  # GB/s
    assert 0 < found.share < 1
    assert 0 < found.floor < found.plain.seconds
