"""Two folders of images: how the names of one follow from those of the other, and what the pairs are called."""

from collections.abc import Sequence
from pathlib import Path

from basicsr.data.storage import match_names


def name_of_pairs(gt: Path, lq: Path) -> str:
    """What tables call the pairs: the folder that holds both, without the words that every data set has."""
    parts = [part for part in (gt.parent if gt.parent == lq.parent else gt).parts[1:] if part not in ("train", "val", "test")]
    return parts[-1] if parts else "pairs"


def filename_template(gt_names: Sequence[str], lq_names: Sequence[str]) -> str:
    """filename_tmpl: '{}_blur' where every degraded image is called so after its ground truth; '{}' where none fits."""
    first, *_ = (name.rpartition("/")[2] for name in sorted(gt_names))
    of_lq = (name.rpartition("/")[2] for name in sorted(lq_names))
    templates = ["{}", *(name.replace(first, "{}", 1) for name in of_lq if first in name)]
    fitting = (t for t in templates if match_names(gt_names, lq_names, t)[1:] == ([], []))
    return next(fitting, "{}")
