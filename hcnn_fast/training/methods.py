"""Which objective a recipe's method stands for."""

from __future__ import annotations

import torch

from hcnn_fast.training.adversarial import Adversarial
from hcnn_fast.training.inner_attack import use_bfloat16
from hcnn_fast.training.natural import Natural
from hcnn_fast.training.objective import Objective
from hcnn_fast.training.recipe import Recipe


def objective_of(recipe: Recipe, device: torch.device) -> Objective:
    """What each step of a run minimises.

    Args:
        recipe: method and settings.
        device: where the model is, which decides the arithmetic of "auto".
    """
    bfloat16 = use_bfloat16(recipe.precision, device)
    if recipe.method == "natural":
        return Natural(label_smoothing=recipe.label_smoothing, bfloat16=bfloat16)
    return Adversarial(recipe=recipe, bfloat16=bfloat16)
