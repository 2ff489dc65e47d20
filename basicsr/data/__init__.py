"""Data sets by name. A data set is indexed by number or by (number, seed) and yields {"lq", "gt", "name"}."""

from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.registry import DATASETS

__all__ = ["DATASETS", "PairedImageDataset"]
