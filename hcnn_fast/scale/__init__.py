"""Beyond one machine: defended inference and attacks on Ray, the same rows as in one process."""

from __future__ import annotations

from hcnn_fast.jobs.attack_plan import AttackPlan
from hcnn_fast.scale.attack import attack
from hcnn_fast.scale.defend import defend
from hcnn_fast.scale.engine import Cluster
from hcnn_fast.scale.stored_rows import StoredRows

__all__ = ["AttackPlan", "Cluster", "StoredRows", "attack", "defend"]
