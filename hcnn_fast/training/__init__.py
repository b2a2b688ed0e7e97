"""Training of classifiers whose confidence can be trusted near the data."""

from hcnn_fast.training.bounds import error_bound, least_loss, wrong_confidence_bound
from hcnn_fast.training.checkpoint import load_checkpoint, save_checkpoint, save_weights
from hcnn_fast.training.class_vae import VaeRecipe, train_class_vae
from hcnn_fast.training.inner_attack import attacked_images
from hcnn_fast.training.recipe import Recipe
from hcnn_fast.training.result import EpochReport, TrainingResult
from hcnn_fast.training.run import train
from hcnn_fast.training.settings import (
    Calibration,
    HalfAttacked,
    OnManifold,
    Smoothing,
    Trades,
    VirtualAdversarial,
)

__all__ = [
    "Calibration",
    "EpochReport",
    "HalfAttacked",
    "OnManifold",
    "Recipe",
    "Smoothing",
    "Trades",
    "TrainingResult",
    "VaeRecipe",
    "VirtualAdversarial",
    "attacked_images",
    "error_bound",
    "least_loss",
    "load_checkpoint",
    "save_checkpoint",
    "save_weights",
    "train",
    "train_class_vae",
    "wrong_confidence_bound",
]
