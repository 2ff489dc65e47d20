"""Weights: what they say of themselves (`about`), whose network they are of (`identify`), a net with them (`loading`).

Training writes network and training patch into their metadata. Of other weights, keys and shapes tell the network; the patch of
those that were published is in the table `published`. `store` finds what is called by name, and downloads it.
"""

from basicsr.engine.weights.about import About, about, about_training, patch_of
from basicsr.engine.weights.identify import from_shapes, identify, network_and_path, options_for_weights
from basicsr.engine.weights.loading import build_with_weights, with_training_patch
from basicsr.engine.weights.store import weights_of

__all__ = [
    "About",
    "about",
    "about_training",
    "build_with_weights",
    "from_shapes",
    "identify",
    "network_and_path",
    "options_for_weights",
    "patch_of",
    "weights_of",
    "with_training_patch",
]
