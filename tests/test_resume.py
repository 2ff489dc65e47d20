"""A run that is interrupted, however and whenever, ends bit for bit where an undisturbed one does."""

import copy
import csv
import errno
import itertools
import math
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import SMALL_NETS, Outcome, make_pairs, write_yaml
from torch import Tensor, nn
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from basicsr.archs import ARCHS
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.engine.training import fit as door
from basicsr.engine.training import validation
from basicsr.engine.training.loader import TrainLoader
from basicsr.engine.training.loop import Training
from basicsr.models.restoration_model import ImageRestorationModel
from basicsr.utils.files import temporary_beside

TIMINGS = ("it_per_s", "data_wait")  # the only columns of metrics.csv that may differ


@pytest.fixture
def data(root) -> Path:
    return make_pairs(root / "datasets/Set", names=tuple("abcde"))


@pytest.fixture
def opt(data, train_options) -> dict:
    """Twelve iterations, validated after the 6th and the last on two images, a line in the log every five."""
    paths = {key: train_options["datasets"]["train"][key] for key in ("dataroot_gt", "dataroot_lq")}
    train_options["datasets"]["val"] = paths
    train_options["train"] |= {"total_iter": 12, "warmup_iter": 4}
    train_options["train"]["scheduler"]["T_max"] = 12
    train_options["val"] |= {"val_freq": 6, "max_images": 2}
    train_options["logger"] = {"print_freq": 5, "save_checkpoint_freq": 4, "use_tb_logger": False}
    return train_options


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return [{key: cell for key, cell in row.items() if key not in TIMINGS} for row in csv.DictReader(file)]


def saved(folder: Path, iteration: int) -> dict[str, object]:
    """Weights, averaged weights, and everything in the state but the options."""
    state = torch.load(folder / f"training_states/{iteration}.state", weights_only=True)
    for group in state["optimizer"]["param_groups"]:
        del group["lr"]  # of the last step of this process; set anew for every step
    return {
        "model": torch.load(folder / f"models/net_g_{iteration}.pth", weights_only=True),
        "best": torch.load(folder / "models/net_g_best.pth", weights_only=True),
        **{f"state.{key}": value for key, value in state.items() if key != "options"},
    }


