"""Targets are the distributions of the papers, and what is trained on them becomes them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hcnn_fast.training.losses import soft_cross_entropy
from hcnn_fast.training.settings import Calibration, SmoothedOver, Smoothing
from hcnn_fast.training.targets import calibrated_targets, label_share, smoothed_targets

LABELS = torch.tensor([0, 3, 9, 3])
LOGITS = torch.randn(4, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def fitted(loss: Callable[[Tensor], Tensor], rows: int, classes: int) -> Tensor:
    """The free logits of least loss: a table in place of a model."""
    table = torch.zeros(rows, classes, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [table],
        max_iter=500,
        tolerance_grad=1e-13,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(table)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(closure)  # type: ignore[arg-type]
    return table.detach()


def smooth(over: SmoothedOver, amount: float, temperature: float = 1.0) -> Tensor:
    smoothing = Smoothing(over=over, temperature=temperature)
    return smoothed_targets(LOGITS, LABELS, amount, smoothing)


@pytest.mark.parametrize(
    ("amount", "confidence", "gap"),
    [
        (0.1, 0.910, 4.51),
        (0.2, 0.820, 3.71),
        (0.3, 0.730, 3.19),
        (0.5, 0.550, 2.40),
        (0.7, 0.370, 1.67),
        (0.9, 0.190, 0.747),
    ],
)
def test_smoothed_labels_end_in_a_bounded_gap_of_logits(
    amount: float, confidence: float, gap: float
) -> None:
    targets = smooth("all", amount)
    logits = fitted(lambda table: soft_cross_entropy(table, targets).mean(), 4, 10)
    label = LABELS[:, None]
    assert torch.softmax(logits, 1).gather(1, label).flatten().tolist() == pytest.approx(
        [confidence] * 4, abs=1e-6
    )
    others = logits.scatter(1, label, math.nan)
    found = logits.gather(1, label) - others.nanmean(1, keepdim=True)
    exact = math.log(1.0 + 10.0 * (1.0 - amount) / amount)
    assert found.flatten().tolist() == pytest.approx([exact] * 4, abs=1e-6)
    assert exact == pytest.approx(gap, abs=6e-3)


def test_both_conventions_of_the_amount_convert() -> None:
    others = 0.18
    torch.testing.assert_close(smooth("others", others), smooth("all", others * 10 / 9))


def test_smoothing_over_all_classes_is_that_of_torch() -> None:
    ours = soft_cross_entropy(LOGITS, smooth("all", 0.3)).mean()
    torchs = torch.nn.functional.cross_entropy(LOGITS, LABELS, label_smoothing=0.3)
    torch.testing.assert_close(ours, torchs)


@pytest.mark.parametrize("over", ["others", "adversarial", "boltzmann", "second_best"])
def test_variants_leave_the_label_the_rest(over: SmoothedOver) -> None:
    targets = smooth(over, 0.3, temperature=0.7)
    torch.testing.assert_close(targets.sum(1), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(
        targets.gather(1, LABELS[:, None])[:, 0], torch.full((4,), 0.7, dtype=torch.float64)
    )
    assert float(targets.min()) >= 0.0


def test_variants_choose_by_the_logits_of_wrong_classes() -> None:
    for n, label in enumerate(LABELS.tolist()):
        wrong = [k for k in range(10) if k != label]
        least = min(wrong, key=lambda k: float(LOGITS[n, k]))
        most = max(wrong, key=lambda k: float(LOGITS[n, k]))
        assert float(smooth("adversarial", 0.3)[n, least]) == pytest.approx(0.3)
        assert float(smooth("second_best", 0.3)[n, most]) == pytest.approx(0.3)
        weights = {k: math.exp(-float(LOGITS[n, k]) / 0.5) for k in wrong}
        for k in wrong:
            expected = 0.3 * weights[k] / sum(weights.values())
            assert float(smooth("boltzmann", 0.3, 0.5)[n, k]) == pytest.approx(expected)
    torch.testing.assert_close(smooth("boltzmann", 0.3, 1e-3), smooth("adversarial", 0.3))
    torch.testing.assert_close(
        smooth("boltzmann", 0.3, 1e7), smooth("others", 0.3), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("calibration", "distance", "share"),
    [
        (Calibration(), 0.03, 0.349),
        (Calibration(), 0.06, 0.107),
        (Calibration(), 0.15, 0.00098),
        (Calibration(), 0.3, 0.0),
        (Calibration(), 0.4, 0.0),
        (Calibration(rho=1.0), 0.15, 0.5),
        (Calibration(rho=1.0), 0.4, 0.0),
        (Calibration(rho=2.0), 0.3 * (1 - 2 ** (-1 / 2)), 0.5),
        (Calibration(rho=12.0), 0.3 * (1 - 2 ** (-1 / 12)), 0.5),
        (Calibration(transition="exponential", rho=7.0), 0.3, 0.122),
        (Calibration(transition="exponential", rho=7.0), 0.15, 0.350),
    ],
)
def test_transitions_take_the_published_values(
    calibration: Calibration, distance: float, share: float
) -> None:
    found = label_share(torch.tensor([0.0, distance], dtype=torch.float64), 0.3, calibration)
    assert found.tolist() == pytest.approx([1.0, share], abs=7e-4)


@pytest.mark.parametrize("calibration", [Calibration(), Calibration(transition="exponential")])
def test_the_optimum_of_calibrated_training_is_the_target_itself(calibration: Calibration) -> None:
    distance = torch.tensor([0.0, 0.002, 0.05, 0.3], dtype=torch.float64)
    share = label_share(distance, 0.3, calibration)
    targets = calibrated_targets(LABELS, 10, 0.999 * share)  # below 1: finite logits
    logits = fitted(lambda table: soft_cross_entropy(table, targets).mean(), 4, 10)
    torch.testing.assert_close(torch.softmax(logits, 1), targets, rtol=0, atol=1e-6)
    floor = -(targets * targets.log()).sum(1)
    torch.testing.assert_close(soft_cross_entropy(logits, targets), floor, rtol=0, atol=1e-10)
    uniform = calibrated_targets(LABELS, 10, torch.zeros(4, dtype=torch.float64))
    assert soft_cross_entropy(torch.zeros_like(LOGITS), uniform).tolist() == pytest.approx(
        [math.log(10.0)] * 4
    )


@pytest.mark.parametrize("share_at_radius", [0.0, 0.122, 0.45, 0.8, 1.0])
@pytest.mark.parametrize("p0", [0.1, 0.3, 0.45, 0.6, 0.8])
def test_two_points_a_radius_apart_are_told_apart_iff_confidence_falls_fast_enough(
    p0: float, share_at_radius: float
) -> None:
    """Proposition 1 of CCAT: label 2 at 0 with probability p0, label 1 at eps.

    Each point's worst point is the other one, where its target has the label's share lambda(eps).
    Classes 0 and 1 here stand for the labels 1 and 2.
    """
    lam = torch.tensor([share_at_radius], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    label1, label2 = torch.tensor([0]), torch.tensor([1])

    def loss(table: Tensor) -> Tensor:  # rows: the points 0 and eps
        clean = p0 * soft_cross_entropy(table[:1], calibrated_targets(label2, 2, one))
        clean = clean + (1 - p0) * soft_cross_entropy(table[1:], calibrated_targets(label1, 2, one))
        at_eps = p0 * soft_cross_entropy(table[1:], calibrated_targets(label2, 2, lam))
        at_0 = (1 - p0) * soft_cross_entropy(table[:1], calibrated_targets(label1, 2, lam))
        return (clean + at_eps + at_0).sum()

    share = torch.softmax(fitted(loss, 2, 2), 1)
    at_0 = [(1 - p0) * (share_at_radius + (1 - share_at_radius) / 2)]
    at_0.append(p0 + (1 - p0) * (1 - share_at_radius) / 2)
    assert share[0].tolist() == pytest.approx([w / sum(at_0) for w in at_0], abs=1e-6)
    told_apart = bool(share[0, 1] > share[0, 0]) and bool(share[1, 0] > share[1, 1])
    assert told_apart == (share_at_radius < min(p0 / (1 - p0), (1 - p0) / p0))
