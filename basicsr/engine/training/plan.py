"""What a training will do, worked out and checked before its first step: stages, batches, epochs, learning rate, memory."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from basicsr.archs import build_network
from basicsr.data.sampler import Stage
from basicsr.errors import UserError
from basicsr.models.memory import FAILURES, training_bytes
from basicsr.models.precision import DTYPES
from basicsr.models.restoration_model import ImageRestorationModel
from basicsr.utils import dist

WHERE = "datasets.train"
ROOM = 0.7


@dataclass(frozen=True)
class Memory:
    """How much of it a step needs, and how much there is.

    network: options of the net, without TLC. ema: whether an average of the weights is kept.
    """

    network: Mapping[str, Any]
    precision: str
    activation_checkpointing: bool
    ema: bool
    num_gpu: int | Literal["auto"]

    def needed(self, stage: Stage) -> int | None:
        """Bytes by an estimate that leaves kernels' workspace out; None: unknown."""
        return training_bytes(
            lambda: build_network(self.network),
            (stage.micro_batch, self.channels, stage.gt_size, stage.gt_size),
            dtype=DTYPES[self.precision],
            checkpointed=self.activation_checkpointing,
            ema=self.ema,
        )

    @functools.cached_property
    def channels(self) -> int:
        """Of the images that the net takes."""
        try:
            with torch.device("meta"):
                return getattr(build_network(self.network), "in_channels", 3)
        except FAILURES:  # what the meta device cannot do
            return 3

    def free(self) -> int | None:
        return dist.free_memory(dist.pick_device(self.num_gpu))


def stages_of(
    *,
    total_iter: int,
    gt_size: int | None,
    batch_size: int | None,
    batch_size_per_gpu: int | Literal["auto"],
    progressive: Sequence[Mapping[str, Any]] | None,
    memory: Memory,
) -> tuple[Stage, ...]:
    """The stages that `datasets.train` names, for as many processes as there are.

    Args:
        progressive: of every stage iters, gt_size, batch_size and batch_size_per_gpu, which may be None; None: one stage.
        memory: asked where batch_size_per_gpu is 'auto'.

    Raises:
        UserError: no patch size, a global batch that the processes cannot share out, iterations that do not add up.
    """
    if progressive is None:
        if gt_size is None:
            raise UserError(f"{WHERE}.gt_size is missing: training needs the size of its crops, such as 256.")
        return (_stage(memory, WHERE, total_iter, gt_size, batch_size, batch_size_per_gpu),)
    if batch_size is not None:
        raise UserError(f"{WHERE}.batch_size: each stage of `progressive` has its own; remove this one.")
    stages = tuple(
        _stage(
            memory,
            f"{WHERE}.progressive.{i}",
            *(s["iters"], s["gt_size"], s["batch_size"], s["batch_size_per_gpu"] or batch_size_per_gpu),
        )
        for i, s in enumerate(progressive)
    )
    if not stages or (total := sum(stage.iters for stage in stages)) != total_iter:
        raise UserError(
            f"{WHERE}.progressive: its stages have {total if stages else 0:,} iterations, but train.total_iter is "
            f"{total_iter:,}; make them equal."
        )
    largest = max(stage.gt_size for stage in stages)
    if gt_size not in (None, largest):
        raise UserError(f"{WHERE}.gt_size is {gt_size}, but the largest stage has {largest}; leave it out.")
    return stages


def _stage(memory: Memory, where: str, iters: int, gt_size: int, batch: int | None, micro: int | str) -> Stage:
    world = dist.world_size()
    if micro == "auto":
        if batch is None:
            raise UserError(f"{where}.batch_size_per_gpu: auto needs to know the global batch; add batch_size.")
        return _largest_that_fits(memory, where, iters, gt_size, batch)
    batch = batch or world * micro
    if batch % (world * micro):
        fitting = _shares(batch)
        advice = (
            f"set batch_size_per_gpu to one of {', '.join(map(str, fitting))}"
            if fitting
            else "start a number of processes that divides it"
        )
        raise UserError(
            f"{where}.batch_size: a global batch of {batch} cannot be shared out to {world} process{'es' * (world > 1)} "
            f"that take{'s' * (world == 1)} {micro} at once (batch_size_per_gpu); {advice}."
        )
    return Stage(iters=iters, gt_size=gt_size, batch_size=batch, micro_batch=micro)


