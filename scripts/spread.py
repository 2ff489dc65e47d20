"""How much a network's global operations differ from patch to patch: what TLC has to work with.

    python scripts/spread.py

Of every bundled network: what its global operations give (the gates of NAFNet and MPRNet, the attention matrices of
Restormer, the deviations by which HINet's norms divide) for patches of the training size, spread over the bundled degraded
photographs (`make sample`). Printed is the relative spread of a value, its standard deviation over the patches divided by its
mean magnitude: of the middle one of all values of all layers, and of those that differ most. 0: every patch is treated alike,
and nothing changes with a window.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # another package may be installed under the name basicsr

import basicsr  # noqa: F401 - before torch: it says how threads wait and memory is kept

# isort: split

import torch
from gains.cases import find_cases, title
from torch import Tensor, nn
from tqdm import tqdm

from basicsr.archs.blocks import ChannelGate
from basicsr.archs.hinet_arch import InstanceNorm2d
from basicsr.archs.restormer_arch import Attention
from basicsr.engine import build
from basicsr.errors import UserError
from basicsr.utils.log import logger, run_entry_point

PATCHES = 6  # of each photograph
SHARES = {"median": 0.5, "of the top 10 %": 0.9, "of the top 1 %": 0.99}  # of the values whose spread is smaller


def watch(net: nn.Module, seen: dict[str, list[Tensor]]) -> None:
    """Keep what every global operation gives from now on."""

    def keep(name: str, values: Tensor) -> None:
        seen.setdefault(name, []).append(values.detach().flatten().double())

    for name, module in net.named_modules():
        if isinstance(module, ChannelGate):
            module.register_forward_hook(lambda _module, _given, out, name=name: keep(name, out))
        elif isinstance(module, InstanceNorm2d):
            module.register_forward_hook(lambda _module, given, _out, name=name: keep(name, given[0].std((-2, -1))))
        elif isinstance(module, Attention):
            module.mixing = _kept(module.mixing, name, keep)


def _kept(mixing: Callable[..., Tensor], name: str, keep: Callable[[str, Tensor], None]) -> Callable[..., Tensor]:
    def call(*sums: Tensor) -> Tensor:
        matrix = mixing(*sums)
        keep(name, matrix)
        return matrix

    return call


def patches_of(image: Tensor, size: int) -> list[Tensor]:
    """PATCHES squares of (C, H, W), evenly along the diagonal."""
    if min(image.shape[-2:]) < size:
        raise UserError(f"a picture of {image.shape[-1]}x{image.shape[-2]} pixels is smaller than a patch of {size}.")
    free_rows, free_columns = (length - size for length in image.shape[-2:])
    places = [(free_rows * i // (PATCHES - 1), free_columns * i // (PATCHES - 1)) for i in range(PATCHES)]
    return [image[:, top : top + size, left : left + size] for top, left in places]


def relative_spreads(seen: dict[str, list[Tensor]]) -> list[float]:
    """Of SHARES."""
    values = torch.cat([torch.stack(outputs) for outputs in seen.values()], dim=1)  # (patches, values)
    spread = values.std(0) / values.abs().mean(0).clamp(min=1e-12)
    return torch.quantile(spread, torch.tensor([*SHARES.values()], dtype=spread.dtype)).tolist()


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    cases, missing = find_cases()
    for name in missing:
        logger.warning("not measured: %s", name)
    if not cases:
        raise UserError("options/test/Sample: of none of the -Local networks there the weights are to be found.")
    print(f"| network | task | {' | '.join(SHARES)} |\n|---|---{'|---' * len(SHARES)}|")
    for case in cases:
        net = build.build_net(case.settings[0].network_g, case.opt.path).eval()
        seen: dict[str, list[Tensor]] = {}
        watch(net, seen)
        with torch.inference_mode():
            for index in tqdm(range(len(case.pictures.names)), desc=case.name, leave=False):
                for patch in patches_of(case.pictures.dataset[index]["lq"], case.patch):
                    net(patch[None])
        spreads = " | ".join(f"{spread:.3f}" for spread in relative_spreads(seen))
        print(f"| {case.net} | {title(case.task)} | {spreads} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
