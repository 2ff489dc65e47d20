"""Data sets by name. A data set is indexed by a number or by a `Draw` and yields {"lq", "gt", "name"}."""

from basicsr.data.dnd_dataset import DNDDataset
from basicsr.data.dual_pixel_dataset import DualPixelDataset
from basicsr.data.gaussian_denoising_dataset import GaussianDenoisingDataset
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.data.sidd_blocks_dataset import SIDDBlocksDataset
from basicsr.data.synthetic_degradation_dataset import SyntheticDegradationDataset
from basicsr.registry import DATASETS

__all__ = [
    "DATASETS",
    "DNDDataset",
    "DualPixelDataset",
    "GaussianDenoisingDataset",
    "PairedImageDataset",
    "SIDDBlocksDataset",
    "SyntheticDegradationDataset",
]
