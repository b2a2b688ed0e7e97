"""Attacks: searches, with gradients or without, for points that a classifier gets wrong."""

from hcnn_fast.attacks.apgd import apgd_targeted
from hcnn_fast.attacks.confident import confident_pgd, strengthened_pgd
from hcnn_fast.attacks.confident_cw import confident_cw
from hcnn_fast.attacks.danskin import danskin_pgd
from hcnn_fast.attacks.defended import value_margin
from hcnn_fast.attacks.distal import distal, uniform_noise
from hcnn_fast.attacks.frames import frames
from hcnn_fast.attacks.long_range import long_range
from hcnn_fast.attacks.nes import nes
from hcnn_fast.attacks.pgd import pgd
from hcnn_fast.attacks.pgd_conf import pgd_conf
from hcnn_fast.attacks.random_search import random_search
from hcnn_fast.attacks.rays import rays
from hcnn_fast.attacks.result import AttackResult
from hcnn_fast.attacks.square import square
from hcnn_fast.attacks.transfer import transfer
from hcnn_fast.attacks.worst_case import WorstCase, worst_case

__all__ = [
    "AttackResult",
    "WorstCase",
    "apgd_targeted",
    "confident_cw",
    "confident_pgd",
    "danskin_pgd",
    "distal",
    "frames",
    "long_range",
    "nes",
    "pgd",
    "pgd_conf",
    "random_search",
    "rays",
    "square",
    "strengthened_pgd",
    "transfer",
    "uniform_noise",
    "value_margin",
    "worst_case",
]
