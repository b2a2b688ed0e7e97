"""Attacks: searches, with gradients or without, for points that a classifier gets wrong."""

from hcnn_fast.attacks.distal import distal, uniform_noise
from hcnn_fast.attacks.frames import frames
from hcnn_fast.attacks.nes import nes
from hcnn_fast.attacks.pgd import pgd
from hcnn_fast.attacks.random_search import random_search
from hcnn_fast.attacks.rays import rays
from hcnn_fast.attacks.result import AttackResult
from hcnn_fast.attacks.square import square

__all__ = [
    "AttackResult",
    "distal",
    "frames",
    "nes",
    "pgd",
    "random_search",
    "rays",
    "square",
    "uniform_noise",
]
