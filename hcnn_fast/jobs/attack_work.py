"""The work of `attack`: whether any of several attacks makes a model wrong about an image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hcnn_fast import backends
from hcnn_fast.attacks import AttackResult, worst_case
from hcnn_fast.defense import Defense
from hcnn_fast.engine.inputs import check_finite
from hcnn_fast.failures import WrongUsage
from hcnn_fast.jobs.attack_plan import AttackPlan
from hcnn_fast.jobs.attack_rows import (
    ATTACK_COLUMNS,
    NOT_ATTACKED,
    AttackOutcome,
    attack_rows_of,
)
from hcnn_fast.jobs.readers import Chunk
from hcnn_fast.jobs.work import BaseModel, beside_rows, placed


@dataclass(frozen=True)
class AttackTask:
    """Attacks with the model they are for; see `work.RowTask`.

    Attributes:
        model: classifier.
        model_name: what messages call it.
        plan: the attacks.
    """

    model: nn.Module
    model_name: str
    plan: AttackPlan

    kind: ClassVar[str] = "attack"
    columns: ClassVar[Mapping[str, type]] = ATTACK_COLUMNS

    def settings(self, device: str) -> dict[str, Any]:
        """See `work.RowTask`."""
        return {
            "attack": {
                **self.plan.to_dict(),
                # a list, for the order of the attacks decides between equals
                "methods": [[name, self.plan.settings_of(name)] for name in self.plan.methods],
            },
            "backend": backends.resolve(self.plan.backend, device),
        }

    def work(self, device: torch.device) -> AttackWork:
        """See `work.RowTask`."""
        model, search = self.model.eval().to(device), self.plan.search_config()
        target = model if search is None else Defense(model, search)
        return AttackWork(target, device, self.plan, self.model_name)


class AttackWork:
    """The rows of a chunk, from attacks on a model.

    Images that the model gets wrong as they are need no attack. What a point is worth the plain
    model, or the defence, says, asked about the whole chunk: rows are true whatever an attack
    claims of its points.

    Args:
        model: what is attacked, on `device`: a classifier in eval mode, or a `Defense`.
        device: where the images go.
        plan: the attacks.
        model_name: what messages call the model.
    """

    def __init__(
        self, model: nn.Module, device: torch.device, plan: AttackPlan, model_name: str
    ) -> None:
        self._base, self._device, self._plan = BaseModel(model, model_name), device, plan

    def rows(self, first: int, chunk: Chunk) -> tuple[list[dict[str, Any]], Tensor]:
        """See `work.RowWork`.

        Raises:
            WrongUsage: the model cannot read the first images that it gets, or lacks a true label.
            Exception: as the attacks.
        """
        images = placed(chunk.images, self._device)  # [m, *image]
        base = self._answers(images)
        label = self._attacked_labels(chunk, base)  # [m]
        right = base.label == label  # [m] bool
        results = self._plan.run(self._base.model, images[right], label[right])
        tries = [self._tried(images, label, right, result) for result in results.values()]
        outcome = _joined(images, label, base, right, tries, tuple(results))
        return attack_rows_of(first, chunk, outcome), beside_rows(outcome.point, chunk)

    def _answers(self, images: Tensor) -> _Answers:  # [m, *image]
        logits = check_finite(self._base.logits(images))  # [m, C]
        confidence, label = logits.float().softmax(1).max(1)
        return _Answers(label, confidence, logits.shape[1])

    def _attacked_labels(self, chunk: Chunk, base: _Answers) -> Tensor:  # [m] int64
        """The true labels; the model's own where they are not known."""
        readable = [error is None for error in chunk.errors]
        targets = [target for target, kept in zip(chunk.targets, readable, strict=True) if kept]
        labels = []
        for target, own in zip(targets, base.label.tolist(), strict=True):
            if target is not None and not 0 <= target < base.classes:
                raise WrongUsage(
                    f"the input has the true label {target}, expected 0 <= label <"
                    f" {base.classes}, the number of classes of model {self._base.name}"
                )
            labels.append(own if target is None else target)
        return torch.tensor(labels, dtype=torch.int64, device=self._device)

    def _tried(
        self,
        images: Tensor,  # [m, *image]
        label: Tensor,  # [m]
        right: Tensor,  # [m] bool
        result: AttackResult,  # of those alone that are right
    ) -> _Try:
        point, value = images.clone(), images.new_full((len(images),), torch.nan)
        attempt = torch.zeros_like(label)
        point[right], attempt[right] = result.point, result.attempt
        value[right] = result.value.to(value.dtype)
        answers = self._answers(point)
        whole = AttackResult(
            point=point,
            value=value,
            success=answers.label != label,
            confidence=answers.confidence,
            attempt=attempt,
            gradient_steps=result.gradient_steps,
            queries=result.queries,
        )
        return _Try(whole, answers)


@dataclass(frozen=True)
class _Answers:
    """The plain model at m points: labels and their probabilities [m], and how many classes."""

    label: Tensor
    confidence: Tensor
    classes: int


@dataclass(frozen=True)
class _Try:
    """One attack's points for a whole chunk, the images themselves where it was not made."""

    result: AttackResult  # success and confidence by the plain model
    answers: _Answers


def _joined(
    images: Tensor,  # [m, *image]
    label: Tensor,  # [m]
    base: _Answers,
    right: Tensor,  # [m] bool
    tries: Sequence[_Try],  # one of every attack
    names: Sequence[str],
) -> AttackOutcome:
    """The worst that the attacks found for every image."""
    results = [each.result for each in tries]
    worst = worst_case(results)
    image = torch.arange(len(images), device=images.device)

    def chosen(values: Iterable[Tensor]) -> Tensor:  # [m] of every attack
        return torch.stack(list(values))[worst.attack, image]

    found = torch.stack([result.success & right for result in results], 1)  # [m, A]
    return AttackOutcome(
        attacked_label=label,
        base_label=base.label,
        base_confidence=base.confidence,
        point=worst.point,
        label=chosen(each.answers.label for each in tries),
        confidence=worst.confidence,
        distance=(worst.point - images).abs().flatten(1).amax(1),
        value=chosen(result.value for result in results),
        attempt=chosen(result.attempt for result in results),
        method=[
            names[attack] if attacked else NOT_ATTACKED
            for attack, attacked in zip(worst.attack.tolist(), right.tolist(), strict=True)
        ],
        found_by=[list(compress(names, row)) for row in found.tolist()],
        gradient_steps=_shares(sum(result.gradient_steps for result in results), right),
        queries=_shares(sum(result.queries for result in results), right),
    )


def _shares(total: int, right: Tensor) -> list[int]:  # [m] bool -> [m]
    """What was spent on the images that were attacked, evenly, and no less than all of it."""
    count = int(right.sum())
    shares = (total * (k + 1) // count - total * k // count for k in range(count))
    return [next(shares) if attacked else 0 for attacked in right.tolist()]
