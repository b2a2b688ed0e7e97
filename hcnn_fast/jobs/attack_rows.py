"""Rows of `attack`: one per image, the same columns for every input and every choice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from hcnn_fast.evaluation import Proportion
from hcnn_fast.jobs.chunk_rows import rows_of_chunk
from hcnn_fast.jobs.readers import Chunk

NOT_ATTACKED = "none"  # in place of an attack: the model is wrong about the image itself

ATTACK_COLUMNS: dict[str, type] = {
    "index": int,
    "name": str,
    "true_label": int,
    "attacked_label": int,
    "base_label": int,
    "base_confidence": float,
    "success": bool,
    "label": int,
    "confidence": float,
    "value": float,
    "distance": float,
    "method": str,
    "attempt": int,
    "found_by": str,
    "gradient_steps": int,
    "queries": int,
    "error": str,
}


@dataclass(frozen=True, kw_only=True)
class AttackOutcome:
    """What came of the attacks on m images, by the plain model.

    Attributes:
        attacked_label: [m] int64, the class to be lost.
        base_label: [m] int64, the prediction at the image.
        base_confidence: [m] its probability.
        point: [m, *image], the strongest point found; where the image is wrong already, itself.
        label: [m] int64, the prediction there.
        confidence: [m] its probability.
        distance: [m] from the image, l_inf.
        value: [m] what its attack attained there, NaN where none was made.
        attempt: [m] int64, which run of the attack it was.
        method: [m] name of the attack, or NOT_ATTACKED.
        found_by: [m] the attacks that found an error, in the order of the plan.
        gradient_steps: [m] spent by all attacks, an even share of the chunk's for each that was
            attacked.
        queries: [m] the same.
    """

    attacked_label: Tensor
    base_label: Tensor
    base_confidence: Tensor
    point: Tensor
    label: Tensor
    confidence: Tensor
    distance: Tensor
    value: Tensor
    attempt: Tensor
    method: Sequence[str]
    found_by: Sequence[Sequence[str]]
    gradient_steps: Sequence[int]
    queries: Sequence[int]


def attack_rows_of(first: int, chunk: Chunk, outcome: AttackOutcome) -> list[dict[str, Any]]:
    """One row for every image of a chunk; an unreadable one has only index, name and error.

    Args:
        first: index of the chunk's first image in the input.
        chunk: names, errors and true labels of n images, m of them readable.
        outcome: of the m readable images.
    """
    columns = {
        name: column.tolist() if isinstance(column, Tensor) else column
        for name, column in vars(outcome).items()
        if name != "point"
    }
    found = []
    for figures in zip(*columns.values(), strict=True):
        row: dict[str, Any] = dict(zip(columns, figures, strict=True))
        row["success"] = row["label"] != row["attacked_label"]
        row["found_by"] = ",".join(row["found_by"])
        if not math.isfinite(row["value"]):  # JSON has no infinity
            row["value"] = None
        if row["method"] == NOT_ATTACKED:
            row["attempt"] = None
        found.append(row)
    return rows_of_chunk(first, chunk, ATTACK_COLUMNS, found)


@dataclass
class MethodTally:
    """Errors that one attack found.

    Attributes:
        found: all of them.
        first: those that no attack before it found.
        alone: those that no other attack found.
    """

    found: int = 0
    first: int = 0
    alone: int = 0


@dataclass
class AttackTally:
    """Running counts over the rows written so far.

    Attributes:
        methods: what every attack found, by name.
        rows: all rows.
        errors: rows of unreadable images.
        attacked: images that the model has right, by the true label or its own answer.
        fooled: of those, the ones of which an attack made the model wrong.
        labelled: images whose true label is known.
        right: of those, the ones that the model has right.
        robust: of those, the ones that it has right whatever the attacks do.
        gradient_steps: spent on all images.
        queries: the same.
    """

    methods: dict[str, MethodTally] = field(default_factory=dict)
    rows: int = 0
    errors: int = 0
    attacked: int = 0
    fooled: int = 0
    labelled: int = 0
    right: int = 0
    robust: int = 0
    gradient_steps: int = 0
    queries: int = 0

    @staticmethod
    def of(methods: Sequence[str]) -> AttackTally:
        """No rows yet, of these attacks."""
        return AttackTally({name: MethodTally() for name in methods})

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Count some more rows."""
        for row in rows:
            self.rows += 1
            if row["error"] is not None:
                self.errors += 1
                continue
            right = row["base_label"] == row["attacked_label"]
            self.attacked += right
            self.fooled += right and row["success"]
            if row["true_label"] is not None:
                self.labelled += 1
                self.right += right
                self.robust += not row["success"]
            self.gradient_steps += row["gradient_steps"]
            self.queries += row["queries"]
            found_by = row["found_by"].split(",") if row["found_by"] else []
            for place, name in enumerate(found_by):
                tally = self.methods[name]
                tally.found += 1
                tally.first += place == 0
                tally.alone += len(found_by) == 1

    def to_dict(self) -> dict[str, Any]:
        """The counts, and the rates; accuracy where true labels are known."""
        counts: dict[str, Any] = {
            "rows": self.rows,
            "errors": self.errors,
            "attacked": self.attacked,
            "fooled": Proportion(self.fooled, self.attacked).to_dict(),
        }
        if self.labelled:
            counts |= {
                "accuracy": Proportion(self.right, self.labelled).to_dict(),
                "accuracy_under_attack": Proportion(self.robust, self.labelled).to_dict(),
            }
        return counts | {
            "found": {name: dict(vars(tally)) for name, tally in self.methods.items()},
            "gradient_steps": self.gradient_steps,
            "queries": self.queries,
        }

    def sentence(self) -> str:
        """The counts as one line."""
        text = f"{self.rows - self.errors} images"
        if self.errors:
            text += f", {self.errors} unreadable"
        text += f": {Proportion(self.fooled, self.attacked)} of the right answers lost"
        if self.labelled:
            clean, robust = (Proportion(n, self.labelled) for n in (self.right, self.robust))
            text += f"; accuracy {clean}, under attack {robust}"
        found = [
            f"{name} {tally.found} ({tally.alone} alone, {tally.first} first)"
            for name, tally in self.methods.items()
        ]
        return f"{text}; errors found: {', '.join(found)}"
