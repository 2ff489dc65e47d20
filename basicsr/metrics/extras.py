"""Optional packages and the weights that they download: what cannot be had is said in one sentence, before the first image."""

import importlib
import pickle
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import torch

from basicsr.errors import UserError

T = TypeVar("T")


def imported(metric: str, extra: str, *names: str) -> ModuleType:
    """The first of these modules of optional packages, after the others are found to work.

    Args:
        metric: what needs them. extra: of the toolbox, which brings their packages.

    Raises:
        UserError: one is not installed, or fails, as a torchvision does that was made for another torch.
    """
    install = f'run `pip install "tlc-restoration[{extra}]"`'
    modules = []
    for name in names:
        package = name.partition(".")[0]
        try:
            importlib.import_module(package)  # first, as it is the one to be named where it is missing
            modules.append(importlib.import_module(name))
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            if isinstance(error, ModuleNotFoundError) and error.name == package:
                raise UserError(f"{metric} needs the package {package}, which is not installed; {install}.") from error
            raise UserError(
                f"{metric} needs the package {package}, which cannot be used here ({_reason(error)}); {install}, with a "
                f"torchvision made for torch {torch.__version__}."
            ) from error
    return modules[0]


def loaded(metric: str, url: str, build: Callable[[], T], folder: str = "checkpoints") -> T:
    """What `build` makes with the weights at `url`, which it downloads to torch.hub's folder unless they are there.

    Args:
        folder: in torch.hub's.

    Raises:
        UserError: they cannot be downloaded, or their file is no good.
    """
    file = Path(torch.hub.get_dir(), folder, url.rpartition("/")[2])
    try:
        return build()
    except (OSError, RuntimeError, ValueError, LookupError, EOFError, TypeError, pickle.UnpicklingError) as error:
        if file.is_file():
            raise UserError(
                f"{metric}: its weights {file} cannot be used ({_reason(error)}); remove it, so that they are fetched anew."
            ) from error
        raise UserError(
            f"{metric} needs the weights {url}, which cannot be downloaded ({_reason(error)}); download them where that is "
            f"possible, and put them at {file}."
        ) from error


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}".removesuffix(": ").rstrip(".")
