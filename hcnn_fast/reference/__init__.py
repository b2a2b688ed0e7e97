"""The slow twin: the search and its operations as loops and plain tensor expressions.

This is the specification that every fast path must equal. It is written for reading and never
optimised. Decisions that the source paper leaves open are taken and documented here:

* Box. The ball around an image is intersected with `bounds`; the image is clipped to them first.
* Sign. sign(0) = 0; a NaN entry of a gradient counts as 0, an infinite one as the largest number.
* Ties. The lowest label wins, then the lowest start; a later point must be strictly better.
* Entropy is minimised: the paper says "replace ||F||_inf by H", and confidence is low entropy.
* NCN without a p-confident point abstains: label -1, value -inf, the most confident point found.
"""

from hcnn_fast.reference.backtracking_step import backtracking_step_
from hcnn_fast.reference.operations import (
    KINDS,
    content_hash,
    label_objective,
    norm_of,
    pgd_step_,
    random_starts,
    select,
)
from hcnn_fast.reference.oracle import search

__all__ = [
    "KINDS",
    "backtracking_step_",
    "content_hash",
    "label_objective",
    "norm_of",
    "pgd_step_",
    "random_starts",
    "search",
    "select",
]
