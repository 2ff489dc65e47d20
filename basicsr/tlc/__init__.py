"""TLC: Test-time Local Converter (Chu, Chen, Chen, Lu, ECCV 2022, arXiv 2112.04491). Needs nothing but torch.

from basicsr.tlc import convert, revert
net = convert(net, train_size=256, base_size=384)
print(net.tlc_report)
net = revert(net)
"""

from basicsr.tlc.convert import convert
from basicsr.tlc.local.attention import attend_blended, attend_in_windows, local_channel_attention
from basicsr.tlc.local.covering import blended_starts, window_starts
from basicsr.tlc.local.functional import local_group_norm, local_instance_norm, local_mean
from basicsr.tlc.report import Report
from basicsr.tlc.revert import revert
from basicsr.tlc.rules import Site, rule

__all__ = [
    "Report",
    "Site",
    "attend_blended",
    "attend_in_windows",
    "blended_starts",
    "convert",
    "local_channel_attention",
    "local_group_norm",
    "local_instance_norm",
    "local_mean",
    "revert",
    "rule",
    "window_starts",
]
