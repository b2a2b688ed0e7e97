"""Attacks: projected-gradient searches for points that a classifier gets wrong."""

from hcnn_fast.attacks.pgd import pgd
from hcnn_fast.attacks.result import AttackResult

__all__ = ["AttackResult", "pgd"]
