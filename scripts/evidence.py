"""Measure what TLC gains with the bundled networks and photographs; write it into README.md, figures/ and the model cards.

    python scripts/evidence.py
    python scripts/evidence.py --nets NAFNet HINet --tasks SampleNoise --no_sweep

Every network of options/test/Sample/<Net>Local-<Task>.yml whose weights are there runs plain, with TLC, on overlapped patches
of its training size (`val.grids`), and with windows of 1 to 4 times that size (`base_size`). What has been measured is kept
in results/evidence/ picture by picture: an interrupted run goes on, and a repeated one only writes. What the networks made of
the photographs, plain and with TLC, lies in results/evidence/pictures/. --nets and --tasks choose what is measured now; what is
written holds everything that has been measured.
"""

import argparse
import csv
import hashlib
import io
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # another package may be installed under the name basicsr

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch.utils.data import Dataset, Subset
from tqdm import tqdm

from basicsr import __version__
from basicsr.engine import build, report
from basicsr.engine.evaluate import ImageResult, evaluate, mean, means
from basicsr.engine.sweep import FACTORS, draw_windows, images_of, prepare, save_figure, windows_of
from basicsr.errors import UserError, did_you_mean
from basicsr.options import DatasetOptions, Options, ValOptions, display, load, resolve
from basicsr.utils.checkpoint import sha256
from basicsr.utils.dist import pick_device
from basicsr.utils.image import write_bytes
from basicsr.utils.log import logger, run_entry_point

NETS = ("HINet", "MPRNet", "Restormer", "NAFNet")  # the order of the table
TASKS = ("SampleNoise", "SampleBlur")
SWEEP_IMAGES = 6  # every second photograph: with all eight networks about an hour on two CPU cores
BEGIN, END = "<!-- evidence:begin -->", "<!-- evidence:end -->"
FOLDER, FIGURES = "results/evidence", "figures"
PICTURED = ("plain", "local")  # modes whose restored pictures are kept
TABLE_HEAD = ("network", "task", "parameters", "patch, window", "input", "plain", "overlapped patches", "Local")
TABLE_HEAD += ("gain of TLC", "pictures that gain")
GAIN_FIGURE, BASE_SIZE_FIGURE = "evidence_gain.png", "evidence_base_size.png"


