"""Table 1 of Wu et al. 2018: how often p-confident attacks find a confident wrong class nearby."""

from __future__ import annotations

from fractions import Fraction

from hcnn_fast.attacks import confident_cw, confident_pgd
from hcnn_fast.evaluation import AttemptTable, Proportion, concatenate, estimate_separation
from hcnn_fast.evaluation.outcomes import any_attempt
from hcnn_fast.evaluation.published import REJECTION
from hcnn_fast.evaluation.published import SEPARATION as SEPARATION_TABLE
from hcnn_fast.evaluation.separation import DIRECTION, Separation, points_needed
from hcnn_fast.evaluation.side_by_side import separation_rows
from hcnn_fast.experiments import figures
from hcnn_fast.experiments.attempts import (
    RUNS,
    attack_rows,
    clean_rows,
    strengthened_rows,
    whole_images,
)
from hcnn_fast.experiments.beside import quantity_columns
from hcnn_fast.experiments.experiment import (
    NATURAL,
    ROBUST,
    Drawing,
    Evidence,
    Experiment,
    Findings,
    TextTable,
    Work,
)
from hcnn_fast.experiments.settings import Budget

CW_ROUNDS = 5  # of `confident_cw`, each of a fifth of the steps: as dear as one start of PGD
EVERY_CLASS, UNION = "strengthened PGD", "all attacks"


def _cw(p: float) -> str:
    return f"p-confident CW, p = {p:g}"


def _pgd(p: float) -> str:
    return f"p-confident PGD, p = {p:g}"


