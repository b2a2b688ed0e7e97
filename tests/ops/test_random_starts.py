"""Random starts: Philox by its known answers, uniform in ball and bounds, the same everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_backends import every_backend, fast_backend
from scipy import stats
from tiny_classifiers import images
from torch import Tensor

from hcnn_fast import ops
from hcnn_fast.reference.operations import _mix, _philox

WORD = 2**32 - 1


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x32-10 in Python's integers."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        first, second = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            (second >> 32) ^ c1 ^ k0,
            second & WORD,
            (first >> 32) ^ c3 ^ k1,
            first & WORD,
        )
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return c0, c1, c2, c3


def draw(
    x: Tensor,  # [N, *image]
    backend: str,
    *,
    index: list[int] | None = None,
    label: list[int] | None = None,
    start: list[int] | None = None,
    seed: int = 0,
    radius: float = 0.1,
    bounds: tuple[float, float] = (0.0, 1.0),
    image_hash: Tensor | None = None,
) -> Tensor:  # [B, *image]
    index = list(range(len(x))) if index is None else index
    hashes = ops.content_hash(x, backend=backend) if image_hash is None else image_hash
    return ops.random_starts(
        x,
        hashes,
        torch.tensor(index, dtype=torch.int64, device=x.device),
        torch.tensor(label or [0] * len(index), dtype=torch.int64, device=x.device),
        torch.tensor(start or [1] * len(index), dtype=torch.int64, device=x.device),
        seed=seed,
        radius=radius,
        bounds=bounds,
        backend=backend,
    )


@pytest.mark.parametrize(
    ("counter", "key", "output"),
    [  # the known answers of Random123
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((WORD,) * 4, (WORD,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_the_generator_gives_the_known_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], output: tuple[int, int, int, int]
) -> None:
    assert philox(counter, key) == output
    words = _philox(
        [np.array([c], dtype=np.uint64) for c in counter],
        [np.array([k], dtype=np.uint64) for k in key],
    )
    assert tuple(int(word[0]) for word in words) == output


@every_backend
def test_a_start_by_hand(backend: str, device: torch.device) -> None:
    # the hash 0 and the seed 0 make the key 0; label 3 and start 2 go into the counter
    x = torch.tensor([[0.5, 0.25, 0.0, 1.0, 0.75, 0.5]], dtype=torch.float64, device=device)
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    words = [*philox((0, 3, 2, 0), (0, 0)), *philox((1, 3, 2, 0), (0, 0))[:2]]
    lower, upper = [0.25, 0.0, 0.0, 0.75, 0.5, 0.25], [0.75, 0.5, 0.25, 1.0, 1.0, 0.75]
    expected = [
        low + (word >> 8) / 2**24 * (high - low)
        for low, high, word in zip(lower, upper, words, strict=True)
    ]
    z = draw(x, backend, label=[3], start=[2], radius=0.25, image_hash=zero)
    assert z[0].tolist() == expected


@every_backend
def test_hash_and_seed_make_the_key(backend: str, device: torch.device) -> None:
    x = torch.full((1, 1), 0.5, dtype=torch.float64, device=device)
    content = torch.tensor([-123456789], device=device)
    seed = np.array([2**63 - 25], dtype=np.uint64)
    key = int(_mix(np.array([-123456789]).view(np.uint64) ^ _mix(seed))[0])
    word = philox((0, 0, 1, 0), (key & WORD, key >> 32))[0]
    z = draw(x, backend, seed=2**63 - 25, radius=0.5, image_hash=content)
    assert z.item() == (word >> 8) / 2**24


@fast_backend
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=3).map(tuple),
    candidates=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
        max_size=6,
    ),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**63 - 1),
    radius=st.floats(0.0, 3.0),
    low=st.floats(-1.0, 0.3),
    width=st.floats(0.0, 2.0),
)
def test_starts_equal_the_reference(
    backend: str,
    device: torch.device,
    shape: tuple[int, ...],
    candidates: list[tuple[int, int, int]],
    dtype: torch.dtype,
    low: float,
    width: float,
    **options: object,
) -> None:
    x = images(3, shape, dtype=dtype)
    index, label, start = ([c[i] for c in candidates] for i in range(3))
    options.update(index=index, label=label, start=start, bounds=(low, low + width))
    got = draw(x.to(device), backend, **options)
    assert torch.equal(got.cpu(), draw(x, "reference", **options))


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_start_zero_is_the_image(backend: str, device: torch.device, dtype: torch.dtype) -> None:
    x = images(5, (3, 4, 4), dtype=dtype).to(device)
    z = draw(x, backend, start=[0] * 5)
    assert torch.equal(z, x)
    assert z.data_ptr() != x.data_ptr()


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_starts_are_uniform_in_the_ball(
    backend: str, device: torch.device, dtype: torch.dtype
) -> None:
    x = torch.full((1, 40_000), 0.5, dtype=dtype, device=device)
    z = draw(x, backend, radius=0.25)[0].double().cpu().numpy()
    assert stats.kstest((z - 0.25) / 0.5, "uniform").pvalue > 0.01
    assert z.min() < 0.2501
    assert z.max() > 0.7499


@every_backend
def test_starts_are_uniform_where_the_bounds_cut_the_ball(
    backend: str, device: torch.device
) -> None:
    x = torch.full((1, 20_000), 0.75, device=device)
    z = draw(x, backend, radius=0.5)[0].double().cpu().numpy()
    assert stats.kstest((z - 0.25) / 0.75, "uniform").pvalue > 0.01


@every_backend
def test_labels_starts_seeds_and_images_draw_independently(
    backend: str, device: torch.device
) -> None:
    x = torch.full((2, 4000), 0.5, device=device)
    x[1, 0] = 0.5001
    rows = draw(x, backend, index=[0, 0, 0, 1], label=[0, 1, 0, 0], start=[1, 1, 2, 1])
    other_seed = draw(x, backend, index=[0], seed=1)
    centred = (torch.cat([rows, other_seed]) - 0.5).double().cpu().numpy()
    correlation = np.corrcoef(centred)
    assert np.abs(correlation - np.eye(5)).max() < 5 / np.sqrt(4000)


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("radius", "bounds"),
    [
        (0.1, (0.0, 1.0)),
        (1e-7, (0.0, 1.0)),
        (5.0, (0.0, 1.0)),
        (0.3, (-0.1, 0.4)),
        (1e4, (-1e6, 1e6)),
    ],
)
def test_starts_stay_in_ball_and_bounds(
    backend: str,
    device: torch.device,
    dtype: torch.dtype,
    radius: float,
    bounds: tuple[float, float],
) -> None:
    x = images(40, (50,), dtype=dtype).to(device).clamp(*bounds)
    x[:, :5], x[:, 5:10] = bounds
    z = draw(x, backend, radius=radius, bounds=bounds)
    lower, upper = (x - radius).clamp_min(bounds[0]), (x + radius).clamp_max(bounds[1])
    assert bool(((z >= lower) & (z <= upper)).all())


@every_backend
def test_a_candidate_starts_at_the_same_point_in_every_batch(
    backend: str, device: torch.device
) -> None:
    x = images(6, (3, 3, 3)).to(device)
    index, label, start = [5, 0, 3, 3, 1], [1, 0, 4, 2, 9], [1, 3, 0, 2, 7]
    together = draw(x, backend, index=index, label=label, start=start, seed=5)
    for row, (i, at, s) in enumerate(zip(index, label, start, strict=True)):
        alone = draw(x[i : i + 1], backend, index=[0], label=[at], start=[s], seed=5)
        assert torch.equal(alone[0], together[row])


@every_backend
def test_the_layout_in_memory_does_not_count(backend: str, device: torch.device) -> None:
    x = images(3, (3, 4, 5)).to(device)
    strided = x.to(memory_format=torch.channels_last)
    assert torch.equal(draw(strided, backend), draw(x, backend))


@every_backend
def test_global_random_state_is_left_alone(backend: str, device: torch.device) -> None:
    state = torch.random.get_rng_state()
    draw(images(2).to(device), backend)
    assert torch.equal(torch.random.get_rng_state(), state)
