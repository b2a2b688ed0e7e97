"""The models of a family, trained once and kept with the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from hcnn_fast import models
from hcnn_fast.data import ImageDataset
from hcnn_fast.experiments.experiment import Subject
from hcnn_fast.experiments.family import Member
from hcnn_fast.experiments.settings import Training
from hcnn_fast.run_folder import open_run
from hcnn_fast.training import save_weights, train
from hcnn_fast.training.card import model_card
from hcnn_fast.training.run import CHECKPOINT

MODELS, WEIGHTS = "models", "model.safetensors"
Steps = Callable[[str, int, int], None]


def trained_family(
    members: Sequence[Member],
    training: Training,
    data: ImageDataset,
    folder: Path,
    device: torch.device,
    on_step: Steps,
) -> tuple[Subject, ...]:
    """Train each model, or go on with what is in the folder; one that is done is only read.

    Args:
        members: the models.
        training: architecture, and how many images.
        data: the training images.
        folder: of the run; every model has a folder of its own in `models`, with its checkpoint,
            weights and card. One process at a time may train there.
        device: where to train, and where the models are left.
        on_step: called with the role, the steps done and all steps of the model.

    Raises:
        ValueError: the folder holds models of other recipes, or another process is at work there.
    """
    data = data.first(training.images)
    known = {
        "architecture": training.architecture,
        "data": data.name,
        "images": len(data),
        "recipes": {member.role: member.recipe.to_dict() for member in members},
    }
    home = folder / MODELS
    with open_run(home, known):
        return tuple(_trained(member, training, data, home, device, on_step) for member in members)


def _trained(
    member: Member,
    training: Training,
    data: ImageDataset,
    home: Path,
    device: torch.device,
    on_step: Steps,
) -> Subject:
    """One model of the family, and its files."""
    recipe, own = member.recipe, home / member.role.replace(" ", "-")
    own.mkdir(exist_ok=True)
    with torch.random.fork_rng([]):
        torch.manual_seed(recipe.seed)
        model = models.build(training.architecture)
    result = train(
        model,
        data,
        recipe,
        own,
        resume=(own / CHECKPOINT).is_file(),
        device=device,
        on_step=lambda epoch, step, steps: on_step(
            member.role, (epoch - 1) * steps + step, recipe.epochs * steps
        ),
    )
    card = model_card(training.architecture, model, data, recipe, result, None)
    save_weights(own / WEIGHTS, result.weights, card)
    return Subject(member.role, member.role, model, card)
