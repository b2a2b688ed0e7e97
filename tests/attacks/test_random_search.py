"""Random search: what it samples, and what it can and cannot reach."""

from __future__ import annotations

import itertools

import pytest
import torch
from tiny_classifiers import images, linear
from torch import Tensor

from hcnn_fast.attacks import random_search


@pytest.mark.parametrize("sampling", ["uniform", "corners"])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 2.0)])
def test_the_closed_form_of_a_linear_model_is_never_exceeded(
    sampling: str, bounds: tuple[float, float]
) -> None:
    model, x = linear((40,), 2, dtype=torch.float64), images(20, (40,), dtype=torch.float64)
    y = torch.arange(20) % 2
    result = random_search(
        model, x, y, radius=0.2, queries=300, sampling=sampling, objective="margin", bounds=bounds
    )
    slope = (model[1].weight[1] - model[1].weight[0]).detach()
    slope = torch.where((y == 0)[:, None], slope, -slope)
    up = (x + 0.2).clamp_max(bounds[1]) - x
    down = x - (x - 0.2).clamp_min(bounds[0])
    logits = model(x).detach()
    margin = (logits.gather(1, 1 - y[:, None]) - logits.gather(1, y[:, None]))[:, 0]
    room = (slope * torch.where(slope > 0, up, -down)).sum(1)
    gain = (result.value - margin) / room
    assert bool((gain <= 1.0 + 1e-6).all())
    assert 0.1 < float(gain.mean()) < 0.7


def test_corners_of_few_entries_are_all_found() -> None:
    x = 0.4 + 0.2 * images(4, (5,), dtype=torch.float64)
    signs = torch.tensor(list(itertools.product([-0.1, 0.1], repeat=5))).double()
    model = linear((5,), 3, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0])
    result = random_search(model, x, y, radius=0.1, queries=400, sampling="corners")
    for row in range(4):
        logits = torch.log_softmax(model(x[row] + signs), 1).detach()
        logits[:, y[row]] = -torch.inf
        assert float(result.value[row]) == pytest.approx(float(logits.max()), abs=1e-6)


def _asked(sampling: str, x: Tensor, queries: int) -> Tensor:  # [queries, N, D]
    seen: list[Tensor] = []

    def model(z: Tensor) -> Tensor:
        seen.append(z.clone())
        return torch.zeros(len(z), 2)

    random_search(
        model, x, torch.zeros(len(x)).long(), radius=0.2, queries=queries, sampling=sampling
    )
    return torch.cat(seen[1:]).view(queries, *x.shape)


def test_uniform_points_fill_what_the_bounds_leave_of_the_ball() -> None:
    x = torch.tensor([[0.5, 0.05], [0.9, 0.5]])
    z = _asked("uniform", x, 4000)
    low, high = (x - 0.2).clamp_min(0.0), (x + 0.2).clamp_max(1.0)
    share = ((z - low) / (high - low)).double()
    assert 0.0 <= float(share.min()) < 0.01
    assert 0.99 < float(share.max()) <= 1.0
    for entry in share.flatten(1).T:
        ordered = entry.sort().values
        # Kolmogorov-Smirnov: the chance of more than 2 / sqrt(n) is below 1 in 1,000
        steps = torch.arange(1, 4001, dtype=torch.float64) / 4000
        assert float((ordered - steps).abs().max()) < 2.0 / 4000**0.5
    correlation = torch.corrcoef(share.flatten(1).T)
    assert float((correlation - torch.eye(4)).abs().max()) < 4.0 / 4000**0.5


def test_corner_points_are_corners_and_fair() -> None:
    x = torch.tensor([[0.5, 0.05, 0.9]])
    z = _asked("corners", x, 2000)[:, 0]
    low, high = (x - 0.2).clamp_min(0.0), (x + 0.2).clamp_max(1.0)
    up = z == high
    assert bool((up | (z == low)).all())
    assert float((up.double().mean(0) - 0.5).abs().max()) < 4 * 0.5 / 2000**0.5


def test_more_queries_begin_with_the_same_points() -> None:
    x = images(3)
    assert torch.equal(_asked("uniform", x, 30)[:10], _asked("uniform", x, 10))


def test_stopping_at_success_returns_the_first_point_that_wins() -> None:
    x, y = images(6), torch.zeros(6).long()
    asked = _asked("uniform", x, 100)

    def model(z: Tensor) -> Tensor:  # wrong on about one point in ten
        high = z.flatten(1).mean(1) > float(asked.flatten(2).mean(2).quantile(0.9))
        return torch.stack([torch.zeros(len(z)), high.float() - 0.5], 1)

    result = random_search(model, x, y, radius=0.2, queries=100, stop_at_success=True)
    queries = 6
    for row in range(6):
        start = bool(model(x[row : row + 1]).argmax(1))
        wins = model(asked[:, row]).argmax(1).nonzero()[:, 0]
        first = 0 if start else int(wins[0]) + 1 if len(wins) else 100
        queries += first
        assert bool(result.success[row]) == (start or len(wins) > 0)
        if first and len(wins):
            assert torch.equal(result.point[row], asked[first - 1, row])
    assert result.queries == queries
    assert int(result.success.sum()) > 0


def test_a_sampling_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="sampling is 'sobol'"):
        random_search(linear(), images(), torch.zeros(4).long(), radius=0.1, sampling="sobol")
    with pytest.raises(ValueError, match="queries is 0"):
        random_search(linear(), images(), torch.zeros(4).long(), radius=0.1, queries=0)
