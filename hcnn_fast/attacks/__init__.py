"""Attacks: projected-gradient searches for points that a classifier gets wrong."""

from hcnn_fast.attacks.apgd import apgd_targeted
from hcnn_fast.attacks.confident import confident_pgd, strengthened_pgd
from hcnn_fast.attacks.confident_cw import confident_cw
from hcnn_fast.attacks.pgd import pgd
from hcnn_fast.attacks.pgd_conf import pgd_conf
from hcnn_fast.attacks.result import AttackResult
from hcnn_fast.attacks.transfer import transfer
from hcnn_fast.attacks.worst_case import WorstCase, worst_case

__all__ = [
    "AttackResult",
    "WorstCase",
    "apgd_targeted",
    "confident_cw",
    "confident_pgd",
    "pgd",
    "pgd_conf",
    "strengthened_pgd",
    "transfer",
    "worst_case",
]
