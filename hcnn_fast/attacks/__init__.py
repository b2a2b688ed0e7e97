"""Attacks: searches, with gradients or without, for points that a classifier gets wrong."""

from hcnn_fast.attacks.pgd import pgd
from hcnn_fast.attacks.result import AttackResult
from hcnn_fast.attacks.square import square

__all__ = ["AttackResult", "pgd", "square"]
