"""The loop with tiny nets: it learns, is the same however it is interrupted or loaded, and leaves what it should."""

import csv
import functools
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, SMALL_NETS, make_pairs, write_yaml
from torch.utils.data import DataLoader

from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.data.sampler import EndlessBatchSampler, Stage
from basicsr.engine.training.fit import fit, prepare
from basicsr.models.restoration_model import ImageRestorationModel
from basicsr.options import parse
from basicsr.sections import Section
from basicsr.utils.checkpoint import read_weights


@pytest.fixture
def data(root) -> Path:
    return make_pairs(root / "datasets/Set", names=tuple("abcde"))


def weights(root: Path, name: str, iteration: int) -> dict[str, torch.Tensor]:
    return read_weights(root / f"experiments/{name}/models/net_g_{iteration}.pth")


def equal(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture
def losses(monkeypatch) -> list[dict[str, float]]:
    """What every training step of the run returned, and its learning rate."""
    seen = []
    step = ImageRestorationModel.train_step

    def recording(self, micro_batches, rate):
        values = step(self, micro_batches, rate)
        seen.append({**values, "lr": rate(1e-3)})
        return values

    monkeypatch.setattr(ImageRestorationModel, "train_step", recording)
    return seen


RECIPES = {
    "NAFNet": {"pixel_opt": {"type": "PSNRLoss"}},
    "HINet": {"pixel_opt": {"type": "PSNRLoss", "loss_weight": 0.5}},
    "MPRNet": {
        "pixel_opt": {"type": "CharbonnierLoss", "eps": 1e-3},
        "losses": [{"type": "EdgeLoss", "loss_weight": 0.05}],
        "stage_weights": [1, 1, 1],
        "use_grad_clip": False,
    },
    "Restormer": {"pixel_opt": {"type": "L1Loss"}},
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_net_learns_with_its_losses(name, data, root, train_options, losses, run):
    optim = {"type": "AdamW" if name == "Restormer" else "Adam", "lr": 4e-3, "weight_decay": 1e-4}
    train_options["network_g"] = {"type": name, **SMALL_NETS[name]}
    train_options["datasets"]["train"]["gt_size"] = 24
    train_options["train"] |= {**RECIPES[name], "optim_g": optim, "total_iter": 24, "use_grad_clip": 1.0}
    train_options["train"]["scheduler"]["T_max"] = 24
    assert run("train", "-opt", write_yaml(root / "opt.yml", train_options)).code == 0
    values = [value["loss"] for value in losses]
    assert len(values) == 24
    assert np.isfinite(values).all()
    assert np.mean(values[-6:]) < np.mean(values[:6])
    assert all(np.isfinite(value["psnr"]) for value in losses)


def test_a_step_is_the_sum_over_stages_by_hand():
    """Two stages, weights 1 and 0.5, two losses, clipped, plain Adam: against torch alone."""

    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor([2.0, -1.0]))

        def forward(self, x):
            return [x * self.w[0], x * self.w[0] + self.w[1]]

    class Mean(torch.nn.Module):
        def forward(self, out, gt):
            return (out - gt).mean()

    class Square(torch.nn.Module):
        def forward(self, out, gt):
            return (out - gt).square().mean()

    lq, gt = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    mine, theirs = Two(), Two()
    model = ImageRestorationModel(mine, device=torch.device("cpu"))
    model.prepare_training(
        losses=[Mean(), Square()],
        stage_weights=[1, 0.5],
        optimizer=torch.optim.SGD([{"params": mine.parameters(), "base_lr": 1.0}], lr=9.0),
        max_grad_norm=0.1,
    )
    values = model.train_step([{"lq": lq, "gt": gt}], rate=lambda base_lr: base_lr / 2)

    first, second = theirs(lq)
    loss = (first - gt).mean() + (first - gt).square().mean() + 0.5 * ((second - gt).mean() + (second - gt).square().mean())
    loss.backward()
    norm = theirs.w.grad.norm()
    assert norm > 0.1
    torch.testing.assert_close(mine.w.detach(), theirs.w.detach() - 0.5 * theirs.w.grad * 0.1 / norm, atol=1e-6, rtol=1e-5)
    assert values["loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert values["grad_norm"] == pytest.approx(norm.item(), rel=1e-5)
    per_image = (second - gt).square().mean((1, 2, 3))
    assert values["psnr"] == pytest.approx((-10 * per_image.log10()).mean().item(), rel=1e-5)


def test_what_a_run_leaves(data, root, train_options, losses, run):
    train_options["datasets"]["val"] = {key: train_options["datasets"]["train"][key] for key in ("dataroot_gt", "dataroot_lq")}
    train_options["val"] |= {"val_freq": 4, "save_img": True, "max_images": 2}
    train_options["logger"]["use_tb_logger"] = True
    outcome = run("train", "-opt", write_yaml(root / "opt.yml", train_options))
    assert outcome.code == 0
    run_folder = root / "experiments/run"
    assert sorted(p.name for p in (run_folder / "models").iterdir()) == [
        "net_g_3.pth",
        "net_g_6.pth",
        "net_g_best.pth",
        "net_g_latest.pth",
    ]
    assert sorted(p.name for p in (run_folder / "training_states").iterdir()) == [
        "3.state",
        "6.state",
        "latest.state",
    ]
    assert sorted(str(p.relative_to(run_folder / "visualization")) for p in (run_folder / "visualization").rglob("*.png")) == [
        "4/a.png",
        "4/b.png",
        "6/a.png",
        "6/b.png",
    ]
    assert list((root / "tb_logger/run").iterdir())
    log = (run_folder / "train_run.log").read_text()
    assert "iter 2/6" in log
    assert "iter 4, validation psnr: " in log
    assert "Finished: experiments/run/models/net_g_6.pth" in log
    assert [value["lr"] for value in losses] == pytest.approx(
        [1e-7 + (1e-3 - 1e-7) * (1 + np.cos(np.pi * i / 6)) / 2 for i in range(6)]
    )
    assert not list(root.rglob("*.tmp"))


def test_validation_is_the_test(data, root, train_options, run):
    """The figure of the last validation is that of test.py with the weights that were saved."""
    paths = {key: train_options["datasets"]["train"][key] for key in ("dataroot_gt", "dataroot_lq")}
    train_options["datasets"]["val"] = paths
    train_options["val"]["val_freq"] = 6
    out = run("train", "-opt", write_yaml(root / "opt.yml", train_options)).out
    validated = out.split("validation psnr: ")[1].split()[0]
    args = ("--force_yml", "path:pretrain_network_g=experiments/run/models/net_g_6.pth", "val:val_freq=~")
    assert run("test", "-opt", "opt.yml", *args).code == 0
    with open(root / "results/run/images.csv", newline="") as file:
        psnr = [float(row["psnr"]) for row in csv.DictReader(file)]
    assert len(psnr) == 5
    assert float(validated) == pytest.approx(np.mean(psnr), abs=1e-4)


def test_resumed_is_the_same_as_uninterrupted(data, root, train_options, losses, run):
    """Three iterations, then --auto_resume to six, against six at once: weights, optimiser and learning rates."""
    file = write_yaml(root / "opt.yml", train_options)
    assert run("train", "-opt", file, "--force_yml", "name=whole").code == 0
    assert run("train", "-opt", file, "--force_yml", "name=parts", "train:total_iter=3").code == 0
    outcome = run("train", "-opt", file, "--auto_resume", "--force_yml", "name=parts")
    assert outcome.code == 0
    assert "Resumed from experiments/parts/training_states/3.state at iteration 3." in outcome.out
    assert losses[:6] == losses[6:]
    assert equal(weights(root, "whole", 3), weights(root, "parts", 3))
    assert equal(weights(root, "whole", 6), weights(root, "parts", 6))
    assert not equal(weights(root, "whole", 3), weights(root, "whole", 6))
    states = [torch.load(root / f"experiments/{n}/training_states/6.state", weights_only=True) for n in ("whole", "parts")]
    moments = [state["optimizer"]["state"][0]["exp_avg"] for state in states]
    assert torch.equal(*moments)


def test_auto_resume_takes_the_latest_state_or_starts(data, root, train_options, losses, run):
    file = write_yaml(root / "opt.yml", train_options)
    assert run("train", "-opt", file, "--auto_resume").code == 0  # nothing to resume
    assert len(losses) == 6
    for name in ("6", "latest"):
        (root / f"experiments/run/training_states/{name}.state").unlink()
    (root / "experiments/run/training_states/notes.state").touch()
    assert run("train", "-opt", file, "--auto_resume").code == 0
    assert len(losses) == 9
    assert run("train", "-opt", file, "--auto_resume").code == 0  # finished already
    assert len(losses) == 9
    assert run("train", "-opt", file, "--force_yml", "path:resume_state=experiments/run/training_states/3.state").code == 0
    assert len(losses) == 12


def test_resuming_with_another_network_is_refused(data, root, train_options, run):
    file = write_yaml(root / "opt.yml", train_options)
    assert run("train", "-opt", file).code == 0
    outcome = run("train", "-opt", file, "--auto_resume", "--force_yml", "network_g:width=8")
    assert outcome.code == 2
    assert "the checkpoint fits width: 4" in outcome.err
    (root / "experiments/run/models/net_g_6.pth").unlink()
    outcome = run("train", "-opt", file, "--auto_resume")
    assert outcome.code == 0
    assert "Resumed from experiments/run/training_states/3.state" in outcome.out


def test_a_new_run_does_not_overwrite_an_old_one(data, root, train_options, run):
    file = write_yaml(root / "opt.yml", train_options)
    for _ in range(3):  # within a second
        assert run("train", "-opt", file).code == 0
    folders = sorted(p.name for p in (root / "experiments").iterdir())
    assert len(folders) == 3
    assert sum(name.startswith("run_archived_") for name in folders) == 2
    assert all((root / "experiments" / name / "models/net_g_6.pth").is_file() for name in folders)


def test_the_seed_decides(data, root, train_options, run):
    file = write_yaml(root / "opt.yml", train_options)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run("train", "-opt", file, "--force_yml", f"name={name}", f"manual_seed={seed}").code == 0
    assert equal(weights(root, "a", 6), weights(root, "b", 6))
    assert not equal(weights(root, "a", 6), weights(root, "c", 6))


def test_samples_do_not_depend_on_the_workers(data):
    dataset = PairedImageDataset(
        dataroot_gt=str(data / "target"), dataroot_lq=str(data / "input"), gt_size=16, use_flip=True, use_rot=True
    )
    runs = []
    for workers in (0, 1, 2):
        sampler = EndlessBatchSampler(5, [Stage(iters=8, gt_size=16, batch_size=2, micro_batch=2)], seed=7)
        loader = DataLoader(dataset, batch_sampler=sampler, num_workers=workers)
        runs.append(list(itertools.islice(loader, 8)))
    for batches in zip(*runs, strict=True):
        for other in batches[1:]:
            assert other["name"] == batches[0]["name"]
            assert torch.equal(other["lq"], batches[0]["lq"])
            assert torch.equal(other["gt"], batches[0]["gt"])


def test_training_with_workers_is_training_without(data, root, train_options, run):
    file = write_yaml(root / "opt.yml", train_options)
    for workers in (0, 2):
        args = (f"name=w{workers}", f"datasets:train:num_worker_per_gpu={workers}")
        assert run("train", "-opt", file, "--force_yml", *args).code == 0
    assert equal(weights(root, "w0", 6), weights(root, "w2", 6))


def test_an_image_that_turns_bad_is_one_sentence(data, root, train_options, run):
    """Whole by its ends, damaged inside: only decoding, in a worker process, finds it."""
    for name in "abcde":
        path = data / f"input/{name}.png"
        content = bytearray(path.read_bytes())
        middle = content.index(b"IDAT") + 4 + 300
        content[middle : middle + 60] = bytes(60)
        path.write_bytes(bytes(content))
    train_options["datasets"]["train"]["num_worker_per_gpu"] = 1
    outcome = run("train", "-opt", write_yaml(root / "opt.yml", train_options))
    assert outcome.code == 2
    errors = [line for line in outcome.err.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert ".png: is damaged: its PNG chunk IDAT at byte 33 is not what its checksum says; replace" in errors[0]
    assert "Traceback" not in outcome.err
    for worker in multiprocessing.active_children():  # as Python does at its end, which would otherwise never come
        worker.terminate()
        worker.join(20)
        assert not worker.is_alive()


def test_a_signal_saves_and_leaves(data, root, train_options, losses, monkeypatch, run):
    """SIGTERM during iteration 2: that iteration is finished and saved, and the run goes on to the same end."""
    file = write_yaml(root / "opt.yml", train_options)
    assert run("train", "-opt", file, "--force_yml", "name=whole").code == 0
    losses.clear()
    step = ImageRestorationModel.train_step

    def interrupted(self, micro_batches, rate):
        if len(losses) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, micro_batches, rate)

    with monkeypatch.context() as patch:
        patch.setattr(ImageRestorationModel, "train_step", interrupted)
        outcome = run("train", "-opt", file)
    assert outcome.code == 130
    assert "Interrupted at iteration 2 and saved; go on with --auto_resume." in outcome.out
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert run("train", "-opt", file, "--auto_resume").code == 0
    assert equal(weights(root, "whole", 6), weights(root, "run", 6))


def test_a_killed_process_leaves_nothing_half_written(root, data, train_options):
    """SIGKILL at any moment: every file that has its final name can be read."""
    code = (
        "import sys; from basicsr import options; from pathlib import Path; options.ROOT = Path.cwd(); "
        "from basicsr.engine.training.fit import fit; fit(options.load('opt.yml'))"
    )
    train_options["train"]["total_iter"] = 10**6
    train_options["logger"] |= {"save_checkpoint_freq": 1, "keep_checkpoints": "all"}
    write_yaml(root / "opt.yml", train_options)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    models = root / "experiments/run/models"
    until = time.monotonic() + 300
    while time.monotonic() < until and len(list(models.glob("net_g_[0-9]*.pth"))) < 20:
        time.sleep(0.02)
    process.kill()
    process.wait()
    states = list((root / "experiments/run/training_states").glob("[0-9]*.state"))
    assert len(states) >= 19
    for state in states:
        iteration = torch.load(state, weights_only=True)["iter"]
        assert read_weights(models / f"net_g_{iteration}.pth")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_training_in_lower_precision(precision, data, root, train_options, losses, run):
    train_options["train"]["precision"] = precision
    outcome = run("train", "-opt", write_yaml(root / "opt.yml", train_options))
    assert outcome.code == 0
    assert np.isfinite([value["loss"] for value in losses]).all()
    assert {value.dtype for value in weights(root, "run", 6).values()} == {torch.float32}


def test_changing_the_precision_on_resuming(data, root, train_options, run):
    file = write_yaml(root / "opt.yml", train_options)
    assert run("train", "-opt", file, "--force_yml", "train:total_iter=3").code == 0
    assert run("train", "-opt", file, "--auto_resume", "--force_yml", "train:precision=fp16").code == 0


def test_a_local_type_trains_as_the_plain_net(data, root, train_options, run):
    """The published training files of NAFNet name -Local types."""
    file = write_yaml(root / "opt.yml", train_options)
    assert run("train", "-opt", file, "--force_yml", "name=plain").code == 0
    local = ("name=local", "network_g:type=NAFNetLocal", "network_g:train_size=16", "network_g:base_size=24")
    assert run("train", "-opt", file, "--force_yml", *local).code == 0
    first, second = weights(root, "plain", 6), weights(root, "local", 6)
    assert first.keys() == second.keys()
    for key in first:
        torch.testing.assert_close(first[key], second[key], atol=1e-5, rtol=1e-3)


def reachable(value: object, seen: dict[int, object]) -> Iterator[object]:
    """A value and all that it holds: attributes, entries, arguments of partials, what functions close over."""
    if id(value) in seen or isinstance(value, (type, str, torch.Tensor)):
        return
    seen[id(value)] = value
    yield value
    inside = [*getattr(value, "__dict__", {}).values(), getattr(value, "__self__", None)]
    inside += [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
    if isinstance(value, functools.partial):
        inside += [value.func, value.args, value.keywords]
    if isinstance(value, dict):
        inside += value.values()
    if isinstance(value, (list, tuple, set)):
        inside += value
    for part in inside:
        yield from reachable(part, seen)


def test_the_parts_of_a_run_hold_no_options(data, root, train_options):
    """The loop cannot ask them again; what is written down of them are plain values."""
    train_options["datasets"]["val"] = {**train_options["datasets"]["train"]}
    del train_options["datasets"]["val"]["gt_size"]
    train_options["val"] |= {"tile": 16, "tile_overlap": 4, "self_ensemble": True}
    opt = parse(train_options, "a test")
    assert any(value is opt.val for value in reachable({"a": functools.partial(len, opt)}, {}))
    held = list(reachable(prepare(opt), {}))
    assert any(isinstance(value, PairedImageDataset) for value in held)
    assert opt.model_dump(mode="json") in [value for value in held if isinstance(value, dict)]
    assert not [value for value in held if isinstance(value, Section)]
    assert not (root / "experiments").exists()


def test_fit_is_a_function_of_options(data, root, train_options):
    assert fit(parse(train_options, "a test")) == 0
