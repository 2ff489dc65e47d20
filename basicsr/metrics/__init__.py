"""Metrics: functions of one restored image, registered in METRICS under the names that a YAML file uses.

`basicsr.metrics.METRICS.get("calculate_psnr")` is a function with the attributes that `metric` lists. Nothing here
averages over images.
"""

from basicsr.metrics.fid import calculate_fid
from basicsr.metrics.niqe import calculate_niqe
from basicsr.metrics.perceptual import calculate_dists, calculate_lpips
from basicsr.metrics.protocol import metric, of_pixels
from basicsr.metrics.psnr_ssim import calculate_mae, calculate_psnr, calculate_ssim, calculate_ssim_channelwise
from basicsr.registry import METRICS

__all__ = [
    "METRICS",
    "calculate_dists",
    "calculate_fid",
    "calculate_lpips",
    "calculate_mae",
    "calculate_niqe",
    "calculate_psnr",
    "calculate_ssim",
    "calculate_ssim_channelwise",
    "metric",
    "of_pixels",
]
