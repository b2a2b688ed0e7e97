"""How every kernel is started: one program a row, in blocks of the row's entries."""

from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

LARGEST_BLOCK = 1024

# Whether TRITON_INTERPRET=1 stood in the environment when Triton and these kernels were imported.
INTERPRETED = isinstance(tl.sum, InterpretedFunction) and triton.knobs.runtime.interpret


def block_of(entries: int) -> int:
    """Entries that a program takes at once: a power of two."""
    return min(LARGEST_BLOCK, int(triton.next_power_of_2(max(entries, 1))))


def launch(kernel: Any, like: Tensor, rows: int, *arguments: object, **constants: object) -> None:
    """Run a kernel once a row on the device of `like`, without fused multiply-adds.

    The kernel's constant BLOCK gives the number of warps.
    """
    if rows == 0:
        return
    with torch.cuda.device(like.device) if like.is_cuda else nullcontext():
        kernel[(rows,)](
            *arguments,
            **constants,
            num_warps=max(1, int(str(constants["BLOCK"])) // 256),
            enable_fp_fusion=False,
        )
