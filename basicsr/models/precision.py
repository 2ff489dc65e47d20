"""What a network computes in: the words fp32, tf32, bf16, fp16 and auto, and what they switch in PyTorch."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch

from basicsr.errors import UserError, did_you_mean

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision(NamedTuple):
    """A word and the type of the maps.

    fp32 is exact: convolutions and products in all 24 bits, also on GPUs, where PyTorch takes TF32 for convolutions unless told
    otherwise. tf32 is float32 whose factors are rounded to 11 bits, by the tensor cores of NVIDIA's GPUs since Ampere. bf16 and
    fp16 are maps of 16 bits; statistics and sums over many pixels stay in float32.
    """

    name: str
    dtype: torch.dtype

    @contextlib.contextmanager
    def arithmetic(self, device: torch.device, *, autocast: bool = True) -> Iterator[None]:
        """PyTorch switched to it, as long as the context lasts. autocast: False where weights have the type already."""
        with contextlib.ExitStack() as stack:
            if device.type == "cuda":
                stack.enter_context(_tf32(self.name == "tf32"))
            stack.enter_context(torch.autocast(device.type, self.dtype, enabled=autocast and self.dtype != torch.float32))
            yield

    def describe(self, device: torch.device) -> str:
        """For reports: 'fp32', on GPUs 'fp32 (TF32 off)'."""
        return f"{self.name} (TF32 off)" if self.name == "fp32" and device.type == "cuda" else self.name


def precision_for(word: str, device: torch.device) -> Precision:
    """The precision that a word stands for on a device.

    Args:
        word: 'fp32', 'tf32', 'bf16', 'fp16', or 'auto', the fastest of them that keeps decibels: see `fastest_precision`.

    Raises:
        UserError: an unknown word; tf32 on a device that has none.
    """
    if word == "auto":
        word = fastest_precision(device)
    if word not in DTYPES:
        words = ("auto", *DTYPES)
        raise UserError(f"precision is {word!r}; it is one of {', '.join(words)}.{did_you_mean(word, words)}")
    if word == "tf32" and not _has_tf32(device):
        raise UserError(f"precision tf32: this {device.type} has no TF32, a mode of NVIDIA's GPUs since Ampere; take fp32.")
    return Precision(word, DTYPES[word])


def fastest_precision(device: torch.device) -> str:
    """Half precision where the device multiplies matrices in it, else 'fp32'."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", bool)  # PyTorch 2.6
    return "bf16" if device.type == "cpu" and has_amx() else "fp32"


def _has_tf32(device: torch.device) -> bool:
    return device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


@contextlib.contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Convolutions and products of float32 in TF32, or exact."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = allowed
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(products)
