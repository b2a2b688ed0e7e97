"""A claim of a source, and whether what was measured bears it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hcnn_fast.evaluation import Proportion
from hcnn_fast.evaluation.regression import Estimate


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim, and what was measured of it.

    Attributes:
        text: the claim.
        because: what decides, in a sentence with its numbers.
        held: True or False; None where the intervals leave it open.
        figures: what was measured, by name.
    """

    text: str
    because: str
    held: bool | None
    figures: Mapping[str, Proportion | Estimate] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """In words."""
        return {True: "held", False: "did not hold", None: "left open"}[self.held]

    @property
    def sentence(self) -> str:
        """Claim, verdict and reason."""
        return f"{self.text}: {self.verdict}. {self.because}"

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "claim": self.text,
            "verdict": self.verdict,
            "because": self.because,
            "figures": {name: figure.to_dict() for name, figure in self.figures.items()},
        }
