"""Training of classifiers whose confidence can be trusted near the data."""

from hcnn_fast.training.checkpoint import load_checkpoint, save_checkpoint, save_weights
from hcnn_fast.training.inner_attack import attacked_images
from hcnn_fast.training.recipe import Recipe
from hcnn_fast.training.run import EpochReport, TrainingResult, train

__all__ = [
    "EpochReport",
    "Recipe",
    "TrainingResult",
    "attacked_images",
    "load_checkpoint",
    "save_checkpoint",
    "save_weights",
    "train",
]
