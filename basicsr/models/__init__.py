"""A network in use, and the ways to run it over an image."""

from basicsr.models.restoration_model import ImageRestorationModel
from basicsr.registry import MODELS

__all__ = ["MODELS", "ImageRestorationModel"]
