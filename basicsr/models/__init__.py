"""A network in use, and the ways to run it over an image."""

from basicsr.models.prediction import prepare_for_inference
from basicsr.models.restoration_model import ImageRestorationModel
from basicsr.registry import MODELS

__all__ = ["MODELS", "ImageRestorationModel", "prepare_for_inference"]
