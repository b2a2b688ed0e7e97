"""Triton kernels of hcnn_fast, installed as `hcnn_fast.kernels`: the operations of the schemas.

Every operation takes the arguments of its schema in csrc/schemas.h in order and writes into the
tensors given to it. Importing this package imports Triton.
"""

from .backtracking_step import backtracking_step_
from .label_objective import label_objective
from .launch import INTERPRETED
from .pgd_step import pgd_step_
from .select import select
from .starts import content_hash, random_starts

__all__ = [
    "INTERPRETED",
    "backtracking_step_",
    "content_hash",
    "label_objective",
    "pgd_step_",
    "random_starts",
    "select",
]
