"""winograd_convolution against plain convolutions in float64, for every width of registers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import conv2d

from hcnn_fast.engine.winograd import (
    GAP,
    POINTS,
    PRODUCTS,
    transform_weight,
    winograd_convolution,
)

FLAGS = Path("/proc/cpuinfo")
EPSILON = torch.finfo(torch.float32).eps


def has_registers(size: int) -> bool:
    flags = FLAGS.read_text() if FLAGS.exists() else ""
    return size == 16 or {32: " avx2 ", 64: " avx512vl "}[size] in flags


WIDTHS = [
    pytest.param(
        size, marks=pytest.mark.skipif(not has_registers(size), reason="no such registers")
    )
    for size in (16, 32, 64)
]
every_width = pytest.mark.parametrize("vector_bytes", [0, *WIDTHS])


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def problem(
    images: int, channels: int, outputs: int, height: int, width: int, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Maps, weights and bias, normally distributed; outputs have a variance of 2."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(images, channels, height, width, generator=generator)
    weight = torch.randn(outputs, channels, 3, 3, generator=generator) / (9 * channels) ** 0.5
    return channels_last(maps), weight, torch.randn(outputs, generator=generator)


@every_width
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize(
    ("images", "channels", "outputs", "height", "width"),
    [
        (1, 16, 16, 3, 3),
        (2, 16, 48, 9, 5),
        (3, 32, 32, 7, 8),
        (1, 80, 16, 4, 4),
        (5, 64, 96, 14, 11),
        (40, 16, 32, 13, 1 + 12),
        (0, 16, 16, 8, 8),
    ],
)
def test_it_is_the_convolution(
    images: int,
    channels: int,
    outputs: int,
    height: int,
    width: int,
    padding: int,
    vector_bytes: int,
) -> None:
    maps, weight, bias = problem(images, channels, outputs, height, width)
    expected = conv2d(maps.double(), weight.double(), bias.double(), padding=padding)
    got = winograd_convolution(maps, transform_weight(weight), bias, padding, vector_bytes)
    assert got.shape == expected.shape
    assert got.is_contiguous(memory_format=torch.channels_last)
    error = (got - expected).abs()
    assert not len(error) or float(error.max()) < 100 * EPSILON
    without = winograd_convolution(maps, transform_weight(weight), None, padding, vector_bytes)
    torch.testing.assert_close(without + bias[:, None, None], got, rtol=0, atol=8 * EPSILON)


@every_width
def test_a_single_tap_moves_the_maps(vector_bytes: int) -> None:
    torch.manual_seed(0)
    maps = channels_last(torch.randint(-8, 9, (2, 16, 6, 10)).float())
    for tap in range(9):
        weight = torch.zeros(16, 16, 9)
        weight[torch.arange(16), torch.arange(16).flip(0), tap] = 1.0
        got = winograd_convolution(
            maps, transform_weight(weight.view(16, 16, 3, 3)), None, 1, vector_bytes
        )
        down, across = tap // 3, tap % 3
        padded = torch.nn.functional.pad(maps, (1, 1, 1, 1)).flip(1)
        moved = padded[:, :, down : down + 6, across : across + 10]
        torch.testing.assert_close(got, moved, rtol=0, atol=8 * 32 * EPSILON)


def test_the_rounding_is_at_most_three_times_that_of_a_plain_sum() -> None:
    maps, weight, _ = problem(8, 128, 128, 16, 16)
    expected = conv2d(maps.double(), weight.double(), padding=1)
    found = winograd_convolution(maps, transform_weight(weight), None, 1) - expected
    terms = torch.nn.functional.unfold(maps[:1], 3, padding=1)[0].t()  # [pixels, 1152]
    total = torch.zeros(256, 128)
    for term, taps in zip(terms.unbind(1), weight.flatten(1).unbind(1), strict=True):
        total += term[:, None] * taps
    plain = total.t().reshape(128, 16, 16) - expected[0]
    assert found.square().mean().sqrt() < 3 * plain.square().mean().sqrt()


@pytest.mark.parametrize("vector_bytes", [32, 64])
def test_all_registers_with_fused_products_give_the_same_bits(vector_bytes: int) -> None:
    if not has_registers(vector_bytes):
        pytest.skip("no such registers")
    maps, weight, bias = problem(3, 32, 48, 10, 9)
    transformed = transform_weight(weight)
    widest = winograd_convolution(maps, transformed, bias, 1)
    assert torch.equal(winograd_convolution(maps, transformed, bias, 1, vector_bytes), widest)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@every_width
@pytest.mark.usefixtures("threads")
def test_an_image_has_the_same_bits_alone_and_with_any_number_of_threads(vector_bytes: int) -> None:
    maps, weight, bias = problem(29, 16, 32, 11, 6)
    transformed = transform_weight(weight)
    together = winograd_convolution(maps, transformed, bias, 1, vector_bytes)
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        alone = [
            winograd_convolution(channels_last(part), transformed, bias, 1, vector_bytes)
            for part in maps.split(1)
        ]
        assert torch.equal(torch.cat(alone), together)
        again = winograd_convolution(maps, transformed, bias, 1, vector_bytes)
        assert torch.equal(again, together)


def test_the_weights_are_evaluated_at_the_points() -> None:
    """Constant weights in one direction: rows of G over polynomials of known values."""
    weight = torch.zeros(16, 16, 3, 3)
    weight[0, 0] = torch.tensor([1.0, -2.0, 3.0])[:, None] * torch.tensor([0.0, 0.0, 1.0])
    products = transform_weight(weight).view(6, 6, 16, 16)[..., 0, 0]  # from one panel of 16
    for row, at in enumerate(POINTS):
        apart = 1.0
        for other in POINTS:
            apart *= at - other if other != at else 1.0
        expected = (1.0 - 2.0 * at + 3.0 * at**2) / apart
        assert float(products[row, 5]) == pytest.approx(expected, rel=1e-6)
    assert float(products[5, 5]) == 3.0


@every_width
@settings(max_examples=30)
@given(
    images=st.integers(1, 3),
    channels=st.sampled_from([16, 32, 48]),
    outputs=st.sampled_from([16, 32, 80]),
    height=st.integers(1, 13),
    width=st.integers(1, 13),
    padding=st.integers(0, 2),
    slots=st.integers(1, 4),
    together=st.sampled_from([12, 24, 36]),
    seed=st.integers(0, 99),
)
def test_nothing_is_written_beyond_workspace_and_output(
    images: int,
    channels: int,
    outputs: int,
    height: int,
    width: int,
    padding: int,
    slots: int,
    together: int,
    seed: int,
    vector_bytes: int,
) -> None:
    down, across = height + 2 * padding - 2, width + 2 * padding - 2
    if min(down, across) < 1:
        return
    maps, weight, bias = problem(images, channels, outputs, height, width, seed)
    work = slots * together * (PRODUCTS * (channels + outputs) + 2 * GAP)
    guarded = torch.full((64 + work + 64,), float("nan"))
    workspace = guarded[64:-64].view(slots, together, -1)
    count = images * outputs * down * across
    memory = torch.full((64 + count + 64,), float("nan"))
    out = memory[64:-64].view(images, down, across, outputs).permute(0, 3, 1, 2)
    torch.ops.hcnn_fast.winograd_convolution(
        maps, transform_weight(weight), bias, padding, vector_bytes, workspace, out
    )
    expected = conv2d(maps.double(), weight.double(), bias.double(), padding=padding)
    assert float((out - expected).abs().max()) < 100 * EPSILON
    for guard in (guarded[:64], guarded[-64:], memory[:64], memory[-64:]):
        assert guard.isnan().all()


def arguments() -> dict[str, Any]:
    maps, weight, bias = problem(2, 16, 32, 6, 5)
    return {
        "maps": maps,
        "weight": transform_weight(weight),
        "bias": bias,
        "padding": 1,
        "vector_bytes": 0,
        "workspace": torch.empty(2, 12, PRODUCTS * 48 + 2 * GAP),
        "out": channels_last(torch.empty(2, 32, 6, 5)),
    }


REFUSED = {
    "maps of float64": ("maps", lambda a: a["maps"].double()),
    "maps in the other order": ("maps", lambda a: a["maps"].contiguous()),
    "maps without images": ("maps", lambda a: a["maps"][0]),
    "maps with gaps": ("maps", lambda a: a["maps"][:, :, :, ::2]),
    "maps of 8 channels": ("channels", lambda a: channels_last(a["maps"][:, :8])),
    "weights as they were": ("weight", lambda a: torch.randn(32, 16, 3, 3)),
    "weights of other channels": ("weight", lambda a: a["weight"][:, :-32].contiguous()),
    "weights of float64": ("weight", lambda a: a["weight"].double()),
    "bias too short": ("bias", lambda a: a["bias"][:-1]),
    "bias of float64": ("bias", lambda a: a["bias"].double()),
    "padding of 3": ("padding", lambda a: 3),
    "negative padding": ("padding", lambda a: -1),
    "registers of 24 bytes": ("vector_bytes", lambda a: 24),
    "workspace of no slots": ("workspace", lambda a: a["workspace"][:0]),
    "workspace of few tiles": ("workspace", lambda a: a["workspace"][:, :11].contiguous()),
    "workspace of small tiles": ("workspace", lambda a: a["workspace"][..., 1:].contiguous()),
    "workspace of float64": ("workspace", lambda a: a["workspace"].double()),
    "output too small": ("out", lambda a: channels_last(a["out"][:, :, 1:])),
    "output of other images": ("out", lambda a: channels_last(a["out"][1:])),
    "output in the other order": ("out", lambda a: a["out"].contiguous()),
    "output of float64": ("out", lambda a: a["out"].double()),
    "output on another device": ("devices", lambda a: a["out"].to("meta")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_cannot_do_is_refused_by_name(case: str) -> None:
    named, change = REFUSED[case]
    whole = arguments()
    torch.ops.hcnn_fast.winograd_convolution(*whole.values())
    which = {"channels": "maps", "devices": "out"}.get(named, named)
    whole[which] = change(whole)
    with pytest.raises((RuntimeError, NotImplementedError), match=rf"\b{named}\b"):
        torch.ops.hcnn_fast.winograd_convolution(*whole.values())


@pytest.mark.parametrize("name", ["maps", "weight", "bias"])
@pytest.mark.parametrize("written", ["workspace", "out"])
def test_memory_that_is_read_cannot_be_written(written: str, name: str) -> None:
    whole = arguments()
    needed = whole[written].numel()
    memory = torch.zeros(needed + whole[name].numel())
    shape = whole[name].shape
    shared = memory[needed - 1 :][: whole[name].numel()]
    if name == "maps":
        whole[name] = shared.view(2, 6, 5, 16).permute(0, 3, 1, 2)
    else:
        whole[name] = shared.view(shape)
    if written == "out":
        whole[written] = memory[:needed].view(2, 6, 5, 32).permute(0, 3, 1, 2)
    else:
        whole[written] = memory[:needed].view(whole[written].shape)
    with pytest.raises(RuntimeError, match=rf"{written} shares memory with {name}"):
        torch.ops.hcnn_fast.winograd_convolution(*whole.values())
