"""What one sees of a training: progress bar, log, metrics.csv, curves.png, TensorBoard and, when asked for, wandb."""

import csv
import functools
import io
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from basicsr.engine.training.curves import draw_curves
from basicsr.engine.training.state import Progress
from basicsr.errors import UserError
from basicsr.utils.files import append, write_bytes, writing

logger = logging.getLogger("basicsr")
TRAINING = ("loss", "psnr", "grad_norm", "lr", "skipped", "it_per_s", "data_wait")  # columns of metrics.csv
SKIPPED_STEPS = "skipped_steps.csv"


class Watch:
    """Of the first process; the others see nothing.

    Args:
        progress: where the run goes on from; what was written of later moments is dropped. folder: experiments/<name>.
        name, total_iter: of the run. metrics: names of the validation's metrics. validated: words of its data sets.
        board: the folder for TensorBoard. wandb: arguments of `wandb.init`. None: without it.
    """

    def __init__(
        self,
        progress: Progress,
        *,
        folder: Path,
        name: str,
        total_iter: int,
        metrics: Sequence[str],
        validated: Sequence[str] = ("val",),
        board: Path | None = None,
        wandb: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.name, self.total = folder, name, total_iter
        self.start = start = progress.iter
        columns = ["iter", "epoch", *TRAINING, *(f"{key}_{metric}" for key in validated for metric in metrics)]
        self.table = MetricsFile(folder / "metrics.csv", columns, start, validated=not progress.validate)
        if (folder / SKIPPED_STEPS).is_file():
            _ = self.skipped_steps  # its later rows will come again
        self.wandb = _start_wandb(wandb, name, folder) if wandb else None
        self.board = None
        if board is not None:
            from torch.utils.tensorboard import SummaryWriter  # a second and more to import

            with writing(board):
                self.board = SummaryWriter(str(board), purge_step=start + 1)
        self.bar = tqdm(total=total_iter, initial=start, unit="it", desc=name, disable=None)

    @functools.cached_property
    def skipped_steps(self) -> "MetricsFile":
        """Made when the first step is skipped."""
        return MetricsFile(self.folder / SKIPPED_STEPS, ["iter", "loss", "grad_norm", "images"], self.start, validated=True)

    def step(self) -> None:
        self.bar.update()

    def training(self, iteration: int, epoch: float, figures: Mapping[str, float]) -> None:
        """Means of `TRAINING` since the last line. The loss is negative for PSNRLoss, so the PSNR stands beside it."""
        left = tqdm.format_interval((self.total - iteration) / figures["it_per_s"])
        logger.info(
            "iter %d/%d, loss %.4f, psnr %.2f dB, grad norm %.3g, lr %.3g, %.2f it/s, %.0f %% waiting for data%s, %s left",
            *(iteration, self.total, figures["loss"], figures["psnr"], figures["grad_norm"], figures["lr"]),
            *(figures["it_per_s"], 100 * figures["data_wait"]),
            f", {figures['skipped']:.0f} steps skipped" if figures["skipped"] else "",
            left,
        )
        self.bar.set_postfix(loss=f"{figures['loss']:.4f}", psnr=f"{figures['psnr']:.2f}", lr=f"{figures['lr']:.3g}")
        self.table.add({"iter": iteration, "epoch": epoch, **figures})
        self._publish({f"train/{key}": value for key, value in figures.items()}, iteration)

    def validation(self, iteration: int, epoch: float, values: Mapping[str, Mapping[str, float]]) -> None:
        """values: by data set, by metric; what is not finite is left out."""
        finite = {(key, name): v for key, found in values.items() for name, v in found.items() if math.isfinite(v)}
        self.table.add({"iter": iteration, "epoch": epoch, **{"_".join(words): value for words, value in finite.items()}})
        self._publish({"/".join(words): value for words, value in finite.items()}, iteration)
        draw_curves(self.folder / "metrics.csv", self.folder / "curves.png", title=self.name)

    def picture(self, iteration: int, name: str, *images: torch.Tensor) -> None:
        """Input, restored and truth, side by side for TensorBoard and wandb, cut to the middle 512x512.

        images: (3, H, W) each, or grey (1, H, W); an input of two views (6, H, W) is shown as two pictures.
        """
        if self.board is None and self.wandb is None:
            return
        row = torch.cat([_middle(view.float().cpu().clamp(0, 1)) for image in images for view in image.split(3)], dim=2)
        if self.board:
            with writing(self.board.log_dir):
                self.board.add_image(name, row, iteration)
        if self.wandb:
            import wandb

            self.wandb.log({name: wandb.Image(row)}, step=iteration)

    def close(self) -> None:
        self.bar.close()
        if self.wandb:
            self.wandb.finish()
        if self.board:
            with writing(self.board.log_dir):
                self.board.close()

    def _publish(self, values: Mapping[str, float], iteration: int) -> None:
        if self.board:
            with writing(self.board.log_dir):  # of what it was given before: a thread of its own writes
                for key, value in values.items():
                    self.board.add_scalar(key, value, iteration)
        if self.wandb:
            self.wandb.log(dict(values), step=iteration)


class MetricsFile:
    """A CSV file with a line for every line of the log; rows that will come again are dropped.

    Args:
        start: the last iteration whose rows stay. validated: whether its validation is among them.
    """

    def __init__(self, path: Path, columns: list[str], start: int, *, validated: bool) -> None:
        self.path = path
        kept: list[dict[str, str]] = []
        if path.is_file():
            whole_lines = path.read_text(encoding="utf-8").rpartition("\n")[0]  # a killed run may have left half a line
            reader = csv.DictReader(io.StringIO(whole_lines))
            columns = [*columns, *(name for name in reader.fieldnames or () if name not in columns)]
            last = start if validated else start - 1  # of validations
            kept = [row for row in reader if int(row["iter"]) <= (start if row["loss"] else last)]
        self.columns = columns
        out = io.StringIO()
        writer = csv.DictWriter(out, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: row.get(key) or "" for key in columns} for row in kept)
        write_bytes(path, out.getvalue().encode())

    def add(self, row: Mapping[str, float]) -> None:
        cells = {key: f"{value:.9g}" if isinstance(value, float) else value for key, value in row.items()}
        line = io.StringIO()
        csv.DictWriter(line, self.columns, lineterminator="\n").writerow(cells)
        append(self.path, line.getvalue())


def require_wandb() -> None:
    """Raises UserError when wandb is not installed."""
    try:
        import wandb  # noqa: F401
    except ImportError:
        raise UserError("logger.wandb: wandb is not installed; `pip install wandb`, or remove logger.wandb.project.") from None


def _start_wandb(settings: Mapping[str, Any], name: str, folder: Path) -> Any:
    import wandb

    return wandb.init(**settings, name=name, resume="allow", dir=str(folder))


def _middle(image: torch.Tensor, side: int = 512) -> torch.Tensor:
    top, left = (max(0, (size - side) // 2) for size in image.shape[-2:])
    return image[..., top : top + side, left : left + side]


def peak_memory(device: torch.device) -> float | None:
    """GiB: of the GPU as torch has it, else of the process; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
