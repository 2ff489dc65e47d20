"""The training loop: short enough to be read in one go.

Randomness is a function of manual_seed, the iteration and the number of the sample, so that neither workers nor processes nor
interruptions change a run.
"""

import contextlib
import logging
import signal
import time
from functools import partial
from pathlib import Path

import torch

from basicsr.data.sampler import stage_at
from basicsr.engine import build
from basicsr.engine.testing.evaluate import evaluate, means
from basicsr.engine.training import plan, state
from basicsr.engine.training.loader import TrainLoader
from basicsr.engine.training.watch import SKIPPED_STEPS, Watch, peak_memory, require_wandb
from basicsr.errors import UserError
from basicsr.models import schedule
from basicsr.models.inference import is_out_of_memory
from basicsr.models.restoration_model import ImageRestorationModel
from basicsr.options import Options, display, resolve
from basicsr.sections import DatasetOptions
from basicsr.utils import dist
from basicsr.utils.log import log_to_file, set_aside
from basicsr.utils.seed import seed_everything

logger = logging.getLogger("basicsr")
PICTURES = 3  # of every validation, for TensorBoard


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


class _Interrupted(Exception):
    """Validation was given up because the run is to end."""


def fit(opt: Options, *, auto_resume: bool = False, dry_run: bool = False) -> int:
    """Train as the options say, into experiments/<name>/. Returns the exit code: 0, or 130 when it was interrupted and saved.

    Args:
        auto_resume: go on from where the run of this name was saved last; start it if it was not.
        dry_run: check everything, print the plan, and write nothing.

    Raises:
        UserError: anything in the options or the data that cannot be trained with, before the first step.
    """
    folder = resolve("experiments") / opt.name
    training = dist.together(lambda: _Training(opt, folder, auto_resume))
    if dry_run:
        training.say_what_comes()
        return 0
    return training.run()


