"""Small random attempt tables with many ties, and their rows as plain values for brute force."""

from __future__ import annotations

from typing import Any, Literal

import torch

from hcnn_fast.evaluation import Answers, AttemptTable, concatenate

CLASSES = 4
STEPS = 6  # probabilities are multiples of 1 / STEPS, so that equal ones are frequent
KINDS = ("mixed", "all_right", "all_wrong")
Kind = Literal["mixed", "all_right", "all_wrong"]


def random_answers(
    label: torch.Tensor,  # [R]
    generator: torch.Generator,
    kind: Kind = "mixed",
) -> Answers:
    """Answers to examples of the given classes; one in eight is missing in mixed ones."""
    draws = torch.randint(CLASSES, (len(label), STEPS), generator=generator)  # [R, STEPS]
    towards_label = torch.rand(draws.shape, generator=generator) < 0.4  # [R, STEPS]
    draws = torch.where(towards_label, label[:, None], draws)
    probability = torch.nn.functional.one_hot(draws, CLASSES).sum(1).double() / STEPS  # [R, C]
    if kind != "mixed":
        probability = probability.sort(1, descending=True).values
        place = torch.arange(CLASSES).repeat(len(label), 1)  # [R, C] probability of class k
        shift = label if kind == "all_right" else label + 1
        probability = probability.gather(1, (place - shift[:, None]) % CLASSES)
        probability += 1e-3 * (place == (shift % CLASSES)[:, None])  # no tie for the first place
        probability /= probability.sum(1, keepdim=True)
    confidence, prediction = probability.max(1)  # [R], [R]
    right = torch.arange(CLASSES) == label[:, None]  # [R, C]
    accepted = torch.rand(len(label), generator=generator) < 0.7  # [R]
    if kind == "mixed":
        absent = torch.rand(len(label), generator=generator) < 1 / 8  # [R]
        prediction = prediction.masked_fill(absent, -1)
        accepted &= ~absent
    return Answers(
        prediction=prediction,
        confidence=confidence,
        wrong_confidence=probability.masked_fill(right, 0.0).amax(1),
        accepted=accepted,
    )


def random_table(
    seed: int,
    examples: int = 12,
    attempts: int = 3,
    kind: Kind = "mixed",
) -> AttemptTable:
    """`attempts` attacks of radii 0.1, 0.2, ... on every example, and the clean rows."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randperm(10 * examples, generator=generator)[:examples]
    label = torch.randint(CLASSES, (examples,), generator=generator)
    parts = []
    for attempt in range(attempts + 1):
        radius = attempt / 10
        parts.append(
            AttemptTable.of_attempt(
                example=ids,
                label=label,
                attack=f"attack {attempt}" if attempt else "clean",
                radius=radius,
                distance=radius * torch.rand(examples, generator=generator).double(),
                restart=attempt // 2,
                seed=seed,
                gradient_steps=attempt,
                base=random_answers(label, generator, kind),
                defended=random_answers(label, generator, kind),
                label_rank=torch.randint(CLASSES, (examples,), generator=generator),
                loss=torch.rand(examples, generator=generator),
            )
        )
    table = concatenate(parts)
    return table.take(torch.randperm(len(table), generator=generator))


def rows_by_example(table: AttemptTable, classifier: str) -> dict[int, list[dict[str, Any]]]:
    """For every example id its rows, each as plain values of one classifier."""
    answers = getattr(table, classifier)
    found: dict[int, list[dict[str, Any]]] = {}
    for row in range(len(table)):
        label, prediction = int(table.label[row]), int(answers.prediction[row])
        found.setdefault(int(table.example[row]), []).append(
            {
                "clean": table.attack[row] == "clean",
                "right": prediction == label and prediction != -1,
                "wrong": prediction not in (label, -1),
                "answered": prediction != -1,
                "confidence": float(answers.confidence[row]),
                "wrong_confidence": float(answers.wrong_confidence[row]),
                "radius": float(table.radius[row]),
                "distance": float(table.distance[row]),
                "base_right": int(table.base.prediction[row]) == label,
            }
        )
    return found
