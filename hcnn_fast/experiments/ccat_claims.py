"""The five directions that the paper on CCAT claims, checked one by one (spec B.9)."""

from __future__ import annotations

from collections.abc import Mapping

from hcnn_fast.evaluation import AreaUnderCurve, CcatMetrics, Proportion
from hcnn_fast.experiments.claim import Claim

Threats = Mapping[str, tuple[CcatMetrics, CcatMetrics, AreaUnderCurve]]


def claims(
    threats: Mapping[str, Threats],
    noise: Mapping[str, Mapping[str, Proportion]],
) -> tuple[Claim, ...]:
    """The claims, from the metrics of the models "AT" and "CCAT".

    Two rates count as different where their exact intervals (95% each) do not touch, which is
    conservative.

    Args:
        threats: by training and threat the metrics at 0 and at tau; the seen threat is the first.
        noise: by training and kind of input without a class, those accepted at tau.
    """
    theirs, ours = threats["AT"], threats["CCAT"]
    seen = next(iter(ours))
    return (
        _near_one(ours[seen][0].robust_error_iclr),
        _smaller(
            "Accepted clean images are wrong less often than after AT (claimed for SVHN and"
            " CIFAR-10)",
            ours[seen][1].error,
            theirs[seen][1].error,
        ),
        _smaller(
            "At the seen radius AT has fewer accepted errors (claimed for MNIST and CIFAR-10; for"
            " SVHN more)",
            theirs[seen][1].robust_error_iclr,
            ours[seen][1].robust_error_iclr,
            names=("AT", "CCAT"),
        ),
        _elsewhere(
            {
                threat: (
                    ours[threat][1].robust_error_iclr,
                    theirs[threat][1].robust_error_iclr,
                )
                for threat in ours
                if threat != seen
            }
        ),
        _rejects(noise["CCAT"]),
    )


def _near_one(rate: Proportion) -> Claim:
    low, high = rate.interval
    return Claim(
        text="Without rejection nearly every point is lost",
        because=f"RErr at tau 0 of CCAT is {rate}.",
        held=True if low > 0.8 else False if high < 0.8 else None,
    )


def _smaller(
    text: str,
    first: Proportion,
    second: Proportion,
    names: tuple[str, str] = ("CCAT", "AT"),
) -> Claim:
    return Claim(
        text=text,
        because=f"{names[0]} {first}, {names[1]} {second}.",
        held=_below(first, second),
    )


def _below(first: Proportion, second: Proportion) -> bool | None:
    if first.interval[1] < second.interval[0]:
        return True
    return False if second.interval[1] < first.interval[0] else None


def _elsewhere(pairs: Mapping[str, tuple[Proportion, Proportion]]) -> Claim:
    """Larger balls, other norms and frames together: all of them below, or some above."""
    orders = [_below(ours, theirs) for ours, theirs in pairs.values()]
    held = True if all(orders) else False if False in orders else None
    return Claim(
        text="Under larger radii, other norms and frames CCAT has far fewer accepted errors",
        because="; ".join(f"{threat}: CCAT {a}, AT {b}" for threat, (a, b) in pairs.items()) + ".",
        held=held,
    )


def _rejects(noise: Mapping[str, Proportion]) -> Claim:
    return Claim(
        text="Noise and distal points are all rejected",
        because="; ".join(f"{kind} accepted {rate}" for kind, rate in noise.items()) + ".",
        held=all(rate.count == 0 for rate in noise.values()),
    )
