"""What one classifier says at the rows of a table, as checked columns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NO_ANSWER = -1  # prediction of a classifier that has none, such as NCN where infeasible

ANSWER_COLUMNS: dict[str, torch.dtype] = {
    "prediction": torch.int64,
    "confidence": torch.float64,
    "wrong_confidence": torch.float64,
    "accepted": torch.bool,
}


def as_column(name: str, values: object, dtype: torch.dtype) -> Tensor:  # [R]
    """`values` [R] as a tensor of its own on the CPU, floats widened without a change of value.

    Raises:
        TypeError: not a tensor, or a kind of number that `dtype` does not hold.
        ValueError: not one-dimensional, or NaN.
    """
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} is a {type(values).__name__}, expected a tensor [R]")
    if values.ndim != 1:
        raise ValueError(f"{name} has the shape {tuple(values.shape)}, expected [R]")
    narrower = {
        torch.bool: not values.is_floating_point() and values.dtype == torch.bool,
        torch.int64: not values.is_floating_point() and values.dtype != torch.bool,
        torch.float64: values.is_floating_point(),
    }
    if values.is_complex() or not narrower[dtype]:
        raise TypeError(f"{name} is of {values.dtype}, expected values for {dtype}")
    column = values.detach().to("cpu", dtype, copy=True)  # [R]
    if column.isnan().any():
        raise ValueError(f"{name} is NaN in row {int(column.isnan().nonzero()[0])}")
    return column


def refuse_rows(rows: Tensor, name: str, values: Tensor, expected: str) -> None:
    """Raise for the first row where the mask `rows` [R] holds."""
    if rows.any():
        row = int(rows.nonzero()[0])
        raise ValueError(f"{name} is {values[row].item()!r} in row {row}, expected {expected}")


@dataclass(frozen=True)
class Answers:
    """What one classifier says at R points; values are copied to the CPU.

    Attributes:
        prediction: [R] int64, before any rejection; -1 where there is no answer at all.
        confidence: [R] float64 in [0, 1], the largest probability.
        wrong_confidence: [R] float64 in [0, 1], max over k != y of F_k; equals the confidence where
            the prediction is wrong.
        accepted: [R] bool, under the threshold in force when the row was stored. Metrics that take
            a threshold look at the confidence instead.

    Raises:
        TypeError, ValueError: a column has another type or length, NaN, or a value out of range.
    """

    prediction: Tensor
    confidence: Tensor
    wrong_confidence: Tensor
    accepted: Tensor

    def __post_init__(self) -> None:
        for name, dtype in ANSWER_COLUMNS.items():
            object.__setattr__(self, name, as_column(name, getattr(self, name), dtype))
        lengths = {name: len(getattr(self, name)) for name in ANSWER_COLUMNS}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the answers have the lengths {lengths}, expected one length R")
        for name in ("confidence", "wrong_confidence"):
            values = getattr(self, name)  # [R]
            refuse_rows((values < 0.0) | (values > 1.0), name, values, "a probability in [0, 1]")
        refuse_rows(self.prediction < NO_ANSWER, "prediction", self.prediction, "a class or -1")
        unanswered = self.accepted & (self.prediction == NO_ANSWER)  # [R]
        refuse_rows(unanswered, "accepted", self.accepted, "False where the prediction is -1")

    def __len__(self) -> int:
        return len(self.prediction)

    @classmethod
    def from_logits(
        cls,
        logits: Tensor,  # [R, C]
        label: Tensor,  # [R] int64; -1 where no class is right
        threshold: float = 0.0,
    ) -> Answers:
        """The answers of softmax(logits), accepted from the confidence `threshold` on.

        The softmax is taken in the precision of `logits`, as `Defense.predict` does, so that a
        confidence equal to the threshold stays equal to it.
        """
        probability = torch.softmax(logits.detach(), 1)  # [R, C]
        confidence, prediction = probability.max(1)  # [R], [R]
        classes = torch.arange(logits.shape[1], device=logits.device)  # [C]
        right = classes == label.to(logits.device)[:, None]  # [R, C]
        return cls(
            prediction=prediction,
            confidence=confidence,
            wrong_confidence=probability.masked_fill(right, 0.0).amax(1),
            accepted=confidence >= threshold,
        )

    def score(self) -> Tensor:  # [R]
        """The confidence, and -inf where there is no answer: accepted at t where score >= t."""
        return self.confidence.masked_fill(self.prediction == NO_ANSWER, -torch.inf)

    def right(self, label: Tensor) -> Tensor:  # label [R] -> [R] bool
        """Where the class `label` is predicted; never where that is -1."""
        return (self.prediction == label) & (self.prediction != NO_ANSWER)

    def wrong(self, label: Tensor) -> Tensor:  # label [R] -> [R] bool
        """Where a class is predicted that is not `label`; no answer is not a wrong one."""
        return (self.prediction != label) & (self.prediction != NO_ANSWER)

    def take(self, rows: Tensor) -> Answers:
        """The answers at `rows`, a mask [R] or indices."""
        return Answers(**{name: getattr(self, name)[rows] for name in ANSWER_COLUMNS})
