"""RayS: closed-form distances, bisection, and models that answer with labels or reject."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_classifiers import Counting, convolutional, images, linear
from torch import Tensor

import hcnn_fast as hf
from hcnn_fast.attacks import rays

WIDE = (-5.0, 6.0)


def linear_distance(model: Any, x: Tensor) -> tuple[Tensor, Tensor]:  # [N], [N]
    """l_inf distance to the boundary of two linear classes, |margin| / |w|_1, and the labels."""
    logits = model(x).detach()
    w = (model[1].weight[1] - model[1].weight[0]).detach()
    return (logits[:, 1] - logits[:, 0]).abs() / w.abs().sum(), logits.argmax(1)


@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 4, 4), (33,), (1,)])
def test_the_distance_of_a_linear_model_is_its_closed_form(shape: tuple[int, ...]) -> None:
    model, x = linear(shape, 2, dtype=torch.float64), images(8, shape, dtype=torch.float64)
    distance, y = linear_distance(model, x)
    radius = float(distance.median())
    result = rays(model, x, y, radius=radius, queries=1500, tolerance=1e-6, bounds=WIDE)
    assert bool((-result.value.double() >= distance - 1e-7).all())
    torch.testing.assert_close(-result.value.double(), distance, rtol=1e-4, atol=1e-5)
    clear = (distance - radius).abs() > 1e-4 * radius
    assert torch.equal(result.success[clear], (distance < radius)[clear])
    assert 0 < int(result.success.sum()) < 8
    away = (result.point - x).abs().flatten(1).amax(1)
    expected = torch.minimum(-result.value.double(), torch.tensor(radius))
    torch.testing.assert_close(away, expected, rtol=0, atol=1e-6)


def test_points_on_the_way_to_the_distance_within_bounds_are_clipped() -> None:
    # one entry may not rise: the other has to make up for it
    def model(z: Tensor) -> Tensor:
        return torch.stack([torch.full_like(z[:, 0], 1.5), z[:, 0] + z[:, 1]], 1)

    x = torch.tensor([[1.0, 0.2]], dtype=torch.float64)
    result = rays(model, x, torch.zeros(1).long(), radius=0.4, tolerance=1e-9, queries=200)
    assert float(result.value) == pytest.approx(-0.3, abs=1e-6)
    assert result.success.all()
    torch.testing.assert_close(
        result.point, torch.tensor([[1.0, 0.5]], dtype=torch.float64), rtol=0, atol=1e-6
    )


def test_more_queries_never_find_a_longer_way() -> None:
    model, x = convolutional(), images(12)
    y = model(x).argmax(1)
    runs = [-rays(model, x, y, radius=0.05, queries=q).value for q in (20, 100, 500)]
    assert bool((runs[1] <= runs[0]).all() and (runs[2] <= runs[1]).all())
    assert bool((runs[2] < runs[0]).any())


def test_the_radius_found_is_one_where_the_model_is_wrong() -> None:
    model, x = convolutional(dtype=torch.float64), images(10, dtype=torch.float64)
    y = model(x).argmax(1)
    seen: list[Tensor] = []

    def recording(z: Tensor) -> Tensor:
        seen.append(z.clone())
        return model(z)

    result = rays(recording, x, y, radius=0.05, queries=150)
    z = torch.stack(seen[1:-1])  # [150, 10, ...]
    wrong = torch.stack([model(part).argmax(1) != y for part in z])
    reach = (z - x).abs().flatten(2).amax(2)  # the ray's length, where no bound cuts all of it
    for row in range(10):
        nearest = reach[wrong[:, row], row].min() if bool(wrong[:, row].any()) else torch.inf
        assert -float(result.value[row]) == pytest.approx(float(nearest), rel=1e-6)
    assert torch.equal(result.success, -result.value <= 0.05)
    assert torch.equal(result.success, model(result.point).argmax(1) != y)


def test_blocks_of_every_level_are_turned_over_in_order() -> None:
    # a model that is wrong only at one corner: no ray is ever taken, all of them are tried
    seen: list[Tensor] = []

    def stubborn(z: Tensor) -> Tensor:
        seen.append(z.clone())
        return torch.tensor([[1.0, 0.0]]).repeat(len(z), 1)

    rays(stubborn, torch.full((1, 6), 0.5), torch.zeros(1).long(), radius=0.1, queries=16)
    down = [[k for k, v in enumerate(z[0].tolist()) if v == 0.0] for z in seen[1:-1]]
    assert down == [
        [],
        [0, 1, 2, 3, 4, 5],
        [0, 1, 2],
        [3, 4, 5],
        [0, 1],
        [2, 3],
        [4, 5],
        *([k] for k in range(6)),
        [0, 1, 2, 3, 4, 5],
        [0, 1, 2],
        [3, 4, 5],
    ]


def test_labels_are_as_good_as_logits() -> None:
    model, x = convolutional(), images(6)
    y = model(x).argmax(1)
    of_logits = rays(model, x, y, radius=0.05, queries=150)
    of_labels = rays(lambda z: model(z).argmax(1).int(), x, y, radius=0.05, queries=150)
    for name in ("point", "value", "success", "attempt"):
        assert torch.equal(getattr(of_labels, name), getattr(of_logits, name)), name
    assert of_labels.queries == of_logits.queries
    assert bool(of_labels.confidence.isnan().all())
    torch.testing.assert_close(
        of_logits.confidence, torch.softmax(model(of_logits.point), 1).amax(1).detach()
    )


def test_a_rejected_point_is_no_success() -> None:
    # on a line: right below 0.5, rejected up to 0.6, wrong beyond
    def line(z: Tensor) -> Tensor:
        label = (z[:, 0] > 0.6).long()
        return label.masked_fill((z[:, 0] > 0.5) & (z[:, 0] <= 0.6), -1)

    x = torch.tensor([[0.45], [0.3], [0.55], [0.9]], dtype=torch.float64)
    result = rays(line, x, torch.zeros(4).long(), radius=0.2, tolerance=1e-6, queries=200)
    assert result.success.tolist() == [True, False, True, True]
    assert (-result.value).tolist() == pytest.approx([0.15, 0.3, 0.05, 0.0], abs=1e-5)
    always = rays(
        lambda z: torch.full((len(z),), -1), x, torch.zeros(4).long(), radius=0.2, queries=50
    )
    assert not always.success.any()
    assert torch.equal(always.point, x)
    assert always.value.tolist() == [-torch.inf] * 4


def test_a_rejecting_defense_is_attacked_as_a_whole() -> None:
    defense = hf.Defense(linear(), hf.SearchConfig.mcn(0.02, steps=2))
    x = images(10)
    y = defense(x).argmax(1)
    defense.threshold = float(defense.predict(x).confidence.median())
    result = rays(lambda z: defense.predict(z).label, x, y, radius=0.4, queries=100)
    answer = defense.predict(result.point)
    assert torch.equal(result.success, (answer.label != y) & answer.accepted)
    plain = rays(defense, x, y, radius=0.4, queries=100)
    assert int(result.success.sum()) < int(plain.success.sum())


def test_stopping_at_success_saves_queries_and_loses_none() -> None:
    model = convolutional()
    x = images(12)
    y = model(x).argmax(1)
    counted = Counting(model)
    full = rays(model, x, y, radius=0.2, queries=200)
    early = rays(counted, x, y, radius=0.2, queries=200, stop_at_success=True)
    assert 0 < int(full.success.sum())
    assert torch.equal(early.success, full.success)
    assert early.queries == counted.images < full.queries
    assert torch.equal(model(early.point).argmax(1) != y, early.success)


@pytest.mark.parametrize(
    ("keyword", "value", "error"),
    [
        ("queries", 0, ValueError),
        ("tolerance", 0.0, ValueError),
        ("tolerance", "fine", TypeError),
        ("starts", 0, ValueError),
    ],
)
def test_bad_settings_are_named(keyword: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=keyword):
        rays(linear(), images(), torch.zeros(4).long(), radius=0.1, **{keyword: value})


def test_labels_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="expected labels \\[4\\]"):
        rays(lambda z: torch.zeros(len(z), 3).long(), images(), torch.zeros(4).long(), radius=0.1)
    with pytest.raises(ValueError, match="y has labels"):
        rays(lambda z: torch.zeros(len(z)).long(), images(), torch.full((4,), -1), radius=0.1)


def test_a_tolerance_below_rounding_ends() -> None:
    model = linear((4,), 2)
    x = images(4, (4,))
    distance, y = linear_distance(model, x)
    result = rays(model, x, y, radius=0.1, tolerance=1e-30, queries=1500, bounds=WIDE)
    torch.testing.assert_close(-result.value, distance, rtol=1e-4, atol=1e-6)
