"""The hash that keys the random starts: known answers, and the same in every backend."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_backends import every_backend, fast_backend
from tiny_classifiers import images
from torch import Tensor

from hcnn_fast import ops
from hcnn_fast.reference.operations import _mix

WORD = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15  # what splitmix64 adds to its state before it mixes it


def mix(bits: int) -> int:
    """The finaliser of splitmix64 in Python's integers."""
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & WORD
    return bits ^ (bits >> 31)


def hash_by_hand(image: Tensor) -> int:
    """The definition, one element after the other, as a signed 64-bit number."""
    values = (image.cpu().flatten() + 0.0).numpy()
    words = values.view(np.uint32 if values.dtype == np.float32 else np.uint64).tolist()
    total = sum(mix((word + mix(i + 1)) & WORD) for i, word in enumerate(words)) & WORD
    return total - 2**64 if total >= 2**63 else total


@pytest.mark.parametrize(
    ("state", "output"),
    [  # the published first outputs of splitmix64 for the seeds 0 and 1234567
        (GOLDEN, 0xE220A8397B1DCDAF),
        ((1234567 + GOLDEN) & WORD, 6457827717110365317),
        ((1234567 + 2 * GOLDEN) & WORD, 3203168211198807973),
    ],
)
def test_the_mixing_is_that_of_splitmix64(state: int, output: int) -> None:
    assert mix(state) == output
    assert int(_mix(np.array([state], dtype=np.uint64))[0]) == output


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5, 4)])
def test_the_hash_is_the_sum_of_the_mixed_elements(
    backend: str, device: torch.device, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    x = images(5, shape, dtype=dtype)
    expected = [hash_by_hand(row) for row in x]
    assert ops.content_hash(x.to(device), backend=backend).tolist() == expected


@fast_backend
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(0, 9),
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**31),
)
def test_the_hash_equals_the_reference(
    backend: str,
    device: torch.device,
    rows: int,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    seed: int,
) -> None:
    x = images(rows, shape, dtype=dtype, seed=seed) - 0.5
    x[x.abs() < 0.05] = -0.0
    expected = ops.content_hash(x, backend="reference")
    assert torch.equal(ops.content_hash(x.to(device), backend=backend).cpu(), expected)


@every_backend
def test_both_zeros_have_one_hash(backend: str, device: torch.device) -> None:
    x = torch.tensor([[0.0, 1.0, 0.0], [-0.0, 1.0, -0.0]], device=device)
    first, second = ops.content_hash(x, backend=backend).tolist()
    assert first == second


@every_backend
def test_the_layout_in_memory_does_not_count(backend: str, device: torch.device) -> None:
    x = images(4, (3, 6, 5)).to(device)
    expected = ops.content_hash(x, backend=backend)
    assert torch.equal(
        ops.content_hash(x.to(memory_format=torch.channels_last), backend=backend), expected
    )
    padded = torch.zeros(4, 3, 6, 9, device=device)
    padded[..., 2:7] = x
    assert torch.equal(ops.content_hash(padded[..., 2:7], backend=backend), expected)


@every_backend
def test_what_changes_an_image_changes_its_hash(backend: str, device: torch.device) -> None:
    x = images(1, (40,)).to(device)
    swapped = x.clone()
    swapped[0, 0], swapped[0, 1] = x[0, 1], x[0, 0]
    next_number = torch.nextafter(x, torch.ones_like(x))
    changed = torch.where(torch.eye(40, dtype=torch.bool, device=device), next_number, x)
    hashes = ops.content_hash(torch.cat([x, swapped, changed]), backend=backend).tolist()
    assert len(set(hashes)) == 42


@every_backend
def test_an_image_has_the_same_hash_in_every_batch(backend: str, device: torch.device) -> None:
    x = images(33, (3, 4, 4)).to(device)
    together = ops.content_hash(x, backend=backend)
    alone = torch.cat([ops.content_hash(row[None], backend=backend) for row in x])
    assert torch.equal(together, alone)


@every_backend
def test_hashes_of_random_images_use_all_bits(backend: str, device: torch.device) -> None:
    hashes = ops.content_hash(images(2000, (3,)).to(device), backend=backend).cpu().numpy()
    bits = np.unpackbits(hashes.view(np.uint8).reshape(2000, 8), axis=1)
    assert np.abs(bits.mean(0) - 0.5).max() < 0.06  # five standard deviations
