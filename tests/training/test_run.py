"""Training learns, can be interrupted without a trace, and leaves the caller's world alone."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hcnn_fast import data
from hcnn_fast.data import ImageDataset
from hcnn_fast.models import SmallCNN
from hcnn_fast.training import EpochReport, Recipe, TrainingResult, attacked_images, train
from hcnn_fast.training.checkpoint import checkpoint_progress

QUICK = Recipe(
    radius=0.05,
    attack_steps=2,
    epochs=2,
    batch_size=32,
    learning_rate=0.05,
    average_decay=0.9,
    validation_images=64,
    validation_steps=3,
    precision="float32",
)


@pytest.fixture(scope="module")
def images() -> ImageDataset:
    return data.load("fashion-mnist-sample").first(576)


class NormalisedNet(nn.Module):
    """Small, with batch statistics and dropout: all the state that a run can have."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 4, stride=4)
        self.norm = nn.BatchNorm2d(4)
        self.output = nn.Linear(196, 10)

    def forward(self, x: Tensor) -> Tensor:
        features = torch.relu(self.norm(self.first(x))).flatten(1)
        logits: Tensor = self.output(nn.functional.dropout(features, 0.2, self.training))
        return logits


def fresh(kind: type[nn.Module] = NormalisedNet) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return kind()


def same_weights(first: TrainingResult, second: TrainingResult) -> bool:
    return first.weights.keys() == second.weights.keys() and all(
        torch.equal(first.weights[name], second.weights[name]) for name in first.weights
    )


def without_times(result: TrainingResult) -> list[tuple[Any, ...]]:
    return [(r.epoch, r.loss, r.accuracy, r.validation_robust, r.best) for r in result.history]


def test_two_epochs_on_512_images_learn(images: ImageDataset) -> None:
    model = fresh(SmallCNN)
    result = train(model, images, QUICK.replace(radius=0.02, batch_size=16))
    first, last = result.history
    assert result.train_images == 512
    assert last.loss < 0.75 * first.loss
    assert min(last.validation_clean, last.validation_robust) > 0.35  # by chance: 0.1
    assert not model.training


def test_adversarial_training_is_more_robust_than_natural(images: ImageDataset) -> None:
    x, y = images.first(256).scaled(), images.labels[:256]
    robust = []
    for recipe in (QUICK, Recipe.natural(**shared(QUICK))):
        model = fresh(SmallCNN)
        train(model, images, recipe.replace(epochs=3, batch_size=16))
        worst = attacked_images(model, x, y, radius=0.1, steps=10, step_size=0.025, seed=1)
        with torch.no_grad():
            robust.append(float((model(worst).argmax(1) == y).float().mean()))
    assert robust[0] > robust[1] + 0.05


def shared(recipe: Recipe) -> dict[str, Any]:
    return {k: v for k, v in recipe.to_dict().items() if k not in ("method", "radius")}


@pytest.mark.parametrize("stopped_after", [1, 2])
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    images: ImageDataset, tmp_path: Path, stopped_after: int
) -> None:
    recipe = QUICK.replace(epochs=3, shift=1)
    whole = train(fresh(), images, recipe, tmp_path)
    (tmp_path / "second").mkdir()

    def interrupt(report: EpochReport) -> None:
        if report.epoch == stopped_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(fresh(), images, recipe, tmp_path / "second", on_epoch=interrupt)
    torch.rand(7)  # whatever else happens in between
    resumed = train(NormalisedNet(), images, recipe, tmp_path / "second", resume=True)
    assert same_weights(whole, resumed)
    assert without_times(whole) == without_times(resumed)


