"""The defended model under attack as a whole: what Table 4 of Wu et al. 2018 leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hcnn_fast.evaluation import PairedDifference, Proportion
from hcnn_fast.evaluation.table import Classifier
from hcnn_fast.experiments import figures
from hcnn_fast.experiments.adaptive_attacks import (
    SEARCHED,
    TRUE_POSITIVE_RATE,
    attempts,
    held_out_rows,
)
from hcnn_fast.experiments.adaptive_outcomes import (
    ALL_STATIC,
    CLASSIFIERS,
    NOTHING,
    UNION,
    RadiusOutcome,
    measured,
)
from hcnn_fast.experiments.experiment import Drawing, Evidence, Experiment, Findings, TextTable
from hcnn_fast.experiments.settings import Budget, radius_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN: Mapping[Classifier, str] = {"base": "base", "defended": "MCN"}

Outcomes = dict[float, RadiusOutcome]  # by radius


def findings(found: Evidence) -> Findings:
    """Accuracy under each attack and the union, with and without rejection, and what it shows."""
    outcomes = measured(found)
    (name,) = found.names.values()
    return Findings(
        tables=(
            _accuracy_table(outcomes, found),
            _rejection_table(outcomes),
            _stratified_table(outcomes),
            _bound_table(outcomes),
        ),
        reading=tuple(s for radius, its in outcomes.items() for s in reading(radius, its)),
        numbers={
            "model": name,
            "search_gradient_steps": found.classes * found.settings.search_steps,
            "radii": [{"radius": radius, **its.to_dict()} for radius, its in outcomes.items()],
        },
        drawings=(
            Drawing(
                "attacks",
                "Points answered rightly when clean and in every attempt of an attack; whiskers:"
                " exact 95% intervals.",
                lambda: figures.paired_bars(
                    {
                        f"radius {radius:g}": {
                            attack: [each.plain[c].rate("right") for c in CLASSIFIERS]
                            for attack, each in its.attacks.items()
                        }
                        for radius, its in outcomes.items()
                    },
                    tuple(SHOWN.values()),
                    "points answered rightly",
                ),
            ),
            Drawing(
                "accuracy-radius",
                "Points of which no wrong answer is accepted, clean or under the union of all"
                " attacks, against the radius of attack and search; bands: exact 95% intervals.",
                lambda: _by_radius(outcomes),
            ),
            Drawing(
                "stratified-rejection",
                "Points with a wrong answer that is accepted, or a rejection within a share of the"
                " radius; bands: exact 95% intervals.",
                lambda: _stratified(outcomes),
            ),
        ),
    )


def reading(radius: float, its: RadiusOutcome) -> tuple[str, ...]:
    """What the numbers of one radius allow to say, and no more."""
    union, static = its.union, its.attacks[ALL_STATIC]
    base, mcn = (union.plain[name].rate("right") for name in CLASSIFIERS)
    said = [
        f"Radius {radius:g}: under the union of all attacks MCN answers {mcn.count} of {mcn.total}"
        f" points rightly, the base {base.count} of {base.total} ({union.gain})."
        f" {_verdict(union.gain, 'MCN', 'the base')}"
    ]
    transferred = static.plain["defended"].rate("right").count
    if transferred > mcn.count:
        said.append(
            f"Points made on the base alone would have left MCN {transferred} of {mcn.total}:"
            f" of these, {transferred - mcn.count} lost to the attacks on the defence."
        )
    gain = union.gain_with_rejection
    kept = {name: union.rejecting[name] for name in CLASSIFIERS}
    none = {name: mcn.total - each.rate("wrong").count for name, each in kept.items()}
    said.append(
        f"With thresholds of equal TPR no wrong answer is accepted on {none['defended']} of"
        f" {mcn.total} points for MCN, on {none['base']} for the base ({gain})."
        f" {_verdict(gain, 'MCN with rejection', 'the base with rejection')}"
    )
    return tuple(said)


def _verdict(gain: PairedDifference, ours: str, other: str) -> str:
    if gain.direction > 0:
        return (
            f"{ours} is better than {other} against these attacks by more than chance explains;"
            " a stronger attack may undo it."
        )
    if gain.direction < 0:
        return f"{ours} is worse than {other} by more than chance explains."
    if gain.difference > 0.0:
        return f"{ours} is ahead, but not beyond chance: no gain over {other} is shown."
    return f"{ours} is not better than {other}."


def _accuracy_table(outcomes: Outcomes, found: Evidence) -> TextTable:
    lines = []
    for radius, its in outcomes.items():
        for attack, each in its.attacks.items():
            gain, low, high = each.gain, *each.gain.interval
            lines.append(
                (
                    f"{radius:g}",
                    attack,
                    *(str(each.plain[name].rate("right")) for name in CLASSIFIERS),
                    f"{100 * gain.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]",
                    f"{gain.p_value:.2g}",
                    f"{each.gradient_steps:,}" if each.gradient_steps else "",
                    f"{each.searches:,}" if each.searches else "",
                )
            )
    search = found.classes * found.settings.search_steps
    return TextTable(
        title="Right answers, clean and in every attempt of an attack (attack and search radius"
        " alike)",
        columns=(
            "radius",
            "attack",
            "base right",
            "MCN right",
            "difference, points",
            "p",
            "gradient steps",
            "searches",
        ),
        rows=tuple(lines),
        notes=(
            "Random test points; an error on the clean image counts as one. Both classifiers are"
            " asked about the same attempts: the base also about those made against MCN.",
            "Differences are paired: exact 95% intervals, and p of the two-sided sign test.",
            f"Gradient steps and searches are the attacker's for an image, on average. A search is"
            f" an answer of the whole defence, {search:,} gradient steps more; the base answers"
            " with none.",
            f"The paper attacks only the base and reports no such rates; {found.differs};"
            f" {radius_text(found.settings.data)}.",
        ),
    )


def _rejection_table(outcomes: Outcomes) -> TextTable:
    lines = [
        (
            f"{radius:g}",
            attack,
            *(
                str(each.rejecting[name].rate(kind).count)
                for name in CLASSIFIERS
                for kind in ("right", "rejected", "wrong")
            ),
            str(len(each.rejecting["base"].right)),
        )
        for radius, its in outcomes.items()
        for attack, each in its.attacks.items()
    ]
    limits = "; ".join(
        f"at radius {radius:g} {its.thresholds['base']:.3f} for the base and"
        f" {its.thresholds['defended']:.3f} for MCN"
        for radius, its in outcomes.items()
    )
    return TextTable(
        title=f"The same with rejection of low confidence, at TPR {TRUE_POSITIVE_RATE:.0%} each",
        columns=(
            "radius",
            "attack",
            "base: right",
            "rejected",
            "wrong",
            "MCN: right",
            "rejected",
            "wrong",
            "of",
        ),
        rows=tuple(lines),
        notes=(
            "right: right and accepted, clean and in every attempt; wrong: some wrong answer is"
            " accepted; rejected: neither, so some attempt is rejected. Each point counts once.",
            f"Thresholds, from at most {SEARCHED} clean held-out images, none of them attacked:"
            f" {limits}.",
        ),
    )


def _stratified_table(outcomes: Outcomes) -> TextTable:
    lines = []
    for radius, its in outcomes.items():
        for base, mcn in zip(*(its.stratified[name] for name in CLASSIFIERS), strict=True):
            cells = (base.rejected, base.error, mcn.rejected, mcn.error)
            lines.append((f"{radius:g}", f"{base.share:g}", *map(str, cells)))
    return TextTable(
        title="Rejection of small perturbations counted as an error",
        columns=(
            "radius",
            "share",
            "base: rejected within",
            "base: error",
            "MCN: rejected within",
            "MCN: error",
        ),
        rows=tuple(lines),
        notes=(
            "Points to be rejected were looked for within these shares: errors are lower bounds.",
            "Errors: a wrong answer that is accepted anywhere in the ball, or a rejection within"
            " the share of its radius (Chen et al. 2023). Rejecting everything makes every point"
            " one.",
        ),
    )


def _bound_table(outcomes: Outcomes) -> TextTable:
    lines = [
        (
            f"{radius:g}",
            f"{bound.confidence:g}",
            str(bound.good),
            *(str(its.union.plain[name].rate("right")) for name in reversed(CLASSIFIERS)),
        )
        for radius, its in outcomes.items()
        for bound in its.bounds
    ]
    return TextTable(
        title="What the half-radius lemma leaves to exact MCN",
        columns=("radius", "p", "no wrong class reaches p", "MCN, union", "base, union"),
        rows=tuple(lines),
        notes=(
            "Points right with confidence p when clean, and with no wrong class of confidence p"
            " within twice the radius: exact MCN is right in the whole ball around them. An attack"
            " looked for that class, so the share is itself an upper estimate and no guarantee.",
        ),
    )


def _by_radius(outcomes: Outcomes) -> Figure:
    def rate(its: RadiusOutcome, attack: str, name: Classifier, rejects: bool) -> Proportion:
        each = its.attacks[attack]
        column = ~(each.rejecting if rejects else each.plain)[name].wrong  # [N]
        return Proportion(int(column.sum()), len(column))

    first, panels = next(iter(outcomes.values())), {}
    for title, rejects in (("every answer accepted", False), ("with rejection", True)):
        at_zero = rate(first, NOTHING, "base", rejects)  # where MCN is its base
        panels[title] = [
            figures.Line(
                f"{shown}, {when}",
                (0.0, *outcomes),
                [at_zero, *(rate(its, attack, name, rejects) for its in outcomes.values())],
                band=attack != NOTHING,
                dashed=name == "defended",
            )
            for when, attack in (("attacked", UNION), ("clean", NOTHING))
            for name, shown in SHOWN.items()
        ]
    return figures.curves(panels, x_label="l_inf radius", y_label="no wrong answer accepted")


def _stratified(outcomes: Outcomes) -> Figure:
    panels = {
        f"radius {radius:g}": [
            figures.Line(
                f"{SHOWN[name]} with rejection",
                [point.share for point in points],
                [point.error for point in points],
                dashed=name == "defended",
            )
            for name, points in its.stratified.items()
        ]
        for radius, its in outcomes.items()
    }
    return figures.curves(panels, x_label="share of the radius", y_label="errors")


ADAPTIVE = Experiment(
    name="adaptive",
    title="Adaptive: does the most confident neighbour survive attacks that know of it?",
    question="How many points do MCN and its base answer rightly, with and without rejection, under"
    " the union of attacks on the whole defence (missing in Wu et al. 2018, Table 4)?",
    paper_radii=(0.010, 0.015),
    confidences=(0.9, 0.95, 0.99),
    budget=Budget(points=200, steps=50, starts=3, search_steps=50),
    small_budget=Budget(points=32, steps=8, starts=1, search_steps=8),
    right_only=False,
    held_out=held_out_rows,
    both_models=False,
    attempts=attempts,
    findings=findings,
)
