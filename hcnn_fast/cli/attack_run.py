"""The work behind `hcnn-fast attack`: attack chunk by chunk, write as it goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hcnn_fast import backends
from hcnn_fast.cli.row_run import RowRequest, row_run
from hcnn_fast.jobs.attack_plan import AttackPlan
from hcnn_fast.jobs.attack_rows import ATTACK_COLUMNS, AttackTally
from hcnn_fast.jobs.attack_work import AttackTask


@dataclass(frozen=True, kw_only=True)
class AttackRequest(RowRequest):
    """What `hcnn-fast attack` was asked for, apart from how its summary is printed."""

    plan: AttackPlan


@dataclass(frozen=True)
class AttackReport:
    """What came of it."""

    request: AttackRequest
    tally: AttackTally
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        request, plan = self.request, self.request.plan
        return {
            **request.files(),
            **self.tally.to_dict(),
            **request.speed(self.tally.rows, self.seconds),
            "backend": backends.resolve(plan.backend, request.device.type),
            "attack": plan.to_dict(),
        }

    def sentence(self) -> str:
        """One line for people."""
        return self.request.ended(self.tally.sentence(), self.tally.rows, self.seconds)


def run_attack(request: AttackRequest) -> AttackReport:
    """Write a row for every image of the input.

    Raises:
        WrongUsage: the request cannot be met; found before the work where possible.
        FailedRun: it failed on the way; the message says where the rows until then are.
        Interrupted: Ctrl-C; the same.
    """
    tally = AttackTally.of(request.plan.methods)
    with row_run(request, ATTACK_COLUMNS) as run:
        task = AttackTask(run.classifier.model, request.model, request.plan)
        seconds = run.write(task, tally, "Attacking")
    return AttackReport(request, tally, seconds)
