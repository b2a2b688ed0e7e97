"""The affine family of the known manifold against shifts, rotations, its product and slopes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hcnn_fast.manifolds.affine import affine_matrix, moved
from hcnn_fast.manifolds.fonts import prototypes
from hcnn_fast.manifolds.glyphs import latent_box

IDENTITY = torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
STEP = 2.0 / 27.0  # from one pixel to the next


def letters(count: int) -> Tensor:  # [count, 1, 28, 28]
    return prototypes()[: 17 * count : 17].double()


def code(**values: float) -> Tensor:  # [1, 6]
    places = {"t1": 0, "t2": 1, "s1": 2, "s2": 3, "scale": 4, "r": 5}
    made = IDENTITY.clone()
    for name, value in values.items():
        made[0, places[name]] = value
    return made


def random_codes(count: int, seed: int = 0) -> Tensor:  # [count, 6]
    box = latent_box("hard")
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(count, 6, generator=generator, dtype=torch.float64)
    return torch.lerp(box.lower.double(), box.upper.double(), share)


def test_the_linear_part_is_scale_times_shears_times_rotation() -> None:
    codes = random_codes(50)
    for row, found in zip(codes, affine_matrix(codes), strict=True):
        _, _, s1, s2, scale, r = row.tolist()
        shears = torch.tensor([[1.0, s1], [s2, 1.0]], dtype=torch.float64)
        turn = torch.tensor(
            [[math.cos(r), -math.sin(r)], [math.sin(r), math.cos(r)]], dtype=torch.float64
        )
        torch.testing.assert_close(found[:, :2], scale * shears @ turn, rtol=0, atol=1e-12)
        assert torch.equal(found[:, 2], row[:2])


def test_the_identity_code_returns_the_prototypes() -> None:
    images = letters(10)
    assert float((moved(images, IDENTITY.expand(10, 6)) - images).abs().max()) <= 1e-6


@pytest.mark.parametrize(("right", "down"), [(2, 0), (0, 3), (-1, 2)])
def test_a_translation_by_whole_pixels_is_a_shift(right: int, down: int) -> None:
    images = torch.rand(3, 1, 28, 28, dtype=torch.float64)
    found = moved(images, code(t1=-right * STEP, t2=-down * STEP).expand(3, 6))
    padded = torch.nn.functional.pad(images, (4, 4, 4, 4))
    expected = padded[:, :, 4 - down : 32 - down, 4 - right : 32 - right]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("turns", [1, 2, -1])
def test_quarter_turns_are_rot90(turns: int) -> None:
    images = torch.rand(3, 1, 28, 28, dtype=torch.float64)
    found = moved(images, code(r=turns * math.pi / 2).expand(3, 6))
    torch.testing.assert_close(found, torch.rot90(images, turns, dims=(2, 3)), rtol=0, atol=1e-12)


def test_the_inverse_map_brings_smooth_images_back() -> None:
    place = torch.linspace(-1.0, 1.0, 28, dtype=torch.float64)
    hill = torch.exp(-8.0 * ((place[:, None] - 0.1) ** 2 + (place[None, :] + 0.2) ** 2))[None, None]
    there = code(r=0.5, scale=1.1, t1=0.08)
    # x_in = s R(r) x_out + t, so the way back is s' = 1 / s, r' = -r, t' = -R(-r) t / s.
    matrix = affine_matrix(there)[0]
    back = -torch.linalg.solve(matrix[:, :2], matrix[:, 2])
    again = code(r=-0.5, scale=1 / 1.1, t1=float(back[0]), t2=float(back[1]))
    # Bilinear sampling is off by at most |second derivative| * step^2 / 8 along each axis, twice.
    limit = 2 * 2 * 16.0 * STEP**2 / 8
    assert float((moved(moved(hill, there), again) - hill).abs().max()) < limit
    assert float((moved(hill, there) - hill).abs().max()) > 0.2


def test_slopes_are_those_of_finite_differences() -> None:
    codes, images = random_codes(8, seed=1), letters(8)
    weight = torch.randn(8, 1, 28, 28, dtype=torch.float64)
    leaf = codes.clone().requires_grad_()
    (moved(images, leaf) * weight).sum().backward()
    for place in range(6):
        tiny = torch.zeros(6, dtype=torch.float64)
        tiny[place] = 1e-7  # small: bilinear sampling has kinks wherever a point meets a pixel
        rise = moved(images, codes + tiny) - moved(images, codes - tiny)
        expected = (rise * weight).sum((1, 2, 3)) / 2e-7
        torch.testing.assert_close(leaf.grad[:, place], expected, rtol=1e-4, atol=1e-4)
