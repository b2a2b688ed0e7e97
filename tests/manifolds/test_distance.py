"""Distances to a manifold by neighbours: algebra of the projection, closed forms, angles."""

from __future__ import annotations

import math

import pytest
import torch
from closed_form_manifolds import LinearManifold, Z, circles
from torch import Tensor

from hcnn_fast.manifolds import Tangent, angle_between, manifold_distance, tangents

FLAT = LinearManifold.random()


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def flat_samples(count: int) -> Tensor:  # [count, D]
    return FLAT(normal(count, Z, seed=1), torch.zeros(count))


def projector(tangent: Tangent, row: int) -> Tensor:  # [D, D]
    return tangent.basis[row].T @ tangent.basis[row]


def test_the_projection_is_idempotent_symmetric_and_leaves_what_is_orthogonal() -> None:
    x, samples = normal(4, 12), normal(60, 12, seed=1)
    tangent = tangents(x, samples, neighbours=6)
    assert tangent.rank.tolist() == [5] * 4  # six points around their mean
    for row in range(4):
        p = projector(tangent, row)
        torch.testing.assert_close(p @ p, p, rtol=0, atol=1e-12)
        torch.testing.assert_close(p.T, p, rtol=0, atol=1e-12)
        left = tangent.residual(x)[row]
        assert float((tangent.basis[row] @ left).abs().max()) < 1e-12


def test_residuals_are_those_of_least_squares() -> None:
    x, samples = normal(4, 12), normal(60, 12, seed=1)
    tangent = tangents(x, samples, neighbours=6)
    distance = manifold_distance(x, x + normal(4, 12, seed=2), tangent)
    for row in range(4):
        near = samples[(samples - x[row]).norm(dim=1).argsort()[:6]]
        spread = (near - near.mean(0)).T  # [D, 6]
        best = torch.linalg.lstsq(spread, (x[row] - near.mean(0))[:, None], driver="gelsd").solution
        left = (x[row] - near.mean(0)) - (spread @ best)[:, 0]
        assert math.isclose(float(distance.image[row]), float(left.norm()), abs_tol=1e-10)


def test_neighbours_that_repeat_add_no_direction() -> None:
    x, samples = normal(1, 12), normal(4, 12, seed=1)
    once = tangents(x, samples, neighbours=4)
    twice = tangents(x, torch.cat([samples, samples]), neighbours=8)
    assert once.rank.tolist() == twice.rank.tolist() == [3]
    torch.testing.assert_close(projector(twice, 0), projector(once, 0), rtol=0, atol=1e-10)
    same = tangents(x, samples[:1].expand(5, -1), neighbours=5)
    assert same.rank.tolist() == [0]
    distance = manifold_distance(x, x + 1.0, same)
    assert math.isclose(float(distance.image), float((x - samples[0]).norm()), rel_tol=1e-12)
    assert float(distance.angle) == math.pi / 2


def test_on_a_flat_manifold_distance_and_angle_are_the_closed_forms() -> None:
    x, weight = flat_samples(5), normal(12, seed=3)
    tangent = tangents(x, flat_samples(200), neighbours=20)
    assert tangent.rank.tolist() == [Z] * 5
    on = torch.eye(12, dtype=torch.float64) - FLAT.basis @ torch.linalg.pinv(FLAT.basis)
    delta = 0.1 * weight.sign()
    distance = manifold_distance(x, x + delta, tangent)
    off = (on @ delta).norm()
    torch.testing.assert_close(distance.perturbed, off.expand(5), rtol=0, atol=1e-10)
    angle = torch.asin(off / delta.norm())
    torch.testing.assert_close(distance.angle, angle.expand(5), rtol=0, atol=1e-10)
    assert float(distance.image.max()) < 1e-10
    along = manifold_distance(x, FLAT(normal(5, Z, seed=8), x), tangent)
    assert float(along.perturbed.max()) <= 1e-6
    assert float(along.angle.max()) < 1e-6


def test_an_image_that_was_not_moved_has_no_angle() -> None:
    x = flat_samples(2)
    distance = manifold_distance(x, x, tangents(x, flat_samples(50), neighbours=10))
    assert bool(distance.angle.isnan().all())


def test_the_ruler_is_the_image_s_own_also_for_what_it_became() -> None:
    x, samples = normal(3, 12), normal(60, 12, seed=1)
    tangent = tangents(x, samples, neighbours=6)
    there = manifold_distance(x, samples[:3], tangent)
    back = manifold_distance(samples[:3], x, tangent)
    torch.testing.assert_close(there.perturbed, back.image)
    # The third sample lies in its own span, but not in that of another image's neighbours.
    assert float(there.perturbed[2]) > 0.5


@pytest.mark.parametrize("degrees", [0.0, 1e-7, 30.0, 45.0, 60.0, 75.0, 90.0, 179.9999])
def test_angles_are_right_where_arccos_is_and_where_it_is_not(degrees: float) -> None:
    a, raw = normal(1, 50), normal(1, 50, seed=4)
    normal_to_a = raw - (raw @ a.T) / a.square().sum() * a
    turn = math.radians(degrees)
    b = math.cos(turn) * a / a.norm() + math.sin(turn) * normal_to_a / normal_to_a.norm()
    before = a.clone()
    for scale in (1.0, 1e-3, 7.0):
        found = float(angle_between(a, scale * b))
        assert math.isclose(found, turn, abs_tol=1e-13)
        if 1.0 < degrees < 179.0:
            cosine = float((a @ (scale * b).T) / (a.norm() * (scale * b).norm()))
            assert abs(found - math.acos(cosine)) < 1e-10
    assert torch.equal(a, before)


def test_the_estimate_on_a_circle_tends_to_the_distance_as_samples_grow_dense() -> None:
    phi = torch.linspace(0.0, 6.0, 12, dtype=torch.float64)[:, None]
    y = torch.zeros(12, dtype=torch.int64)
    x = circles(phi, y)
    moved = 1.3 * x  # | |x| - 1 | = 0.3
    errors = []
    for count in (100, 1000, 10000):
        angles = 2 * math.pi * torch.arange(count, dtype=torch.float64)[:, None] / count
        # Two neighbours span a line, which is all of a circle's tangent.
        tangent = tangents(x, circles(angles, torch.zeros(count, dtype=torch.int64)), neighbours=2)
        distance = manifold_distance(x, moved, tangent)
        errors.append(float((distance.perturbed - 0.3).abs().max()))
        assert float(distance.angle.min()) > math.pi / 2 - 7.0 / count
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    assert errors[2] < 1e-4


def test_8_bit_samples_are_taken_in_units_of_255() -> None:
    images = torch.randint(256, (30, 1, 3, 4), generator=torch.Generator().manual_seed(0))
    bytes_, floats = images.to(torch.uint8), images.double() / 255.0
    a, b = (tangents(floats[:2], s, neighbours=5) for s in (bytes_, floats))
    torch.testing.assert_close(a.centre, b.centre, rtol=0, atol=1e-12)


def test_bad_counts_and_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="neighbours is 6, expected an int >= 2 and at most the 5"):
        tangents(normal(1, 12), normal(5, 12), neighbours=6)
    with pytest.raises(ValueError, match="neighbours is 1"):
        tangents(normal(1, 12), normal(5, 12), neighbours=1)
    with pytest.raises(ValueError, match="samples have shape"):
        tangents(normal(1, 12), normal(5, 11), neighbours=3)
