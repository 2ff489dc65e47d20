"""The training loop: short enough to be read in one go.

Randomness is a function of manual_seed and the number of the sample, so that neither workers nor interruptions change a run.
"""

import logging
import os
import random
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from basicsr.engine import build
from basicsr.engine.evaluate import evaluate, means
from basicsr.errors import UserError
from basicsr.models import schedule
from basicsr.models.restoration_model import ImageRestorationModel
from basicsr.options import DatasetOptions, Options, display, resolve
from basicsr.utils.checkpoint import load_weights, read_torch, save_torch
from basicsr.utils.dist import pick_device
from basicsr.utils.log import log_to_file, set_aside

logger = logging.getLogger("basicsr")


class EndlessSampler(Sampler[tuple[int, tuple[int, int]]]):
    """(image number, seed) for sample number `start`, start + 1, ...: epoch after epoch, each a new permutation."""

    def __init__(self, length: int, enlarge: int, seed: int, start: int) -> None:
        self.length, self.epoch_length, self.seed, self.start = length, length * enlarge, seed, start

    def __iter__(self) -> Iterator[tuple[int, tuple[int, int]]]:
        epoch, position = divmod(self.start, self.epoch_length)
        while True:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.epoch_length) % self.length
            for place in range(position, self.epoch_length):
                yield int(order[place]), (self.seed, epoch * self.epoch_length + place)
            epoch, position = epoch + 1, 0


