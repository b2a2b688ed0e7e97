"""The separation's bounds in rational arithmetic, by hand, and by coverage (T-A7)."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from attempt_tables import random_table, rows_by_example
from scipy import stats

from hcnn_fast.evaluation import (
    Proportion,
    Separation,
    clopper_pearson,
    estimate_separation,
    points_needed,
)

ROBUST = Separation(Proportion(26, 300), confidence=0.9, radius=0.03)
NATURAL = Separation(Proportion(277, 300), confidence=0.9, radius=0.03)


def test_the_papers_propositions_come_out_exactly() -> None:
    assert ROBUST.chebyshev_upper == Fraction(14, 75)
    assert NATURAL.chebyshev_lower == Fraction(247, 300)
    assert ROBUST.chebyshev_level == 1 - Fraction(1, 12)  # .9167, at least the .9 of the paper
    assert float(ROBUST.chebyshev_level) >= 0.9


def test_points_needed_are_those_of_the_paper() -> None:
    assert points_needed(Fraction(1, 10), Fraction(9, 10)) == 250
    for t, enough in ((249, False), (250, True)):
        held = Separation(Proportion(0, t), 0.9, 0.03).chebyshev_level >= Fraction(9, 10)
        assert held == enough


def test_exact_bounds_are_one_sided() -> None:
    assert ROBUST.exact_bounds[1] == pytest.approx(0.1113, abs=5e-5)
    assert NATURAL.exact_bounds[0] == pytest.approx(0.8998, abs=5e-5)
    assert ROBUST.exact_bounds[1] == pytest.approx(stats.beta.isf(0.1, 27, 274), rel=1e-9)
    assert NATURAL.exact_bounds[0] == pytest.approx(stats.beta.ppf(0.1, 277, 24), rel=1e-9)
    assert ROBUST.hits.interval == clopper_pearson(26, 300)


@pytest.mark.parametrize("mu", [0.02, 0.1, 0.5, 0.9, 0.98])
def test_each_bound_holds_with_its_probability(mu: float) -> None:
    total = 60
    epsilon = Fraction(3, 20)
    upper = lower = exact_upper = exact_lower = 0.0
    for hits in range(total + 1):
        found = Separation(Proportion(hits, total), 0.9, 0.03, epsilon=epsilon)
        mass = stats.binom.pmf(hits, total, mu)
        upper += mass * (mu < found.share + epsilon)
        lower += mass * (mu > found.share - epsilon)
        exact_lower += mass * (mu >= found.exact_bounds[0])
        exact_upper += mass * (mu <= found.exact_bounds[1])
    level = float(1 - 1 / (4 * epsilon**2 * total))
    assert min(upper, lower) >= level
    assert min(exact_upper, exact_lower) >= 0.9


def test_an_attack_proves_the_lower_bound_alone() -> None:
    assert not ROBUST.upper_bounds_hold
    assert "finds a subset of B" in ROBUST.direction
    assert "no separation is proved" in str(ROBUST)
    assert "26/300 8.7%" in str(ROBUST)
    exact = Separation(Proportion(26, 300), 0.9, 0.03, decided="exact")
    assert exact.upper_bounds_hold
    assert "hold for Pr[B]" in exact.direction
    plain = ROBUST.to_dict()
    assert (plain["chebyshev_upper"], plain["upper_bounds_hold"]) == ("14/75", False)


def test_bounds_stay_within_probabilities() -> None:
    assert Separation(Proportion(0, 300), 0.9, 0.03).chebyshev_lower == 0
    assert Separation(Proportion(300, 300), 0.9, 0.03).chebyshev_upper == 1


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("classifier", ["base", "defended"])
def test_hits_equal_a_loop_over_attempts(seed: int, classifier: Any) -> None:
    table = random_table(seed)
    rows = rows_by_example(table, classifier).values()
    for p in (1 / 3, 0.5, 2 / 3, 1.0):
        for radius in (0.1, 0.2, 0.3):
            found = estimate_separation(table, classifier, confidence=p, radius=radius)
            hits = sum(
                any(r["wrong_confidence"] >= p and r["radius"] <= radius for r in attempts)
                for attempts in rows
            )
            assert found.hits == Proportion(hits, 12)
            assert (found.confidence, found.radius) == (p, radius)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hits": Proportion(0, 0)}, "hits is 0/0"),
        ({"confidence": 1.5}, "confidence is 1.5"),
        ({"radius": 0.0}, "radius is 0.0"),
        ({"epsilon": 0.1}, "epsilon is a float"),
        ({"epsilon": Fraction(0)}, "epsilon is 0"),
        ({"level": 0.4}, "level is 0.4"),
        ({"decided": "guessed"}, "decided is 'guessed'"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    good = {"hits": Proportion(1, 2), "confidence": 0.9, "radius": 0.03}
    with pytest.raises((ValueError, TypeError), match=message):
        Separation(**(good | arguments))
    with pytest.raises(ValueError, match=r"^level is 1"):
        points_needed(Fraction(1, 10), Fraction(1))


def test_points_that_were_never_attacked_are_not_called_separated() -> None:
    with pytest.raises(ValueError, match="have no attempt"):
        estimate_separation(random_table(0), "base", confidence=0.9, radius=0.05)
