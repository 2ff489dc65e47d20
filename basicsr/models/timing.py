"""How long a prediction takes."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

_WAITS = {"cuda": torch.cuda.synchronize, "mps": lambda device: torch.mps.synchronize()}


def timed(run: Callable[[Tensor], Tensor], image: Tensor, device: torch.device) -> tuple[Tensor, float]:
    """run(image), and the seconds until it is there, the second time: the first one makes what is made once."""
    wait = _WAITS.get(device.type, lambda device: None)
    for _ in range(2):
        wait(device)
        start = time.perf_counter()
        out = run(image)
        wait(device)
    return out, time.perf_counter() - start
