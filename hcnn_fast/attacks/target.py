"""A classifier as an attack sees it: values, verdicts, and every image that it was asked about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from hcnn_fast.engine.inputs import (
    Classifier,
    as_logits,
    check_finite,
    check_labels,
    check_model,
)
from hcnn_fast.engine.memory import in_batches
from hcnn_fast.engine.model import PreparedModel

ObjectiveName = Literal["confidence", "margin"]
ValueFunction = Callable[[Tensor, Tensor], Tensor]
Objective = ObjectiveName | ValueFunction

NO_CLASS = -1  # in place of a label: no class is right, every answer is an error
LARGEST_LABEL = 2**62  # where a model does not say how many classes it has


def check_objective(objective: object) -> None:
    """Refuse an objective that is neither a known name nor a function of points and labels."""
    if not callable(objective) and objective not in get_args(ObjectiveName):
        raise ValueError(
            f"objective is {objective!r}, expected one of {', '.join(get_args(ObjectiveName))}, "
            "or a function of points [B, *image] and labels [B] that gives values [B]"
        )


def objective_of(
    logits: Tensor,  # [B, C]
    y: Tensor,  # [B] int64, NO_CLASS where no class is right
    name: ObjectiveName,
) -> Tensor:  # [B]
    """What rises: log of the largest wrong class's probability, or its logit less that of y."""
    own = y[:, None] == torch.arange(logits.shape[1], device=y.device)  # [B, C]
    if name == "confidence":  # the logarithm, for F_k and its gradient underflow
        return torch.log_softmax(logits, 1).masked_fill(own, -torch.inf).amax(1)
    return logits.masked_fill(own, -torch.inf).amax(1) - logits.gather(1, y[:, None])[:, 0]


@dataclass(frozen=True)
class Judgement:
    """What the model does at points.

    Attributes:
        value: [B], the objective.
        wrong: [B] bool, whether the prediction is not y.
        confidence: [B], the largest probability.
    """

    value: Tensor
    wrong: Tensor
    confidence: Tensor


class Target:
    """The model under attack; counts its queries.

    Args:
        model: nn.Module or callable giving logits [N, C]; left as it is.
        x: [N, *image], the images, for device, dtype and a trial of layouts.
        objective: what rises.
        labelled: whether every image has a right class.
    """

    def __init__(
        self, model: Classifier, x: Tensor, objective: Objective, *, labelled: bool = True
    ) -> None:
        prepared = PreparedModel(check_model(model, x), "float32", x[:1])
        # A callable that is no module may answer with labels, which `exact` would refuse.
        self._answer: Callable[[Tensor], Any] = model
        if isinstance(model, nn.Module):
            self._answer = prepared.exact
        self._objective = objective
        self._finite = torch.ones((), dtype=torch.bool, device=x.device)
        self._labelled = labelled
        self._dtype = x.dtype  # of every logit and value, whatever the model answers in
        self.queries = 0
        self.classes: int | None = None  # known once there were logits

    def _ask(self, z: Tensor) -> Any:
        self.queries += len(z)
        return self._answer(z)

    def _as_finite_logits(self, answer: Any, rows: int) -> Tensor:  # [rows, C]
        logits = as_logits(answer, rows).to(self._dtype)
        self._finite = self._finite & torch.isfinite(logits.detach()).all()
        self.classes = logits.shape[1]
        return logits

    def logits(self, z: Tensor) -> Tensor:  # [B, *image] -> [B, C]
        """Logits, whose finiteness `verify` looks at: here it would wait for the device."""
        parts: list[Tensor] = []

        def run(begin: int, end: int) -> None:
            parts.append(self._as_finite_logits(self._ask(z[begin:end]), end - begin))

        in_batches(len(z), len(z), run)
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def verify(self) -> None:
        """Raise ValueError if any logit so far was not finite."""
        if not bool(self._finite):
            check_finite(torch.full((1, 1), torch.nan))

    def _own_values(self, z: Tensor, y: Tensor, function: ValueFunction) -> Tensor:  # [B]
        self.queries += len(z)
        value = function(z, y)
        if not isinstance(value, Tensor) or value.shape != y.shape or not value.is_floating_point():
            found = f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else value
            raise ValueError(f"objective returned {found!r}, expected floating values [{len(z)}]")
        if bool(value.isnan().any()):
            raise ValueError("objective returned NaN, expected numbers (-inf where there is none)")
        return value.to(self._dtype)

    def values(self, z: Tensor, y: Tensor) -> Tensor:  # [B, *image], [B] -> [B]
        """The objective at z."""
        if isinstance(self._objective, str):
            return objective_of(self.logits(z), y, self._objective)
        return self._own_values(z, y, self._objective)

    def judge_images(self, x: Tensor, y: Tensor) -> Judgement:  # [B, *image], [B]
        """What the model does at the images themselves, its answer and the labels checked."""
        logits = self.logits(x)
        self.check(x, y)
        return self._judgement(logits, y, x)

    def check(self, x: Tensor, y: Tensor) -> None:
        """Check what was answered so far, and that the labels are classes of the model."""
        self.verify()
        if self._labelled:
            check_labels(y, x, self.classes or LARGEST_LABEL)

    def _judgement(self, logits: Tensor, y: Tensor, z: Tensor) -> Judgement:
        """Verdict and confidence by the logits, and the objective by whatever gives it."""
        if isinstance(self._objective, str):
            value = objective_of(logits, y, self._objective)
        else:
            value = self._own_values(z, y, self._objective)
        confidence = torch.softmax(logits, 1).amax(1)
        return Judgement(value=value, wrong=logits.argmax(1) != y, confidence=confidence)

    def judge(
        self,
        z: Tensor,  # [B, *image]
        y: Tensor,  # [B]
        floor: Tensor,  # [B]
    ) -> Judgement:
        """Objective, verdict and confidence at z.

        With a value function the model itself is asked only where the value lies above `floor`;
        elsewhere the verdict is "right", with confidence 0.
        """
        if isinstance(self._objective, str):
            return self._judgement(self.logits(z), y, z)
        value = self._own_values(z, y, self._objective)
        wrong, confidence = torch.zeros_like(y, dtype=torch.bool), torch.zeros_like(value)
        rows = (value > floor).nonzero()[:, 0]
        if len(rows):
            logits = self.logits(z[rows])
            wrong[rows] = logits.argmax(1) != y[rows]
            confidence[rows] = torch.softmax(logits, 1).amax(1)
        return Judgement(value=value, wrong=wrong, confidence=confidence)

    def verdict(self, z: Tensor) -> tuple[Tensor, Tensor]:  # [B, *image] -> [B] int64, [B]
        """Labels and confidences, where the model may also answer with labels [B], -1: rejected.

        Such a model says nothing of its confidence, which is then NaN.
        """
        answer = self._ask(z)
        if isinstance(answer, Tensor) and not answer.is_floating_point():
            if answer.shape != (len(z),):
                raise ValueError(
                    f"model returned {answer.dtype} of shape {tuple(answer.shape)}, expected "
                    f"labels [{len(z)}] or logits [{len(z)}, C]"
                )
            return answer.long(), z.new_full((len(z),), torch.nan)
        logits = self._as_finite_logits(answer, len(z))
        return logits.argmax(1), torch.softmax(logits, 1).amax(1)