@pytest.mark.parametrize("stop", [(1, 1), (2, 3), (2, 16)])
def test_interrupt_within_an_epoch_loses_no_step_that_was_done(
    images: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: tuple[int, int]
) -> None:
    monkeypatch.setattr("hcnn_fast.training.checkpoint.WRITING", math.inf)  # after every step

    def interrupt(epoch: int, step: int, steps: int) -> None:
        if (epoch, step) == stop:
            raise KeyboardInterrupt

    whole = train(fresh(), images, QUICK)
    with pytest.raises(KeyboardInterrupt):
        train(fresh(), images, QUICK, tmp_path, on_step=interrupt)
    assert checkpoint_progress(tmp_path / "checkpoint.pt") == (stop[0] - 1, stop[1])
    seen: list[tuple[int, int]] = []
    resumed = train(
        fresh(),
        images,
        QUICK,
        tmp_path,
        resume=True,
        on_step=lambda epoch, step, steps: seen.append((epoch, step)),
    )
    every = [(epoch, step) for epoch in (1, 2) for step in range(1, 17)]
    assert seen == every[every.index(stop) + 1 :]
    assert same_weights(whole, resumed)
    assert without_times(whole) == without_times(resumed)


def test_a_finished_run_resumes_to_its_own_result(images: ImageDataset, tmp_path: Path) -> None:
    recipe = QUICK.replace(epochs=1)
    first = train(fresh(), images, recipe, tmp_path)
    assert same_weights(first, train(fresh(), images, recipe, tmp_path, resume=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"radius": 0.06}, "radius 0.05, this run has 0.06"), ({"seed": 9}, "seed 0, this run has 9")],
)
def test_other_recipe_is_refused(
    images: ImageDataset, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    recipe = QUICK.replace(epochs=1)
    train(fresh(), images, recipe, tmp_path)
    with pytest.raises(ValueError, match=words):
        train(fresh(), images, recipe.replace(**changes), tmp_path, resume=True)
    with pytest.raises(ValueError, match="made with images 576, this run has 500"):
        train(fresh(), images.first(500), recipe, tmp_path, resume=True)
    with pytest.raises(ValueError, match="made with model 'NormalisedNet'"):
        train(fresh(SmallCNN), images, recipe, tmp_path, resume=True)


def test_the_epoch_that_does_best_on_held_out_images_is_kept(images: ImageDataset) -> None:
    recipe = QUICK.replace(epochs=4, learning_rate=0.3, average_decay=0.0)
    model = fresh()
    result = train(model, images, recipe)
    scores = [report.validation_robust for report in result.history]
    assert scores[result.best_epoch - 1] == max(scores)
    assert [r.epoch for r in result.history if r.best][-1] == result.best_epoch
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in result.weights.items())


def test_training_stops_when_patience_ends(
    images: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.5, 0.6, 0.4, 0.6, 0.9, 0.9])
    monkeypatch.setattr("hcnn_fast.training.run._Run._validate", lambda run: (1.0, next(scores)))
    result = train(fresh(), images, QUICK.replace(epochs=6, patience=2))
    assert len(result.history) == 4
    assert result.best_epoch == 2


def test_without_held_out_images_the_last_epoch_is_kept(images: ImageDataset) -> None:
    result = train(fresh(), images, QUICK.replace(validation_images=0))
    assert result.best_epoch == 2
    assert result.train_images == 576


def test_random_state_of_the_caller_is_left_alone(images: ImageDataset) -> None:
    before = torch.get_rng_state()
    train(fresh(), images, QUICK.replace(epochs=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_average_without_decay_is_the_model_itself(images: ImageDataset) -> None:
    model = fresh()
    twin = copy.deepcopy(model)
    train(model, images, QUICK.replace(epochs=1, average_decay=0.0, validation_images=0))
    kept = train(twin, images, QUICK.replace(epochs=1, validation_images=0))
    assert not torch.equal(model.state_dict()["output.weight"], kept.weights["output.weight"])


def test_too_few_images_and_a_missing_folder_are_refused(images: ImageDataset) -> None:
    with pytest.raises(ValueError, match="data has 64 images, expected more than the 64"):
        train(fresh(), images.first(64), QUICK)
    with pytest.raises(ValueError, match="output is None"):
        train(fresh(), images, QUICK, resume=True)


def test_a_diverged_run_says_what_to_change(images: ImageDataset) -> None:
    with pytest.raises(RuntimeError, match="smaller learning_rate"):
        train(fresh(SmallCNN), images, QUICK.replace(learning_rate=1e12))
