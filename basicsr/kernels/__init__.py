"""Operations that decide how fast the nets are on a GPU: each a torch formulation and a Triton kernel behind the same call.

`choice` decides which of the two runs. Nothing here knows the rest of basicsr, and every result is a plain tensor: sums are
taken in float32 at least, whatever the precision of the maps.
"""

from basicsr.kernels.activation import activated, convolved
from basicsr.kernels.box_mean import box_mean
from basicsr.kernels.channel_mean import channel_mean
from basicsr.kernels.choice import accelerates, use_triton
from basicsr.kernels.enlarge import doubled
from basicsr.kernels.gate import gated, replicate
from basicsr.kernels.gram import gram
from basicsr.kernels.layer_norm import channel_layer_norm

__all__ = [
    "accelerates",
    "activated",
    "box_mean",
    "channel_layer_norm",
    "channel_mean",
    "convolved",
    "doubled",
    "gated",
    "gram",
    "replicate",
    "use_triton",
]
