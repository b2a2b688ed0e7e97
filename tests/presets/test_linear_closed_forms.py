"""What the presets answer on binary linear classifiers, by formula.

Z(z) = w . z + b are the log odds of label 1; a label can gain what ball and bounds leave the
entries of an image.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from closed_forms import BinaryCase, binary_case, classifier, sigmoid
from torch import Tensor, nn

import hcnn_fast as hf

every_case = pytest.mark.parametrize(
    "case", [binary_case(s, box=s % 2 == 0) for s in range(8)], ids=[f"seed{s}" for s in range(8)]
)


def posed(case: BinaryCase) -> tuple[nn.Module, Tensor, np.ndarray]:
    """The classifier, its images, and how much each label can gain: [N, 2]."""
    gain = np.stack([case.room(label) @ np.abs(case.weight) for label in (0, 1)], 1)
    return classifier(case.weight, case.bias), torch.from_numpy(case.x), gain


@every_case
def test_anti_adversary_goes_straight_away_from_the_boundary(case: BinaryCase) -> None:
    model, x, _ = posed(case)
    config = hf.presets.anti_adversary(case.radius / 4, 4, bounds=case.bounds)
    found = hf.search(model, x, config)
    own = np.where(case.odds[:, 1] > 0, 1, 0)
    side = (2 * own - 1)[:, None] * np.sign(case.weight)
    expected = np.clip(case.x + case.radius * side, *case.bounds)
    np.testing.assert_allclose(found.point.numpy(), expected, atol=1e-12)
    assert np.array_equal(found.prediction.numpy(), own)


@every_case
def test_hedge_answers_what_its_random_start_does(case: BinaryCase) -> None:
    # sum_k -log F_k is even in Z and least at Z = 0: the run climbs away from the boundary
    model, x, gain = posed(case)
    settings = {"radius": case.radius, "bounds": case.bounds, "seed": 5}
    start = hf.presets.hedge(
        lambda z: 0.0 * z.sum(1, keepdim=True).expand(-1, 2), x, steps=1, **settings
    ).point.numpy()
    label = np.where(start @ case.weight + case.bias > 0, 1, 0)
    found = hf.presets.hedge(model, x, steps=4, **settings)
    assert np.array_equal(found.prediction.numpy(), label)
    rows = np.arange(len(label))
    expected = sigmoid(case.odds[rows, label] + gain[rows, label])
    np.testing.assert_allclose(found.confidence.numpy(), expected, rtol=1e-5)


@every_case
def test_pnml_weighs_what_each_label_can_gain(case: BinaryCase) -> None:
    model, x, gain = posed(case)
    found = hf.presets.pnml(model, x, radius=case.radius, bounds=case.bounds)
    reached = sigmoid(case.odds + gain)  # [N, 2]
    expected = reached / reached.sum(1, keepdims=True)
    np.testing.assert_allclose(found.probability.numpy(), expected, rtol=1e-5)
    assert np.array_equal(found.prediction.numpy(), reached.argmax(1))


@every_case
def test_cpr_rejects_exactly_what_is_within_reach_of_the_boundary(case: BinaryCase) -> None:
    model, x, gain = posed(case)
    found = hf.presets.cpr(model, x, radius=case.radius, steps=4, bounds=case.bounds)
    own = case.odds.argmax(1)
    rows = np.arange(len(own))
    safe = case.odds[rows, own] > gain[rows, 1 - own]
    assert np.array_equal(found.prediction.numpy(), own)
    assert np.array_equal(found.accepted.numpy(), safe)
    np.testing.assert_allclose(found.confidence.numpy(), sigmoid(case.odds[rows, own]), rtol=1e-5)


def test_the_cases_have_images_on_both_sides_of_every_answer() -> None:
    safe, label, moved = [], [], []
    for seed in range(8):
        case = binary_case(seed, box=seed % 2 == 0)
        gain = posed(case)[2]
        own = case.odds.argmax(1)
        rows = np.arange(len(own))
        label += own.tolist()
        safe += (case.odds[rows, own] > gain[rows, 1 - own]).tolist()
        moved += ((case.odds + gain).argmax(1) != own).tolist()
    assert 10 < sum(safe) < 70
    assert 10 < sum(label) < 70
    assert any(moved)  # where the bounds cut the balls
