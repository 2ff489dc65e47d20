"""New options files for one's own folders, as `tlc init` writes them: checked against the pictures before they are written."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from basicsr import options
from basicsr.archs import base_type, build_network, known_base_type
from basicsr.data import DATASETS
from basicsr.data.image_dataset import as_list
from basicsr.data.pairs import name_of_pairs
from basicsr.engine.channels import RGB, channels_of_options
from basicsr.engine.reference.commented import commented
from basicsr.engine.testing.pairs import section_of_pairs, val_as_published
from basicsr.engine.weights import network_and_path
from basicsr.errors import UserError
from basicsr.options import Options, load, parse, resolve_input
from basicsr.paths import BUNDLED, REPOSITORY, display
from basicsr.utils.files import write_bytes

RECIPES = "options/train/GoPro"
_PAIRS, _SHARP = "PairedImageDataset", "SyntheticDegradationDataset"
_PLACES = ("dataroot_gt", "dataroot_lq", "dataroot_lqL", "dataroot_lqR")
_VALIDATION = (
    "No pictures to validate on were named: only training figures are shown. To follow the quality, and to keep the best",
    "weights, add pictures that are not trained on, and val_freq: 5000 to the section val:",
    "val:",
)


class Pictures(NamedTuple):
    """Folders or LMDBs as given on the command line, of both sides in the same order.

    lq: none for sharp photographs alone, degraded on the fly by `kind`. gt: none for degraded ones alone, in a test.
    """

    gt: Sequence[Path]
    lq: Sequence[Path]
    kind: str
    flags: tuple[str, str] = ("--gt", "--lq")


def start_training(file: Path | None, net: str, train: Pictures, val: Pictures | None) -> Path:
    """Write the options of a training with the published recipe of `net`; returns where.

    Args:
        file: to write; None: <net>-<pictures>-train.yml in the current folder.
        net: a registered arch with a recipe. train, val: pictures to train and to validate on.

    Raises:
        UserError: a file that is there; no recipe for this net; anything wrong with the pictures, or too small ones.
    """
    net = known_base_type(net, "--net")
    recipe_file, recipe = _recipe(net)
    file = _new_file(file, f"{net}-{_name(train)}-train.yml")
    data: dict[str, Any] = recipe.model_dump(exclude_unset=True)
    data |= {"name": file.stem, "path": {"pretrain_network_g": None, "resume_state": None}}
    section, smallest = _data_set(train)
    settings = {word: value for word, value in data["datasets"]["train"].items() if word not in ("name", "type", *_PLACES)}
    section |= _cropped(settings, _largest_crop(recipe, smallest))
    smaller = [f"Crops are smaller than there: the smallest picture has a side of {smallest} pixels."]
    data["datasets"] = {"train": section}
    notes = {}
    if val is None:
        del data["val"]["val_freq"]
        example = {"type": section["type"], "dataroot_gt": "my/val/sharp"}
        example |= {"dataroot_lq": "my/val/degraded"} if train.lq else {"kind": train.kind}
        notes["datasets"] = [*_VALIDATION, *(f"  {word}: {value}" for word, value in example.items())]
    else:
        data["datasets"]["val"] = _data_set(val)[0]
    head = (
        f"Trains {net} on pictures of your own. Check and see the plan: tlc train -opt {display(file)} --dry_run",
        f"Batch, iterations and learning rate are those of {RECIPES}/{recipe_file.name};",
        "where you change total_iter, change the iterations of the scheduler with it.",
        *(smaller if _crops(section) != _crops(settings) else ()),
    )
    return _write(file, data, head, notes)


def start_test(file: Path | None, weights: Path, net: str | None, pictures: Pictures) -> Path:
    """Write the options of a test of weights; returns where.

    Args:
        file: as in `start_training`, but <net>-<pictures>-test.yml.
        weights, net: see `basicsr.engine.weights.network_and_path`.

    Raises:
        UserError: a file that is there; weights of no known network, or of another one; anything wrong with the pictures.
    """
    network_g, path = network_and_path(weights, net)
    file = _new_file(file, f"{network_g['type']}-{_name(pictures)}-test.yml")
    path = {word: _written(Path(value)) for word, value in path.items()}
    section, _ = _data_set(pictures, channels_of_options(network_g))
    val = val_as_published(weights, network_g, measured=bool(pictures.gt))
    data = {
        "name": file.stem,
        "num_gpu": "auto",
        "datasets": {"test": section},
        "network_g": network_g,
        "path": path,
        "val": {"save_img": not pictures.gt, "tile": None, **val},
    }
    head = [f"Tests {network_g['type']} on pictures of your own: tlc test -opt {display(file)}"]
    if base_type(network_g["type"]) != network_g["type"]:
        head[0] += " --tlc both"
    return _write(file, data, head, {})


def _recipe(net: str) -> tuple[Path, Options]:
    files = sorted(((REPOSITORY or BUNDLED) / RECIPES).glob("*.yml"), reverse=True)  # of several of a network, the first counts
    recipes = {opt.network_g.type: (file, opt) for file, opt in ((file, load(file)) for file in files)}
    if net not in recipes:
        raise UserError(f"--net {net}: there is no recipe for it. There are recipes for {', '.join(sorted(recipes))}.")
    return recipes[net]


def _new_file(file: Path | None, default: str) -> Path:
    file = Path(re.sub(r"[^\w.+-]", "_", default)) if file is None else file
    if file.exists():
        raise UserError(f"{file} is there already: name another file with --output.")
    if file.suffix not in (".yml", ".yaml"):
        raise UserError(f"--output {file}: the name must end in .yml.")
    return file


def _roots(side: Sequence[Path]) -> list[Path]:
    return [resolve_input(root).absolute() for root in side]


def _name(pictures: Pictures) -> str:
    gt, lq = _roots(pictures.gt), _roots(pictures.lq)
    return name_of_pairs((gt or lq)[0], (lq or gt)[0])


def _data_set(pictures: Pictures, channels: tuple[int, int] = (RGB, RGB)) -> tuple[dict[str, Any], int]:
    """The section of a data set whose files have all been looked at, and the smallest side among its pictures.

    channels: see `section_of_pairs`.
    """
    gt, lq = _roots(pictures.gt), _roots(pictures.lq)
    if lq:
        section = section_of_pairs(gt, lq, pictures.flags, channels)
    else:
        places = [str(root) for root in gt]
        backend = {"type": "lmdb" if all((root / "data.mdb").is_file() for root in gt) else "disk"}
        section = {"name": _name(pictures), "type": _SHARP, "dataroot_gt": places[0] if len(places) == 1 else places}
        section |= {"io_backend": backend, "kind": pictures.kind}
    if section["io_backend"]["type"] == "disk":
        del section["io_backend"]
    try:
        dataset = DATASETS.build(section["type"], {w: value for w, value in section.items() if w not in ("name", "type")})
        dataset.check()
    except UserError as error:
        text = re.sub("dataroot_gt", pictures.flags[0], str(error))
        raise UserError(re.sub("dataroot_lq[LR]?", pictures.flags[1], text)) from None
    for word in _PLACES:
        if places := [_written(Path(root)) for root in as_list(section.get(word))]:
            section[word] = places[0] if len(places) == 1 else places
    return section, min(min(size) for size in dataset.sizes.values())


def _largest_crop(recipe: Options, smallest: int) -> int:
    """The largest side of a crop that fits into the smallest picture, and that the net need not pad."""
    with torch.device("meta"):
        multiple = max(1, getattr(build_network(recipe.network_g.as_dict()), "padder_size", 1))
    if smallest < multiple:
        raise UserError(
            f"--gt: the smallest picture has a side of {smallest} pixels, but {recipe.network_g.type} needs {multiple}; "
            "remove what is so small."
        )
    return smallest // multiple * multiple


def _cropped(settings: Mapping[str, Any], largest: int) -> dict[str, Any]:
    """A recipe's settings of crops and batches, with crops that fit."""
    settings = dict(settings)
    if "gt_size" in settings:
        settings["gt_size"] = min(settings["gt_size"], largest)
    if "progressive" in settings:
        settings["progressive"] = [{**s, "gt_size": min(s["gt_size"], largest)} for s in settings["progressive"]]
    return settings


def _crops(settings: Mapping[str, Any]) -> list[int]:
    """Sides of the crops, of every stage of progressive learning."""
    return [part["gt_size"] for part in (settings, *settings.get("progressive", ())) if "gt_size" in part]


def _written(path: Path) -> str:
    """A path as a YAML file has it."""
    root = options.ROOT or Path.cwd()
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _write(file: Path, data: Mapping[str, Any], head: Sequence[str], notes: Mapping[str, Sequence[str]]) -> Path:
    parse(data, str(file))
    write_bytes(file, commented(data, head, file, notes).encode())
    return file
