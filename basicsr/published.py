"""Words of the published repositories' files that are said in other words here.

Restormer (github.com/swz30/Restormer) and the repositories of HINet and NAFNet name models and data sets in their own ways, and
Restormer has its stages of progressive learning as lists. Imports no torch.
"""

import logging
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger("basicsr")

MODELS = {"ImageCleanModel": "ImageRestorationModel"}
DATASETS = {
    "Dataset_PairedImage": "PairedImageDataset",
    "PairedImageDataset_SIDD": "PairedImageDataset",
    "Dataset_GaussianDenoising": "GaussianDenoisingDataset",
    "Dataset_DefocusDeblur_DualPixel_16bit": "DualPixelDataset",
}
# What Restormer's data sets do without a word: extend pictures below gt_size, and read files of 16 bits as their high byte.
_IMPLIED = {
    "Dataset_PairedImage": {"pad_small": True, "bit_depth": 8},
    "Dataset_GaussianDenoising": {"pad_small": True},
    "Dataset_DefocusDeblur_DualPixel_16bit": {"pad_small": True},
}
_STAGES = {"iters": "iters", "gt_sizes": "gt_size", "mini_batch_sizes": "batch_size_per_gpu"}
# Words of them that say nothing.
_EMPTY = {
    "Dataset_GaussianDenoising": {"dataroot_lq": "none", "filename_tmpl": "{}"},
    "Dataset_DefocusDeblur_DualPixel_16bit": {"dataroot_lq": "none", "filename_tmpl": "{}"},
}
_MPRNET = ("GPU", "VERBOSE", "MODEL", "OPTIM", "TRAINING")


def in_our_words(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The options of a file in the toolbox's words, each change said; and what cannot be said in them, with what to write."""
    faults: list[str] = []
    data = dict(data)
    if found := [word for word in _MPRNET if word in data]:
        faults.append(
            f"{', '.join(found)}: these are the words of MPRNet's own training.yml; take options/train/GoPro/MPRNet-GoPro.yml "
            "and write TRAIN_DIR and VAL_DIR as dataroot_gt and dataroot_lq of datasets.train and datasets.val"
        )
        data = {word: value for word, value in data.items() if word not in _MPRNET}
    if str(data.get("model_type")) in MODELS:
        data["model_type"] = _renamed("model_type", data["model_type"], MODELS)
    if isinstance(data.get("datasets"), dict):
        gpus = data.get("num_gpu")
        gpus = gpus if isinstance(gpus, int) and gpus > 0 else 1
        data["datasets"] = {
            key: _data_set(f"datasets.{key}", section, gpus, faults) if isinstance(section, dict) else section
            for key, section in data["datasets"].items()
        }
    if isinstance(data.get("train"), dict) and data["train"].get("mixup"):
        faults.append("train.mixup: write `mixing_augs: {mixup: true, mixup_beta: 1.2, use_identity: true}`, with your numbers")
    return data, faults


def _renamed(where: str, name: str, names: Mapping[str, str]) -> str:
    logger.info("%s: %s is %s here.", where, name, names[name])
    return names[name]


def _data_set(where: str, section: Mapping[str, Any], gpus: int, faults: list[str]) -> dict[str, Any]:
    section = dict(section)
    kind = str(section.get("type"))
    if kind in DATASETS:
        section["type"] = _renamed(f"{where}.type", kind, DATASETS)
    if implied := {word: value for word, value in _IMPLIED.get(kind, {}).items() if word not in section}:
        section |= implied
        said = " and ".join(f"{word}: {str(value).lower()}" for word, value in implied.items())
        logger.info("%s: %s means %s here.", where, kind, said)
    for word, nothing in _EMPTY.get(kind, {}).items():
        if section.get(word) in (None, nothing):
            section.pop(word, None)
    if "geometric_augs" in section:
        section["use_flip"] = section["use_rot"] = section.pop("geometric_augs")
        logger.info("%s.geometric_augs is read as use_flip and use_rot.", where)
    if stages := {word: section.pop(word) for word in _STAGES if word in section}:
        if fault := _unequal(stages):
            faults.append(f"{where}: {fault}")
        else:
            section["progressive"] = _progressive(stages, gpus)
            logger.info(
                "%s.%s are read as `progressive`, with batches of %s.",
                *(where, ", ".join(stages), ", ".join(str(stage["batch_size"]) for stage in section["progressive"])),
            )
    return section


def _unequal(stages: Mapping[str, Any]) -> str:
    """Why these lists are no stages, or ''."""
    if absent := [word for word in _STAGES if word not in stages]:
        return f"{', '.join(stages)} without {', '.join(absent)}; give all three, or a list `progressive`"
    if any(not isinstance(value, list) or not value for value in stages.values()):
        return f"{', '.join(stages)} must be lists with a number for each stage"
    if len({len(value) for value in stages.values()}) > 1:
        lengths = ", ".join(f"{word} {len(value)}" for word, value in stages.items())
        return f"the lists of the stages must be equally long, but have {lengths} numbers"
    return ""


def _progressive(stages: Mapping[str, list], gpus: int) -> list[dict[str, Any]]:
    """Restormer counts crops for each of its GPUs."""
    found = [dict(zip(_STAGES.values(), values, strict=True)) for values in zip(*(stages[w] for w in _STAGES), strict=True)]
    return [{**stage, "batch_size": _times(stage["batch_size_per_gpu"], gpus)} for stage in found]


def _times(value: Any, factor: int) -> Any:
    """What is no number is refused later, with its place."""
    return value * factor if isinstance(value, int) and not isinstance(value, bool) else value
