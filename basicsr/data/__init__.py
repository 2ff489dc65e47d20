"""Data sets by name. A data set is indexed by a number or by a `Draw` and yields {"lq", "gt", "name"}."""

from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.data.synthetic_degradation_dataset import SyntheticDegradationDataset
from basicsr.registry import DATASETS

__all__ = ["DATASETS", "PairedImageDataset", "SyntheticDegradationDataset"]
