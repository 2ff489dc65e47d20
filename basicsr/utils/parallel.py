"""A function over many items in several processes: results in order, Ctrl-C and errors as in one process."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import cv2

from basicsr.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")
_AHEAD = 4  # jobs a worker that are started before their results are asked for, so that results do not pile up in memory
_function: Callable | None = None  # of a worker process


def in_parallel(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int | None = None, *, worth: int = 1
) -> Iterator[Result]:
    """`function(item)` for every item, in order, as they are asked for.

    Args:
        function: with several workers it is pickled once for each of them, so a `partial` may hold large arguments.
        workers: processes; None means one per CPU, 1 runs in this process.
        worth: so many items take as long as a process takes to start (seconds); None starts no more than pay.

    Raises:
        UserError: `workers` is below 1, or one was killed. What `function` raises is raised here.
    """
    if workers is not None and workers < 1:
        raise UserError(f"workers: {workers} is no number of processes; give 1 or more.")
    workers = min(workers or min(os.cpu_count() or 1, len(items) // worth), len(items))
    return map(function, items) if workers <= 1 else _run(function, items, workers)


def _run(function: Callable, items: Sequence, workers: int) -> Iterator:
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (function,))
    running = deque()
    try:
        for number, item in enumerate(items):
            with _ctrl_c_held() if number < workers else contextlib.nullcontext():
                running.append(pool.submit(_work, item))
            if len(running) > _AHEAD * workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    except BrokenProcessPool:
        raise UserError("A worker process was killed, most likely for want of memory; use fewer --workers.") from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _ctrl_c_held() -> Iterator[None]:
    """Processes started meanwhile never see Ctrl-C, which is the parent's business; the parent sees it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """In a worker process: end it at once when the process that started it is no more, however that ended.

    Otherwise it would wait for its next item for ever, or go on with what another run has begun anew.
    """

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _start_worker(function: Callable) -> None:
    global _function
    _function = function
    end_with_parent()
    cv2.setNumThreads(1)  # there is a process per CPU already
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Windows, see _ctrl_c_held


def _work(item: object) -> object:
    return _function(item)
