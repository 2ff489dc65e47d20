"""Random number generators as a function of what is being computed, so that an interruption cannot change a run."""

import random

import numpy as np
import torch


def seed_everything(*numbers: int) -> None:
    """Seed Python's, NumPy's and torch's global generators (of all devices) from some numbers, each 0 or more."""
    torch.manual_seed(_seed_python(numbers))


def seed_processor(*numbers: int) -> None:
    """The same, but for GPUs, for which `torch.manual_seed` takes its time, even in processes that use none."""
    torch.default_generator.manual_seed(_seed_python(numbers))


def processor_state() -> tuple:
    """Of Python's, NumPy's and torch's global generators, but for those of GPUs: another one once somebody drew from them."""
    _, words, *places = np.random.get_state()
    return random.getstate(), words.tobytes(), *places, torch.default_generator.get_state().numpy().tobytes()


def _seed_python(numbers: tuple[int, ...]) -> int:
    """Seeds Python's and NumPy's generators, and gives torch's seed."""
    words = np.random.SeedSequence(numbers).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    return int(words[2]) << 31 | int(words[3]) >> 1
