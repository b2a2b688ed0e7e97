"""Attacks: projected-gradient searches for points that a classifier gets wrong."""

from hcnn_fast.attacks.pgd import pgd
from hcnn_fast.attacks.pgd_conf import pgd_conf
from hcnn_fast.attacks.result import AttackResult

__all__ = ["AttackResult", "pgd", "pgd_conf"]
