"""What one sees of a training: log lines, metrics.csv, curves.png, TensorBoard, wandb."""

import csv
import re
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import Outcome, make_pairs, write_yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from basicsr.engine.training.curves import draw_curves
from basicsr.engine.training.state import Progress
from basicsr.engine.training.watch import Watch, peak_memory
from basicsr.models.restoration_model import ImageRestorationModel

COLUMNS = ["iter", "epoch", "loss", "psnr", "grad_norm", "lr", "skipped", "it_per_s", "data_wait", "val_psnr", "val_ssim"]


@pytest.fixture
def opt(root, train_options) -> dict:
    """Six iterations of two images out of five, a line every two, validated after the 4th and the last."""
    make_pairs(root / "datasets/Set", names=tuple("abcde"))
    paths = {key: train_options["datasets"]["train"][key] for key in ("dataroot_gt", "dataroot_lq")}
    train_options["datasets"]["val"] = paths
    train_options["val"]["val_freq"] = 4
    train_options["val"]["metrics"]["ssim"] = {"type": "calculate_ssim", "crop_border": 0}
    return train_options


@pytest.fixture
def steps(monkeypatch) -> list[dict[str, float]]:
    seen = []
    step = ImageRestorationModel.train_step

    def recording(self, *args: object) -> dict[str, float]:
        seen.append(dict(step(self, *args)))
        return dict(seen[-1])

    monkeypatch.setattr(ImageRestorationModel, "train_step", recording)
    return seen


@pytest.fixture
def finished(opt, root, run, curves, steps) -> tuple[Path, Outcome, list[dict[str, float]]]:
    """The folder of a run that is through, what it wrote to the screen, and what its steps returned."""
    opt["logger"]["use_tb_logger"] = True
    outcome = run("train", "-opt", write_yaml(root / "opt.yml", opt))
    assert outcome.code == 0
    return root / "experiments/run", outcome, steps


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        assert reader.fieldnames == COLUMNS
    return rows


def points(events: EventAccumulator, tag: str) -> dict[int, float]:
    return {event.step: event.value for event in events.Scalars(tag)}


