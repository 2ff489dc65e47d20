"""Measuring what has not been measured yet, and collecting what has."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.utils.data import Subset
from tqdm import tqdm

from basicsr import __version__
from basicsr.engine import build
from basicsr.engine.testing import report
from basicsr.engine.testing.evaluate import evaluate
from basicsr.engine.testing.results import ImageResult, mean
from basicsr.engine.testing.sweep import prepare
from basicsr.utils.dist import pick_device
from basicsr.utils.files import write_bytes
from basicsr.utils.log import logger
from gains.cases import Case, Setting, identity, read_records


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
                (result,) = evaluate(predict, one, metrics, **keep, label=label).complete()
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
