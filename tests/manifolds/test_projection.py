"""The nearest point of a known manifold: found where it is known."""

from __future__ import annotations

import pytest
import torch
from closed_form_manifolds import LinearManifold, Z, circles, wide_box

from hcnn_fast.manifolds import Coded, LatentBox, coded_glyphs, project
from hcnn_fast.manifolds.glyphs import decode_glyphs, latent_box


def test_glyphs_come_back_to_a_residual_of_0_from_random_starts() -> None:
    made, box = coded_glyphs("hard", "test", images=16), latent_box("hard")
    images = decode_glyphs(made.coded.code, made.coded.condition)
    generator = torch.Generator().manual_seed(3)
    far = torch.lerp(box.lower, box.upper, torch.rand(16, 6, generator=generator))
    began = (decode_glyphs(far, made.coded.condition) - images).flatten(1).norm(dim=1)
    found = project(images, decode_glyphs, Coded(far, made.coded.condition), box=box)
    assert float(began.min()) > 2.0
    assert int((found.residual < 1e-3).sum()) >= 15
    torch.testing.assert_close(
        (found.point - images).flatten(1).double().norm(dim=1), found.residual
    )
    assert torch.equal(found.point, decode_glyphs(found.code, made.coded.condition))
    assert bool(((found.code >= box.lower) & (found.code <= box.upper)).all())
    assert len(torch.unique(found.start)) > 2


def test_noise_that_leaves_the_manifold_is_found_to_have_left_it() -> None:
    made, box = coded_glyphs("hard", "test", images=8), latent_box("hard")
    clean = decode_glyphs(made.coded.code, made.coded.condition)
    noise = 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    found = project(clean + noise, decode_glyphs, made.coded, box=box, starts=1, steps=50)
    size = noise.flatten(1).double().norm(dim=1)  # 784 directions, of which 6 are along
    assert bool((found.residual <= size + 1e-6).all())
    assert bool((found.residual > 0.95 * size).all())


def test_on_a_flat_manifold_it_is_the_orthogonal_projection() -> None:
    flat = LinearManifold.random()
    generator = torch.Generator().manual_seed(0)
    x = flat.centre + torch.randn(5, 12, dtype=torch.float64, generator=generator)
    first = Coded(torch.zeros(5, Z, dtype=torch.float64), torch.zeros(5, dtype=torch.int64))
    found = project(x, flat, first, box=wide_box(5.0), starts=2, steps=20)
    code = (x - flat.centre) @ torch.linalg.pinv(flat.basis).T
    torch.testing.assert_close(found.code, code, rtol=0, atol=1e-7)
    expected = (x - flat(code, first.condition)).norm(dim=1)
    torch.testing.assert_close(found.residual, expected, rtol=0, atol=1e-9)


def test_on_a_circle_the_residual_is_the_difference_of_radii() -> None:
    angle = torch.tensor([[0.3], [2.5], [-2.0], [1.0]], dtype=torch.float64)
    y = torch.tensor([0, 1, 0, 1])
    x = torch.tensor([0.4, 1.7, 3.0, 2.0], dtype=torch.float64)[:, None] * circles(
        angle, torch.zeros_like(y)
    )
    box = LatentBox(torch.tensor([-3.2]), torch.tensor([3.2]))
    found = project(x, circles, Coded(torch.zeros(4, 1, dtype=torch.float64), y), box=box)
    radius = torch.tensor([0.6, 0.3, 2.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(found.residual, radius, rtol=0, atol=1e-9)


def test_more_starts_never_end_farther_away_and_the_given_code_is_never_lost() -> None:
    made, box = coded_glyphs("hard", "test", images=8), latent_box("hard")
    images = decode_glyphs(made.coded.code, made.coded.condition)
    found = project(images, decode_glyphs, made.coded, box=box, starts=4, steps=6)
    assert float(found.residual.max()) == 0.0
    assert torch.equal(found.code, made.coded.code)


def test_bad_arguments_are_refused() -> None:
    made, box = coded_glyphs("hard", "test", images=3), latent_box("hard")
    images = made.data.scaled()
    with pytest.raises(ValueError, match="starts is 0"):
        project(images, decode_glyphs, made.coded, box=box, starts=0)
    with pytest.raises(ValueError, match=r"step_size is 2\.0"):
        project(images, decode_glyphs, made.coded, box=box, step_size=2.0)
    with pytest.raises(ValueError, match="3 codes and 3 conditions, expected one for each of 2"):
        project(images[:2], decode_glyphs, made.coded, box=box)
