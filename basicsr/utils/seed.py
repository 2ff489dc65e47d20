"""Random number generators as a function of what is being computed, so that an interruption cannot change a run."""

import random

import numpy as np
import torch


def seed_everything(*numbers: int) -> None:
    """Seed Python's, NumPy's and torch's global generators (of all devices) from some numbers, each 0 or more."""
    words = np.random.SeedSequence(numbers).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed(int(words[2]) << 31 | int(words[3]) >> 1)
