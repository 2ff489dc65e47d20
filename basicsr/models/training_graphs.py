"""CUDA graphs of training: the forward and the backward pass of a batch, recorded once for its shape.

A step has a thousand kernels and more, and a GPU is done with most of them before Python has launched the next.
"""

import contextlib
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from basicsr.errors import UserError
from basicsr.kernels import launched_together
from basicsr.models.recording import FASTER, NoWaiting, Recording, in_a_line, say_why
from basicsr.utils.seed import processor_state

_PLAIN = 3  # batches of a shape before it is recorded: one that is slow, one that is watched, one that is timed

Gradients = Callable[[Tensor, Tensor, float], Tensor]


def training_graph(
    cuda_graphs: Literal["auto"] | bool,
    gradients: Gradients,
    parameters: Iterable[nn.Parameter],
    device: torch.device,
    *,
    processes: int,
    checkpointing: bool,
    compiled: bool,
) -> "TrainingGraph | None":
    """As asked for; None where there is none.

    Raises:
        UserError: True where there is none.
    """
    against = {
        f"needs a CUDA GPU, and this runs on {device.type}": device.type != "cuda",
        f"is for one process, and {processes} train here together": processes > 1,
        "keeps all that the backward pass needs, and train.activation_checkpointing: true does not": checkpointing,
    }
    if reason := next((reason for reason, holds in against.items() if holds), None):
        if cuda_graphs is True:
            raise UserError(f"train.cuda_graphs: true {reason}; take auto, or leave it out.")
        return None
    if not cuda_graphs:
        return None
    return TrainingGraph(gradients, parameters, device, always=cuda_graphs is True, watch=not compiled)


class TrainingGraph:
    """gradients(lq, gt, share), which adds to the parameters' gradients and returns figures, by a CUDA graph where faster.

    A shape of batch is recorded after its first batches, and the graph kept if it takes less than `FASTER` of their time. Only
    the last shape has a graph, whose memory is that of its activations.

    Args:
        gradients: (N, C, H, W), (N, C', H', W') and a factor of the losses -> figures. Where what it does depends on values, or
            on random numbers of the CPU's, it runs without a graph; what else Python does in it, such as counting or in hooks,
            is done while it is recorded, not for each batch.
        parameters: that learn. A graph adds to the gradients where they were when it was recorded.
        always: whatever the time.
        watch: the second pass, by `NoWaiting`.
    """

    def __init__(
        self,
        gradients: Gradients,
        parameters: Iterable[nn.Parameter],
        device: torch.device,
        *,
        always: bool = False,
        watch: bool = True,
    ) -> None:
        self.run, self.parameters, self.always, self.watch = gradients, list(parameters), always, watch
        self.device, self.stream = device, torch.cuda.Stream(device)  # the one on which autograd saw the parameters first
        self.recording: Recording | None = None
        self.gradients: list[tuple[nn.Parameter, Tensor]] = []  # those that the graph adds to
        self._begin(None)

    def clear(self) -> bool:
        """Sets the gradients to zero where the graph adds to them; False if there is none, and they may be anywhere."""
        if self.recording is None:
            return False
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        torch._foreach_zero_([gradient for _, gradient in self.gradients])
        return True

    def release(self) -> None:
        """Gives up the graph's memory, until the next batch."""
        self.recording = None
        self.gradients = []

    def __call__(self, lq: Tensor, gt: Tensor, share: float) -> Tensor:
        kind = (lq.shape, lq.dtype, gt.shape, gt.dtype, share)
        if kind != self.kind:
            self._begin(kind)
        self._judge()
        if self.recording is None and not self.refused and self.ran >= (_PLAIN - 1 if self.always else _PLAIN):
            self._record(lq, gt, share)
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream), contextlib.nullcontext() if self.refused else launched_together():
            figures = self._timed(lq, gt, share)
        current.wait_stream(self.stream)
        return figures

    def _begin(self, kind: tuple | None) -> None:
        """With another shape of batch."""
        self.release()
        self.kind, self.ran, self.replayed, self.refused = kind, 0, 0, False
        self.plain = self.clock = None  # milliseconds without the graph; the events around the last pass
        self.reached: list[nn.Parameter] = []  # that have gradients after a batch; others, unused, must be left without

    def _timed(self, lq: Tensor, gt: Tensor, share: float) -> Tensor:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        if self.recording is not None:
            figures = self.recording(lq, gt)
            self.replayed += 1
        elif self.ran == 1:  # the second
            figures = self._watched(lq, gt, share)
        else:
            figures = self.run(lq, gt, share)
        end.record()
        self.clock = start, end
        if self.recording is None:
            self.ran += 1
            self.reached = [parameter for parameter in self.parameters if parameter.grad is not None]
        return figures

    def _watched(self, lq: Tensor, gt: Tensor, share: float) -> Tensor:
        before = processor_state()
        with NoWaiting() if self.watch else contextlib.nullcontext() as seen:
            figures = self.run(lq, gt, share)
        drawn = None if processor_state() == before else "the network draws random numbers on the CPU, new ones for each batch"
        self._refuse(drawn or (seen and seen.reason))
        return figures

    def _judge(self) -> None:
        """Looks at the clock of the pass before, after the last plain one, and after the second by the graph."""
        if self.recording is None and self.ran == _PLAIN and self.plain is None:
            self.plain = self._milliseconds()
        elif self.recording is not None and self.replayed == 2 and self.plain is not None and not self.always:
            self.refused = self._milliseconds() > FASTER * self.plain
            if self.refused:
                self.release()
            self.replayed += 1  # judged

    def _milliseconds(self) -> float:
        start, end = self.clock
        end.synchronize()
        return start.elapsed_time(end)

    def _record(self, lq: Tensor, gt: Tensor, share: float) -> None:
        for parameter in self.reached:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        maps, pool = (lq.clone(), gt.clone()), torch.cuda.graph_pool_handle()
        try:
            with launched_together():
                self.recording = Recording(lambda lq, gt: self.run(lq, gt, share), maps, pool, self.stream)
        except Exception as error:  # noqa: BLE001 - what is in a net raises what it likes, and it trains without a graph
            self._refuse(in_a_line(error))
        else:
            self.gradients = [(parameter, parameter.grad) for parameter in self.reached]

    def _refuse(self, reason: str | None) -> None:
        if reason is not None:
            self.refused = True
            say_why("Training runs", reason, asked=self.always)
