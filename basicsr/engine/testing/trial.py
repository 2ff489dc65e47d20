"""A test run whose parts are ready: every network on every data set, then the reports."""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from basicsr.engine.testing import tables
from basicsr.engine.testing.evaluate import covered, evaluate
from basicsr.engine.testing.journal import Journal, measured_in
from basicsr.engine.testing.results import Run, of_sets, plain_and_local, with_groups
from basicsr.errors import counted
from basicsr.models.inference import Predict
from basicsr.options import display
from basicsr.utils import dist
from basicsr.utils.log import log_to_file, set_aside

logger = logging.getLogger("basicsr")
FEW_IMAGES = 20  # up to which the screen shows each


@dataclass(frozen=True)
class Trial:
    """What is compared, on what, and where it is written.

    folder: results/<name>.
    datasets: by their word in the file; titles: what the reports call them.
    network: name of the plain one. nets: by whether they have TLC, on the CPU.
    metrics: of each data set; where there are none, the restored pictures are written, as with save_img.
    runner: puts a net on the device and returns the way to run it over an image. device: that one.
    part_size: side of the parts that images are cut into, if they are; see `covered`.
    batch_size: see `evaluate`.
    groups: names of images that have means of their own, by data set and by the group's name.
    fingerprint: of all that the figures depend on.
    write_reports: writes what there is to say of the runs, and returns the report.
    """

    name: str
    folder: Path
    datasets: Mapping[str, Dataset]
    titles: Mapping[str, str]
    nets: Mapping[bool, nn.Module]
    network: str
    metrics: Mapping[str, Mapping[str, Callable]]
    runner: Callable[[nn.Module], Predict]
    device: torch.device
    part_size: int | str | None
    save_img: bool
    max_images: int | None
    batch_size: int
    groups: Mapping[str, Mapping[str, Collection[str]]]
    fingerprint: str
    write_reports: Callable[[list[Run]], dict[str, Any]]

    def run(self, *, resume: bool = False) -> dict[str, Any]:
        """Evaluate and report; the report is the first process', the others' is empty.

        Args:
            resume: images that an earlier run has measured, with the same weights, options and data, are not done again.
        """
        known = dist.together(lambda: measured_in(self.folder, self.fingerprint)) if resume else {}
        if dist.is_main():
            if resume:
                logger.info("Going on after %s, done before.", counted(len(known), "image"))
            elif moved := set_aside(self.folder):
                logger.info("The earlier results of this name were moved to %s.", display(moved[0]))
            log_to_file(self.folder / f"test_{self.name}.log")
        dist.together(lambda: None)  # nobody writes before the earlier results are away
        runs = self._measure(Journal(self.folder, self.fingerprint, dist.rank(), known))
        if not dist.is_main():
            return {}
        written = self.write_reports(runs)
        self._print(runs, written)
        logger.info("Report: %s", display(self.folder / "report.json"))
        return written

    def _measure(self, journal: Journal) -> list[Run]:
        """Every network on every data set."""
        runs = []
        if True in self.nets:
            logger.info("%s", self.nets[True].tlc_report.summary())
            logger.debug("%s", self.nets[True].tlc_report)
        for key, dataset in self.datasets.items():
            for tlc, net in self.nets.items():
                name = self.network + ("Local" if tlc else "")
                label = f"{name} on {key}"
                predict = self.runner(net)
                saved = self.save_img or not self.metrics[key]
                results, failed = evaluate(
                    predict,
                    dataset,
                    self.metrics[key],
                    device=self.device,
                    batch_size=self.batch_size,
                    save_dir=self.folder / "visualization" / key / name if saved else None,
                    max_images=self.max_images,
                    done=journal.done(label),
                    on_result=partial(journal.add, label),
                    label=label,
                )
                whole = [of_sets(self.metrics[key], results, field) for field in ("features", "input_features")]
                runs.append(Run(name, tlc, self.titles[key], results, failed, self.groups[key], "", *whole))
                if tlc and (count := covered(net, results, self.part_size)):
                    rows, columns = net.tlc_report.base_size
                    logger.warning(
                        "The window of %dx%d covers %d of %s of %s%s: TLC changes nothing there; set a smaller base_size.",
                        *(rows, columns, count, counted(len(results), "image"), self.titles[key]),
                        " or their parts" if self.part_size else "",
                    )
                net.to(torch.device("cpu"))
        return runs

    def _print(self, runs: list[Run], report: Mapping[str, Any]) -> None:
        protocols, lower, views = report["protocol"], report["lower_is_better"], with_groups(runs)
        for dataset in self.titles.values():
            pair = plain_and_local([run for run in runs if run.dataset == dataset])
            if pair and len(pair[0].images) <= FEW_IMAGES and (metrics := pair[0].images[0].metrics):
                metric = next(iter(metrics))
                logger.info("%s\n", tables.image_table(*pair, metric=metric, lower=metric in lower))
        logger.info("%s", "\n".join([tables.table(views, protocols, lower=lower), *tables.sentences(views, lower)]))
        for network, figures in report["expected"].items():
            for name, figure in figures.items():
                logger.info("%s %s: %s", network, name, _beside_published(**figure))
        for key in self.titles if self.save_img else [key for key, metrics in self.metrics.items() if not metrics]:
            logger.info("Pictures: %s", display(self.folder / "visualization" / key))


def _beside_published(
    published: float, measured: float, difference: float | None, published_images: int = 0, images: int = 0
) -> str:
    if difference is None:
        return (
            f"published {published:g} on {published_images:,} images, measured {measured:.4f} on {images:,}: not to be compared"
        )
    return f"published {published:g}, measured {measured:.4f}, {difference:+.4f}"
