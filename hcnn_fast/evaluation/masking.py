"""Signs that an attack failed for want of gradients, not for want of adversarial points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from hcnn_fast.evaluation.answers import as_column
from hcnn_fast.evaluation.intervals import Proportion, clopper_pearson

# Share of the examples that the attack which should be the strongest may miss. Restarts and random
# starts of one attack differ by less than one point in a hundred on models without masking.
MISSED = 0.01
# The same between losses, of which none is the strongest on every model: on Madry's adversarially
# trained CIFAR-10 model cross-entropy PGD leaves 47.04% and the best targeted attack 43.95%, a gap
# of 3.1 points without masking.
LOSS_GAP = 0.05
# Share of input gradients that vanish in every entry. In float32 the cross entropy's does so only
# where every other probability underflows, at logit gaps beyond 100.
ZERO_GRADIENTS = 0.01
# From this l_inf radius on, in units of the range of the inputs, every image reaches the same grey
# one: no classifier is right about more than one class there.
HALF_RANGE = 0.5
# Probability with which the true share lies above a finding's lower bound, one-sided: with few
# examples it takes more than a few unlucky ones to raise a flag.
LEVEL = 0.95

Survivors = Mapping[Any, Tensor]  # of N examples, by the setting of the attack: [N] bool


@dataclass(frozen=True, kw_only=True)
class MaskingMeasurements:
    """Which of the same N examples are still classified rightly, attack by attack.

    Leave out what was not measured; the report names it.

    Attributes:
        by_steps: survivors of one attack by its number of steps, all else equal.
        by_restarts: by its number of restarts. Here and among the steps a number between a quarter
            and a half of the largest is needed to see whether doubling changes anything.
        by_radius: by its l_inf radius, in units of the range of the inputs.
        by_loss: by the objective, such as "cross_entropy", "margin", "targeted".
        by_logit_scale: of an attack on the model with its logits multiplied by a number; 1 must be
            among them.
        white_box: survivors of every attack that uses gradients, together.
        black_box: of attacks without gradients (score, hard label, random draws), by name.
        transfer: of points found on another model, by the name of that model.
        zero_gradient: [N] bool, the input gradient of the cross entropy vanishes in every entry.
        classes: number of classes.

    Raises:
        TypeError, ValueError: columns of other types or different lengths, transfers or black boxes
            without `white_box`, scales without 1, radii without `classes`.
    """

    by_steps: Survivors = field(default_factory=dict)
    by_restarts: Survivors = field(default_factory=dict)
    by_radius: Survivors = field(default_factory=dict)
    by_loss: Survivors = field(default_factory=dict)
    by_logit_scale: Survivors = field(default_factory=dict)
    white_box: Tensor | None = None
    black_box: Survivors = field(default_factory=dict)
    transfer: Survivors = field(default_factory=dict)
    zero_gradient: Tensor | None = None
    classes: int | None = None

    def __post_init__(self) -> None:
        lengths: dict[str, int] = {}
        for name in (f.name for f in fields(self) if f.name != "classes"):
            value = getattr(self, name)
            single = not isinstance(value, Mapping)
            checked: dict[Any, Tensor] = {}
            for key, column in ({"": value} if single else value).items():
                if column is not None:
                    title = f"{name} {key}".strip()
                    checked[key] = as_column(title, column, torch.bool)
                    lengths[title] = len(checked[key])
            object.__setattr__(self, name, checked.get("") if single else checked)
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the survivors have the lengths {lengths}, expected one length N")
        if 0 in lengths.values():
            raise ValueError("the survivors have the length 0, expected one example or more")
        if (self.black_box or self.transfer) and self.white_box is None:
            raise ValueError("white_box is None, expected survivors [N] to compare with")
        if self.by_logit_scale and 1 not in self.by_logit_scale:
            scales = sorted(self.by_logit_scale)
            raise ValueError(f"by_logit_scale has the scales {scales}, expected 1 as well")
        if self.by_radius and (self.classes is None or self.classes < 2):
            raise ValueError(f"classes is {self.classes!r}, expected an int >= 2 with by_radius")


@dataclass(frozen=True)
class Finding:
    """One sign of masking: how many examples speak for it, and the rates behind.

    Attributes:
        name: the sign.
        statement: what the counted examples have in common.
        count: the examples, of N.
        tolerance: share up to which they are no sign.
        evidence: the rates measured, of N, by attack.
    """

    name: str
    statement: str
    count: Proportion
    tolerance: float
    evidence: Mapping[str, Proportion]

    @property
    def lower_bound(self) -> float:
        """Exact one-sided lower bound, at `LEVEL`, of the share of such examples."""
        return clopper_pearson(self.count.count, self.count.total, 2.0 * LEVEL - 1.0)[0]

    @property
    def flagged(self) -> bool:
        """Whether the share is above the tolerance beyond chance."""
        return self.lower_bound > self.tolerance

    def __str__(self) -> str:
        mark = "FLAG" if self.flagged else "ok"
        rates = "; ".join(f"{name}: {rate}" for name, rate in self.evidence.items())
        head = f"{mark} {self.name}: {self.statement}: {self.count}"
        return f"{head}, tolerated {self.tolerance:.1%}; {rates}"

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain values."""
        return {
            "name": self.name,
            "statement": self.statement,
            "flagged": self.flagged,
            "count": self.count.to_dict(),
            "lower_bound": self.lower_bound,
            "tolerance": self.tolerance,
            "evidence": {name: rate.to_dict() for name, rate in self.evidence.items()},
        }


