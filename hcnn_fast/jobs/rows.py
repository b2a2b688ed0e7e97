"""Rows of `defend`: one per image, the same columns for every input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hcnn_fast.defense import Prediction
from hcnn_fast.evaluation import Proportion
from hcnn_fast.jobs.chunk_rows import rows_of_chunk
from hcnn_fast.jobs.readers import Chunk

COLUMNS: dict[str, type] = {
    "index": int,
    "name": str,
    "label": int,
    "class_name": str,
    "confidence": float,
    "accepted": bool,
    "base_label": int,
    "base_confidence": float,
    "value": float,
    "winner": int,
    "true_label": int,
    "error": str,
}


def rows_of(
    first: int,
    chunk: Chunk,
    prediction: Prediction,
    base: Tensor,  # [m, C] logits of the base model
    class_names: Sequence[str] | None,
) -> list[dict[str, Any]]:
    """One row for every image of a chunk; an unreadable one has only index, name and error.

    Args:
        first: index of the chunk's first image in the input.
        chunk: names, errors and true labels of n images, m of them readable.
        prediction: for the m readable images.
        base: the base model's logits for them.
        class_names: names of the classes, or None.
    """
    class_names = class_names or ()
    base_confidence, base_label = base.softmax(1).max(1)
    search = prediction.search
    figures = zip(
        prediction.label.tolist(),
        prediction.confidence.tolist(),
        prediction.accepted.tolist(),
        base_label.tolist(),
        base_confidence.tolist(),
        search.value.tolist(),
        search.label.tolist(),
        strict=True,
    )
    found = (
        {
            "label": label,
            "class_name": class_names[label] if 0 <= label < len(class_names) else None,
            "confidence": confidence,
            "accepted": accepted,
            "base_label": plain,
            "base_confidence": plain_confidence,
            "value": value if math.isfinite(value) else None,  # JSON has no infinity
            "winner": winner,
        }
        for label, confidence, accepted, plain, plain_confidence, value, winner in figures
    )
    return rows_of_chunk(first, chunk, COLUMNS, found)


@dataclass
class Tally:
    """Running counts over the rows written so far.

    Attributes:
        rows: all rows.
        errors: rows of unreadable images.
        accepted: accepted images.
        changed: accepted images whose label is not the base model's.
        labelled: images whose true label is known.
        right: of those, the ones accepted with the true label.
        wrong: of those, the ones accepted with another label.
        base_right: of those, the ones that the base model labels rightly.
    """

    rows: int = 0
    errors: int = 0
    accepted: int = 0
    changed: int = 0
    labelled: int = 0
    right: int = 0
    wrong: int = 0
    base_right: int = 0

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Count some more rows."""
        for row in rows:
            self.rows += 1
            if row["error"] is not None:
                self.errors += 1
                continue
            accepted, target = row["accepted"], row["true_label"]
            self.accepted += accepted
            self.changed += accepted and row["label"] != row["base_label"]
            if target is not None:
                self.labelled += 1
                self.right += accepted and row["label"] == target
                self.wrong += accepted and row["label"] != target
                self.base_right += row["base_label"] == target

    def to_dict(self) -> dict[str, Any]:
        """The counts, and the rates that the true labels allow."""
        counts: dict[str, Any] = {
            "rows": self.rows,
            "errors": self.errors,
            "accepted": self.accepted,
            "rejected": self.rows - self.errors - self.accepted,
            "label_changed": self.changed,
        }
        if self.labelled:
            counts |= {
                "base_accuracy": Proportion(self.base_right, self.labelled).to_dict(),
                "right_and_accepted": Proportion(self.right, self.labelled).to_dict(),
                "wrong_and_accepted": Proportion(self.wrong, self.labelled).to_dict(),
            }
        return counts

    def sentence(self) -> str:
        """The counts as one line."""
        read = self.rows - self.errors
        text = f"{read} images: {self.accepted} accepted, {read - self.accepted} rejected"
        if self.errors:
            text += f", {self.errors} unreadable"
        text += f"; {self.changed} accepted with another label than the base model's"
        if self.labelled:
            text += (
                f"; true labels: base right {self.base_right}/{self.labelled}, accepted"
                f" {self.right}/{self.labelled} right and {self.wrong}/{self.labelled} wrong"
            )
        return text
