"""What the bundled noise nets make of noise as real files have it: compressed, grey, of smooth colours.

    python scripts/real_files.py

The bundled photographs get noise of sigma 25 of 255 and are saved in the ways of `FILES`. The net that was trained on white
noise alone, and the one that was trained on such files (options/train/Sample/NAFNet-SampleReal.yml), restore them, plain and
with TLC. Writes the table into the card of NAFNet-SampleReal, and the picture beside it.
"""

import argparse
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # another package may be installed under the name basicsr

import basicsr  # noqa: F401 - before torch: it says how threads wait and memory is kept

# isort: split

import numpy as np
import torch
from gains.tables import refresh, replaced
from gains.views import as_picture, jpeg
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tqdm import tqdm

from basicsr.archs import with_tlc
from basicsr.data.degradation import add_varying_noise
from basicsr.engine import build
from basicsr.engine.testing.results import mean
from basicsr.engine.testing.sweep import prepare
from basicsr.errors import UserError
from basicsr.metrics import calculate_psnr
from basicsr.options import display, load, resolve
from basicsr.utils.files import write_bytes
from basicsr.utils.image import quantise, read_image
from basicsr.utils.log import run_entry_point

PHOTOGRAPHS = "datasets/Sample/test/target"
NETS = ("NAFNetLocal-SampleNoise", "NAFNetLocal-SampleReal")
CARD = "experiments/pretrained_models/NAFNet-SampleReal.md"
FIGURE = "experiments/pretrained_models/NAFNet-SampleReal-files.jpg"
MARKERS = "<!-- files:begin -->", "<!-- files:end -->"
SIGMA, SIDE = 25, 200
FILES = {  # what is saved: options of the noise
    "PNG": {},
    "JPEG, quality 95": {"jpeg": 1, "quality": (95, 95)},
    "JPEG, quality 85": {"jpeg": 1, "quality": (85, 85)},
    "JPEG, quality 75": {"jpeg": 1, "quality": (75, 75)},
    "PNG, noise of smooth colours": {"chroma": 1},
    "grey PNG": {"grey": 1},
    "grey JPEG, quality 95": {"grey": 1, "jpeg": 1, "quality": (95, 95)},
}
SHOWN = ("JPEG, quality 95", "grey PNG")  # in the picture

Predict = Callable[[torch.Tensor], torch.Tensor]
Pictures = dict[str, np.ndarray]


def networks() -> dict[str, Predict]:
    """'<task>, plain' and '<task>, Local' of the two nets."""
    found = {}
    for name in NETS:
        opt = load(f"options/test/Sample/{name}.yml")
        device = build.prepare_machine(opt)
        for on in (False, True):
            _, found[f"{name.partition('-')[2]}, {'Local' if on else 'plain'}"] = prepare(
                opt, with_tlc(opt.network_g.as_dict(), on), device
            )
    return found


def make(photograph: Path, kind: str) -> Pictures:
    """Target and input, (H, W, 3) in [0, 1] as 8 bits have them."""
    target = read_image(photograph)
    if kind.startswith("grey"):
        target = quantise(target.mean(2, keepdims=True)).repeat(3, 2).astype(np.float32) / 255
    rng = np.random.default_rng([0, zlib.crc32(photograph.name.encode())])
    noisy = add_varying_noise(target, rng, sigma=(SIGMA, SIGMA), **FILES[kind])
    return {"target": target, "input": quantise(noisy).astype(np.float32) / 255}


def restore(pictures: Pictures, nets: dict[str, Predict]) -> Pictures:
    batch = torch.from_numpy(pictures["input"].transpose(2, 0, 1).copy())[None]
    return {name: as_picture(predict(batch)[0].cpu()) for name, predict in nets.items()}


def psnr(image: np.ndarray, target: np.ndarray) -> float:
    return calculate_psnr(quantise(image)[..., ::-1], quantise(target)[..., ::-1], crop_border=0)


def table(values: dict[str, dict[str, list[float]]], count: int) -> str:
    columns = list(next(iter(values.values())))  # the input first
    lines = [f"| file | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for kind, found in values.items():
        before = mean(found["input"])
        cells = [f"{before:.2f}", *(f"{mean(found[c]):.2f} ({mean(found[c]) - before:+.2f})" for c in columns[1:])]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    note = f"PSNR in dB, RGB, and its gain over the input; means over {count} photographs with noise of sigma {SIGMA} of 255."
    return "\n".join([*lines, "", f"{note} JPEG is 4:2:0. `python scripts/real_files.py`"])


def draw(rows: dict[str, Pictures], names: list[str]) -> bytes:
    """A row for each kind of file: the same part of its pictures; a JPEG file."""
    figure = Figure(figsize=(2.9 * len(names), 3.2 * len(rows)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (kind, pictures) in zip(figure.subplots(len(rows), len(names), squeeze=False), rows.items(), strict=True):
        for axis, name in zip(axes, names, strict=True):
            axis.set(xticks=[], yticks=[])
            axis.imshow(pictures[name])
            quality = "" if name == "target" else f"\n{psnr(pictures[name], pictures['target']):.2f} dB"
            axis.set_title(f"{name}{quality}", fontsize=12)
        axes[0].set_ylabel(kind, fontsize=12)
    return jpeg(figure)


def most_detailed(target: np.ndarray) -> tuple[slice, slice]:
    """The square of SIDE pixels, or of the picture's shorter side, of those side by side, with the highest contrast."""
    side = min(SIDE, *target.shape[:2])
    places = [(y, x) for y in range(0, target.shape[0] - side + 1, side) for x in range(0, target.shape[1] - side + 1, side)]
    top, left = max(places, key=lambda place: target[place[0] : place[0] + side, place[1] : place[1] + side].std())
    return slice(top, top + side), slice(left, left + side)


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    card = resolve(CARD)
    replaced(card.read_text(encoding="utf-8") if card.is_file() else "", "", display(card), MARKERS)  # now, not after minutes
    nets, photographs = networks(), sorted(resolve(PHOTOGRAPHS).glob("*.jpg"))
    if not photographs:
        raise UserError(f"{PHOTOGRAPHS}: holds no .jpg files; run this in a checkout of the repository.")
    values = {kind: {name: [] for name in ("input", *nets)} for kind in FILES}
    rows: dict[str, Pictures] = {}
    for photograph in tqdm(photographs, unit="photograph"):
        for kind in FILES:
            pictures = make(photograph, kind)
            pictures |= restore(pictures, nets)
            for name, found in values[kind].items():
                found.append(psnr(pictures[name], pictures["target"]))
            if kind in SHOWN and photograph == photographs[0]:
                part = most_detailed(pictures["target"])
                rows[kind] = {name: picture[part] for name, picture in pictures.items()}
    write_bytes(resolve(FIGURE), draw(rows, ["input", *(name for name in nets if name.endswith("Local")), "target"]))
    block = f"{table(values, len(photographs))}\n\n![Parts of a photograph]({Path(FIGURE).name})"
    refresh(card, block, MARKERS)
    print(f"{block}\n\nWritten: {display(card)}, {display(resolve(FIGURE))}")
    return 0


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
