"""Models: a net with its loss, metrics and optimizer. To add one: a file here, its class below."""

from src.models.classifier import Classifier
from src.models.regressor import Regressor

__all__ = ["Classifier", "Regressor"]
