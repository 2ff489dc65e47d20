"""Operations that decide how fast the nets are on a GPU: each a torch formulation and a Triton kernel behind the same call.

`choice` decides which of the two runs. Some have gradients of their own for training, which are operations, too. Nothing here
knows the rest of basicsr, and every result is a plain tensor: sums are taken in float32 at least, whatever the precision of the
maps.
"""

from basicsr.kernels.activation import activated, convolved
from basicsr.kernels.attention import attention_matrices, folded, window_matrices
from basicsr.kernels.blended import Side, blended
from basicsr.kernels.box_mean import box_mean
from basicsr.kernels.cells import Cells
from basicsr.kernels.channel_mean import channel_mean, channel_mean_layer
from basicsr.kernels.choice import accelerates, launched_together, training_type, triton_version, use_triton
from basicsr.kernels.depthwise import depthwise
from basicsr.kernels.enlarge import doubled
from basicsr.kernels.excitation import excited
from basicsr.kernels.gate import gated, replicate
from basicsr.kernels.gram import gram
from basicsr.kernels.layer_norm import channel_layer_norm
from basicsr.kernels.local_norm import local_norm
from basicsr.kernels.pointwise import mixed, pointwise
from basicsr.kernels.transposed_attention import split_qkv, transposed_attention

__all__ = [
    "Cells",
    "Side",
    "accelerates",
    "activated",
    "attention_matrices",
    "blended",
    "box_mean",
    "channel_layer_norm",
    "channel_mean",
    "channel_mean_layer",
    "convolved",
    "depthwise",
    "doubled",
    "excited",
    "folded",
    "gated",
    "gram",
    "launched_together",
    "local_norm",
    "mixed",
    "pointwise",
    "replicate",
    "split_qkv",
    "training_type",
    "transposed_attention",
    "triton_version",
    "use_triton",
    "window_matrices",
]
