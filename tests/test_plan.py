"""What a training will do, said and checked before it starts: against arithmetic by hand."""

import re
from pathlib import Path

import pytest
import torch
from conftest import SMALL_NETS, make_pairs, write_yaml
from torch import Tensor, nn

from basicsr.archs import build_network
from basicsr.data.sampler import Stage
from basicsr.engine.training import fit, plan
from basicsr.errors import UserError
from basicsr.models import schedule
from basicsr.models.memory import training_bytes
from basicsr.options import Options, parse
from basicsr.utils import dist


@pytest.fixture
def make(train_options):
    """Options with other data options and other ones of the training."""

    def call(total: int = 6, train: dict | None = None, **data: object) -> Options:
        train_options["datasets"]["train"] |= data
        for key in [key for key, value in data.items() if value is None]:
            del train_options["datasets"]["train"][key]
        train_options["train"] |= {"total_iter": total, **(train or {})}
        return parse(train_options, "a test")

    return call


def stages_of(opt: Options) -> tuple[Stage, ...]:
    return fit.stages_from(opt, fit.memory_from(opt))


def description(opt: Options, images: int) -> str:
    """Of the plan, at a rate that stays as it is."""
    made = fit.plan_from(opt, stages_of(opt), lambda _iteration, base: base, images)
    return made.describe(fit.memory_from(opt))


def world_of(monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    monkeypatch.setattr(dist, "world_size", lambda: processes)


# Stages.


@pytest.mark.parametrize(
    ("processes", "batch", "at_once", "total", "accumulated"),
    [
        (1, None, 2, 2, 1),
        (4, None, 3, 12, 1),  # without batch_size, it grows with the processes
        (1, 8, 2, 8, 4),
        (2, 8, 2, 8, 2),
        (4, 8, 2, 8, 1),
        (8, 8, 1, 8, 1),
        (3, 12, 2, 12, 2),
    ],
)
def test_the_global_batch_is_kept(processes, batch, at_once, total, accumulated, make, monkeypatch):
    world_of(monkeypatch, processes)
    more = {} if batch is None else {"batch_size": batch}
    (stage,) = stages_of(make(batch_size_per_gpu=at_once, **more))
    assert stage == Stage(iters=6, gt_size=16, batch_size=total, micro_batch=at_once)
    assert stage.accumulation(processes) == accumulated
    assert processes * at_once * accumulated == total


@pytest.mark.parametrize(("processes", "batch", "at_once"), [(1, 6, 4), (2, 12, 5), (2, 8, 8), (3, 8, 2), (4, 2, 1), (5, 4, 3)])
def test_a_batch_that_cannot_be_shared_out_is_refused(processes, batch, at_once, make, monkeypatch):
    """What the advice names is all that would do, and does."""
    world_of(monkeypatch, processes)
    with pytest.raises(UserError, match=rf"^datasets.train.batch_size: a global batch of {batch} cannot") as refused:
        stages_of(make(batch_size=batch, batch_size_per_gpu=at_once))
    works = []
    for other in range(1, batch + 1):
        try:
            stages_of(make(batch_size=batch, batch_size_per_gpu=other))
        except UserError:
            continue
        works.append(other)
    advice = str(refused.value).rpartition("; ")[2]
    if works:
        assert advice == f"set batch_size_per_gpu to one of {', '.join(map(str, works))}."
    else:
        assert advice == "start a number of processes that divides it."
    assert bool(works) == (batch % processes == 0)


PROGRESSIVE = [
    {"iters": 3, "gt_size": 8, "batch_size": 8},
    {"iters": 2, "gt_size": 16, "batch_size": 6, "batch_size_per_gpu": 3},
    {"iters": 1, "gt_size": 24, "batch_size": 2},
]


def test_progressive_stages(make, monkeypatch):
    world_of(monkeypatch, 2)
    stages = stages_of(make(progressive=PROGRESSIVE, gt_size=None, batch_size_per_gpu=1))
    assert [(s.iters, s.gt_size, s.batch_size, s.micro_batch) for s in stages] == [(3, 8, 8, 1), (2, 16, 6, 3), (1, 24, 2, 1)]
    assert [s.accumulation(2) for s in stages] == [4, 1, 1]
    assert stages_of(make(gt_size=24)) == stages  # the largest one may be said


@pytest.mark.parametrize("total", [5, 7])
def test_progressive_stages_add_up(total, make):
    with pytest.raises(UserError, match=f"progressive: its stages have 6 iterations, but train.total_iter is {total}"):
        stages_of(make(total, progressive=PROGRESSIVE, gt_size=None, batch_size_per_gpu=1))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"progressive": [], "gt_size": None}, "progressive: its stages have 0 iterations"),
        ({"progressive": PROGRESSIVE, "gt_size": 16, "batch_size_per_gpu": 1}, "gt_size is 16, but the largest stage has 24"),
        ({"progressive": PROGRESSIVE, "gt_size": None, "batch_size": 8}, r"batch_size: .*remove this one"),
        ({"gt_size": None}, "datasets.train.gt_size is missing"),
        (
            {"progressive": PROGRESSIVE, "gt_size": None, "batch_size_per_gpu": 5},
            "progressive.0.batch_size: a global batch of 8",
        ),
        (
            {"progressive": PROGRESSIVE, "gt_size": None, "batch_size_per_gpu": 4},
            "progressive.2.batch_size: a global batch of 2",
        ),
    ],
)
def test_stages_that_do_not_fit(data, message, make):
    with pytest.raises(UserError, match=message):
        stages_of(make(**data))