def _shares(batch: int) -> list[int]:
    """What each process can take at once of a global batch; nothing when they cannot share it."""
    world = dist.world_size()
    return [n for n in range(1, batch // world + 1) if batch % (world * n) == 0]


def _largest_that_fits(memory: Memory, where: str, iters: int, gt_size: int, batch: int) -> Stage:
    """The estimate leaves kernels' workspace out, so it may take no more than ROOM of the free memory."""
    free = memory.free()
    for micro in reversed(_shares(batch)):
        stage = Stage(iters=iters, gt_size=gt_size, batch_size=batch, micro_batch=micro)
        size = memory.needed(stage)
        if free is None or size is None:
            raise UserError(f"{where}.batch_size_per_gpu: auto cannot tell what fits here; give a number.")
        if size <= ROOM * free:
            return stage
    raise UserError(
        f"{where}.batch_size_per_gpu: not one patch of {gt_size} at once fits into {free / 2**30:.1f} GB of free memory, "
        f"or {dist.world_size()} processes cannot share {batch}; set train.activation_checkpointing: true, or smaller patches."
    )


def check_sizes(stages: Sequence[Stage], net: torch.nn.Module) -> None:
    """Patches that the net would have to pad are refused: it would learn from mirrored pixels.

    Raises:
        UserError: naming the nearest size that fits.
    """
    multiple = max(1, getattr(net, "padder_size", 1))
    for stage in stages:
        if stage.gt_size % multiple:
            nearest = max(multiple, round(stage.gt_size / multiple) * multiple)
            raise UserError(
                f"{WHERE}.gt_size: {type(net).__name__} needs patches whose side is a multiple of {multiple}, "
                f"not {stage.gt_size}; take {nearest}."
            )


def check_outputs(
    stages: Sequence[Stage], network: Mapping[str, Any], model: ImageRestorationModel, channels: tuple[int, int]
) -> None:
    """The net's outputs, as far as torch's meta device, which has shapes only, can tell them.

    Args:
        network: options of the net, without TLC. channels: of the degraded images and of the ground truth.

    Raises:
        UserError: see `check_stages`.
    """
    side = min(stage.gt_size for stage in stages)
    shape = 1, channels[0], side, side
    try:
        with torch.device("meta"):
            out = build_network(network)(torch.empty(shape))
            shapes = [stage.shape for stage in (out if isinstance(out, (list, tuple)) else [out])]
    except FAILURES as error:
        if not isinstance(error, RuntimeError):  # what the meta device cannot do: the first step will tell
            return
        shapes = _really(network, shape)
    model.check_stages(shapes, torch.Size((1, channels[1], side, side)))


def _really(network: Mapping[str, Any], shape: tuple[int, ...]) -> list[torch.Size]:
    """The shapes of the net's outputs, from running it, as the meta device did not get through."""
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            out = build_network(network).eval()(torch.zeros(shape))
    except (RuntimeError, ValueError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise UserError(f"network_g: {network['type']} does not run on patches of {shape[2]}x{shape[3]} ({reason}).") from error
    return [stage.shape for stage in (out if isinstance(out, (list, tuple)) else [out])]


@dataclass(frozen=True)
class Plan:
    """What a training does when.

    stages: one after the other, total_iter iterations in all. seed: of everything random.
    images, epoch_length: number of training images, and of samples in an epoch (more with dataset_enlarge_ratio).
    rate: (iteration, base rate) -> learning rate. lr: the base rate of parameters that have none of their own.
    schedule_length: iterations that `rate` is made for; 0: any number.
    print_freq, save_freq, val_freq: iterations from one to the next. max_skipped_steps: in a row, until the run ends.
    """

    stages: tuple[Stage, ...]
    total_iter: int
    seed: int
    images: int
    epoch_length: int
    rate: Callable[[int, float], float]
    lr: float
    schedule_length: int
    print_freq: int
    save_freq: int
    val_freq: int
    max_skipped_steps: int

    def describe(self, memory: Memory) -> str:
        """The plan as a text."""
        world, total = dist.world_size(), self.total_iter
        lines = [
            f"{'iterations':>19}  {'patch':>5}  {'batch':>5} = processes x at once x accumulated  {'epochs':>8}  {'memory':>7}"
        ]
        first = 0
        for stage in self.stages:
            share = f"{world} x {stage.micro_batch} x {stage.accumulation(world)}"
            epochs = stage.iters * stage.batch_size / self.epoch_length
            size = memory.needed(stage)
            lines.append(
                f"{f'{first:,} to {first + stage.iters:,}':>19}  {stage.gt_size:>5}  {stage.batch_size:>5} = {share:<35}"
                f"{epochs:>8,.1f}  {'?' if size is None else f'{size / 2**30:.1f} GB':>7}"
            )
            first += stage.iters
        seen = sum(stage.iters * stage.batch_size for stage in self.stages)
        lines.append(
            f"{total:,} iterations see {seen:,} patches of {self.images:,} images. Memory is an estimate for one process, "
            f"without the workspace of kernels{', with activation checkpointing' if memory.activation_checkpointing else ''}."
        )
        end = self.schedule_length
        if end not in (0, total):
            after = "the rate stays at its end after that" if end < total else "the run ends before it"
            lines.append(f"train.scheduler is made for {end:,} iterations, train.total_iter is {total:,}: {after}.")
        return "\n".join([*lines, *lr_picture(lambda iteration: self.rate(iteration, self.lr), total)])

    def nothing_left(self, iteration: int) -> list[str]:
        """A sentence about a run that is at this iteration already, if it is at its end."""
        if iteration < self.total_iter:
            return []
        return [f"The run is at iteration {iteration} of {self.total_iter}: nothing is left to train."]


def lr_picture(rate: Callable[[int], float], total: int, width: int = 64, height: int = 6) -> list[str]:
    """The learning rate over the iterations, in characters that every terminal has."""
    columns = [rate(min(total - 1, round(i * (total - 1) / (width - 1)))) for i in range(width)]
    top = max(columns)
    lines = []
    for row in range(height, 0, -1):
        label = f"{top:.2g}" if row == height else "0" if row == 1 else ""
        bars = "".join("#" if value > top * (row - 1) / height else " " for value in columns)
        lines.append(f"{label:>8} |{bars}".rstrip())
    lines.append(f"{'lr':>8} +{'-' * width}")
    lines.append(f"{'':>8}  0{total:>{width - 1},}")
    return lines
