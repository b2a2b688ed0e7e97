"""Attacks after confident errors: brute force in two dimensions, effort, and what stops a run."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from tiny_classifiers import Counting, convolutional, images, linear
from torch import Tensor, nn

from hcnn_fast.attacks import confident_cw, confident_pgd, strengthened_pgd
from hcnn_fast.attacks.confident import LOOK_EVERY, needed_log_odds


def plane(seed: int) -> nn.Module:
    """A smooth network of two inputs and four classes."""
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(nn.Linear(2, 12), nn.Tanh(), nn.Linear(12, 4)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(2.0 * torch.randn(parameter.shape, generator=generator).double())
    return network.eval()


def grid_maximum(
    model: nn.Module, x: Tensor, y: int, radius: float, cells: int = 400
) -> tuple[float, float]:
    """Largest F_k, k != y, on a grid over ball and bounds, and how far above it the truth can be.

    Half a cell at most lies between a point and the grid on either axis; a change of the logits by
    at most u changes F_k by at most u / 2; and the layers' l_inf norms bound theirs.
    """
    axes = [
        torch.linspace(max(0.0, v - radius), min(1.0, v + radius), cells, dtype=torch.float64)
        for v in x.tolist()
    ]
    points = torch.cartesian_prod(*axes)
    with torch.no_grad():
        share = torch.softmax(model(points), 1)
    first, second = model[0].weight.detach(), model[2].weight.detach()
    steepness = float(second.abs().sum(1).max() * first.abs().sum(1).max())  # l_inf to l_inf
    half = max(float(axis[1] - axis[0]) for axis in axes) / 2
    share[:, y] = 0.0
    return float(share.max()), 0.5 * steepness * half


@pytest.mark.parametrize("seed", range(4))
def test_the_largest_confidence_in_the_plane_is_found(seed: int) -> None:
    model, x, radius = plane(seed), images(8, (2,), dtype=torch.float64, seed=seed), 0.15
    y = model(x).argmax(1)
    result = strengthened_pgd(model, x, y, radius=radius, start_at_image=True)
    found = [grid_maximum(model, x[n], int(y[n]), radius) for n in range(len(x))]
    best, gap = (torch.tensor(column).double() for column in zip(*found, strict=True))
    value = result.value.double()
    assert bool((value <= best + gap).all())
    error = best > 0.5  # then no error of less confidence is preferred
    assert bool(error.any())
    assert bool((value >= best - 1e-3)[error].all())
    for confidence in (0.2, 0.5, 0.8):
        clear = (best - confidence).abs() > 0.01 + gap
        for attack, starts in ((confident_pgd, 10), (confident_cw, 4)):
            hit = attack(model, x, y, radius=radius, confidence=confidence, starts=starts).success
            assert torch.equal(hit[clear], (best > confidence)[clear])


@pytest.mark.parametrize(
    ("confidence", "odds"), [(0.9, 2.197), (0.95, 2.944), (0.99, 4.595), (0.5, 0.0)]
)
def test_the_needed_log_odds_are_exact(confidence: float, odds: float) -> None:
    """Spec A.5: 2.197, 2.944, 4.595; F_l = p exactly where the log odds are these."""
    needed = needed_log_odds(confidence)
    assert needed == pytest.approx(odds, abs=5e-4)
    rivals = torch.tensor([0.3, -1.0, 2.0, 0.7]).double()
    logits = torch.cat([(torch.logsumexp(rivals, 0) + needed)[None], rivals])
    assert float(torch.softmax(logits, 0)[0]) == pytest.approx(confidence, abs=1e-12)


def test_more_effort_never_finds_less() -> None:
    model, x = convolutional(), images(30)
    y = model(x).argmax(1)
    values, hits = [], []
    for starts, steps in ((1, 2), (3, 2), (6, 2)):
        settings: dict[str, Any] = {"radius": 0.1, "starts": starts, "steps": steps}
        found = strengthened_pgd(model, x, y, **settings)
        values.append(found)
        hits.append(confident_pgd(model, x, y, confidence=0.25, **settings).success)
    for fewer, more in itertools.pairwise(values):
        assert bool((more.success >= fewer.success).all())
        same = more.success == fewer.success
        assert bool((more.value >= fewer.value)[same].all())
    for fewer, more in itertools.pairwise(hits):
        assert bool((more >= fewer).all())
    assert 0 < int(hits[-1].sum()) < 30
    assert bool((values[-1].value > values[0].value).any())


def test_the_attempt_names_class_and_start() -> None:
    model, x = linear(), images(20)
    y = model(x).argmax(1)
    found = strengthened_pgd(model, x, y, radius=0.1, starts=3, steps=5)
    wrong = found.attempt // 3
    label = wrong + (wrong >= y)
    share = torch.softmax(model(found.point), 1).gather(1, label[:, None])[:, 0]
    torch.testing.assert_close(found.value, share.detach(), rtol=1e-5, atol=1e-6)
    assert len(set((found.attempt % 3).tolist())) == 3
    likeliest = strengthened_pgd(model, x, y, radius=0.1, starts=3, steps=5, targets=1)
    second = model(x).argsort(dim=1, descending=True)[:, 1]
    share = torch.softmax(model(likeliest.point), 1).gather(1, second[:, None])[:, 0]
    torch.testing.assert_close(likeliest.value, share.detach(), rtol=1e-5, atol=1e-6)
    assert set(likeliest.attempt.tolist()) == {0, 1, 2}


def test_the_first_start_may_be_the_image_itself() -> None:
    model, x = linear(), images(6)
    y = model(x).argmax(1)
    still: dict[str, Any] = {"radius": 0.1, "starts": 1, "steps": 1, "step_size": 1e-30}
    assert torch.equal(strengthened_pgd(model, x, y, start_at_image=True, **still).point, x)
    assert not torch.equal(strengthened_pgd(model, x, y, **still).point, x)


def test_runs_stop_where_their_image_is_decided_and_only_there() -> None:
    """Images whose first points are confident errors cost one look, the others all steps."""
    base = linear()

    def model(z: Tensor) -> Tensor:
        sure = torch.tensor([[0.0, 50.0, 0.0, 0.0, 0.0]])
        return torch.where((z[:, 0, 0, 0] > 0.5)[:, None], sure + 0.0 * base(z), base(z))

    x, y = images(6), torch.zeros(6).long()
    x[:, 0, 0, 0] = torch.tensor([0.9, 0.1, 0.9, 0.1, 0.1, 0.1])
    settings: dict[str, Any] = {"radius": 0.1, "confidence": 0.999, "starts": 2}
    steps = 3 * LOOK_EVERY + 4
    watched = Counting(model)
    result = confident_pgd(watched, x, y, steps=steps, batch_size=1000, **settings)
    assert result.success.tolist() == [True, False, True, False, False, False]
    runs = 4 * 2
    assert result.gradient_steps == 2 * runs * 1 + 4 * runs * steps
    # every step is one pass; then the open runs' last points, all exact scores, and one image
    assert watched.images == result.gradient_steps + 4 * runs + 6 * runs + 1


def test_a_run_that_never_stops_is_the_strengthened_attack() -> None:
    model, x = convolutional(dtype=torch.float64), images(8, dtype=torch.float64)
    y = model(x).argmax(1)
    # so short that every run still climbs at its end
    settings: dict[str, Any] = {"radius": 0.1, "starts": 2, "steps": 23, "step_size": 0.002}
    free = strengthened_pgd(model, x, y, targets=1, **settings)
    bound = confident_pgd(model, x, y, confidence=0.9999, targets=1, **settings)
    assert not bool(bound.success.any())
    same = ~free.success | (free.attempt == bound.attempt)
    assert int(same.sum()) > 4
    torch.testing.assert_close(bound.point[same], free.point[same], rtol=0.0, atol=1e-12)


def test_cw_comes_nearer_with_more_rounds() -> None:
    model, x = convolutional(), images(10)
    y = model(x).argmax(1)
    distance, success = [], []
    for rounds in (1, 4, 12):
        found = confident_cw(model, x, y, radius=0.3, confidence=0.25, rounds=rounds)
        distance.append((found.point - x).abs().flatten(1).amax(1).detach())
        success.append(found.success)
    hit = success[0]
    assert int(hit.sum()) > 5
    for nearer, wider in ((1, 0), (2, 1)):
        assert bool((success[nearer] >= success[wider]).all())
        assert bool((distance[nearer] <= distance[wider] + 1e-6)[hit].all())
    assert int((distance[2] < 0.99 * distance[0])[hit].sum()) > 4
    assert np.isfinite(distance[2].numpy()).all()