# As many as fit.


@pytest.mark.parametrize(("room", "at_once"), [(100.0, 8), (1.01, 8), (0.99, 4), (0.3, 2), (0.17, 1)])
def test_auto_takes_the_largest_that_fits(room, at_once, make, monkeypatch):
    """`room`: the usable part of the free memory over what eight patches need by the estimate."""
    opt = make(batch_size=8, batch_size_per_gpu="auto", gt_size=64)
    eight = training_bytes(
        lambda: build_network(opt.network_g.as_dict()), (8, 3, 64, 64), dtype=torch.float32, checkpointed=False, ema=False
    )
    monkeypatch.setattr(dist, "free_memory", lambda _device: int(room * eight / plan.ROOM))
    (stage,) = stages_of(opt)
    assert (stage.batch_size, stage.micro_batch) == (8, at_once)


@pytest.mark.parametrize(
    ("free", "more", "message"),
    [
        (10**12, {}, "auto needs to know the global batch; add batch_size"),
        (None, {"batch_size": 8}, "auto cannot tell what fits here; give a number"),
        (1000, {"batch_size": 8}, "not one patch of 16 at once fits into 0.0 GB"),
    ],
)
def test_auto_that_cannot_choose(free, more, message, make, monkeypatch):
    monkeypatch.setattr(dist, "free_memory", lambda _device: free)
    with pytest.raises(UserError, match=f"datasets.train.batch_size_per_gpu: .*{message}"):
        stages_of(make(batch_size_per_gpu="auto", **more))


def test_free_memory_is_told():
    assert 2**20 < dist.free_memory(torch.device("cpu")) < 2**44


# Sizes of patches.


@pytest.mark.parametrize(
    ("name", "multiple"), [("NAFNet", 4), ("HINet", 4), ("MPRNet", 8), ("Restormer", 8)], ids=lambda value: str(value)
)
def test_patches_that_would_be_padded_are_refused(name, multiple):
    """Against what each net does: whether it computes on a larger map than it was given."""
    net = build_network({"type": name, **SMALL_NETS[name]})
    sides = []
    first = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
    first.register_forward_pre_hook(lambda _module, inputs: sides.append(inputs[0].shape[-1]))
    for side in range(3 * multiple, 5 * multiple + 1):
        stages = [Stage(1, 3 * multiple, 1, 1), Stage(1, side, 1, 1)]
        sides.clear()
        with torch.no_grad():
            net(torch.zeros(1, 3, side, side))
        if max(sides) == side or (name == "MPRNet" and side % multiple == 0):  # MPRNet cuts it up afterwards
            plan.check_sizes(stages, net)
            assert side % multiple == 0
            continue
        with pytest.raises(
            UserError, match=rf"{name} needs patches whose side is a multiple of {multiple}, not {side};"
        ) as error:
            plan.check_sizes(stages, net)
        advised = int(re.search(r"take (\d+)\.", str(error.value))[1])
        assert advised % multiple == 0
        assert abs(advised - side) <= multiple / 2


def test_any_size_for_a_net_that_asks_for_none():
    plan.check_sizes([Stage(1, 17, 1, 1)], nn.Conv2d(3, 3, 3))


def test_a_tiny_patch_is_advised_the_smallest_size():
    net = build_network({"type": "NAFNet", **SMALL_NETS["NAFNet"]})
    with pytest.raises(UserError, match="take 4"):
        plan.check_sizes([Stage(1, 1, 1, 1)], net)