@dataclass(frozen=True)
class MaskingReport:
    """Every sign that could be looked for, and the names of those that could not.

    Attributes:
        findings: one for each sign that the measurements allow.
        not_measured: signs without measurements: no flag there is no all-clear.
    """

    findings: tuple[Finding, ...]
    not_measured: tuple[str, ...]

    @property
    def flags(self) -> tuple[Finding, ...]:
        """The findings that are flagged; any one is a reason to distrust the robustness."""
        return tuple(finding for finding in self.findings if finding.flagged)

    def __str__(self) -> str:
        lines = [str(finding) for finding in self.findings]
        return "\n".join([*lines, *(f"-- {name}: not measured" for name in self.not_measured)])

    def to_dict(self) -> dict[str, Any]:
        """The findings and what was not measured as plain values."""
        return {
            "flags": [finding.name for finding in self.flags],
            "findings": [finding.to_dict() for finding in self.findings],
            "not_measured": list(self.not_measured),
        }


def masking_report(measured: MaskingMeasurements) -> MaskingReport:
    """Look for gradient masking (Athalye et al. 2018, Carlini et al. 2019; spec D.3).

    Each sign counts examples that a weaker attack breaks and the one that should be stronger does
    not, so differences are taken example by example, never between two rates. It is flagged where
    the exact lower bound of their share is above the sign's tolerance.
    """
    signs = {
        "one step beats many": _one_step(measured),
        "more steps still break": _doubling(measured.by_steps, "steps"),
        "more restarts still break": _doubling(measured.by_restarts, "restarts"),
        "a larger ball breaks fewer": _radius(measured),
        "unbounded attack fails": _unbounded(measured),
        "losses disagree": _losses(measured),
        "logit scale matters": _scale(measured),
        "black box beats white box": _missed_by_white_box(measured, measured.black_box),
        "transfer beats white box": _missed_by_white_box(measured, measured.transfer),
        "gradients vanish": _zero_gradients(measured),
    }
    findings = []
    for name, sign in signs.items():
        if sign is not None:
            event, statement, tolerance, survivors = sign
            evidence = {key: _rate(column) for key, column in survivors.items()}
            findings.append(Finding(name, statement, _rate(event), tolerance, evidence))
    missing = tuple(name for name, sign in signs.items() if sign is None)
    return MaskingReport(tuple(findings), missing)


# The examples that speak for a sign [N], what they have in common, the tolerance, the survivors.
Sign = tuple[Tensor, str, float, dict[str, Tensor]]


