"""Which device to run on."""

import logging

import torch

logger = logging.getLogger("basicsr")


def pick_device(num_gpu: int | str) -> torch.device:
    """0: the CPU. 'auto': a GPU (CUDA, or Apple's MPS) if there is one. Else: the same, with a warning if there is none."""
    if num_gpu == 0:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    if num_gpu != "auto":
        logger.warning("num_gpu is %s, but there is no GPU here: running on the CPU.", num_gpu)
    return torch.device("cpu")