# The plan as a text.


def test_the_plan_in_numbers(make, monkeypatch):
    """1,000 x 32 + 500 x 8 patches by two processes, of 50 images that stand four times in an epoch."""
    world_of(monkeypatch, 2)
    progressive = [
        {"iters": 1000, "gt_size": 64, "batch_size": 32, "batch_size_per_gpu": 4},
        {"iters": 500, "gt_size": 128, "batch_size": 8, "batch_size_per_gpu": 2},
    ]
    opt = make(1500, progressive=progressive, gt_size=None, dataset_enlarge_ratio=4)
    monkeypatch.setattr(plan, "training_bytes", lambda _build, shape, **_: shape[0] * shape[2] * 2**24)
    text = description(opt, images=50)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[1] == "0 to 1,000 64 32 = 2 x 4 x 4 160.0 4.0 GB"
    assert lines[2] == "1,000 to 1,500 128 8 = 2 x 2 x 2 20.0 4.0 GB"
    assert lines[3].startswith("1,500 iterations see 36,000 patches of 50 images. ")
    assert "activation checkpointing" not in text
    checkpointed = make(1500, {"activation_checkpointing": True})
    assert "with activation checkpointing" in description(checkpointed, images=50)
    assert {len(line) for line in text.splitlines()[:3]} == {len(text.splitlines()[0])}  # columns stand below one another


def test_unknown_memory_is_a_question_mark(make, monkeypatch):
    monkeypatch.setattr(plan, "training_bytes", lambda *_args, **_options: None)
    assert description(make(), images=5).splitlines()[1].endswith(" ?")


def bars(lines: list[str]) -> list[int]:
    """Heights of the columns."""
    rows = [line.partition("|")[2].ljust(64) for line in lines if "|" in line]
    assert all(set(row) <= set("# ") for row in rows)
    return [sum(row[i] == "#" for row in rows) for i in range(64)]