def _rate(event: Tensor) -> Proportion:  # [N] bool
    return Proportion(int(event.sum()), len(event))


def _named(survivors: Survivors, unit: str) -> dict[str, Tensor]:
    return {f"{unit} {key:g}": survivors[key] for key in sorted(survivors)}


def _one_step(measured: MaskingMeasurements) -> Sign | None:
    """Sign (i) of Athalye et al.: a single step finds what the iterative attack misses."""
    survivors = measured.by_steps
    if 1 not in survivors or len(survivors) < 2:
        return None
    most = max(survivors)
    event = ~survivors[1] & survivors[most]  # [N]
    return event, f"broken by 1 step, not by {most}", MISSED, _named(survivors, "steps")


def _doubling(survivors: Survivors, unit: str) -> Sign | None:
    """Effort that does not suffice: the largest breaks more than a half to a quarter of it."""
    most = max(survivors, default=0)
    half = max((key for key in survivors if 2 * key <= most <= 4 * key), default=None)
    if half is None:
        return None
    event = ~survivors[most] & survivors[half]  # [N]
    return event, f"broken by {most} {unit}, not by {half}", MISSED, _named(survivors, unit)


def _radius(measured: MaskingMeasurements) -> Sign | None:
    """Sign (v): a ball that contains another must not break fewer."""
    radii = sorted(measured.by_radius)
    if len(radii) < 2:
        return None
    broken = torch.zeros_like(measured.by_radius[radii[0]])  # [N] at some smaller radius
    event = torch.zeros_like(broken)  # [N]
    for radius in radii:
        event |= broken & measured.by_radius[radius]
        broken |= ~measured.by_radius[radius]
    statement = "broken at a radius, not at a larger one"
    return event, statement, MISSED, _named(measured.by_radius, "radius")


def _unbounded(measured: MaskingMeasurements) -> Sign | None:
    """Sign (iii): where all images become one, accuracy must fall to chance."""
    largest = max(measured.by_radius, default=0.0)
    if largest < HALF_RANGE or measured.classes is None:
        return None
    statement = f"survive radius {largest:g}, where chance leaves one class"
    survivors = _named(measured.by_radius, "radius")
    return measured.by_radius[largest], statement, 1.0 / measured.classes, survivors


def _losses(measured: MaskingMeasurements) -> Sign | None:
    """The gap between the strongest objective and the cross entropy, the usual victim."""
    others = [column for name, column in measured.by_loss.items() if name != "cross_entropy"]
    if "cross_entropy" not in measured.by_loss or not others:
        return None
    event = measured.by_loss["cross_entropy"] & ~torch.stack(others).all(0)  # [N]
    statement = "broken by another loss, not by the cross entropy"
    return event, statement, LOSS_GAP, dict(measured.by_loss)


def _scale(measured: MaskingMeasurements) -> Sign | None:
    """A factor on the logits changes no prediction, so it must not uncover adversarial points.

    The reverse, an attack that fails at a large factor, only says that float32 underflows there.
    """
    survivors = measured.by_logit_scale
    others = [column for scale, column in survivors.items() if scale != 1]
    if not others:
        return None
    event = survivors[1] & ~torch.stack(others).all(0)  # [N]
    statement = "broken at another scale of the logits, not at the model's own"
    return event, statement, MISSED, _named(survivors, "scale")


def _missed_by_white_box(measured: MaskingMeasurements, weaker: Survivors) -> Sign | None:
    """Signs (ii) and (iv): gradients must find what blind or borrowed attacks find."""
    if measured.white_box is None or not weaker:
        return None
    event = measured.white_box & ~torch.stack(list(weaker.values())).all(0)  # [N]
    survivors = {"white box": measured.white_box, **weaker}
    return event, "survive every attack with gradients, not these", MISSED, survivors


def _zero_gradients(measured: MaskingMeasurements) -> Sign | None:
    if measured.zero_gradient is None:
        return None
    statement = "have an input gradient of exact zeros"
    survivors = {"gradient not zero": ~measured.zero_gradient}
    return measured.zero_gradient, statement, ZERO_GRADIENTS, survivors
