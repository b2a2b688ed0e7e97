"""Which objective a recipe's method stands for."""

from __future__ import annotations

import torch

from hcnn_fast.manifolds import manifold_of
from hcnn_fast.training.adversarial import Adversarial
from hcnn_fast.training.half_attacked import HalfBatchAttacked
from hcnn_fast.training.inner_attack import use_bfloat16
from hcnn_fast.training.label_smoothing import LabelSmoothing
from hcnn_fast.training.natural import Natural
from hcnn_fast.training.objective import Objective
from hcnn_fast.training.on_manifold import OnManifoldAttacked
from hcnn_fast.training.recipe import Recipe
from hcnn_fast.training.settings import (
    HalfAttacked,
    OnManifold,
    Smoothing,
    Trades,
    VirtualAdversarial,
)
from hcnn_fast.training.trades import TradesObjective
from hcnn_fast.training.virtual_adversarial import VirtualAdversarialObjective


def objective_of(recipe: Recipe, device: torch.device) -> Objective:
    """What each step of a run minimises.

    Args:
        recipe: method and settings.
        device: where the model is, which decides the arithmetic of "auto".

    Raises:
        FileNotFoundError, ValueError: the manifold of "on-manifold" cannot be had, or images would
            be augmented away from it.
    """
    bfloat16 = use_bfloat16(recipe.precision, device)
    match recipe.settings:
        case Smoothing() as settings:
            amount = recipe.label_smoothing
            return LabelSmoothing(amount=amount, smoothing=settings, bfloat16=bfloat16)
        case HalfAttacked() as settings:
            return HalfBatchAttacked(recipe=recipe, settings=settings, bfloat16=bfloat16)
        case Trades() as settings:
            return TradesObjective(recipe=recipe, settings=settings, bfloat16=bfloat16)
        case VirtualAdversarial() as settings:
            return VirtualAdversarialObjective(
                settings=settings, entropy_weight=recipe.entropy_weight, bfloat16=bfloat16
            )
        case OnManifold() as settings:
            manifold = manifold_of(settings.manifold, device)
            return OnManifoldAttacked(
                recipe=recipe, settings=settings, manifold=manifold, bfloat16=bfloat16
            )
    if recipe.method == "natural":
        return Natural(label_smoothing=recipe.label_smoothing, bfloat16=bfloat16)
    return Adversarial(recipe=recipe, bfloat16=bfloat16)
