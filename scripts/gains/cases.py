"""What there is to measure: trained networks, photographs, the ways to run them, and where what was measured is kept."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from torch.utils.data import Dataset

from basicsr import __version__
from basicsr.engine import build
from basicsr.engine.testing.sweep import images_of, windows_of
from basicsr.errors import UserError
from basicsr.options import Options, display, load, resolve
from basicsr.sections import DatasetOptions, ValOptions
from basicsr.utils.checkpoint import sha256

NETS = ("HINet", "MPRNet", "Restormer", "NAFNet")  # the order of the table
TASKS = ("SampleNoise", "SampleBlur")
FOLDER = "results/evidence"
RECORD = {"name", "size", "metrics", "input_metrics", "seconds", "wall", "device", "torch"}  # what is kept of a picture
PICTURED = ("plain", "local")  # modes whose restored pictures are kept


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


def read_records(file: Path) -> dict[str, dict]:
    """picture -> what was measured; {} when nothing was, or the file is damaged."""
    try:
        pictures = json.loads(file.read_text(encoding="utf-8"))["pictures"]
        return {name: record for name, record in pictures.items() if record.keys() >= RECORD}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def title(task: str) -> str:
    """'SampleNoise' -> 'noise'."""
    return task.removeprefix("Sample").lower() or task
