"""The same photographs whole, in patches, in overlapping tiles, and with TLC: PSNR, seams, seconds, memory, and a picture.

    python scripts/compare_ways.py -opt options/test/Sample/HINetLocal-SampleNoise.yml --images 05_spices
    python scripts/compare_ways.py --images 6 --output docs/comparison

Every network of -opt, a -Local one with its weights, runs plain on the whole picture, plain on patches of its training size
(`val.grids`), plain on tiles (`val.tile`), with TLC, with TLC on tiles, where it has attention between channels in windows that
are blended, and where it has norms with their statistics from patches. Table and picture go into results/comparison.md and
results/comparison.jpg, or where --output says; a page that is there keeps what is around its markers.

Seams: where parts of a picture that were restored apart meet, the error (restored minus target, averaged over the colours)
jumps. The jump across a line is averaged over 32 pixels along it, in which noise and texture cancel and an edge does not, and
then its magnitude over the whole line. A seam is the sum of the jumps over all lines at which parts meet, divided by the same
8 pixels before and behind each line (there the 8x8 blocks of JPEG files are the same): 1 is no seam. All ways are measured on
the same lines, so that the whole picture shows what the measure reads where nothing meets.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # another package may be installed under the name basicsr

import basicsr  # noqa: F401 - before torch: it says how threads wait and memory is kept

# isort: split

import cv2
import numpy as np
import torch
from gains.cases import Case, Setting, load_pictures, make_case, title
from gains.tables import BEGIN, END, replaced, unit
from gains.views import Panel, as_picture, draw_panels, jpeg, means_of_squares, place_of_most, quality_here
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch.utils.data import Subset
from tqdm import tqdm

from basicsr import __version__
from basicsr.archs import build_network, plain_name
from basicsr.engine import build
from basicsr.engine.testing import report
from basicsr.engine.testing.evaluate import evaluate
from basicsr.engine.testing.results import ImageResult, mean, means
from basicsr.engine.testing.sweep import images_of, prepare
from basicsr.errors import UserError, did_you_mean
from basicsr.models.memory import prediction_bytes
from basicsr.options import display, load, resolve
from basicsr.sections import ValOptions
from basicsr.utils.files import write_bytes
from basicsr.utils.log import run_entry_point

NETS = ("NAFNetLocal-SampleNoise", "RestormerLocal-SampleNoise", "NAFNetLocal-SampleBlur", "RestormerLocal-SampleBlur")
FILES = [f"options/test/Sample/{name}.yml" for name in NETS]
OUTPUT = "results/comparison"
HEAD = ("network, task", "way", "PSNR / SSIM", "seams of patches", "of tiles", "of windows", "seconds", "memory")
SHOWN = {"input": "input", "plain": "whole picture", "patches": "patches", "tiles": "tiles", "local": "TLC"}  # in the figure
RESTORED = [mode for mode in SHOWN if mode != "input"]
SHOWN |= {"blended": "TLC, blended", "sampled": "TLC, of patches"}
VARIANTS = {"blended": ("attention", "blended"), "sampled": ("statistics", "patches")}  # of TLC, each for some networks
RUN, BESIDE = 32, 8  # pixels, see above

Lines = tuple[set[int], set[int]]  # rows and columns at which a part begins that was restored apart


@dataclass(frozen=True)
class Plan:
    case: Case
    ways: dict[str, Setting]  # in the order of the table
    names: list[str]  # pictures

    @property
    def network(self) -> str:
        return f"{self.case.net}, {title(self.case.task)}"


@dataclass(frozen=True)
class Measured:
    results: list[ImageResult]
    seams: list[tuple[float, ...]]  # of every picture: where patches, tiles and windows meet
    memory: int  # bytes


@dataclass(frozen=True)
class View:
    """A photograph, and the square of it that is worth a look."""

    name: str
    images: dict[str, np.ndarray]  # "input", "target" and by way, (H, W, 3) RGB in [0, 1]
    lines: dict[str, Lines]  # of patches, tiles and windows
    top: int
    left: int
    side: int
    worth: float


# ---- measuring


def make_plan(file: str, images: Sequence[str], tile: int, overlap: int, more: Sequence[str]) -> Plan:
    """`images`: names, or one number."""
    tiled = load(file, [*more, "val:grids=false", f"val:tile={tile}", f"val:tile_overlap={overlap}"])
    if tiled.path.pretrain_network_g is None:
        raise UserError(f"{file}: path.pretrain_network_g is empty; there is nothing to compare without weights.")
    opt = tiled.model_copy(update={"val": tiled.val.model_copy(update={"tile": None})})
    key, dataset = images_of(opt)
    case = make_case(plain_name(opt.network_g.type), dataset.name or key, opt, cache(load_pictures))
    plain, patches, local = (s for s in case.settings if s.mode != "sweep")
    tiles, both = (Setting("tiles", way.network_g, tiled.val) for way in (plain, local))
    ways = {"plain": plain, "patches": patches, "tiles": tiles, "local": local, "both": both, **_variants(local)}
    if len(images) == 1 and images[0].isdecimal() and int(images[0]) > 0:
        return Plan(case, ways, case.pictures.spread(int(images[0])))
    for name in images:
        if name not in case.pictures.names:
            hint = did_you_mean(name, case.pictures.names)
            raise UserError(f"--images {name}: {opt.name} has no such picture.{hint} Or say how many, such as 4.")
    return Plan(case, ways, list(images))


def _variants(local: Setting) -> dict[str, Setting]:
    """TLC with one option more, for a network that has what it is for: attention between channels, or norms."""
    found, tlc = {}, local.network_g["tlc"]
    for mode, (option, value) in VARIANTS.items():
        network_g = {**local.network_g, "tlc": {**tlc, option: value}}
        try:
            build_network(network_g)
        except UserError:
            continue
        if tlc.get(option) != value:
            found[mode] = replace(local, mode=mode, network_g=network_g)
    return found


def lines_of(val: ValOptions, height: int, width: int) -> Lines:
    """Where the parts of a picture that are restored apart begin or end: found by watching what the network is given."""
    rows, columns = set(), set()

    def watch(part: torch.Tensor) -> torch.Tensor:
        for corner, beyond in ((part[0, :, 0, 0], 0), (part[0, :, -1, -1], 1)):
            rows.add(int(corner[0]) + beyond)
            columns.add(int(corner[1]) + beyond)
        return part

    places = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")).float()
    build.way_to_run(watch, val.model_copy(update={"self_ensemble": False}))(places[None])
    return rows - {0, height}, columns - {0, width}


def seam(error: np.ndarray, lines: Lines) -> float:
    """How much more an error (H, W) jumps at lines than beside them, see the top of this file; nan without lines."""
    at, beside = [], []
    for rows, cuts in ((error, lines[0]), (error.T, lines[1])):
        run = min(RUN, rows.shape[1])
        jumps = np.diff(rows, axis=0)[:, : rows.shape[1] // run * run]
        jumps = np.abs(jumps.reshape(len(jumps), -1, run).mean(2)).mean(1)  # [i] lies between rows i and i + 1
        for cut in cuts:
            near = [line for line in (cut - BESIDE, cut + BESIDE) if 0 < line < len(rows) and line not in cuts]
            if near:
                at.append(jumps[cut - 1])
                beside.append(mean([jumps[line - 1] for line in near]))
    return float(sum(at) / sum(beside)) if sum(beside) else math.nan


def measure(plan: Plan, bar: tqdm) -> tuple[dict[str, Measured], View]:
    """All ways, taking turns on every picture, after a first run each that counts memory; and what is worth a look."""
    case, device = plan.case, build.prepare_machine(plan.case.opt)
    metrics = build.build_metrics(case.opt.val)
    pictures = {name: Subset(case.pictures.dataset, [case.pictures.names.index(name)]) for name in plan.names}
    patches, tiles = plan.ways["patches"].val, plan.ways["tiles"].val
    parts = {"patches": patches, "tiles": tiles, "windows": patches.model_copy(update={"crop_size": case.base_size})}
    predicts, measured, restored, view = {}, {}, [], None
    for mode, way in plan.ways.items():
        _, predicts[mode] = prepare(case.opt.model_copy(update={"val": way.val}), way.network_g, device)
        memory = prediction_bytes(predicts[mode], pictures[plan.names[0]][0]["lq"][None])
        measured[mode] = Measured([], [], memory)
        bar.update()
    for name, one in pictures.items():
        images = {"input": as_picture(one[0]["lq"]), "target": as_picture(one[0]["gt"])}
        lines = {part: lines_of(val, *images["target"].shape[:2]) for part, val in parts.items()}
        for mode, predict in predicts.items():
            keep = {"on_image": lambda _number, _lq, out, *_: restored.append(out)}
            measured[mode].results.extend(evaluate(predict, one, metrics, label=f"{plan.network}, {mode}", **keep).complete())
            images[mode] = as_picture(restored.pop())
            error = (images[mode] - images["target"]).mean(2)
            measured[mode].seams.append(tuple(seam(error, those) for those in lines.values()))
            bar.update()
        new = worth_a_look(name, images, lines, 2 * case.patch + 32)
        view = new if view is None or new.worth > view.worth else view
    return measured, view


def worth_a_look(name: str, images: dict[str, np.ndarray], lines: dict[str, Lines], side: int) -> View:
    """Where the ways differ most in brightness, in proportion to their errors, and it is not dark."""
    target, *ways = (cv2.GaussianBlur(images[mode].mean(2), (0, 0), 3) for mode in ("target", *RESTORED))
    side = min(side, *target.shape)
    errors = np.stack(ways) - target
    differ, wrong, bright = (means_of_squares(x, side) for x in (errors.std(0), np.abs(errors).mean(0), target))
    top, left, worth = place_of_most(bright * differ**2 / (wrong + 0.002))  # 0.002: half a step of 8 bits
    return View(name, images, lines, top, left, side, worth)


# ---- what is written


def block(plans: Sequence[Plan], found: Sequence[dict[str, Measured]], figure: str) -> str:
    """The table, how it was measured, and a link to the figure."""
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for plan, measured in zip(plans, found, strict=True):
        patch, tile, window = plan.case.patch, plan.ways["tiles"].val.tile, plan.case.base_size
        kind = "blended windows" if plan.ways["local"].network_g["tlc"].get("attention") == "blended" else "window"
        labels = {
            "plain": "whole picture",
            "patches": f"patches of {patch}",
            "tiles": f"tiles of {tile}",
            "local": f"**TLC**, {kind} {window}",
            "both": "TLC on tiles",
            "blended": "**TLC**, blended windows",
            "sampled": "**TLC**, statistics from patches",
        }
        inputs = means(measured["plain"].results, "input_metrics")
        lines.append(f"| {plan.network} | input | {quality(inputs)} |" + " |" * (len(HEAD) - 3))
        for mode, way in measured.items():
            seams = [mean(values) for values in zip(*way.seams, strict=True)]
            cells = [labels[mode], quality(means(way.results)), *("-" if math.isnan(s) else f"{s:.2f}" for s in seams)]
            seconds = statistics.median(result.seconds for result in way.results)
            lines.append(f"| | {' | '.join(cells)} | {seconds:.2f} | {way.memory / 2**20:.0f} MiB |")
    names = dict.fromkeys(name for plan in plans for name in plan.names)
    protocols = dict.fromkeys(m.protocol for plan in plans for m in build.build_metrics(plan.case.opt.val).values())
    note = (
        f"Means over the photographs {', '.join(names)}; tiles overlap by {plans[0].ways['tiles'].val.tile_overlap} pixels. "
        f"{'; '.join(protocols)}. Seconds: the median photograph. Memory: the most that tensors hold at a time beyond the "
        f"weights; workspaces come on top. {report.device_name(build.prepare_machine(plans[0].case.opt))}; "
        f"torch {torch.__version__}; version {__version__}."
    )
    return "\n\n".join(["\n".join(lines), note, f"![The same part of a photograph, restored in four ways]({figure})"])


def quality(metrics: dict[str, float]) -> str:
    return f"{metrics['psnr']:.2f} / {unit(metrics['ssim'])}"


def draw(plans: Sequence[Plan], found: Sequence[dict[str, Measured]], views: Sequence[View]) -> bytes:
    """Two rows a network: the same part of a photograph, and how its brightness differs from the target's; a JPEG file."""
    modes = [mode for mode in SHOWN if any(mode in view.images for view in views)]
    figure = Figure(figsize=(2.6 * (len(modes) + 1), 5.6 * len(views)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(2 * len(views), len(modes) + 1, squeeze=False)
    for axes in all_axes.flat:
        axes.set(xticks=[], yticks=[])
    for above, below, plan, measured, view in zip(all_axes[::2], all_axes[1::2], plans, found, views, strict=True):
        part = np.s_[view.top : view.top + view.side, view.left : view.left + view.side]
        errors = {mode: view.images[mode][part] - view.images["target"][part] for mode in modes if mode in view.images}
        smooth = {mode: 255 * cv2.GaussianBlur(error.mean(2), (0, 0), 2) for mode, error in errors.items()}
        limit = math.ceil(np.percentile(np.abs([smooth[mode] for mode in RESTORED]), 97))
        results = {mode: next(r for r in way.results if r.name == view.name) for mode, way in measured.items()}
        whole = {"input": results["plain"].input_metrics, **{mode: result.metrics for mode, result in results.items()}}
        panels = [
            Panel(f"{SHOWN[mode]}\n{quality_here(error, whole[mode]['psnr'])}", view.images[mode][part], smooth[mode])
            for mode, error in errors.items()
        ]
        colours = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
        draw_panels(above, below, panels, view.images["target"][part], colours, "darker or brighter\nthan the target, of 255")
        for bottom, mode in zip(below, errors, strict=False):
            if mode in view.lines:  # ticks where its parts meet
                ends = zip(view.lines[mode], (view.top, view.left), strict=True)
                rows, columns = ([cut - at - 0.5 for cut in cuts if at < cut < at + view.side] for cuts, at in ends)
                bottom.set_xticks(columns, [""] * len(columns))
                bottom.set_yticks(rows, [""] * len(rows))
                bottom.tick_params(direction="in", length=9, width=1.5, top=True, right=True)
        for axes in (*above[len(panels) : -1], *below[len(panels) : -1]):  # ways that the other networks have
            axes.set_axis_off()
        above[0].set_ylabel(f"{plan.network}\n{view.name.replace('_', ' ')}", fontsize=14)
        below[0].set_ylabel("error in brightness", fontsize=14)
    return jpeg(figure)


def read_page(page: Path) -> str:
    """What it holds, or the bare markers."""
    return page.read_text(encoding="utf-8") if page.is_file() else f"{BEGIN}\n{END}\n"


# ---- the command


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "-opt", nargs="+", default=FILES, metavar="FILE", help="YAML options of -Local networks (default: four)"
    )
    parser.add_argument("--images", nargs="+", default=["4"], metavar="NAME", help="names, or how many (default: 4)")
    parser.add_argument("--tile", type=int, default=256, metavar="PIXELS", help="side of the tiles (default: %(default)s)")
    parser.add_argument("--tile_overlap", type=int, default=32, metavar="PIXELS", help="(default: %(default)s)")
    parser.add_argument("--output", default=OUTPUT, metavar="NAME", help="writes NAME.md and NAME.jpg (default: %(default)s)")
    parser.add_argument("--force_yml", nargs="+", default=[], metavar="SECTION:KEY=VALUE", help="override options of the files")
    args = parser.parse_args()
    if args.tile < 1:
        raise UserError(f"--tile {args.tile}: must be a positive number of pixels.")
    page, picture = (resolve(f"{args.output}{suffix}") for suffix in (".md", ".jpg"))
    replaced(read_page(page), "", display(page))  # fails now, not after minutes
    plans = [make_plan(file, args.images, args.tile, args.tile_overlap, args.force_yml) for file in args.opt]
    with tqdm(total=sum(len(p.ways) * (1 + len(p.names)) for p in plans), unit="run", smoothing=0, disable=None) as bar:
        found, views = zip(*(measure(plan, bar) for plan in plans), strict=True)
    results = block(plans, found, picture.name)
    write_bytes(picture, draw(plans, found, views))
    write_bytes(page, replaced(read_page(page), results, display(page)).encode())
    print(f"{results}\n\nWritten: {display(page)}, {display(picture)}")
    return 0


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