def assert_equal(one: object, other: object, where: str = "") -> None:
    """Bit for bit, NaN included."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_equal(*pair, f"{where}.{number}")
    elif isinstance(one, (Tensor, float)):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True, msg=lambda text: f"{where}: {text}")
    else:
        assert one == other, where


def assert_same_run(folder: Path, other: Path, iteration: int) -> None:
    assert_equal(saved(other, iteration), saved(folder, iteration))
    assert rows(other) == rows(folder)


@pytest.fixture
def train(root, run, monkeypatch) -> Callable[..., Outcome]:
    """train(opt, "name=x"): run or go on; with stop=4, SIGTERM comes during the 4th iteration."""
    step = Training._step

    def call(opt: dict, *overrides: str, stop: int | None = None) -> Outcome:
        def stopping(self, micro_batches: list) -> None:
            if self.progress.iter + 1 == stop:
                os.kill(os.getpid(), signal.SIGTERM)
            step(self, micro_batches)

        monkeypatch.setattr(Training, "_step", stopping)
        more = ("--force_yml", *overrides) if overrides else ()
        return run("train", "-opt", write_yaml(root / "opt.yml", opt), "--auto_resume", *more)

    return call


class DroppingNet(nn.Module):
    """Draws random numbers in every forward pass."""

    def __init__(self, *, width: int = 4) -> None:
        super().__init__()
        block = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.Dropout(0.4), nn.GELU(), nn.Conv2d(width, 3, 3, padding=1))
        self.blocks = nn.ModuleList([block, copy.deepcopy(block)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


@pytest.fixture
def dropping_net(monkeypatch) -> None:
    monkeypatch.setitem(ARCHS._entries, "DroppingNet", DroppingNet)


def with_everything(opt: dict) -> None:
    """EMA, accumulation, three stages of patches and batches, warm-up, two groups."""
    del opt["datasets"]["train"]["gt_size"]
    opt["datasets"]["train"] |= {
        "batch_size_per_gpu": 1,
        "progressive": [
            {"iters": 4, "gt_size": 8, "batch_size": 4, "batch_size_per_gpu": 2},
            {"iters": 5, "gt_size": 16, "batch_size": 3},
            {"iters": 3, "gt_size": 24, "batch_size": 1},
        ],
    }
    opt["train"]["ema_decay"] = 0.7
    opt["train"]["optim_g"] |= {"type": "AdamW", "weight_decay": 0.01, "groups": [{"match": "^intro", "lr_mult": 0.1}]}


def in_half_precision(opt: dict) -> None:
    """A loss that makes the first gradients overflow, so that the scaler has a history; a worker; steps of the rate."""
    opt["network_g"] = {"type": "HINet", **SMALL_NETS["HINet"]}
    opt["train"] |= {"precision": "fp16", "pixel_opt": {"type": "PSNRLoss", "loss_weight": 5000}}
    opt["train"]["scheduler"] = {"type": "MultiStepLR", "milestones": [6, 9], "gamma": 0.5}
    opt["datasets"]["train"]["num_worker_per_gpu"] = 1


def with_dropout(opt: dict) -> None:
    opt["network_g"] = {"type": "DroppingNet"}
    opt["train"] |= {"activation_checkpointing": True, "ema_decay": 0.9, "precision": "bf16"}
    opt["datasets"]["train"] |= {"batch_size": 4, "num_worker_per_gpu": 1}


@pytest.mark.parametrize(
    ("change", "stops"),
    [
        (with_everything, (1, 4, 8)),  # 4 and 9: the ends of stages
        (in_half_precision, (2, 9)),
        (with_dropout, (5, 6, 10)),  # 5: a line of the log; 6: a validation
    ],
    ids=["everything", "half", "dropout"],
)
def test_in_parts_is_the_same_as_at_once(change, stops, opt, root, train, dropping_net):
    change(opt)
    assert train(opt, "name=whole").code == 0
    for iteration in stops:
        outcome = train(opt, "name=parts", stop=iteration)
        assert outcome.code == 130
        assert f"Interrupted at iteration {iteration} and saved" in outcome.out
    assert train(opt, "name=parts").code == 0
    assert_same_run(root / "experiments/whole", root / "experiments/parts", 12)
    table = rows(root / "experiments/parts")
    assert [(row["iter"], bool(row["loss"]), bool(row["val_psnr"])) for row in table] == [
        ("5", True, False),
        ("6", False, True),
        ("10", True, False),
        ("12", False, True),
    ]
    if change is in_half_precision:
        state = torch.load(root / "experiments/parts/training_states/12.state", weights_only=True)
        assert state["scaler"]["scale"] < 2**16
        assert state["skipped"] > 0


# Interrupted validations.


@pytest.mark.parametrize("when", [6, 12])
def test_a_validation_that_was_interrupted_is_done_on_resuming(when, opt, root, train, monkeypatch):
    """SIGTERM at the first picture of the one after the 6th iteration, or of the last one, and once more on resuming."""
    assert train(opt, "name=whole").code == 0
    predict = ImageRestorationModel.predict
    seen = []

    def interrupted(self, image: Tensor) -> Tensor:
        seen.append(1)
        os.kill(os.getpid(), signal.SIGTERM)
        return predict(self, image)

    folder = root / "experiments/parts"
    if when == 12:
        assert train(opt, "name=parts", stop=11).code == 130
    for count in (1, 2):
        with monkeypatch.context() as patch:
            patch.setattr(ImageRestorationModel, "predict", interrupted)
            outcome = train(opt, "name=parts")
        assert outcome.code == 130
        assert f"Interrupted at iteration {when} and saved" in outcome.out
        assert len(seen) == count  # the second picture was not begun
        assert f"iter {when}, validation" not in outcome.out
        assert torch.load(folder / f"training_states/{when}.state", weights_only=True)["validate"] is True
        assert not any(row["val_psnr"] for row in rows(folder) if row["iter"] == str(when))
    outcome = train(opt, "name=parts")
    assert outcome.code == 0
    assert f"iter {when}, validation psnr" in outcome.out
    assert_same_run(root / "experiments/whole", folder, 12)


def test_killed_between_a_validation_made_up_for_and_its_state(opt, root, train, monkeypatch):
    """The row of that validation stands in metrics.csv already, the state still says that it is to be done."""
    assert train(opt, "name=whole").code == 0
    assert train(opt, "name=parts", stop=6).code == 130

    def killed(*_args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_keep_if_best", killed)
        assert train(opt, "name=parts").code == 130
    assert train(opt, "name=parts").code == 0
    assert_same_run(root / "experiments/whole", root / "experiments/parts", 12)


def test_a_validation_to_be_made_up_for_can_be_given_up(opt, root, train):
    """Interrupted in a validation, then told to go on without one."""
    assert train(opt, stop=6).code == 130
    del opt["datasets"]["val"], opt["val"]["val_freq"]
    outcome = train(opt)
    assert outcome.code == 0
    assert "datasets.val" in outcome.out
    assert (root / "experiments/run/models/net_g_12.pth").is_file()


# Changes on resuming.


@pytest.fixture
def steps(monkeypatch) -> list[tuple[list[str], float]]:
    """Names of the images and learning rate of every step."""
    seen = []
    step = ImageRestorationModel.train_step

    def recording(self, micro_batches: list[dict], rate: Callable[[float], float]) -> dict[str, float]:
        figures = step(self, micro_batches, rate)
        seen.append(([n for batch in micro_batches for n in batch["name"]], self.optimizer.param_groups[0]["lr"]))
        return figures

    monkeypatch.setattr(ImageRestorationModel, "train_step", recording)
    return seen


def test_changed_options_are_announced_and_honoured(opt, root, train, steps):
    """Two images a step for three steps, then three a step: nobody is left out of an epoch or comes twice."""
    opt["train"]["warmup_iter"] = -1
    assert train(opt, stop=3).code == 130
    opt["train"] |= {"total_iter": 7, "use_grad_clip": 0.5}
    opt["train"]["optim_g"] |= {"lr": 5e-4, "betas": [0.8, 0.95], "weight_decay": 0.1}
    opt["datasets"]["train"]["batch_size_per_gpu"] = 3
    outcome = train(opt)
    assert outcome.code == 0
    notes = [line for line in outcome.out.splitlines() if line.startswith("Changed since that state")]
    assert len(notes) == 1
    for change in (
        "train.total_iter is 7 (was 12)",
        "train.use_grad_clip is 0.5 (was True)",
        "train.optim_g.lr is 0.0005 (was 0.001)",
        "train.optim_g.weight_decay is 0.1 (was 0.0)",
        "train.optim_g.betas is [0.8, 0.95] (was [0.9, 0.9])",
        "datasets.train.batch_size_per_gpu is 3 (was 2)",
    ):
        assert change in notes[0]
    assert notes[0].count(" (was ") == 6
    assert [len(names) for names, _ in steps] == [2, 2, 2, 3, 3, 3, 3]
    order = [name for names, _ in steps for name in names]
    for first in (0, 5, 10):
        assert sorted(order[first : first + 5]) == list("abcde")
    base = [1e-3] * 3 + [5e-4] * 4
    assert [lr for _, lr in steps] == pytest.approx(
        [1e-7 + (base[i] - 1e-7) * (1 + math.cos(math.pi * i / 12)) / 2 for i in range(7)]
    )
    group = torch.load(root / "experiments/run/training_states/7.state", weights_only=True)["optimizer"]["param_groups"][0]
    assert (group["weight_decay"], tuple(group["betas"])) == (0.1, (0.8, 0.95))
    assert rows(root / "experiments/run")[-1]["iter"] == "7"
    assert "iter 7, validation psnr" in outcome.out


def test_nothing_is_announced_when_nothing_changed(opt, train):
    assert train(opt, stop=3).code == 130
    assert "Changed since" not in train(opt, stop=4).out


def test_another_number_of_images_is_announced(opt, root, train):
    assert train(opt, stop=3).code == 130
    for side in ("input", "target"):
        (root / f"datasets/Set/{side}/e.png").unlink()
    assert "There are 4 training images, there were 5" in train(opt).out


def test_another_number_of_processes_is_announced(opt, train, monkeypatch):
    """No option says that the global batch has become another one."""
    assert train(opt, stop=3).code == 130
    alone = door.stages_of
    monkeypatch.setattr(door, "stages_of", lambda **said: tuple(replace(s, batch_size=2 * s.batch_size) for s in alone(**said)))
    assert "The global batch is 4, it was 2" in train(opt).out


def test_moments_never_go_to_other_parameters(opt, train):
    """Groups of as many parameters as before, but of other ones."""
    opt["train"]["optim_g"]["groups"] = [{"match": "^intro"}]
    assert train(opt, stop=3).code == 130
    opt["train"]["optim_g"]["groups"] = [{"match": "^ending"}]
    outcome = train(opt)
    assert outcome.code == 2
    assert "other groups of parameters than train.optim_g" in outcome.err


def test_the_best_of_one_metric_is_not_compared_with_another(opt, root, train):
    """30 dB is no better than an SSIM of 0.9."""
    assert train(opt, stop=8).code == 130
    opt["val"]["metrics"] = {"ssim": {"type": "calculate_ssim", "crop_border": 0}}
    assert train(opt).code == 0
    best = torch.load(root / "experiments/run/training_states/12.state", weights_only=True)["best"]
    assert best["iter"] == 12
    assert best["value"] == pytest.approx(float(rows(root / "experiments/run")[-1]["val_ssim"]))


def test_ema_can_be_added_and_dropped(opt, root, train):
    assert train(opt, stop=3).code == 130
    opt["train"]["ema_decay"] = 0.5
    assert train(opt, stop=4).code == 130
    content = torch.load(root / "experiments/run/models/net_g_4.pth", weights_only=True)
    for key, value in content["params"].items():
        assert torch.equal(content["params_ema"][key], value)  # it starts there
    del opt["train"]["ema_decay"]
    assert train(opt).code == 0
    assert list(torch.load(root / "experiments/run/models/net_g_12.pth", weights_only=True)) == ["params", "metadata"]


# Files.


def test_the_best_is_the_best_of_the_whole_run(opt, root, train, monkeypatch):
    """Not of the part after the interruption; and its file holds the weights of that iteration."""
    values = iter([30.0, 20.0])
    opt["logger"]["save_checkpoint_freq"] = 6

    def means(results: list) -> dict[str, float]:
        assert len(results) == 2
        return {"psnr": next(values)}

    monkeypatch.setattr(validation, "means", means)
    assert train(opt, stop=8).code == 130
    outcome = train(opt)
    assert "Best psnr so far: 30.0000 at iteration 6." in outcome.out
    folder = root / "experiments/run"
    state = torch.load(folder / "training_states/12.state", weights_only=True)
    assert (state["best"]["value"], state["best"]["iter"]) == (30.0, 6)
    assert_equal_files(folder / "models/net_g_best.pth", folder / "models/net_g_6.pth")


def assert_equal_files(first: Path, second: Path) -> None:
    assert_equal(*(torch.load(file, weights_only=True) for file in (first, second)))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("keep", "left"), [(1, [12]), (2, [10, 12]), ("all", [2, 4, 6, 8, 10, 12])])
def test_keep_checkpoints(keep, left, opt, root, train):
    opt["logger"] |= {"save_checkpoint_freq": 2, "keep_checkpoints": keep}
    assert train(opt).code == 0
    folder = root / "experiments/run"
    assert names(folder / "models") == sorted([*(f"net_g_{i}.pth" for i in left), "net_g_best.pth", "net_g_latest.pth"])
    assert names(folder / "training_states") == sorted([*(f"{i}.state" for i in left), "latest.state"])
    assert (folder / "models/net_g_latest.pth").read_bytes() == (folder / "models/net_g_12.pth").read_bytes()
    assert (folder / "training_states/latest.state").read_bytes() == (folder / "training_states/12.state").read_bytes()


def test_going_on_from_an_earlier_state(opt, root, train):
    """Later states stay, later rows of metrics.csv go, and --auto_resume then goes on from the newest one, not the highest."""
    opt["logger"] |= {"save_checkpoint_freq": 3, "keep_checkpoints": "all"}
    assert train(opt).code == 0
    state = "path:resume_state=experiments/run/training_states/3.state"
    assert train(opt, state, "logger:keep_checkpoints=1", stop=4).code == 130
    folder = root / "experiments/run"
    assert names(folder / "training_states") == ["12.state", "4.state", "6.state", "9.state", "latest.state"]
    assert rows(folder) == []
    outcome = train(opt, stop=5)
    assert "Resumed from experiments/run/training_states/4.state at iteration 4." in outcome.out
    assert [row["iter"] for row in rows(folder)] == ["5"]


def test_half_a_line_and_half_written_files_are_removed(opt, root, train):
    assert train(opt, "name=whole").code == 0
    assert train(opt, "name=parts", stop=7).code == 130
    folder = root / "experiments/parts"
    with open(folder / "metrics.csv", "a") as file:
        file.write("10,4,-20.5,20.5\n11,4.4,-2")
    places = ("models/net_g_8.pth", "training_states/8.state", "metrics.csv", "curves.png", "visualization/6/a.png")
    for place in places:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        temporary_beside(folder / place).write_bytes(b"half")
    assert train(opt, "name=parts").code == 0
    assert_same_run(root / "experiments/whole", folder, 12)
    assert not list(folder.rglob("*.tmp"))


# Data workers that die.


@pytest.fixture
def _noticed_soon(monkeypatch):
    """PyTorch looks every five seconds whether its workers are alive."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))