def test_a_run_on_all_instruments(finished, root):
    """One run, read from metrics.csv, the screen, TensorBoard's files and the picture of its curves."""
    folder, outcome, steps = finished
    rows = table(folder)
    training = [row for row in rows if row["loss"]]
    assert [row["iter"] for row in rows] == ["2", "4", "4", "6", "6"]
    assert [row["iter"] for row in training] == ["2", "4", "6"]
    for number, row in enumerate(training):
        pair = steps[2 * number : 2 * number + 2]
        for key in ("loss", "psnr", "grad_norm"):
            assert float(row[key]) == pytest.approx(sum(step[key] for step in pair) / 2, rel=1e-6)
        iteration = int(row["iter"])
        assert float(row["epoch"]) == pytest.approx(iteration * 2 / 5)
        assert float(row["lr"]) == pytest.approx(1e-7 + (1e-3 - 1e-7) * (1 + np.cos(np.pi * (iteration - 1) / 6)) / 2)
        assert float(row["skipped"]) == 0
        assert float(row["it_per_s"]) > 0
        assert 0 < float(row["data_wait"]) < 1
        assert row["val_psnr"] == row["val_ssim"] == ""
        assert float(row["loss"]) == pytest.approx(-float(row["psnr"]), rel=1e-3)  # PSNRLoss

    lines = [line for line in outcome.out.splitlines() if line.startswith("iter ") and "loss" in line]
    form = (
        r"iter (\d+)/6, loss (-?[\d.]+), psnr ([\d.]+) dB, grad norm ([\d.e+]+), lr ([\d.e-]+), [\d.]+ it/s, "
        r"(\d+) % waiting for data, \d\d:\d\d left"
    )
    for line, row in zip(lines, training, strict=True):
        iteration, loss, psnr, norm, lr, wait = re.fullmatch(form, line).groups()
        assert iteration == row["iter"]
        assert float(loss) == pytest.approx(float(row["loss"]), abs=1e-4)
        assert float(psnr) == pytest.approx(float(row["psnr"]), abs=0.01)
        assert float(norm) == pytest.approx(float(row["grad_norm"]), rel=0.01)
        assert float(lr) == pytest.approx(float(row["lr"]), rel=0.01)
        assert float(wait) == pytest.approx(100 * float(row["data_wait"]), abs=0.6)

    validated = [row for row in rows if row["val_psnr"]]
    for row in validated:
        for name in ("psnr", "ssim"):
            said = re.search(rf"iter {row['iter']}, validation {name}: ([\d.]+)", outcome.out)[1]
            assert float(said) == pytest.approx(float(row[f"val_{name}"]), abs=1e-4)
        assert row["loss"] == row["lr"] == ""

    assert re.search(r"Peak memory: \d+\.\d\d GiB\.", outcome.out)
    memory = float(re.search(r"Peak memory: ([\d.]+) GiB", outcome.out)[1])
    assert 0.05 < memory < 50

    events = EventAccumulator(str(root / "tb_logger/run"), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    assert set(events.Tags()["scalars"]) == {*(f"train/{key}" for key in COLUMNS[2:9]), "val/psnr", "val/ssim"}
    for key in ("loss", "psnr", "grad_norm", "lr", "it_per_s"):
        expected = {int(row["iter"]): pytest.approx(float(row[key]), rel=1e-5) for row in training}
        assert points(events, f"train/{key}") == expected
    for name in ("psnr", "ssim"):
        expected = {int(row["iter"]): pytest.approx(float(row[f"val_{name}"]), rel=1e-5) for row in validated}
        assert points(events, f"val/{name}") == expected
    assert events.Tags()["images"] == ["val/a", "val/b", "val/c"]
    pictures = events.Images("val/b")
    assert [event.step for event in pictures] == [4, 6]
    shown = cv2.imdecode(np.frombuffer(pictures[0].encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (24, 3 * 32, 3)  # degraded, restored, ground truth
    for side, name in ((0, "input"), (2, "target")):
        file = cv2.imread(str(root / f"datasets/Set/{name}/b.png"))
        part = shown[:, side * 32 : (side + 1) * 32]
        assert np.abs(part.astype(int) - file).max() <= 1
    assert np.abs(shown[:, 32:64].astype(int) - shown[:, :32]).max() > 1

    curves = cv2.imread(str(folder / "curves.png"))
    assert curves.shape[1] == 1200
    assert 500 < curves.shape[0] < 1000
    assert (curves < 250).any(axis=2).mean() > 0.01  # not blank


def test_curves_of_runs_that_have_less(tmp_path):
    """One panel for each column that has numbers; none for a table without any."""
    path, picture = tmp_path / "metrics.csv", tmp_path / "curves.png"
    path.write_text("iter,loss,val_psnr\n")
    draw_curves(path, picture, title="x")
    assert not picture.exists()
    heights = []
    for text in ("iter,loss,lr\n1,2,0.1\n2,nan,0.2\n", "iter,loss,psnr,grad_norm,lr\n1,-2,2,0,0.1\n2,-3,3,inf,0.2\n"):
        path.write_text(text)
        draw_curves(path, picture, title="x")
        heights.append(cv2.imread(str(picture)).shape[0])
    assert heights[1] == 2 * heights[0]  # a second line of panels


# Skipped steps.


def test_the_log_counts_skipped_steps_and_leaves_them_out_of_the_means(opt, root, run, steps, monkeypatch):
    """Of each two steps, one has no finite loss; in the last pair both."""
    step = ImageRestorationModel.train_step

    def some_skipped(self, micro_batches: list, rate: object) -> dict[str, float]:
        figures = step(self, micro_batches, rate)
        bad = len(steps) in (2, 5, 6)
        return figures | ({"loss": np.nan, "grad_norm": np.inf, "skipped": 1.0} if bad else {})

    monkeypatch.setattr(ImageRestorationModel, "train_step", some_skipped)
    del opt["val"]["val_freq"], opt["datasets"]["val"]
    outcome = run("train", "-opt", write_yaml(root / "opt.yml", opt))
    assert outcome.code == 0
    rows = table(root / "experiments/run")
    assert [row["skipped"] for row in rows] == ["1", "0", "2"]
    assert float(rows[0]["loss"]) == pytest.approx(steps[0]["loss"])
    assert float(rows[0]["grad_norm"]) == pytest.approx(steps[0]["grad_norm"])
    assert float(rows[1]["loss"]) == pytest.approx((steps[2]["loss"] + steps[3]["loss"]) / 2)
    assert np.isnan(float(rows[2]["loss"]))
    lines = [line for line in outcome.out.splitlines() if line.startswith("iter ")]
    assert [re.search(r", (\d) steps skipped", line) and re.search(r", (\d) steps", line)[1] for line in lines] == [
        "1",
        None,
        "2",
    ]


# wandb.


class FakeWandb(types.ModuleType):
    """Writes down what is asked of it."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.inits: list[dict] = []
        self.logs: list[tuple[int, dict]] = []
        self.finished = 0

    def init(self, **options: object) -> "FakeWandb":
        self.inits.append(options)
        return self

    def log(self, values: dict, step: int) -> None:
        self.logs.append((step, values))

    def finish(self) -> None:
        self.finished += 1

    def Image(self, content: object) -> tuple[str, tuple[int, ...]]:
        return "picture", tuple(content.shape)


def test_wandb_is_told_everything(opt, root, run, steps, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    opt["logger"]["wandb"] = {"project": "lines", "resume_id": "abc", "mode": "offline"}
    opt["val"]["max_images"] = 2
    assert run("train", "-opt", write_yaml(root / "opt.yml", opt)).code == 0
    assert len(fake.inits) == 1
    config = fake.inits[0].pop("config")
    assert fake.inits[0] == {
        "project": "lines",
        "name": "run",
        "id": "abc",
        "resume": "allow",
        "mode": "offline",
        "dir": str(root / "experiments/run"),
    }
    assert config["train"]["total_iter"] == 6
    assert config["network_g"] == opt["network_g"]
    logged = {(step, key): value for step, values in fake.logs for key, value in values.items()}
    assert len(logged) == sum(len(values) for _, values in fake.logs)  # nothing twice
    assert {key for _, key in logged} == {
        *(f"train/{key}" for key in COLUMNS[2:9]),
        *("val/psnr", "val/ssim", "val/a", "val/b"),
    }
    assert sorted({step for step, _ in logged}) == [2, 4, 6]
    assert [step for step, _ in fake.logs] == sorted(step for step, _ in fake.logs)  # wandb drops steps that go back
    assert logged[2, "train/loss"] == pytest.approx((steps[0]["loss"] + steps[1]["loss"]) / 2)
    assert logged[4, "val/psnr"] == pytest.approx(
        float(next(row for row in table(root / "experiments/run") if row["val_psnr"])["val_psnr"])
    )
    assert logged[6, "val/b"] == ("picture", (3, 24, 96))
    assert fake.finished == 1


def test_wandb_is_left_alone_without_a_project(opt, root, run, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    opt["logger"]["wandb"] = {"resume_id": "abc"}
    del opt["val"]["val_freq"], opt["datasets"]["val"]
    assert run("train", "-opt", write_yaml(root / "opt.yml", opt)).code == 0
    assert (fake.inits, fake.logs, fake.finished) == ([], [], 0)


def test_without_wandb_it_is_one_sentence(opt, root, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    opt["logger"]["wandb"] = {"project": "lines"}
    outcome = run("train", "-opt", write_yaml(root / "opt.yml", opt))
    assert outcome.code == 2
    assert outcome.err.strip().splitlines() == [
        "error: logger.wandb: wandb is not installed; `pip install wandb`, or remove logger.wandb.project."
    ]
    assert not (root / "experiments").exists()


# metrics.csv, going on.


def watch_at(root: Path, **progress: object) -> Path:
    """metrics.csv after a run was gone on from this progress."""
    folder = root / "experiments/run"
    Watch(Progress(**progress), folder=folder, name="run", total_iter=12, metrics=["psnr", "ssim"]).close()
    return folder


@pytest.mark.parametrize(
    ("progress", "left"),
    [
        ({"iter": 6}, ["2 -1", "4 -2", "4 v20", "6 -3", "6 v21"]),
        ({"iter": 6, "validate": True}, ["2 -1", "4 -2", "4 v20", "6 -3"]),
        ({"iter": 5}, ["2 -1", "4 -2", "4 v20"]),
        ({"iter": 0}, []),
    ],
)
def test_rows_that_will_come_again_are_dropped(progress, left, root):
    folder = root / "experiments/run"
    folder.mkdir(parents=True)
    header = "iter,epoch,loss,val_psnr,val_niqe\n"  # of a run with other metrics
    (folder / "metrics.csv").write_text(
        header + "2,1,-1,,\n4,2,-2,,\n4,2,,20,5\n6,3,-3,,\n6,3,,21,6\n8,4,-4,,\n8,4,,22,7\n10,5,-"
    )
    watch_at(root, **progress)
    with open(folder / "metrics.csv", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames == [*COLUMNS, "val_niqe"]
    assert [f"{row['iter']} {row['loss']}" + (f"v{row['val_psnr']}" if row["val_psnr"] else "") for row in rows] == left
    assert all(bool(row["val_niqe"]) == bool(row["val_psnr"]) for row in rows)


def test_peak_memory_of_this_process():
    assert 0.05 < peak_memory(torch.device("cpu")) < 100


def test_two_views_are_shown_side_by_side(tmp_path):
    """The input of dual pixels has six channels; its restored picture and ground truth have three."""
    watch = Watch(Progress(), folder=tmp_path, name="run", total_iter=1, metrics=[], board=tmp_path / "tb")
    left, right, restored, truth = (torch.full((3, 8, 6), value) for value in (0.0, 0.2, 0.6, 1.0))
    watch.picture(1, "val/a", torch.cat([left, right]), restored, truth)
    watch.close()
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    (image,) = events.Images("val/a")
    shown = cv2.imdecode(np.frombuffer(image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (8, 24, 3)
    assert shown[0, ::6, 0].tolist() == [0, 51, 153, 255]
