"""The numbers of the source papers, each with its place and how it was obtained.

Tags: S, in the full text or abstract of the paper; P, in the ICLR 2020 text of CCAT, whose tables
differ from those of the ICML 2020 version; R, in the authors' code; A, worked out here from such
numbers. Numbers known only from memory are not kept. Pages are not given: the texts were read
without page numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, get_args

from hcnn_fast.evaluation.intervals import Proportion
from hcnn_fast.evaluation.recovery import RecoveryCounts, RecoveryTable

Tag = Literal["S", "P", "R", "A"]

HCNN = "Wu et al. 2018 (arXiv v3)"
CCAT = "Stutz et al. 2020 (ICLR 2020 text)"


@dataclass(frozen=True)
class Published:
    """A number of a paper.

    Attributes:
        value: the number; a rate in [0, 1].
        printed: as the paper prints it.
        source: paper and table.
        tag: how it was obtained, see the module.
        total: denominator of a rate where the paper states it.
    """

    value: Fraction
    printed: str
    source: str
    tag: Tag
    total: int | None = None

    def __post_init__(self) -> None:
        if self.tag not in get_args(Tag):
            raise ValueError(f"tag is {self.tag!r}, expected one of {', '.join(get_args(Tag))}")

    @property
    def proportion(self) -> Proportion | None:
        """The rate with its interval, as near as its printed digits allow; None without total."""
        if self.total is None:
            return None
        return Proportion(round(self.value * self.total), self.total)

    def to_dict(self) -> dict[str, Any]:
        """The number, its source and, with a total, its interval as plain values."""
        return {
            "value": float(self.value),
            "printed": self.printed,
            "source": self.source,
            "tag": self.tag,
            "total": self.total,
            "interval": None if self.proportion is None else list(self.proportion.interval),
        }


Key = tuple[str | float, ...]
PublishedTable = Mapping[Key, Mapping[str, Published]]  # by setting, then by quantity


def _percent(digits: str, source: str, tag: Tag, total: int | None = None) -> Published:
    return Published(Fraction(digits) / 100, f"{digits}%", source, tag, total)


def _count(count: int, total: int, source: str) -> Published:
    return Published(Fraction(count, total), f"{count}/{total}", source, "S", total)


# Table 1 and Propositions 4 and 5 (model, radius, p): hits of a CW attack on 300 random points,
# chebyshev_upper and chebyshev_lower at epsilon = 1/10.
_TABLE_1 = f"{HCNN}, Table 1"
SEPARATION: PublishedTable = {
    ("adversarially trained", 0.03, 0.9): {
        "hits": _count(26, 300, _TABLE_1),
        "chebyshev_upper": Published(Fraction(14, 75), "14/75", f"{HCNN}, Proposition 4", "S"),
    },
    ("natural", 0.03, 0.9): {
        "hits": _count(277, 300, _TABLE_1),
        "chebyshev_lower": Published(Fraction(247, 300), "247/300", f"{HCNN}, Proposition 5", "S"),
    },
}


def _rejection() -> PublishedTable:
    """Tables 2 and 3 by (model, radius, threshold), each row over 1000 correct points."""
    robust, natural = "adversarially trained", "natural"
    printed = {
        (robust, 0.010): ("11", ("2.2", "1.1", "0.0"), ("86.7", "82.5", "72.6")),
        (robust, 0.015): ("14", ("5.4", "2.9", "0.3"), ("89.6", "85.6", "75.9")),
        (robust, 0.020): ("21.7", ("14.7", "9", "3.8"), ("90.0", "85.7", "75.4")),
        (robust, 0.030): ("34.7", ("29.7", "26.8", "16.0"), ("90.0", "86.0", "76.5")),
        (natural, 0.010): ("99.3", ("99.1", "99.1", "98.9"), ("97.2", "96.2", "92.6")),
    }
    rows: dict[Key, dict[str, Published]] = {}
    for (model, radius), (original, rejecting, recall) in printed.items():
        source = f"{HCNN}, Table {2 if model == robust else 3}"
        for place, p in enumerate((0.9, 0.95, 0.99)):
            rows[model, radius, f"p = {p:g}"] = {
                "awpr_original": _percent(original, source, "S", 1000),
                "awpr_with_rejection": _percent(rejecting[place], source, "S", 1000),
                "recall": _percent(recall[place], source, "S", 1000),
            }
    return rows


REJECTION = _rejection()

# Table 4 by radius of attack and search: 9000 targeted attempts on 1000 points.
RECOVERY_SOURCE = f"{HCNN}, Table 4"
RECOVERY: dict[float, RecoveryTable] = {
    0.010: RecoveryTable(
        label_change=RecoveryCounts(first=94, second=208, other=50, missing=0),
        confidence_reduction=RecoveryCounts(first=8621, second=27, other=0, missing=0),
    ),
    0.015: RecoveryTable(
        label_change=RecoveryCounts(first=114, second=260, other=66, missing=29),
        confidence_reduction=RecoveryCounts(first=8511, second=20, other=0, missing=0),
    ),
}


def _ccat() -> PublishedTable:
    """Table 2 of CCAT by (data set, threat, training): errors at tau = 0 and at 99% TPR."""
    # Columns: Err, RErr, AUC, Err and RErr at 99% TPR, tau; "" where the table repeats a number of
    # the data set's first row.
    printed = {
        ("MNIST", "linf 0.3"): (
            ("0.50", "7.2", "0.97", "0.0", "1.0", "1.00"),
            ("0.50", "100", "0.99", "0.10", "7.7", "0.99"),
        ),
        ("MNIST", "linf 0.4"): (
            ("", "100", "0.20", "", "100", ""),
            ("", "100", "0.94", "", "40.0", ""),
        ),
        ("MNIST", "l2 3"): (
            ("", "98.8", "0.73", "", "81.3", ""),
            ("", "82.6", "1.00", "", "1.4", ""),
        ),
        ("SVHN", "linf 0.03"): (
            ("3.4", "57.3", "0.55", "2.5", "55.6", "0.56"),
            ("2.9", "97.8", "0.70", "2.1", "38.5", "0.60"),
        ),
        ("SVHN", "linf 0.06"): (
            ("", "89.0", "0.32", "", "88.3", ""),
            ("", "99.8", "0.70", "", "46.0", ""),
        ),
        ("SVHN", "l2 1"): (
            ("", "92.4", "0.26", "", "92.0", ""),
            ("", "81.8", "0.91", "", "18.5", ""),
        ),
        ("CIFAR-10", "linf 0.03"): (
            ("16.6", "62.7", "0.64", "15.1", "62.3", "0.35"),
            ("10.1", "96.7", "0.60", "8.7", "67.9", "0.40"),
        ),
        ("CIFAR-10", "linf 0.06"): (
            ("", "93.7", "0.35", "", "93.6", ""),
            ("", "99.2", "0.43", "", "91.5", ""),
        ),
        ("CIFAR-10", "l2 1"): (
            ("", "74.4", "0.59", "", "73.9", ""),
            ("", "81.8", "0.77", "", "46.2", ""),
        ),
    }
    names = (
        "error at 0",
        "robust_error_iclr at 0",
        "auc",
        "error at tau",
        "robust_error_iclr at tau",
        "tau",
    )
    source = f"{CCAT}, Table 2"
    rows: dict[Key, dict[str, Published]] = {}
    for (data, threat), trainings in printed.items():
        for training, columns in zip(("AT", "CCAT"), trainings, strict=True):
            rows[data, threat, training] = {
                name: Published(Fraction(digits), digits, source, "P")
                if name in ("auc", "tau")
                else _percent(digits, source, "P")
                for name, digits in zip(names, columns, strict=True)
                if digits
            }
    return rows


CCAT_ERRORS = _ccat()


def _ccat_attack_strength() -> PublishedTable:
    """Table 1 of CCAT, SVHN at linf 0.03: RErr at 99% TPR by (training, attack)."""
    columns = (
        "momentum, backtracking, zero start, 40 steps",
        "momentum, backtracking, zero start, 200 steps",
        "momentum, backtracking, zero start, 2000 steps",
        "momentum, backtracking, zero start, 4000 steps",
        "momentum, backtracking, random start, 4000 steps",
        "momentum, zero start, 300 steps",
        "zero start, 300 steps",
    )
    printed = {
        "AT": ("38.4", "46.2", "49.9", "50.1", "51.8", "38.1", "30.8"),
        "AT-Conf": ("27.4", "40.5", "46.9", "47.3", "48.1", "28.5", "23.8"),
        "CCAT": ("4.0", "5.0", "22.8", "23.3", "5.2", "2.6", "2.6"),
    }
    return {
        (training, attack): {"robust_error_iclr at tau": _percent(digits, f"{CCAT}, Table 1", "P")}
        for training, row in printed.items()
        for attack, digits in zip(columns, row, strict=True)
    }


CCAT_ATTACK_STRENGTH = _ccat_attack_strength()


def _ccat_distal() -> PublishedTable:
    """Table 3 of CCAT by (data set, input, training): AUC, and FPR at 99% TPR."""
    data_sets = ("MNIST", "SVHN", "CIFAR-10")
    perfect = (("1.00", "0"),) * 3
    printed = {
        ("noise", "normal"): (("0.34", "100"), ("0.95", "72.8"), ("0.83", "87.1")),
        ("noise", "AT"): (("0.99", "44.5"), ("1.00", "0.9"), ("0.60", "100")),
        ("noise", "CCAT"): perfect,
        ("distal", "normal"): (("0.34", "100"), ("0.43", "100"), ("0.49", "100")),
        ("distal", "AT"): (("0.63", "100"), ("0.89", "98.8"), ("0.31", "100")),
        ("distal", "CCAT"): perfect,
    }
    source = f"{CCAT}, Table 3"
    return {
        (data, kind, training): {
            "auc": Published(Fraction(auc), auc, source, "P"),
            "false_positive_rate": _percent(fpr, source, "P"),
        }
        for (kind, training), row in printed.items()
        for data, (auc, fpr) in zip(data_sets, row, strict=True)
    }


CCAT_DISTAL = _ccat_distal()

# The abstract's "up to 75%" under PGD on CIFAR-10: a maximum over settings that it does not name.
LABEL_SMOOTHING = _percent("75", "Fu et al. 2020, abstract (a maximum over settings)", "S")
