"""Cards tell what was measured, with denominators."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from hcnn_fast import data, models
from hcnn_fast.training import Recipe, train
from hcnn_fast.training.card import measure, model_card


def test_measured_accuracies_fall_with_the_strength_of_the_attack() -> None:
    sample = data.load("fashion-mnist-sample").first(24)
    seen: list[int] = []
    model = models.load("fashion-adversarial")
    result = measure(model, sample, radius=0.1, restarts=2, on_images=seen.append)
    clean, weak, strong = (result[name]["count"] for name in ("clean", "pgd20", "pgd50"))
    assert 24 >= clean >= weak >= strong > 12
    assert result["pgd50"]["restarts"] == 2
    assert {result[name]["total"] for name in ("clean", "pgd20", "pgd50")} == {24}
    assert sum(seen) == 24


def test_a_model_that_ignores_its_input_cannot_be_attacked() -> None:
    sample = data.load("fashion-mnist-sample").first(300)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    with torch.no_grad():
        model[1].weight.zero_()  # type: ignore[union-attr, operator]
        model[1].bias.copy_(torch.arange(10.0))  # type: ignore[arg-type, union-attr, operator]
    result = measure(model.eval(), sample, radius=0.1)
    nines = int((sample.labels == 9).sum())
    assert [result[name]["count"] for name in ("clean", "pgd20", "pgd50")] == [nines] * 3


@pytest.mark.parametrize("held", [0, 8])
def test_card_is_plain_json_and_says_how_the_model_came_about(held: int) -> None:
    sample = data.load("fashion-mnist-sample").first(40)
    recipe = Recipe.natural(epochs=1, batch_size=16, validation_images=held, precision="float32")
    model = models.SmallCNN()
    result = train(model, sample, recipe)
    card = model_card("small-cnn", model, sample, recipe, result, None)
    assert json.loads(json.dumps(card, allow_nan=False)) == card
    assert card["architecture"] == "small-cnn"
    assert card["parameters"] == 495_018
    assert (card["train_images"], card["validation_images"]) == (40 - held, held)
    assert Recipe.from_dict(card["recipe"]) == recipe
    assert card["torch"] == torch.__version__
    assert card["commit"] is None or len(card["commit"]) == 40
