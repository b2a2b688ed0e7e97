"""Transferred points and the union of attacks: by their definitions."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from tiny_classifiers import Counting, convolutional, images, linear

from hcnn_fast.attacks import AttackResult, pgd, pgd_conf, transfer, worst_case


def result_of(success: list[bool], confidence: list[float], steps: int = 1) -> AttackResult:
    """A result with points that tell attacks apart by their confidence."""
    sure = torch.tensor(confidence)
    return AttackResult(
        point=sure[:, None, None].expand(-1, 2, 2).clone(),
        value=torch.zeros(len(sure)),
        success=torch.tensor(success),
        confidence=sure,
        attempt=torch.zeros(len(sure)).long(),
        gradient_steps=steps,
    )


def test_a_confident_right_answer_hides_no_error() -> None:
    """Spec B.6: wrong 0.45 below right 0.50, then wrong 0.40 above right 0.10, tau = 0.35."""
    first, second = result_of([False], [0.50]), result_of([True], [0.40])
    for order in ([first, second], [second, first]):
        union = worst_case(order)
        assert union.errs_at(0.35).tolist() == [True]
        assert union.errs_at(0.45).tolist() == [False]
        assert union.accepts_at(0.45).tolist() == [True]
        assert union.accepts_at(0.55).tolist() == [False]
        assert float(union.point[0, 0, 0]) == pytest.approx(0.40)


def test_the_union_is_an_or_over_attempts_at_every_threshold() -> None:
    generator = torch.Generator().manual_seed(0)
    attempts = [
        result_of(
            (torch.rand(50, generator=generator) < 0.4).tolist(),
            (torch.rand(50, generator=generator) * 8).round().div(8).tolist(),  # with ties
            steps,
        )
        for steps in (3, 5, 7)
    ]
    for count in (1, 2, 3):
        union = worst_case(attempts[:count])
        for threshold in (0.0, 0.125, 0.3, 0.375, 0.75, 1.0, 1.1):
            errs = [
                any(
                    bool(a.success[n]) and float(a.confidence[n]) >= threshold
                    for a in attempts[:count]
                )
                for n in range(50)
            ]
            accepts = [
                any(float(a.confidence[n]) >= threshold for a in attempts[:count])
                for n in range(50)
            ]
            assert union.errs_at(threshold).tolist() == errs
            assert union.accepts_at(threshold).tolist() == accepts
        for n, attack in enumerate(union.attack.tolist()):
            assert torch.equal(union.point[n], attempts[attack].point[n])
            assert float(union.confidence[n]) == float(attempts[attack].confidence[n])
    assert union.gradient_steps == 15
    unions = [worst_case(attempts[:count]) for count in (1, 2, 3)]
    for fewer, more in itertools.pairwise(unions):  # another attack never takes anything back
        assert bool((more.errs_at(0.3) >= fewer.errs_at(0.3)).all())


def test_unusable_unions_are_refused() -> None:
    with pytest.raises(ValueError, match="results is empty, expected one"):
        worst_case([])
    with pytest.raises(TypeError, match=r"results\[1\] is a int, expected an AttackResult"):
        worst_case([result_of([True], [0.5]), 3])  # type: ignore[list-item]  # no result: refused
    with pytest.raises(ValueError, match=r"results\[1\] has points \(2, 2, 2\), expected \(1, 2"):
        worst_case([result_of([True], [0.5]), result_of([True, True], [0.5, 0.5])])


def test_transferred_points_are_scored_by_the_other_model() -> None:
    source, target = linear(seed=1), convolutional()
    x = images(20)
    y = target(x).argmax(1)
    made = pgd(source, x, y, radius=0.3)
    moved = transfer(target, x, y, made.point, radius=0.3)
    with torch.no_grad():
        logits = target(made.point)
    assert torch.equal(moved.point, made.point)
    assert torch.equal(moved.success, logits.argmax(1) != y)
    assert 0 < int(moved.success.sum()) < 20
    share = torch.softmax(logits, 1)
    torch.testing.assert_close(moved.confidence, share.amax(1))
    torch.testing.assert_close(moved.value, share.scatter(1, y[:, None], 0.0).amax(1))
    assert moved.gradient_steps == 0


def test_of_many_transferred_points_the_most_confident_error_is_kept() -> None:
    target, x = convolutional(), images(16)
    y = target(x).argmax(1)
    points = torch.stack([pgd(linear(seed=s), x, y, radius=0.4).point for s in range(4)], 1)
    every = transfer(target, x, y, points, radius=0.4, batch_size=5)
    single = [transfer(target, x, y, points[:, a], radius=0.4) for a in range(4)]
    union = worst_case(single)
    assert 0 < int(union.success.sum())
    assert torch.equal(every.success, union.success)
    lost = union.success
    torch.testing.assert_close(every.confidence[lost], union.confidence[lost])
    chosen = points[torch.arange(16), every.attempt]
    assert torch.equal(every.point, chosen)


def test_the_diagonal_of_a_transfer_matrix_dominates() -> None:
    """Attacks on a model beat points made on another: otherwise the attack is at fault."""
    models, x = [linear(seed=s) for s in range(3)], images(40)
    for target in models:
        y = target(x).argmax(1)
        own = int(pgd(target, x, y, radius=0.05).success.sum())
        for source in models:
            if source is not target:
                made = pgd(source, x, source(x).argmax(1), radius=0.05).point
                assert int(transfer(target, x, y, made, radius=0.05).success.sum()) < own


def test_a_model_that_cannot_be_differentiated_is_scored() -> None:
    x = images(5)
    steps = Counting(lambda z: torch.stack([z.mean((1, 2, 3)).round(), 0.4 + 0 * z[:, 0, 0, 0]], 1))
    with torch.no_grad():
        expected = steps(x).argmax(1) != 0
    result = transfer(lambda z: steps(z).detach(), x, torch.zeros(5).long(), x, radius=0.1)
    assert torch.equal(result.success, expected)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_rounding_is_brought_back_and_more_is_refused(norm: Any) -> None:
    model, x, y = linear(), images(4), torch.arange(4)
    radius = {"linf": 0.1, "l2": 0.4, "l1": 2.0, "l0": 6.0}[norm]
    point = pgd_conf(model, x, y, radius=radius, norm=norm, step_size=100.0).point
    near = transfer(model, x, y, point * (1 + 1e-7), radius=radius, norm=norm)
    assert bool((near.point <= 1.0).all())
    torch.testing.assert_close(near.point, point, rtol=0.0, atol=1e-6)
    with pytest.raises(ValueError, match=f"points up to .* from x in {norm}.*expected radius"):
        transfer(
            model,
            x,
            y,
            (point - x) * 0.5 + x.flip(0),
            radius=0.01 if norm != "l0" else 1.0,
            norm=norm,
        )


@pytest.mark.parametrize(
    ("points", "error", "message"),
    [
        ([[0.5]], TypeError, "points is a list, expected a torch.Tensor"),
        (images(4).double(), TypeError, "points has dtype torch.float64"),
        (images(3), ValueError, r"points has shape \(3, 3, 4, 4\), expected \(4, 3, 4, 4\)"),
        (images(4)[:, None][:, :0], ValueError, "with A >= 1 attempts"),
        (images(4) / 0.0, ValueError, "points contains NaN or infinite"),
    ],
)
def test_unusable_points_are_refused(points: Any, error: type[Exception], message: str) -> None:
    model = Counting(linear())
    with pytest.raises(error, match=message):
        transfer(model, images(4), torch.arange(4), points, radius=0.1)
    assert model.calls == 0
    with pytest.raises(ValueError, match="norm is 'l3', expected one of"):
        transfer(
            model,
            images(4),
            torch.arange(4),
            images(4),
            radius=0.1,
            norm="l3",  # type: ignore[arg-type]  # no norm: that is refused
        )
