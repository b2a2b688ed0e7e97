"""Beyond one machine: defended inference on Ray, the same rows as in one process."""

from __future__ import annotations

from hcnn_fast.scale.defend import DefendedRows, defend
from hcnn_fast.scale.engine import Cluster

__all__ = ["Cluster", "DefendedRows", "defend"]
