"""CUDA graphs of predictions, one for each size of image that follows itself; see recording.py."""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from basicsr.models.recording import FASTER, NoWaiting, Recording, in_a_line, say_why
from basicsr.models.timing import timed

LARGEST = 1 << 20  # pixels of a batch, a little more than 1280x720; larger maps keep a GPU busy, and are dear to hold
KEPT = 4  # sizes
_NEAR = 0.01  # of the largest value: what another order of sums may change, in half precision

Kind = tuple[tuple[int, ...], torch.dtype]  # of image
Run = Callable[[Tensor], Tensor]


class Recorder:
    """Makes graphs of run(image). They share the memory between image and result: only one of them may run at a time.

    Args:
        layout: that of the images `run` sees.
        watch: says, once `run` has run, whether `NoWaiting` is to watch it before it is recorded: not what is compiled.
    """

    def __init__(
        self, run: Run, device: torch.device, layout: torch.memory_format, *, watch: Callable[[], bool] = lambda: True
    ) -> None:
        self.run, self.device, self.layout, self.watch = run, device, layout, watch
        self.pool, self.stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)

    def record(self, image: Tensor, *, within: float) -> Recording | None:
        """A graph for images like this one; None if it takes more than a part, `within`, of the time that `run` takes.

        Raises:
            RuntimeError: `run` cannot be recorded, or a graph would not give what it gives; or, what it raises itself.
        """
        given = torch.empty_like(image, device=self.device, memory_format=self.layout).copy_(image)
        # The first run builds the kernels and tables that there are to build.
        wanted, slow = timed(self.run, given, self.device)
        if self.watch():
            with NoWaiting() as seen:
                self.run(given)
            if seen.reason:
                raise RuntimeError(seen.reason)
        try:
            recording = Recording(self.run, (given,), self.pool, self.stream)
        except BaseException:
            self.pool = torch.cuda.graph_pool_handle()  # a broken one serves no more
            raise
        got, fast = timed(recording, given, self.device)
        if not (got - wanted).abs().max() <= _NEAR * wanted.abs().max():  # nan neither
            raise RuntimeError("the network gives something else each time")
        return recording if fast <= within * slow else None

    def current(self) -> torch.cuda.Stream:
        """The stream on which a graph would be launched now."""
        return torch.cuda.current_stream(self.device)


class Graphs:
    """run(image), by CUDA graphs where they are faster.

    A size gets its graph when two images of it follow each other, if they have at most `LARGEST` pixels. It is kept if it gives
    the same result in less than `FASTER` of the time, and as long as its size is among the `KEPT` last ones. Graphs see what is
    written into the weights where they are; all are dropped when the weights move to other memory.

    Images run without where PyTorch compiles, traces or is watched (by a dispatch mode, or by hooks in the net), inside of
    autocast, on other streams than that of the first graph, and while an image of another thread runs.

    Args:
        net: all of whose memory `run` reads. recorder: makes the graphs.
        always: from the first image of a size, whatever its size and the time.
    """

    def __init__(self, run: Run, net: nn.Module, recorder: Recorder, *, always: bool = False) -> None:
        self.run, self.recorder, self.always = run, recorder, always
        self.parts, self.weights = list(net.modules()), [*net.parameters(), *net.buffers()]
        self.recordings: OrderedDict[Kind, Recording] = OrderedDict()  # the last one is the one used last
        self.places: list[int] = []  # of the weights, when they were recorded
        self.stream: object = None  # where they are launched
        self.refused: set[Kind] = set()
        self.last: Kind | None = None
        self.lock = threading.Lock()

    def __call__(self, image: Tensor) -> Tensor:
        """(N, C, H, W) on any device -> run(image)."""
        if self._watched() or not self.lock.acquire(blocking=False):
            return self.run(image)
        try:
            with torch.inference_mode(False), torch.no_grad():
                recording = self._recording(image)
                if recording is not None:
                    return recording(image)
            return self._plainly(image)
        finally:
            self.lock.release()

    def _recording(self, image: Tensor) -> Recording | None:
        kind = (tuple(image.shape), image.dtype)
        again, self.last = kind == self.last, kind
        if self.recordings and self.places != self._places():
            self._drop()
        if self.recordings and self.stream != self.recorder.current():
            return None
        pixels = math.prod(kind[0]) // max(1, kind[0][1])
        wanted = pixels > 0 and (self.always or (again and pixels <= LARGEST))
        if wanted and kind not in self.recordings and kind not in self.refused:
            self._record(kind, image)
        if kind in self.recordings:
            self.recordings.move_to_end(kind)
        return self.recordings.get(kind)

    def _record(self, kind: Kind, image: Tensor) -> None:
        reason = None
        try:
            made = self.recorder.record(image, within=math.inf if self.always else FASTER)
        except Exception as error:  # noqa: BLE001 - what is in a net raises what it likes, and it runs without a graph
            made, reason = None, in_a_line(error)
        if made is None:
            if reason is not None and not self.refused:
                say_why(f"Images of {kind[0][-1]}x{kind[0][-2]} pixels run", reason, asked=self.always)
            self.refused.add(kind)
            return
        if len(self.recordings) == KEPT:
            self.recordings.popitem(last=False)
        self.recordings[kind] = made
        self.places, self.stream = self._places(), self.recorder.current()

    def _plainly(self, image: Tensor) -> Tensor:
        try:
            return self.run(image)
        except torch.cuda.OutOfMemoryError:
            if not self.recordings:
                raise
        self._drop()  # outside `except`, which would keep tensors alive
        return self.run(image)

    def _drop(self) -> None:
        self.recordings.clear()
        torch.cuda.empty_cache()

    def _places(self) -> list[int]:
        return [weight.data_ptr() for weight in self.weights]

    def _watched(self) -> bool:
        """Whether somebody is to see the operations, who would see none of a graph's."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or _get_current_dispatch_mode() is not None:
            return True
        if torch.is_autocast_enabled("cuda"):  # the caller's, who gives up the copies of weights that it holds
            return True
        return any(part._forward_hooks or part._forward_pre_hooks for part in self.parts)
