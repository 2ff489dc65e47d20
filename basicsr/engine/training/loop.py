"""The training loop: short enough to be read in one go. Its parts come ready; `fit` makes them of the options.

Randomness is a function of manual_seed, the iteration and the number of the sample, so that neither workers nor processes nor
interruptions change a run.
"""

import contextlib
import logging
import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from basicsr.data.sampler import stage_at
from basicsr.engine.training.loader import TrainLoader
from basicsr.engine.training.plan import Plan
from basicsr.engine.training.state import Progress, States
from basicsr.engine.training.validation import Validation
from basicsr.engine.training.watch import SKIPPED_STEPS, Watch, peak_memory
from basicsr.errors import UserError
from basicsr.models.inference import is_out_of_memory
from basicsr.models.restoration_model import ImageRestorationModel
from basicsr.options import display
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


@dataclass
class Training:
    """A run that is ready to start: everything that can be wrong with the options and the data has been found by now.

    name: of the run. folder: experiments/<name>. board: tb_logger/<name>, TensorBoard's.
    validation: None when there is no data set for it.
    progress: how far the run is; `resumed`: whether it goes on from a state.
    open_watch: what shows the run from this progress on; its files are opened when the run starts.
    announcement: what is said of the run before its first step.
    """

    name: str
    folder: Path
    board: Path
    model: ImageRestorationModel
    loader: TrainLoader
    validation: Validation | None
    plan: Plan
    states: States
    progress: Progress
    resumed: bool
    open_watch: Callable[[Progress], Watch]
    announcement: list[str]
    watch: Watch | None = field(init=False)  # made by `run`; None in all processes but the first
    flag: _StopFlag = field(init=False)

    def announce(self) -> None:
        for text in self.announcement:
            logger.info("%s", text)

    def run(self) -> int:
        """Returns the exit code: 0, or 130 when it was interrupted and saved."""
        if not self.resumed and dist.is_main() and (moved := set_aside(self.folder, self.board)):
            logger.info("The earlier run of this name was moved to %s.", " and ".join(map(display, moved)))
        if dist.is_main():
            log_to_file(self.folder / f"train_{self.name}.log")
        self.announce()
        self.watch = self.open_watch(self.progress) if dist.is_main() else None
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
        if self.progress.iter < self.plan.total_iter or self.progress.validate:
            logger.info("Interrupted at iteration %d and saved; go on with --auto_resume.", self.progress.iter)
            return 130
        logger.info("Finished: %s", display(self.states.model_file(self.progress.iter)))
        return 0

    def _loop(self) -> None:
        plan, progress = self.plan, self.progress
        if progress.validate:  # it was interrupted there
            progress.validate = self.validation is not None
            if progress.validate:
                self._validate()
            self._save()
        began, first, waited = time.perf_counter(), progress.iter, 0.0
        while progress.iter < plan.total_iter and not progress.validate:
            asked = time.perf_counter()
            micro_batches = self.loader.step(progress.iter, progress.seen)
            waited += time.perf_counter() - asked
            with dist.with_others():
                self._step(micro_batches)
            stop = dist.any_true(self.flag.raised)
            if progress.iter % plan.print_freq == 0:
                seconds, steps = time.perf_counter() - began, progress.iter - first
                self._report(it_per_s=steps / seconds, data_wait=waited / seconds)
                began, first, waited = time.perf_counter(), progress.iter, 0.0
            last = progress.iter == plan.total_iter
            if self.validation is not None and (last or progress.iter % plan.val_freq == 0):
                progress.validate = True
                if not stop:
                    self._validate()
                    began, first, waited = time.perf_counter(), progress.iter, 0.0
            if last or stop or progress.validate or progress.iter % plan.save_freq == 0:
                self._save()
            if stop:
                break

    def _step(self, micro_batches: list[dict]) -> None:
        plan, progress = self.plan, self.progress
        stage = stage_at(plan.stages, progress.iter)
        seed_everything(plan.seed, progress.iter, dist.rank())
        try:
            figures = self.model.train_step(micro_batches, partial(plan.rate, progress.iter))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"out of memory with {stage.micro_batch} patches of {stage.gt_size} at once; lower "
                "datasets.train.batch_size_per_gpu (with batch_size the global batch stays as it is), or set "
                "train.activation_checkpointing: true, or train.precision: bf16."
            ) from error
        figures["lr"] = plan.rate(progress.iter, plan.lr)
        progress.seen += stage.batch_size
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
        in_a_row, most = self.progress.skipped_in_a_row, self.plan.max_skipped_steps
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
            epoch = progress.seen / self.plan.epoch_length
            self.watch.training(progress.iter, epoch, {**figures, "it_per_s": it_per_s, "data_wait": data_wait})

    def _validate(self) -> None:
        """Measure the model now and keep it if it is the best; when the run is to end, leave that for later."""
        progress = self.progress
        self.model.eval()

        def show(key: str, number: int, lq: torch.Tensor, restored: torch.Tensor, gt: torch.Tensor | None, name: str) -> None:
            if self.watch and number < PICTURES:
                self.watch.picture(progress.iter, f"{key}/{name}", lq, restored, *([] if gt is None else [gt]))

        values = self.validation.measure(progress.iter, on_image=show, give_up=lambda: self.flag.raised)
        if values is None:
            return
        progress.validate = False
        for line in self.validation.lines(values):
            logger.info("iter %d, %s", progress.iter, line)
        if self.watch:
            self.watch.validation(progress.iter, progress.seen / self.plan.epoch_length, values)
        self._keep_if_best(next(iter(values.values())))

    def _keep_if_best(self, values: dict[str, float]) -> None:
        """The first metric on the first set decides; a figure that is not finite, as of identical pictures, never does."""
        name, value = next(iter(values.items()), (None, None))
        if name is None:
            return
        best = self.progress.best
        if self.validation.is_better(name, value, best["value"] if best.get("metric") == name else math.nan):
            self.progress.best = {"metric": name, "value": value, "iter": self.progress.iter}
            if dist.is_main():
                self.states.save_model(self.model, "best")
        best = self.progress.best
        if best.get("metric") == name:
            logger.info("Best %s so far: %.4f at iteration %d.", name, best["value"], best["iter"])

    def _save(self) -> None:
        self.model.eval()
        if dist.is_main():
            self.states.save(self.model, self.progress)