class _Training:
    """A run that is ready to start: everything that can be wrong with the options and the data has been found by now."""

    def __init__(self, opt: Options, folder: Path, auto_resume: bool) -> None:
        self.opt, self.folder = opt, folder
        train_opt, val_opt = _sections(opt)
        self.stages = plan.stages_of(opt)
        self.state_file = state.find(opt, folder, auto_resume)
        require_wandb(opt.logger.wandb)
        seed_everything(opt.manual_seed)
        largest = max(stage.gt_size for stage in self.stages)
        self.train_set = build.build_dataset(train_opt, "datasets.train", gt_size=largest)
        self.val_set = build.build_dataset(val_opt, "datasets.val") if val_opt else None
        self.metrics = build.build_metrics(opt.val)
        for dataset in (self.train_set, self.val_set):
            if dataset is not None:
                dataset.check()
        self.model, self.rate = _build_model(opt)
        plan.check_sizes(self.stages, self.model.net)
        if type(self.model) is ImageRestorationModel:  # others decide on their own what they make of outputs
            plan.check_outputs(opt, self.stages, self.model)
        images = len(self.train_set)
        self.progress, self.notes = state.Progress(), []
        if self.state_file:
            self.progress, self.notes = state.load(self.model, self.state_file, opt, images, self._batches)
        self.epoch_length = images * train_opt.dataset_enlarge_ratio

    def say_what_comes(self) -> None:
        parameters = sum(p.numel() for p in self.model.net.parameters())
        opt, images = self.opt, len(self.train_set)
        logger.info(
            "%s",
            f"{opt.network_g.type}: {parameters:,} parameters on {self.model.device}, {images:,} training images"
            + (f", {len(self.val_set):,} for validation" if self.val_set is not None else ""),
        )
        plan_text = plan.describe(opt, self.stages, images, self.epoch_length, self.rate, opt.train.activation_checkpointing)
        for text in [plan_text, *self.notes]:
            logger.info("%s", text)

    def run(self) -> int:
        if self.state_file is None and dist.is_main() and (moved := set_aside(self.folder)):
            logger.info("The earlier run of this name was moved to %s.", display(moved))
        if dist.is_main():
            log_to_file(self.folder / f"train_{self.opt.name}.log")
            state.remove_unfinished(self.folder)
        self.say_what_comes()
        self.watch = Watch(self.opt, self.folder, self.progress, list(self.metrics)) if dist.is_main() else None
        self.flag = _StopFlag()
        try:
            self._loop()
        except UserError:  # a bad picture, no memory: nothing that was learnt is lost
            with contextlib.suppress(UserError):
                self._save()
                logger.info("Saved at iteration %d, to go on from with --auto_resume.", self.progress.iter)
            raise
        finally:
            self.flag.restore()
            if self.watch:
                self.watch.close()
        memory = peak_memory(self.model.device)
        logger.info("Peak memory: %s.", "unknown" if memory is None else f"{memory:.2f} GiB")
        if self.progress.iter < self.opt.train.total_iter or self.progress.validate:
            logger.info("Interrupted at iteration %d and saved; go on with --auto_resume.", self.progress.iter)
            return 130
        logger.info("Finished: %s", display(self.folder / "models" / f"net_g_{self.progress.iter}.pth"))
        return 0

    def _loop(self) -> None:
        opt, progress = self.opt, self.progress
        total = opt.train.total_iter
        if progress.validate:  # it was interrupted there
            progress.validate = self.val_set is not None
            if progress.validate:
                self._validate()
            self._save()
        loader = TrainLoader(
            self.train_set, opt.datasets["train"], self.stages, opt.manual_seed, pin=self.model.device.type == "cuda"
        )
        began, first, waited = time.perf_counter(), progress.iter, 0.0
        while progress.iter < total and not progress.validate:
            asked = time.perf_counter()
            micro_batches = loader.step(progress.iter, progress.seen)
            waited += time.perf_counter() - asked
            self._step(micro_batches)
            stop = dist.any_true(self.flag.raised)
            if progress.iter % opt.logger.print_freq == 0:
                seconds, steps = time.perf_counter() - began, progress.iter - first
                self._report(it_per_s=steps / seconds, data_wait=waited / seconds)
                began, first, waited = time.perf_counter(), progress.iter, 0.0
            last = progress.iter == total
            if self.val_set is not None and (last or progress.iter % (opt.val.val_freq or total) == 0):
                progress.validate = True
                if not stop:
                    self._validate()
                    began, first, waited = time.perf_counter(), progress.iter, 0.0
            if last or stop or progress.validate or progress.iter % opt.logger.save_checkpoint_freq == 0:
                self._save()
            if stop:
                break

    def _step(self, micro_batches: list[dict]) -> None:
        opt, progress = self.opt, self.progress
        seed_everything(opt.manual_seed, progress.iter, dist.rank())
        try:
            figures = self.model.train_step(micro_batches, partial(self.rate, progress.iter))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            stage = stage_at(self.stages, progress.iter)
            raise UserError(
                f"out of memory with {stage.micro_batch} patches of {stage.gt_size} at once; lower "
                "datasets.train.batch_size_per_gpu (with batch_size the global batch stays as it is), or set "
                "train.activation_checkpointing: true, or train.precision: bf16."
            ) from error
        figures["lr"] = self.rate(progress.iter, opt.train.optim_g.lr)
        progress.seen += stage_at(self.stages, progress.iter).batch_size
        progress.iter += 1
        progress.window.append(figures)
        progress.skipped += int(figures["skipped"])
        progress.skipped_in_a_row = progress.skipped_in_a_row + 1 if figures["skipped"] else 0
        if figures["skipped"]:
            self._note_skipped(figures, dist.gather([name for batch in micro_batches for name in batch["name"]]))
        if self.watch:
            self.watch.step()

    def _note_skipped(self, figures: dict[str, float], names: list[list[str]]) -> None:
        """Write the file names of a batch without a finite loss or gradient; stop when nothing else comes any more."""
        if self.watch:
            images = " ".join(name for share in names for name in share)
            row = {"iter": self.progress.iter, "loss": figures["loss"], "grad_norm": figures["grad_norm"], "images": images}
            self.watch.skipped_steps.add(row)
        file = display(self.folder / SKIPPED_STEPS)
        in_a_row, most = self.progress.skipped_in_a_row, self.opt.train.max_skipped_steps
        if in_a_row >= most:
            raise UserError(
                f"iteration {self.progress.iter}: {in_a_row} steps in a row had no finite loss and gradient; their images are "
                f"in {file}. Lower train.optim_g.lr, take precision bf16 instead of fp16, or check these images."
            )

    def _report(self, it_per_s: float, data_wait: float) -> None:
        window, progress = self.progress.window, self.progress
        learnt = [step for step in window if not step["skipped"]] or window  # the others are not finite
        figures = {key: sum(step[key] for step in learnt) / len(learnt) for key in ("loss", "psnr", "grad_norm")}
        figures |= {"lr": window[-1]["lr"], "skipped": sum(step["skipped"] for step in window)}
        progress.window = []
        if self.watch:
            epoch = progress.seen / self.epoch_length
            self.watch.training(progress.iter, epoch, {**figures, "it_per_s": it_per_s, "data_wait": data_wait})

    def _validate(self) -> None:
        """Measure the model now and keep it if it is the best; when the run is to end, leave that for later."""
        opt, progress = self.opt, self.progress
        self.model.eval()
        predict = build.way_to_run(self.model.predict, opt.val, self.model.device)

        def interruptible(image: torch.Tensor) -> torch.Tensor:
            if self.flag.raised and dist.world_size() == 1:  # several processes would have to agree on the image
                raise _Interrupted
            return predict(image)

        def show(number: int, lq: torch.Tensor, restored: torch.Tensor, gt: torch.Tensor, name: str) -> None:
            if self.watch and number < PICTURES:
                self.watch.picture(progress.iter, name, lq, restored, gt)

        try:
            results = evaluate(
                interruptible,
                self.val_set,
                self.metrics,
                save_dir=self.folder / "visualization" / str(progress.iter) if opt.val.save_img else None,
                max_images=opt.val.max_images,
                input_metrics=False,
                on_image=show,
                label="validation",
            )
        except _Interrupted:
            return
        progress.validate = False
        values = means(results)
        for name, value in values.items():
            logger.info("iter %d, validation %s: %.4f (%s)", progress.iter, name, value, self.metrics[name].protocol)
        if self.watch:
            self.watch.validation(progress.iter, progress.seen / self.epoch_length, values)
        self._keep_if_best(values)

    def _keep_if_best(self, values: dict[str, float]) -> None:
        """The first metric decides."""
        name, value = next(iter(values.items()), (None, None))
        if name is None:
            return
        best, sign = self.progress.best, 1 if self.metrics[name].higher_is_better else -1
        if best.get("metric") != name or sign * value > sign * best["value"]:
            self.progress.best = {"metric": name, "value": value, "iter": self.progress.iter}
            if dist.is_main():
                state.save_model(self.model, self.folder, "best")
        best = self.progress.best
        logger.info("Best %s so far: %.4f at iteration %d.", name, best["value"], best["iter"])

    def _save(self) -> None:
        self.model.eval()
        if dist.is_main():
            state.save(self.model, self.progress, self.folder, self.opt, len(self.train_set), self._batches)

    @property
    def _batches(self) -> list[int]:
        return [stage.batch_size for stage in self.stages]