def test_the_picture_of_the_learning_rate():
    lines = plan.lr_picture(lambda i: 3e-4 if i < 500 else 0.0, 1000)
    assert bars(lines) == [6] * 32 + [0] * 32
    assert lines[0].startswith("  0.0003 |")
    assert lines[-1].endswith("1,000")
    assert all(line.isascii() and len(line) <= 80 for line in lines)
    ramp = bars(plan.lr_picture(lambda i: (i + 1) * 1e-6, 64))
    assert ramp == [-(-6 * (i + 1) // 64) for i in range(64)]  # rounded up to whole rows


@pytest.mark.parametrize("total", [1, 2, 63, 64, 65, 300_000])
def test_the_picture_of_a_cosine_falls(total):
    rate = schedule.TrueCosineAnnealingLR(T_max=total)
    heights = bars(plan.lr_picture(lambda i: rate(i, 1e-3), total))
    assert heights[0] == 6
    assert heights == sorted(heights, reverse=True)
    assert total < 60 or (heights[31], heights[-1]) in {(3, 1), (4, 1), (3, 0), (4, 0)}


# The dry run.


def snapshot(root: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


@pytest.mark.parametrize(("end", "after"), [(4, "the rate stays at its end after that"), (9, "the run ends before it")])
def test_a_schedule_of_another_length_is_said(end, after, root, train_options, run):
    train_options["train"]["scheduler"]["T_max"] = end
    make_pairs(root / "datasets/Set")
    outcome = run("train", "-opt", write_yaml(root / "opt.yml", train_options), "--dry_run")
    assert f"train.scheduler is made for {end} iterations, train.total_iter is 6: {after}." in outcome.out


def test_a_dry_run_prints_the_plan_and_writes_nothing(root, train_options, run):
    make_pairs(root / "datasets/Set", names=tuple("abcde"))
    train_options["datasets"]["train"]["dataset_enlarge_ratio"] = 2
    train_options["logger"]["use_tb_logger"] = True
    file = write_yaml(root / "opt.yml", train_options)
    before = snapshot(root)
    outcome = run("train", "-opt", file, "--dry_run")
    assert outcome.code == 0
    assert snapshot(root) == before
    assert re.search(r"NAFNet: [\d,]+ parameters on cpu, 5 training images", outcome.out)
    assert re.search(r"0 to 6 +16 +2 = 1 x 2 x 1 +1\.2 ", outcome.out)
    assert "6 iterations see 12 patches of 5 images" in outcome.out
    assert "iter 2/6" not in outcome.out


def test_a_dry_run_of_a_run_to_go_on_with(root, train_options, run):
    make_pairs(root / "datasets/Set")
    file = write_yaml(root / "opt.yml", train_options)
    assert run("train", "-opt", file, "--force_yml", "train:total_iter=3").code == 0
    before = snapshot(root)
    outcome = run("train", "-opt", file, "--dry_run", "--auto_resume")
    assert outcome.code == 0
    assert "Resumed from experiments/run/training_states/3.state at iteration 3." in outcome.out
    assert "train.total_iter is 6 (was 3)" in outcome.out
    assert run("train", "-opt", file, "--dry_run").code == 0  # nor is the earlier run moved away
    assert snapshot(root) == before


def test_a_dry_run_finds_what_is_wrong(root, train_options, run):
    make_pairs(root / "datasets/Set")
    (root / "datasets/Set/input/b.png").write_bytes(b"")
    outcome = run("train", "-opt", write_yaml(root / "opt.yml", train_options), "--dry_run")
    assert outcome.code == 2
    assert "b.png: is an empty file" in outcome.err


# Memory.


class Plain(nn.Module):
    """3 -> 8 -> 8 -> 3 channels, a ReLU after each but the last convolution, in two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


WEIGHTS = 8 * 3 * 9 + 8 + 2 * (8 * 8 * 9 + 8) + 3 * 8 * 9 + 3
PIXELS = 2 * 32 * 32


@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_by_hand(dtype, ema):
    """Each convolution keeps its input, each ReLU its output, which is the next one's input: 3 + 8 + 8 + 8 channels."""
    size = training_bytes(Plain, (2, 3, 32, 32), dtype=dtype, checkpointed=False, ema=ema)
    activations = PIXELS * (3 + 8 + 8 + 8) * dtype.itemsize
    weights = WEIGHTS * 4 * (1 + 1 + 2 + ema)  # themselves, gradients, two moments, the average
    copies = WEIGHTS * 2 if dtype == torch.bfloat16 else 0  # autocast's
    assert size == activations + weights + copies


def test_memory_with_checkpoints_by_hand():
    """The inputs of the two blocks stay, 3 + 8 channels; and while a block runs again, what it keeps: 8 + 8 of the first."""
    size = training_bytes(Plain, (2, 3, 32, 32), dtype=torch.float32, checkpointed=True, ema=False)
    kept = PIXELS * (3 + 8) * 4
    again = size - WEIGHTS * 16 - kept
    assert PIXELS * (8 + 8) * 4 <= again <= PIXELS * (3 + 8 + 8) * 4


@pytest.mark.parametrize("name", SMALL_NETS)
def test_checkpoints_and_small_batches_need_less(name):
    def size(count: int, checkpointed: bool) -> int:
        options = {"type": name, **SMALL_NETS[name]}
        return training_bytes(
            lambda: build_network(options), (count, 3, 64, 64), dtype=torch.float32, checkpointed=checkpointed, ema=False
        )

    fixed = 16 * sum(p.numel() for p in build_network({"type": name, **SMALL_NETS[name]}).parameters())
    assert fixed < size(1, True) < size(1, False) < size(2, False)
    assert size(4, False) - fixed == pytest.approx(4 * (size(1, False) - fixed), rel=0.03)


@pytest.mark.parametrize("name", SMALL_NETS)
def test_the_estimate_is_what_autograd_keeps(name):
    """Against the same nets really computing: bytes of all tensors that are saved for the backward pass."""
    net = build_network({"type": name, **SMALL_NETS[name]}).train()
    storages = {p.untyped_storage().data_ptr() for p in net.parameters()}
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in storages:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = net(torch.rand(1, 3, 32, 32).contiguous(memory_format=torch.channels_last))
    measured = sum(storage.nbytes() for storage in kept.values())
    assert out is not None
    size = training_bytes(
        lambda: build_network({"type": name, **SMALL_NETS[name]}),
        (1, 3, 32, 32),
        dtype=torch.float32,
        checkpointed=False,
        ema=False,
    )
    assert size - 16 * sum(p.numel() for p in net.parameters()) == pytest.approx(measured, rel=0.03)


def test_no_estimate_for_a_net_that_needs_numbers():
    class Looks(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum().item() > 0 else x

    arguments = {"dtype": torch.float32, "checkpointed": False, "ema": False}
    assert training_bytes(lambda: Looks(3, 3, 1), (1, 3, 8, 8), **arguments) is None
    assert training_bytes(lambda: nn.Conv2d(3, 3, 1), (1, 3, 8, 8), **arguments) == 12 * 16 + 3 * 64 * 4
