"""One record per example from the attempts made on it: the worst of them for each event."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hcnn_fast.evaluation.table import AttemptTable, Classifier


@dataclass(frozen=True)
class Outcomes:
    """How N examples fare under one classifier, clean and in the worst of their attempts.

    Scores are confidences, and -inf where there is none, so that for every threshold t the event
    "some attempt is wrong and accepted at t" is wrong_score >= t: an OR over attempts, which a
    choice of one attempt per example before t is known can miss (spec B.6). The clean image is an
    attempt as well wherever its columns are combined with those of the attack.

    Attributes:
        example: [N] int64 ids, ascending.
        label: [N] int64 true classes.
        base_right: [N] bool, the base classifier is right on the clean image.
        right: [N] bool, this classifier is.
        clean_score: [N] float64 confidence on the clean image; -inf where it has no answer.
        attacked: [N] bool, there is an attempt besides the clean image.
        wrong_score: [N] float64 largest confidence of an attempt with a wrong answer; -inf if none.
        attacked_score: [N] float64 largest confidence of any attempt; -inf if none.
    """

    example: Tensor
    label: Tensor
    base_right: Tensor
    right: Tensor
    clean_score: Tensor
    attacked: Tensor
    wrong_score: Tensor
    attacked_score: Tensor

    def __len__(self) -> int:
        return len(self.example)

    def take(self, examples: Tensor) -> Outcomes:
        """The examples where the mask [N] holds, or those of the given indices."""
        return Outcomes(**{name: column[examples] for name, column in vars(self).items()})

    def survivors(self, threshold: float = 0.0) -> Tensor:  # [N] bool
        """Which examples get no wrong answer that is accepted, clean or in any attempt."""
        clean_error = ~self.right & (self.clean_score >= threshold)  # [N]
        return ~clean_error & (self.wrong_score < threshold)

    def check_attacked(self, needed: Tensor) -> None:  # needed: [N] bool
        """Refuse to count as robust what was never attacked.

        Raises:
            ValueError: an example where `needed` holds has no attempt besides the clean image.
        """
        missing = self.example[needed & ~self.attacked]
        if len(missing):
            raise ValueError(
                f"{len(missing)} of {len(self)} examples, the first with id {int(missing[0])}, "
                "have no attempt, expected one or more besides the clean image"
            )


def any_attempt(table: AttemptTable, event: Tensor) -> Tensor:  # event [R] bool -> [N] bool
    """Whether the event holds in some row of each example, in ascending order of their ids."""
    example, owner = torch.unique(table.example, return_inverse=True)  # [N], [R]
    return torch.zeros_like(example).scatter_add(0, owner, event.long()) > 0


def worst_case_outcomes(table: AttemptTable, classifier: Classifier) -> Outcomes:
    """The worst case per example over all attempts in the table.

    Args:
        table: attempts of one threat model (`AttemptTable.select`), and one clean row per example.
        classifier: "base" or "defended", whose answers count.

    Raises:
        ValueError: an example without exactly one clean row.
    """
    answers = table.answers(classifier)
    score, clean = answers.score(), table.is_clean()  # [R], [R]
    example, owner = torch.unique(table.example, return_inverse=True)  # [N], [R]
    clean_rows = torch.zeros_like(example).scatter_add(0, owner, clean.long())  # [N]
    odd = example[clean_rows != 1]
    if len(odd):
        rows = int(clean_rows[clean_rows != 1][0])
        raise ValueError(f"example {int(odd[0])} has {rows} clean rows, expected 1")
    row_of = torch.empty_like(example)  # [N] row of the clean image
    row_of[owner[clean]] = clean.nonzero()[:, 0]
    wrong = answers.wrong(table.label)  # [R]
    tried = score.masked_fill(clean, -torch.inf)  # [R]
    return Outcomes(
        example=example,
        label=table.label[row_of],
        base_right=table.base.right(table.label)[row_of],
        right=answers.right(table.label)[row_of],
        clean_score=score[row_of],
        attacked=any_attempt(table, ~clean),
        wrong_score=_largest(tried.masked_fill(~wrong, -torch.inf), owner, len(example)),
        attacked_score=_largest(tried, owner, len(example)),
    )


def selected_attempt_outcomes(table: AttemptTable, classifier: Classifier) -> Outcomes:
    """The published reduction: per example only the attempt with the largest max_{k != y} F_k.

    Stutz et al. 2020 evaluate so, and all metrics then see this one attempt. It can hide an error
    where the threshold is below 1/2: use it to compare with published numbers, and
    `worst_case_outcomes` to state a robustness.

    Raises:
        ValueError: an example without exactly one clean row.
    """
    answers = table.answers(classifier)
    clean = table.is_clean()  # [R]
    example, owner = torch.unique(table.example, return_inverse=True)  # [N], [R]
    strength = answers.wrong_confidence.masked_fill(clean, -torch.inf)  # [R]
    strongest = _largest(strength, owner, len(example))  # [N]
    row = torch.arange(len(table))  # [R]
    candidate = ~clean & (strength == strongest[owner])  # [R]
    first = row.new_full((len(example),), len(table))  # [N] first of equals
    first = first.scatter_reduce(0, owner[candidate], row[candidate], "amin")  # [N]
    kept = clean | (row == first[owner])  # [R]
    return worst_case_outcomes(table.take(kept), classifier)


def _largest(score: Tensor, owner: Tensor, examples: int) -> Tensor:  # [R], [R] -> [N]
    """The largest score of each example; -inf where it has none."""
    empty = score.new_full((examples,), -torch.inf)  # [N]
    return empty.scatter_reduce(0, owner, score, "amax")