def _sections(opt: Options) -> tuple[DatasetOptions, DatasetOptions | None]:
    if opt.train is None:
        raise UserError("`train` is missing: this file cannot be trained with; take one of options/train.")
    if "train" not in opt.datasets:
        raise UserError("datasets.train is missing; add the training images there.")
    if opt.val.val_freq and "val" not in opt.datasets:
        raise UserError("val.val_freq is given, but datasets.val is missing; add the validation images or remove val_freq.")
    if opt.val.channels_last is not None and opt.val.channels_last != opt.train.channels_last:
        raise UserError(
            "val.channels_last: a training validates in its own layout; set train.channels_last, or leave this out."
        )
    return opt.datasets["train"], opt.datasets.get("val")


def _build_model(opt: Options) -> tuple[ImageRestorationModel, schedule.Schedule]:
    net = build.build_net(opt.network_g.as_dict(), opt.path)
    scheduler = opt.train.scheduler
    rate = schedule.make_schedule(scheduler.type, scheduler.arguments)
    model = build.model_class(opt)(
        net,
        device=build.prepare_machine(opt),
        precision=opt.train.precision,
        channels_last=opt.train.channels_last,
        compiled=opt.val.compile,
    )
    model.prepare_training(
        losses=build.build_losses(opt),
        optimizer=build.build_optimizer(net, opt.train.optim_g),
        stage_weights=opt.train.stage_weights,
        max_grad_norm=opt.train.max_grad_norm,
        ema_decay=opt.train.ema_decay,
        activation_checkpointing=opt.train.activation_checkpointing,
        compiled=opt.train.compile,
        find_unused_parameters=opt.find_unused_parameters,
        validation_precision=opt.val.precision,
    )
    return model, schedule.with_warmup(rate, opt.train.warmup_iter)