class _StopFlag:
    """Set by SIGTERM or the first Ctrl-C: the loop saves and leaves after the running step. A second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.raised = False
        self.old = {number: signal.signal(number, self._raise) for number in (signal.SIGINT, signal.SIGTERM)}

    def _raise(self, number: int, frame: object) -> None:
        self.raised = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def restore(self) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)


def fit(opt: Options, *, auto_resume: bool = False) -> int:
    """Train as the options say, into experiments/<name>/. Returns the exit code: 0, or 130 when it was interrupted and saved.

    Raises:
        UserError: anything in the options or the data that cannot be trained with, before the first step.
    """
    train_opt, val_opt = _sections(opt)
    folder = resolve("experiments") / opt.name
    state_file = _resume_file(opt, folder, auto_resume)
    _seed(opt.manual_seed)
    train_set = build.build_dataset(train_opt, "datasets.train")
    if getattr(train_set, "gt_size", None) is None:
        raise UserError("datasets.train.gt_size is missing: training needs the size of its crops, such as 256.")
    val_set = build.build_dataset(val_opt, "datasets.val") if val_opt else None
    metrics = build.build_metrics(opt.val)
    for dataset in (train_set, val_set):
        if dataset is not None:
            dataset.check()
    model, rate = _build_model(opt)
    start = _load_state(model, state_file) if state_file else 0
    if state_file is None and (moved := set_aside(folder)):
        logger.info("The earlier run of this name was moved to %s.", display(moved))
    log_to_file(folder / f"train_{opt.name}.log")
    if state_file:
        logger.info("Resumed from %s at iteration %d.", display(state_file), start)
    parameters = sum(p.numel() for p in model.net.parameters())
    logger.info(
        "%s: %s parameters, %d training images, device %s", opt.network_g.type, f"{parameters:,}", len(train_set), model.device
    )

    loader = _loader(train_set, train_opt, opt.manual_seed, start)
    board = SummaryWriter(str(resolve("tb_logger") / opt.name)) if opt.logger.use_tb_logger else None
    flag = _StopFlag()
    total, began = opt.train.total_iter, time.perf_counter()
    bar = tqdm(total=total, initial=start, unit="it", desc=opt.name, disable=None)
    values: list[dict[str, float]] = []
    iteration = start
    try:
        for batch in loader if start < total else ():
            lr = rate(iteration, opt.train.optim_g.lr)
            values.append(model.train_step(batch["lq"], batch["gt"], lr))
            iteration += 1
            bar.update()
            if iteration % opt.logger.print_freq == 0:
                _log(board, bar, iteration, total, lr, values, (iteration - start) / (time.perf_counter() - began))
                values = []
            last = iteration == total or flag.raised
            if last or iteration % opt.logger.save_checkpoint_freq == 0:
                _save(model, folder, iteration)
            if val_set is not None and not flag.raised and (iteration == total or iteration % (opt.val.val_freq or total) == 0):
                _validate(model, opt, val_set, metrics, board, iteration)
            if last:
                break
    finally:
        flag.restore()
        bar.close()
        if board:
            board.close()
    if iteration < total:
        logger.info("Interrupted at iteration %d and saved; go on with --auto_resume.", iteration)
        return 130
    logger.info("Finished: %s", display(folder / "models" / f"net_g_{total}.pth"))
    return 0


def _sections(opt: Options) -> tuple[DatasetOptions, DatasetOptions | None]:
    if opt.train is None:
        raise UserError("`train` is missing: this file cannot be trained with; take one of options/train.")
    if "train" not in opt.datasets:
        raise UserError("datasets.train is missing; add the training images there.")
    if opt.val.val_freq and "val" not in opt.datasets:
        raise UserError("val.val_freq is given, but datasets.val is missing; add the validation images or remove val_freq.")
    return opt.datasets["train"], opt.datasets.get("val")


def _build_model(opt: Options) -> tuple[ImageRestorationModel, schedule.Schedule]:
    net = build.build_net(opt.network_g.as_dict(), opt.path)
    optim = opt.train.optim_g
    optimizer_class = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}[optim.type]
    scheduler = opt.train.scheduler
    rate = schedule.SCHEDULERS.build(scheduler.type, scheduler.arguments, "train.scheduler")
    model = build.model_class(opt)(
        net,
        device=pick_device(opt.num_gpu),
        precision=opt.train.precision,
        channels_last=opt.train.channels_last,
        compiled=opt.train.compile,
        losses=build.build_losses(opt),
        stage_weights=opt.train.stage_weights,
        optimizer=optimizer_class(net.parameters(), lr=optim.lr, weight_decay=optim.weight_decay, betas=optim.betas),
        max_grad_norm=opt.train.max_grad_norm,
    )
    return model, schedule.with_warmup(rate, opt.train.warmup_iter)


def _loader(dataset: torch.utils.data.Dataset, opt: DatasetOptions, seed: int, start: int) -> DataLoader:
    return DataLoader(
        dataset,
        batch_size=opt.batch_size_per_gpu,
        sampler=EndlessSampler(len(dataset), opt.dataset_enlarge_ratio, seed, start * opt.batch_size_per_gpu),
        num_workers=opt.num_worker_per_gpu,
        worker_init_fn=_start_worker,
        pin_memory=torch.cuda.is_available(),
    )


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the loop's business,
    if hasattr(os, "setpgrp"):  # and so is a SIGTERM that goes to the whole process group
        os.setpgrp()


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _log(
    board: SummaryWriter | None, bar: tqdm, iteration: int, total: int, lr: float, values: list[dict], speed: float
) -> None:
    """Means since the last line; loss is negative for PSNRLoss, so the PSNR stands beside it."""
    means_ = {key: sum(v[key] for v in values) / len(values) for key in values[0]}
    left = tqdm.format_interval((total - iteration) / speed)
    logger.info(
        "iter %d/%d, loss %.4f, psnr %.2f dB, grad norm %.3g, lr %.3g, %.2f it/s, %s left",
        *(iteration, total, means_["loss"], means_["psnr"], means_["grad_norm"], lr, speed, left),
    )
    bar.set_postfix(loss=f"{means_['loss']:.4f}", psnr=f"{means_['psnr']:.2f}", lr=f"{lr:.3g}")
    if board:
        for key, value in {**means_, "lr": lr}.items():
            board.add_scalar(f"train/{key}", value, iteration)


def _validate(
    model: ImageRestorationModel, opt: Options, val_set, metrics: dict, board: SummaryWriter | None, iteration: int
) -> None:
    predict = build.way_to_run(model.predict, opt.val)
    save_dir = resolve("experiments") / opt.name / "visualization" / str(iteration) if opt.val.save_img else None
    results = evaluate(
        predict, val_set, metrics, save_dir=save_dir, max_images=opt.val.max_images, input_metrics=False, label="validation"
    )
    for name, value in means(results).items():
        logger.info("iter %d, validation %s: %.4f (%s)", iteration, name, value, metrics[name].protocol)
        if board:
            board.add_scalar(f"val/{name}", value, iteration)


def _save(model: ImageRestorationModel, folder: Path, iteration: int) -> None:
    save_torch(folder / "models" / f"net_g_{iteration}.pth", {"params": model.net.state_dict()})
    state = {"iter": iteration, "optimizer": model.optimizer.state_dict(), "scaler": model.scaler.state_dict()}
    save_torch(folder / "training_states" / f"{iteration}.state", state)  # last: a state file means that its model is there


def _load_state(model: ImageRestorationModel, file: Path) -> int:
    state = read_torch(file)
    if not {"iter", "optimizer", "scaler"} <= set(state):
        raise UserError(f"{file} is no training state; take one of experiments/<name>/training_states.")
    load_weights(model.net, file.parents[1] / "models" / f"net_g_{state['iter']}.pth")
    model.optimizer.load_state_dict(state["optimizer"])
    if state["scaler"]:  # empty when the run was not in fp16
        model.scaler.load_state_dict(state["scaler"])
    return state["iter"]


def _resume_file(opt: Options, folder: Path, auto_resume: bool) -> Path | None:
    if opt.path.resume_state:
        file = resolve(opt.path.resume_state)
        if not file.is_file():
            raise UserError(f"path.resume_state: {file} does not exist.")
        return file
    states = [f for f in (folder / "training_states").glob("*.state") if re.fullmatch(r"\d+", f.stem)]
    return max(states, key=lambda f: int(f.stem), default=None) if auto_resume else None
