"""TLC: Test-time Local Converter (Chu, Chen, Chen, Lu, ECCV 2022, arXiv 2112.04491). Needs nothing but torch.

from basicsr.tlc import convert
net = convert(net, train_size=(1, 3, 256, 256), base_size=384)
print(net.tlc_report)
"""

from basicsr.tlc.convert import Report, Site, convert, rule
from basicsr.tlc.functional import local_channel_attention, local_instance_norm, local_mean, window_starts

__all__ = [
    "Report",
    "Site",
    "convert",
    "local_channel_attention",
    "local_instance_norm",
    "local_mean",
    "rule",
    "window_starts",
]