@pytest.mark.usefixtures("_noticed_soon")
def test_a_killed_data_worker_changes_nothing(opt, root, train, monkeypatch):
    opt["datasets"]["train"] |= {"batch_size": 4, "num_worker_per_gpu": 2}
    assert train(opt, "name=whole", "datasets:train:num_worker_per_gpu=0").code == 0
    step = ImageRestorationModel.train_step
    count = []

    def killing(self, micro_batches: list[dict], rate: Callable[[float], float]) -> dict[str, float]:
        count.append(1)
        if len(count) in (3, 8):
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        return step(self, micro_batches, rate)

    monkeypatch.setattr(ImageRestorationModel, "train_step", killing)
    outcome = train(opt, "name=parts")
    assert outcome.code == 0
    assert outcome.out.count("A data worker died at iteration") == 2
    assert len(count) == 12
    assert_same_run(root / "experiments/whole", root / "experiments/parts", 12)


@pytest.mark.usefixtures("_noticed_soon")
@pytest.mark.parametrize(
    ("error", "death"),
    [
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), True),
        (ConnectionResetError(104, "Connection reset by peer"), True),
        (FileNotFoundError(2, "No such file or directory"), True),  # the socket of one that died
        (EOFError(), True),
        (RuntimeError("Caught RuntimeError in DataLoader worker process 0."), False),
        (OSError("Caught OSError in DataLoader worker process 0.\nOriginal Traceback"), False),
        (OSError(5, "Input/output error"), False),
        (RuntimeError("something else"), False),
    ],
)
def test_what_a_killed_worker_raises_is_known(error, death):
    assert TrainLoader(None, (), seed=0, workers=2)._is_death(error) is death
    alone = TrainLoader(None, (), seed=0, workers=0)  # then it is the data set's own
    assert alone._is_death(error) is (death and isinstance(error, RuntimeError))