def attempts(work: Work) -> AttemptTable:
    """Three attacks on each point, right or wrong: after p, after p nearby, and without a limit."""
    settings, model, wrong = work.settings, work.subject.model, work.classes - 1
    rows = [clean_rows(work)]
    for radius in settings.radii:
        steps = wrong * settings.starts * settings.steps
        rows.append(strengthened_rows(work, radius, attack=EVERY_CLASS, starts=settings.starts))
        for p in settings.confidences:
            found = confident_pgd(
                model,
                work.x,
                work.y,
                radius=radius,
                confidence=p,
                steps=settings.steps,
                starts=settings.starts,
                seed=settings.seed,
                batch_size=whole_images(wrong * settings.starts),
            )
            rows.append(
                attack_rows(work, found.point, attack=_pgd(p), radius=radius, gradient_steps=steps)
            )
            round_steps = max(1, settings.steps // CW_ROUNDS)
            found = confident_cw(
                model,
                work.x,
                work.y,
                radius=radius,
                confidence=p,
                rounds=CW_ROUNDS,
                steps=round_steps,
                starts=1,
                seed=settings.seed,
                batch_size=RUNS,
            )
            rows.append(
                attack_rows(
                    work,
                    found.point,
                    attack=_cw(p),
                    radius=radius,
                    gradient_steps=wrong * CW_ROUNDS * round_steps,
                )
            )
    return concatenate(rows)


def findings(found: Evidence) -> Findings:
    """Hits by model, radius and p, with the bounds of Propositions 4 and 5 and exact ones."""
    settings = found.settings
    measured: dict[tuple[str, float, float], Separation] = {
        (role, radius, p): estimate_separation(table, "base", confidence=p, radius=radius)
        for role, table in found.tables.items()
        for radius in settings.radii
        for p in settings.confidences
    }
    rows = [
        row
        for (role, _, _), separation in measured.items()
        for row in separation_rows({role: separation}, differs=found.differs)
        if row.ours is not None
    ]
    published = separation_rows({}, differs=found.differs)
    hits = hits_by_attack(found)
    table = quantity_columns(
        "How often a wrong class is p-confident near a random point (event B)",
        [*rows, *published],
        found,
        {
            "hits": "B found",
            "chebyshev_lower": "Chebyshev, above",
            "chebyshev_upper": "Chebyshev, below",
            "exact_lower": "exact, above",
            "exact_upper": "exact, below",
        },
        notes=(
            f"Bounds: {DIRECTION['attack']}.",
            _chebyshev_note(next(iter(measured.values()))),
            "Exact bounds (Clopper-Pearson) are one-sided, each holding with probability 90%.",
            "The paper's hits are of its CW attack alone; ours of the union of the attacks below.",
            _contradiction_note(),
        ),
    )
    by_attack = TextTable(
        title="The same, attack by attack",
        columns=("model", "radius", "p", "attack", "gradient steps a point", "B found"),
        rows=tuple(
            (role, f"{radius:g}", f"{p:g}", attack, f"{steps:,}" if steps else "", str(rate))
            for (role, radius, p), attacks in hits.items()
            for attack, (steps, rate) in attacks.items()
        ),
        notes=("Gradient steps are at most so many: PGD ends once p is reached.",),
    )
    p = settings.confidences[0]
    return Findings(
        tables=(table, by_attack),
        reading=_reading(measured, found),
        numbers={
            "separation": [
                {"model": role, **separation.to_dict()}
                for (role, _, _), separation in measured.items()
            ],
            "by_attack": [
                {"model": role, "radius": radius, "p": p, "attack": attack, "hits": rate.to_dict()}
                for (role, radius, p), attacks in hits.items()
                for attack, (_, rate) in attacks.items()
            ],
            "side_by_side": [row.to_dict() for row in (*rows, *published)],
        },
        drawings=(
            Drawing(
                "hits",
                f"Points with a wrong class of confidence {p:g} or more in the ball, by attack;"
                " whiskers: exact 95% intervals.",
                lambda: figures.bars(
                    {
                        f"{role}, radius {radius:g}": {a: rate for a, (_, rate) in attacks.items()}
                        for (role, radius, at), attacks in hits.items()
                        if at == p
                    },
                    "points where B was found",
                ),
            ),
            figures.confidence_drawing(found, settings.radii[-1], {EVERY_CLASS}),
        ),
    )


def hits_by_attack(
    found: Evidence,
) -> dict[tuple[str, float, float], dict[str, tuple[int, Proportion]]]:
    """Gradient steps and hits of every attack, by role, radius and p; the union comes last."""
    hits: dict[tuple[str, float, float], dict[str, tuple[int, Proportion]]] = {}
    for role, table in found.tables.items():
        for radius in found.settings.radii:
            for p in found.settings.confidences:
                names = (_cw(p), _pgd(p), EVERY_CLASS)
                rates = {}
                for name in names:
                    alone = table.select(attacks=[name], radius=radius)
                    hit = any_attempt(alone, alone.base.wrong_confidence >= p)  # [N]
                    steps = int(alone.gradient_steps.max())
                    rates[name] = (steps, Proportion(int(hit.sum()), len(hit)))
                union = estimate_separation(table, "base", confidence=p, radius=radius).hits
                hits[role, radius, p] = {**rates, UNION: (0, union)}
    return hits


def _chebyshev_note(separation: Separation) -> str:
    level, points = float(separation.chebyshev_level), separation.hits.total
    if level <= 0.0:
        needed = points_needed(separation.epsilon, Fraction(9, 10))
        return (
            f"Chebyshev's bounds at +-1/10 say nothing with {points} points; for 90% they need"
            f" {needed}."
        )
    return f"Chebyshev's bounds at +-1/10 hold with probability {level:.1%} each ({points} points)."


def _contradiction_note() -> str:
    """What Table 2 says about the bound of Proposition 4 (spec A.9)."""
    stronger = REJECTION[ROBUST, 0.03, "p = 0.9"]["awpr_with_rejection"]
    upper = SEPARATION_TABLE[ROBUST, 0.03, 0.9]["chebyshev_upper"]
    return (
        f"The paper's stronger attack contradicts its own upper bound: {stronger.source} has"
        f" {stronger.printed} of {stronger.total} correct points at the same radius and p, which is"
        f" above {upper.printed} = {float(upper.value):.1%} of random points"
        f" ({upper.source.split(', ')[-1]}) for every clean accuracy above"
        f" {float(upper.value / stronger.value):.0%}."
    )


def _reading(
    measured: dict[tuple[str, float, float], Separation], found: Evidence
) -> tuple[str, ...]:
    said = []
    for (role, radius, p), separation in measured.items():
        low, _ = separation.exact_bounds
        hits = separation.hits
        head = f"{role} ({found.names[role]}), radius {radius:g}"
        if hits.count:
            said.append(
                f"{head}: near {hits.count} of {hits.total} random points some wrong class reaches"
                f" {p:g}, so the true share is above {low:.1%} with 90% confidence. How far above,"
                " an attack cannot say: a stronger one may find more."
            )
        else:
            said.append(
                f"{head}: these attacks found no wrong class of confidence {p:g} near any of"
                f" {hits.total} random points. That is no proof that there is none: a stronger"
                " attack may find one."
            )
        other = measured.get((NATURAL, radius, p))
        if role == ROBUST and other is not None:
            if other.exact_bounds[0] > separation.exact_bounds[1]:
                said.append(
                    f"These attacks succeed more often on the natural model at {radius:g}: its"
                    " lower bound lies above the upper bound of their success on the"
                    " adversarially trained one."
                )
            else:
                said.append(
                    f"At {radius:g} the bounds of the two models overlap: with"
                    f" {separation.hits.total} points no difference is shown."
                )
    return tuple(said)


SEPARATION = Experiment(
    name="separation",
    title="Separation: is a wrong class confident near random points?",
    question="How often do attacks find a point of the ball where a wrong class has confidence p"
    " (Wu et al. 2018, Table 1)?",
    paper_radii=(0.03,),
    confidences=(0.9,),
    budget=Budget(points=300, steps=100, starts=10),
    small_budget=Budget(points=128, steps=40, starts=2),
    right_only=False,
    held_out=None,
    both_models=True,
    attempts=attempts,
    findings=findings,
)
