"""Random numbers of training that depend on nothing but their purpose and the seed."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def generator_of(purpose: str, seed: int) -> torch.Generator:
    """A CPU generator for one purpose: the same numbers whatever the device.

    Torch's CPU generator looks at 32 bits of a seed only: these are a hash of all of it, and of the
    purpose, so that no two purposes see the same numbers.
    """
    digest = hashlib.blake2b(f"{purpose}/{seed}".encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def normal_like(
    tensor: Tensor,  # [B, *image]
    purpose: str,
    seed: int,
) -> Tensor:  # [B, *image]
    """Standard normal numbers, the same on every device."""
    generator = generator_of(purpose, seed)
    return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype).to(tensor.device)