def limit_for(more: int) -> int:
    """The limit of open files under which this process may open so many more."""
    taken = {int(number) for number in os.listdir("/dev/fd")}
    return next(limit for limit in itertools.count() if limit - len([fd for fd in taken if fd < limit]) == more)


@pytest.mark.parametrize(("files", "works"), [(128, True), (12, False)])
def test_few_open_files_and_a_large_global_batch(files, works, opt, train):
    """Micro-batches that are waited for together are not all held open."""
    opt["datasets"]["train"] |= {"batch_size": 64, "batch_size_per_gpu": 1, "num_worker_per_gpu": 4}
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit_for(files), before[1]))
    try:
        outcome = train(opt, "train:total_iter=2", "train:scheduler:T_max=2", "logger:save_checkpoint_freq=2")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    if works:
        assert outcome.code == 0, outcome
    else:
        assert outcome.code == 2
        assert "raise `ulimit -n`, or lower num_worker_per_gpu" in outcome.err
    assert "Traceback" not in outcome.out + outcome.err
    assert "set_sharing_strategy" not in outcome.out + outcome.err


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (RuntimeError("received 0 items of ancillary data"), "ulimit -n"),
        (RuntimeError("Caught\nRuntimeError: unable to write to file </torch_7>: No space left on device (28)"), "--shm-size"),
    ],
)
def test_what_the_machine_has_too_little_of_is_said_in_a_sentence(error, says, opt, train, monkeypatch):
    def fail(*_args: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(TrainLoader, "_next", fail)
    outcome = train(opt)
    assert outcome.code == 2
    assert says in outcome.err
    assert "lower num_worker_per_gpu" in outcome.err


def test_workers_that_always_die_end_the_run(opt, train, monkeypatch):
    monkeypatch.setattr(PairedImageDataset, "patch", lambda *_: os._exit(1))
    opt["datasets"]["train"]["num_worker_per_gpu"] = 1
    outcome = train(opt)
    assert outcome.code == 2
    assert outcome.err.count("error:") == 1
    assert "data workers died again and again" in outcome.err
    assert "lower num_worker_per_gpu" in outcome.err


def test_an_error_in_a_worker_is_no_death(opt, train, monkeypatch):
    """A bug in somebody's data set must show itself, not look like want of memory."""

    def broken(*_args: object) -> None:
        raise RuntimeError("a bug in the data set")

    monkeypatch.setattr(PairedImageDataset, "patch", broken)
    opt["datasets"]["train"]["num_worker_per_gpu"] = 1
    with pytest.raises(RuntimeError, match="a bug in the data set"):
        train(opt)
