"""Every method of training runs, resumes to the bit, and refuses another run's checkpoint."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hcnn_fast import data
from hcnn_fast.data import ImageDataset
from hcnn_fast.training import Recipe, TrainingResult, train
from hcnn_fast.training.losses import LOSSES
from hcnn_fast.training.settings import Calibration, Smoothing

QUICK: dict[str, Any] = {
    "attack_steps": 2,
    "epochs": 2,
    "batch_size": 16,
    "learning_rate": 0.05,
    "average_decay": 0.9,
    "validation_images": 16,
    "validation_steps": 2,
    "precision": "float32",
}
ATTACKING = {"radius": 0.05, "radius_warmup_epochs": 0.5}
NATURAL = {"radius": 0.0}
RECIPES: dict[str, dict[str, Any]] = {
    "natural": NATURAL,
    "adversarial": ATTACKING,
    **{f"adversarial-{name}": {**ATTACKING, "loss": name} for name in LOSSES},
    "adversarial-entropy": {**ATTACKING, "entropy_weight": 0.5},
    **{
        f"label-smoothing-{over}": {
            **NATURAL,
            "label_smoothing": 0.2,
            "settings": Smoothing(over=over),  # type: ignore[arg-type]
        }
        for over in ("all", "others", "adversarial", "boltzmann", "second_best")
    },
    "at50": ATTACKING,
    "trades": ATTACKING,
    "ccat": ATTACKING,
    "ccat-exponential": {**ATTACKING, "settings": Calibration(transition="exponential", rho=7.0)},
    "vat": {**NATURAL, "entropy_weight": 1.0},
}


def recipe_of(name: str, **changes: Any) -> Recipe:
    methods = ("adversarial", "label-smoothing", "ccat")
    method = next((m for m in methods if name.startswith(m)), name)
    return Recipe(**{"method": method, **QUICK, **RECIPES[name], **changes})


@pytest.fixture(scope="module")
def images() -> ImageDataset:
    return data.load("fashion-mnist-sample").first(72)


class Net(nn.Module):
    """Batch statistics and dropout: all the state that a run can have."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 7, stride=7)
        self.norm = nn.BatchNorm2d(3)
        self.output = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        features = torch.relu(self.norm(self.first(x))).flatten(1)
        logits: Tensor = self.output(nn.functional.dropout(features, 0.2, self.training))
        return logits


def fresh() -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return Net()


def same(first: TrainingResult, second: TrainingResult) -> bool:
    return all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_stopped_within_an_epoch_ends_with_the_same_bits(
    images: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("hcnn_fast.training.checkpoint.WRITING", math.inf)  # after every step
    recipe = recipe_of(name)
    whole = train(fresh(), images, recipe)

    def interrupt(epoch: int, step: int, steps: int) -> None:
        if (epoch, step) == (2, 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(fresh(), images, recipe, tmp_path, on_step=interrupt)
    torch.rand(7)  # whatever else happens in between
    resumed = train(Net(), images, recipe, tmp_path, resume=True)
    assert same(whole, resumed)
    assert [r.loss for r in whole.history] == [r.loss for r in resumed.history]
    assert not same(whole, train(fresh(), images, recipe.replace(epochs=1)))


def test_no_two_methods_are_the_same(images: ImageDataset) -> None:
    losses: dict[float, str] = {}
    for name in RECIPES:
        if name == "adversarial-cross_entropy":  # which is "adversarial"
            continue
        changes = {"epochs": 1, "validation_images": 0, "radius_warmup_epochs": 0.0}
        loss = train(fresh(), images, recipe_of(name, **changes)).history[0].loss
        assert loss not in losses, (name, losses[loss])
        losses[loss] = name


@pytest.mark.parametrize("name", ["label-smoothing-all", "at50", "trades", "ccat", "vat"])
def test_methods_run_in_bfloat16_near_their_float32_loss(images: ImageDataset, name: str) -> None:
    changes = {"epochs": 1, "validation_images": 0, "learning_rate": 1e-4, "batch_size": 72}
    exact = train(fresh(), images, recipe_of(name, **changes)).history[0].loss
    low = train(fresh(), images, recipe_of(name, **changes, precision="bfloat16")).history[0].loss
    assert low != exact
    assert low == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize("name", ["at50", "ccat"])
def test_a_diverged_run_says_what_to_change(images: ImageDataset, name: str) -> None:
    with pytest.raises(RuntimeError, match="smaller learning_rate"):
        train(fresh(), images, recipe_of(name, learning_rate=1e30))