@dataclass(frozen=True)
class Pictures:
    dataset: Dataset
    names: tuple[str, ...]
    digest: str  # of names and pixels

    def spread(self, count: int) -> list[str]:
        """`count` names at even distances."""
        count = min(count, len(self.names))
        return [self.names[i * len(self.names) // count] for i in range(count)]


@dataclass(frozen=True)
class Setting:
    """A way to run a network."""

    mode: str  # plain, patches, local (the YAML's window) or sweep
    network_g: dict
    val: ValOptions
    base_size: int | None = None
    file: Path | None = None  # where its measurements are kept

    @property
    def pictures(self) -> Path | None:
        """The folder of its restored pictures, if they are kept."""
        return self.file.parent / "pictures" / self.file.stem if self.mode in PICTURED else None

    def done(self) -> dict[str, dict]:
        """What was measured by picture; where restored pictures are kept, those without theirs do not count."""
        records = read_records(self.file)
        if self.pictures:
            records = {name: record for name, record in records.items() if (self.pictures / f"{name}.png").is_file()}
        return records


@dataclass(frozen=True)
class Case:
    """A trained network on a task, and the ways to run it."""

    net: str
    task: str
    opt: Options
    pictures: Pictures
    parameters: int
    patch: int  # side of the training patches
    base_size: int
    settings: tuple[Setting, ...]

    @property
    def name(self) -> str:
        return f"{self.net}-{self.task}"

    @property
    def weights(self) -> Path:
        return resolve(self.opt.path.pretrain_network_g)

    def names(self, setting: Setting, sweep_images: int) -> list[str]:
        return self.pictures.spread(sweep_images) if setting.mode == "sweep" else list(self.pictures.names)


@dataclass(frozen=True)
class Evidence:
    """What was measured of a case: of every setting, its pictures."""

    case: Case
    plain: list[ImageResult]
    patches: list[ImageResult]
    local: list[ImageResult]
    sweep: dict[int, list[ImageResult]]  # by base_size; empty when it was not measured
    records: list[tuple[Setting, str, dict]]  # setting, picture, as kept in the file

    @property
    def gains(self) -> list[float]:
        return [b.metrics["psnr"] - a.metrics["psnr"] for a, b in zip(self.plain, self.local, strict=True)]

    def over_plain(self, results: list[ImageResult]) -> float:
        """Mean PSNR minus the plain network's on the same pictures."""
        plain = {r.name: r.metrics["psnr"] for r in self.plain}
        return mean([r.metrics["psnr"] - plain[r.name] for r in results])

    def patches_like_sweep(self) -> list[ImageResult]:
        names = {r.name for r in next(iter(self.sweep.values()))}
        return [r for r in self.patches if r.name in names]


# ---- what there is to measure


def find_cases() -> tuple[list[Case], list[str]]:
    """The networks that can be measured, and the ones that cannot, with the reason."""
    folder = resolve("options/test/Sample")
    found = [tuple(file.stem.split("Local-", 1)) for file in sorted(folder.glob("*Local-*.yml"))]
    cases, missing = [], []
    pictures_of = cache(load_pictures)  # several networks share a data set
    for net, task in dict.fromkeys([*((net, task) for task in TASKS for net in NETS), *found]):
        file = folder / f"{net}Local-{task}.yml"
        opt = load(file) if file.is_file() else None
        weights = resolve(opt.path.pretrain_network_g or "(no weights named)") if opt else None
        if opt is None or not weights.is_file():
            missing.append(f"{net}-{task} (there is no {display(weights or file)})")
        else:
            cases.append(make_case(net, task, opt, pictures_of))
    return cases, missing


def make_case(net: str, task: str, opt: Options, pictures_of: Callable[[str, str], Pictures]) -> Case:
    for metric in ("psnr", "ssim"):
        if metric not in opt.val.metrics:
            raise UserError(f"{opt.name}: val.metrics has no `{metric}`; the table needs it.")
    windows = windows_of(opt)
    plain, patch, base_size = windows.plain, windows.patch, windows.base_size
    whole = opt.val.model_copy(update={"grids": False, "crop_size": None, "save_img": False, "max_images": None})
    grids = whole.model_copy(update={"grids": True, "crop_size": patch, "tile": None})
    settings = [
        Setting("plain", plain, whole),
        Setting("patches", plain, grids),
        Setting("local", windows.network_g(base_size), whole, base_size),
        *(Setting("sweep", windows.network_g(base), whole, base) for base in windows.sizes()),
    ]
    key, dataset = images_of(opt)
    pictures = pictures_of(dataset.model_dump_json(), f"datasets.{key}")
    weights = sha256(resolve(opt.path.pretrain_network_g))
    settings = [with_file(s, weights, pictures.digest) for s in settings]
    return Case(net, task, opt, pictures, windows.parameters, patch, base_size, tuple(settings))


def load_pictures(options: str, where: str) -> Pictures:
    """`options`: a data set's, as JSON, which a cache takes for a key."""
    dataset = build.build_dataset(DatasetOptions.model_validate_json(options), where)
    dataset.check(progress=False)
    digest, names = hashlib.sha256(), []
    for index in range(len(dataset)):
        sample = dataset[index]
        names.append(sample["name"])
        digest.update(sample["name"].encode())
        for image in (sample["lq"], sample["gt"]):
            digest.update(str(tuple(image.shape)).encode() + image.numpy().tobytes())
    return Pictures(dataset, tuple(names), digest.hexdigest())


def with_file(setting: Setting, weights: str, pictures: str) -> Setting:
    """The file is named after everything that the figures depend on."""
    content = identity(setting) | {"weights": weights, "pictures": pictures, "version": __version__}
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]
    return replace(setting, file=resolve(FOLDER) / f"{key}.json")


def identity(setting: Setting) -> dict:
    """Options that differ from their defaults: an option that comes to exist does not change it."""
    return {"network_g": setting.network_g, "val": setting.val.model_dump(mode="json", exclude_defaults=True)}


# ---- measuring


def read_records(file: Path) -> dict[str, dict]:
    """picture -> what was measured; {} when nothing was, or the file is damaged."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))["pictures"]
    except (FileNotFoundError, ValueError, KeyError):
        return {}


def open_jobs(cases: Sequence[Case], sweep: bool, sweep_images: int) -> dict[Path, tuple[Case, Setting, list[str]]]:
    """What has not been measured: a setting and its pictures by the file, in which settings that are equal meet."""
    jobs = {}
    for case in cases:
        for setting in case.settings:
            if setting.mode == "sweep" and not sweep:
                continue
            done = setting.done()
            _, first, names = jobs.get(setting.file, (case, setting, []))
            names += [n for n in case.names(setting, sweep_images) if n not in done and n not in names]
            if names:
                jobs[setting.file] = (case, first, names)
    return jobs


def measure(jobs: Iterable[tuple[Case, Setting, list[str]]]) -> None:
    """Run every job; each picture is on the disk before the next one starts."""
    jobs = list(jobs)
    bar = tqdm(total=sum(len(names) for *_, names in jobs), desc="evidence", unit="image", smoothing=0, disable=None)
    with bar:
        for case, setting, names in jobs:
            label = f"{case.name}, {setting.mode}" + (f" (window {setting.base_size})" if setting.base_size else "")
            device = pick_device(case.opt.num_gpu)
            _, predict = prepare(case.opt.model_copy(update={"val": setting.val}), setting.network_g, device)
            metrics = build.build_metrics(setting.val)
            records = read_records(setting.file)
            for name in names:
                one = Subset(case.pictures.dataset, [case.pictures.names.index(name)])
                start = time.perf_counter()
                keep = {"input_metrics": setting.mode == "plain", "save_dir": setting.pictures}
                (result,) = evaluate(predict, one, metrics, **keep, label=label)
                took = {"wall": time.perf_counter() - start, "device": report.device_name(device), "torch": torch.__version__}
                records[name] = asdict(result) | took
                content = {"case": case.name, **identity(setting), "version": __version__, "pictures": records}
                write_bytes(setting.file, json.dumps(content, indent=1).encode())
                bar.update()
            shown = mean([records[name]["metrics"]["psnr"] for name in names])
            seconds = mean([records[name]["wall"] for name in names])
            logger.info("%s: %d pictures, PSNR %.3f, %.1f s each", label, len(names), shown, seconds)


def collect(case: Case, sweep_images: int) -> Evidence | None:
    """What has been measured of a case, or None when plain, patches or local lack pictures."""
    found, sweep, records = {}, {}, []
    for setting in case.settings:
        kept, names = setting.done(), case.names(setting, sweep_images)
        if any(name not in kept for name in names):
            if setting.mode != "sweep":
                return None
            continue
        results = [as_result(kept[name]) for name in names]
        records += [(setting, name, kept[name]) for name in names]
        if setting.mode == "sweep":
            sweep[setting.base_size] = results
        else:
            found[setting.mode] = results
    complete = len(sweep) == sum(s.mode == "sweep" for s in case.settings)
    return Evidence(case, **found, sweep=sweep if complete else {}, records=records)


def as_result(record: dict) -> ImageResult:
    fields = {key: record[key] for key in ("name", "metrics", "input_metrics", "seconds")}
    return ImageResult(**fields, size=tuple(record["size"]))


# ---- tables


def table(evidence: Sequence[Evidence]) -> str:
    """The README's table: a line per network and task."""
    lines = [f"| {' | '.join(TABLE_HEAD)} |", "|---" * len(TABLE_HEAD) + "|"]
    for e in evidence:
        case = e.case
        modes = [means(e.plain, "input_metrics"), means(e.plain), means(e.patches), means(e.local)]
        cells = [case.net, title(case.task), f"{case.parameters / 1e6:.2f} M", f"{case.patch}, {case.base_size}"]
        cells += [f"{m['psnr']:.2f} / {unit(m['ssim'])}" for m in modes]
        cells += [f"**{mean(e.gains):+.3f} dB**", f"{sum(g > 0 for g in e.gains)}/{len(e.gains)}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def readme_block(evidence: Sequence[Evidence], missing: Sequence[str]) -> str:
    gains = [gain for e in evidence for gain in e.gains]
    count = len(evidence[0].plain)
    protocols = [metric.protocol for metric in build.build_metrics(evidence[0].case.opt.val).values()]
    parts = [
        table(evidence),
        f"PSNR / SSIM, means over {count} photographs; overlapped patches: the plain network on patches of its training size"
        f" (`val.grids`), averaged where they overlap. Protocols: {'; '.join(protocols)}.",
        f"![Gain of TLC per network and photograph]({FIGURES}/{GAIN_FIGURE})",
        f"Gain of TLC per network and photograph: {sum(g > 0 for g in gains)} of {len(gains)} gain, "
        f"from {min(gains):+.2f} to {max(gains):+.2f} dB.",
    ]
    if swept := [e for e in evidence if e.sweep]:
        parts += [f"![PSNR over the window]({FIGURES}/{BASE_SIZE_FIGURE})", sweep_sentence(swept)]
    if missing:
        parts.append(f"Not measured yet: {', '.join(name.split(' ')[0] for name in missing)}.")
    parts.append(effort(evidence))
    return "\n\n".join(parts)


def sweep_sentence(evidence: Sequence[Evidence]) -> str:
    best: dict[float, list[str]] = {}  # window in patches -> the networks that like it best
    for e in evidence:
        base, results = max(e.sweep.items(), key=lambda item: e.over_plain(item[1]))
        size = base / e.case.patch if e.over_plain(results) > 0 else math.inf
        best.setdefault(size, []).append(f"{e.case.net} ({title(e.case.task)})")
    count = len(next(iter(evidence[0].sweep.values())))
    texts = [
        f"{'the whole picture (no gain)' if size == math.inf else f'{size:g}x'} for {', '.join(names)}"
        for size, names in sorted(best.items())
    ]
    return (
        f"PSNR over the window, in training patches; `global` is the plain network, dashed are overlapped patches (means over "
        f"{count} of the photographs). The best window: {'; '.join(texts)}."
    )


def effort(evidence: Sequence[Evidence]) -> str:
    """How long it all took, and where; pictures that two settings share count once."""
    unique = {(setting.file, name): record for e in evidence for setting, name, record in e.records}
    seconds = sum(record["wall"] for record in unique.values())
    devices = sorted({record["device"] for record in unique.values()})
    versions = sorted({record["torch"] for record in unique.values()})
    took = f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"
    return (
        f"Measured in {took} ({len(unique)} restored pictures; {' and '.join(devices)}; "
        f"torch {' and '.join(versions)}; version {__version__})."
    )


def card_block(e: Evidence) -> str:
    """The block of a model card: what test.py prints, overlapped patches and the other windows."""
    metrics = build.build_metrics(e.case.opt.val)
    plain = report.Run(e.case.net, False, e.case.task, e.plain)
    local = report.Run(f"{e.case.net}Local", True, e.case.task, e.local)
    protocols = {name: metric.protocol for name, metric in metrics.items()}
    patches = means(e.patches)
    parts = [
        f"```\n{report.image_table(plain, local, 'psnr')}\n\n{report.table([plain, local], protocols, timed=False)}\n```",
        f"Plain on overlapped patches of {e.case.patch} (`val.grids`): {patches['psnr']:.2f} / {unit(patches['ssim'])}, "
        f"{e.over_plain(e.patches):+.3f} dB against whole pictures.",
    ]
    if e.sweep:
        count = len(next(iter(e.sweep.values())))
        gains = ", ".join(f"{base} {e.over_plain(results):+.3f}" for base, results in e.sweep.items())
        parts.append(f"Gain over `base_size`, {count} of the photographs: {gains} dB.")
    return "\n\n".join([*parts, effort([e])])


def write_csv(file: Path, evidence: Sequence[Evidence]) -> None:
    """A line per network, mode and picture."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ["task", "network", "mode", "patch", "base_size", "image", "psnr", "ssim", "input_psnr", "input_ssim"]
    writer.writerow([*head, "seconds", "device"])
    for e in evidence:
        inputs = {r.name: r.input_metrics for r in e.plain}
        for setting, name, record in e.records:
            values = [record["metrics"][m] for m in ("psnr", "ssim")] + [inputs[name][m] for m in ("psnr", "ssim")]
            row = [e.case.task, e.case.net, setting.mode, e.case.patch, setting.base_size or "", name]
            writer.writerow([*row, *(f"{v:.6f}" for v in [*values, record["seconds"]]), record["device"]])
    write_bytes(file, out.getvalue().encode())


def title(task: str) -> str:
    """'SampleNoise' -> 'noise'."""
    return task.removeprefix("Sample").lower() or task


def unit(value: float) -> str:
    """.9558, as the papers print SSIM."""
    return f"{value:.4f}".removeprefix("0")


# ---- blocks between markers


def replaced(text: str, block: str, name: str) -> str:
    """`text` with what stands between the markers replaced.

    Raises:
        UserError: the markers are not there, each once and in order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or any(marker in part for marker in (BEGIN, END) for part in (before, after)):
        raise UserError(f"{name}: put the lines {BEGIN} and {END} once each where the results shall stand.")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def refresh(file: Path, block: str, *, create: bool = False) -> None:
    """Put `block` between the markers of a Markdown file; `create`: add them under a heading when there are none."""
    text = file.read_text(encoding="utf-8")
    if create and BEGIN not in text and END not in text:
        head, heading, rest = text.partition("\n## Measured\n")
        text = f"{head.rstrip()}\n\n## Measured\n\n{BEGIN}\n{END}\n" + (f"\n{rest.lstrip()}" if heading else "")
    new = replaced(text, block, display(file))
    if new != file.read_text(encoding="utf-8"):
        write_bytes(file, new.encode())


# ---- figures


def draw_gains(file: Path, evidence: Sequence[Evidence]) -> None:
    """A map of numbers: networks by photographs, one part per task, and the mean at the right end."""
    tasks = by_task(evidence)
    rows = [len(es) for es in tasks.values()]
    columns = [e.name for e in max((e.plain for e in evidence), key=len)]
    figure = Figure(figsize=(2.2 + 0.72 * (len(columns) + 1), 1.9 + 0.45 * sum(rows) + 0.4 * len(rows)), dpi=110)
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("Gain of TLC in PSNR [dB], per network and photograph", fontsize=13)
    limit = max(abs(g) for e in evidence for g in e.gains) or 1
    all_axes = figure.subplots(len(rows), 1, squeeze=False, height_ratios=rows)[:, 0]
    for axes, (task, es) in zip(all_axes, tasks.items(), strict=True):
        gains = np.array([[*e.gains, mean(e.gains)] for e in es])
        axes.imshow(gains, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
        for (row, column), gain in np.ndenumerate(gains):
            colour = "white" if abs(gain) > 0.6 * limit else "black"
            weight = "bold" if column == len(columns) else "normal"
            axes.text(column, row, f"{gain:+.2f}", ha="center", va="center", fontsize=10, color=colour, weight=weight)
        axes.axvline(len(columns) - 0.5, color="white", linewidth=4)
        axes.set_yticks(range(len(es)), [e.case.net for e in es], fontsize=11)
        axes.set_title(title(task), loc="left", fontsize=11)
        axes.set_xticks([])
        axes.spines[:].set_visible(False)
    labels = [*(name.replace("_", " ") for name in columns), "mean"]
    all_axes[-1].set_xticks(range(len(labels)), labels, rotation=35, ha="right", fontsize=10)
    save_figure(file, figure)


def draw_base_size(file: Path, evidence: Sequence[Evidence]) -> None:
    """PSNR minus the plain network's over the window, one panel per task, a line per network."""
    tasks = by_task(evidence)
    figure = Figure(figsize=(1 + 5.6 * len(tasks), 4.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    nets = list(dict.fromkeys(e.case.net for e in evidence))
    for axes, (task, es) in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks.items(), strict=True):
        for e in es:
            draw_line(axes, e, f"C{nets.index(e.case.net)}", "osD^vP*X"[nets.index(e.case.net) % 8])
        axes.plot([], [], "--", color="grey", label="overlapped patches")
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_xticks([*FACTORS, FACTORS[-1] + 1], [*(f"{f:g}x" for f in FACTORS), "global\n(plain)"])
        axes.set_xlabel("window (base_size) in training patches")
        axes.set_ylabel("PSNR minus plain [dB]")
        axes.set_title(title(task))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
    save_figure(file, figure)


def draw_line(axes: Axes, e: Evidence, colour: str, marker: str) -> None:
    gains = {base: e.over_plain(results) for base, results in e.sweep.items()}
    label = f"{e.case.net} (patch {e.case.patch})"
    draw_windows(axes, e.case.patch, gains, plain=0, color=colour, marker=marker, label=label)
    axes.axhline(e.over_plain(e.patches_like_sweep()), linestyle="--", linewidth=1.2, color=colour)


def by_task(evidence: Sequence[Evidence]) -> dict[str, list[Evidence]]:
    tasks = dict.fromkeys(e.case.task for e in evidence)
    return {task: [e for e in evidence if e.case.task == task] for task in tasks}


# ---- the command


def chosen(cases: Sequence[Case], missing: Sequence[str], nets: list[str] | None, tasks: list[str] | None) -> list[Case]:
    known = [name.split(" ")[0] for name in missing] + [case.name for case in cases]
    for option, words, place in (("--nets", nets, 0), ("--tasks", tasks, 1)):
        names = dict.fromkeys(name.split("-", 1)[place] for name in known)
        for word in words or []:
            if word not in names:
                raise UserError(f"{option} {word}: no such name.{did_you_mean(word, names)} Known: {', '.join(names)}.")
    return [case for case in cases if case.net in (nets or [case.net]) and case.task in (tasks or [case.task])]


def write_all(evidence: Sequence[Evidence], missing: Sequence[str]) -> None:
    written = [resolve(FOLDER) / "evidence.csv", resolve(FIGURES) / GAIN_FIGURE, resolve("README.md")]
    write_csv(written[0], evidence)
    draw_gains(written[1], evidence)
    if swept := [e for e in evidence if e.sweep]:
        written.append(resolve(FIGURES) / BASE_SIZE_FIGURE)
        draw_base_size(written[-1], swept)
    refresh(resolve("README.md"), readme_block(evidence, missing))
    for e in evidence:
        card = e.case.weights.with_suffix(".md")
        if card.is_file():
            refresh(card, card_block(e), create=True)
            written.append(card)
        else:
            logger.warning("%s has no card: there is no %s.", e.case.name, display(card))
    logger.info("Written: %s", ", ".join(display(file) for file in written))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", metavar="NET", help="measure these networks alone")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="measure these tasks alone")
    parser.add_argument("--sweep_images", type=int, default=SWEEP_IMAGES, help="pictures of the sweep (default: %(default)s)")
    parser.add_argument("--no_sweep", action="store_true", help="do not measure other windows")
    parser.add_argument("--force", action="store_true", help="measure again what has been measured")
    args = parser.parse_args()
    if args.sweep_images < 1:
        raise UserError(f"--sweep_images {args.sweep_images}: must be positive; --no_sweep leaves the sweep out.")
    readme = resolve("README.md")
    replaced(readme.read_text(encoding="utf-8") if readme.is_file() else "", "", display(readme))  # now, not in an hour
    cases, missing = find_cases()
    cases_now = chosen(cases, missing, args.nets, args.tasks)
    for name in missing:
        logger.warning("not measured: %s", name)
    if args.force:
        for setting in {s.file: s for case in cases_now for s in case.settings}.values():
            setting.file.unlink(missing_ok=True)
    measure(open_jobs(cases_now, not args.no_sweep, args.sweep_images).values())
    collected = {case.name: collect(case, args.sweep_images) for case in cases}
    missing += [f"{name} (not measured yet)" for name, e in collected.items() if e is None]
    if not (evidence := [e for e in collected.values() if e]):
        raise UserError(f"nothing was measured: {'; '.join(missing)}.")
    write_all(evidence, missing)
    return 0


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
