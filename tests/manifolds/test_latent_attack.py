"""Attacks along a manifold against closed forms, a grid, and the attack on pixels."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from closed_form_manifolds import LinearManifold, Z, circles, two_classes, wide_box
from torch import Tensor, nn

from hcnn_fast import attacks
from hcnn_fast.manifolds import Coded, LatentBox, OnManifoldResult, on_manifold
from hcnn_fast.manifolds.glyphs import coded_glyphs, decode_glyphs, latent_box

ETA = 0.3
FLAT = LinearManifold.random()
WEIGHT = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def flat_codes(count: int) -> tuple[Coded, Tensor]:
    generator = torch.Generator().manual_seed(4)
    code = torch.randn(count, Z, dtype=torch.float64, generator=generator)
    y = (FLAT(code, code) @ WEIGHT > 0).long()
    return Coded(code, torch.zeros(count, dtype=torch.int64)), y


def attack_flat(box: LatentBox, radius: float = ETA, **keywords: Any) -> OnManifoldResult:
    coded, y = flat_codes(6)
    return on_manifold(two_classes(WEIGHT), FLAT, coded, y, radius=radius, box=box, **keywords)


def test_on_a_flat_manifold_the_optimum_is_the_sign_of_the_pulled_back_weights() -> None:
    coded, y = flat_codes(6)
    found = attack_flat(wide_box())
    pulled = FLAT.basis.T @ WEIGHT  # [Z]
    side = 1.0 - 2.0 * y.double()  # f falls for class 1 and rises for class 0
    zeta = ETA * side[:, None] * pulled.sign()
    torch.testing.assert_close(found.code, coded.code + zeta, rtol=0, atol=1e-12)
    change = (found.point - FLAT(coded.code, y)) @ WEIGHT
    torch.testing.assert_close(change, side * ETA * pulled.abs().sum(), rtol=0, atol=1e-12)
    off = found.point - FLAT.centre
    left = off - off @ FLAT.basis @ torch.linalg.inv(FLAT.basis.T @ FLAT.basis) @ FLAT.basis.T
    assert float(left.norm(dim=1).max()) <= 1e-6  # it has not left the manifold
    margin = -((2 * y - 1) * (found.point @ WEIGHT))
    value = torch.nn.functional.softplus(margin).float()
    torch.testing.assert_close(found.value, value)
    assert torch.equal(found.success, margin > 0)


def test_the_box_cuts_the_ball_coordinate_by_coordinate() -> None:
    coded, y = flat_codes(6)
    lower, upper = coded.code.amin(0) - 0.1, coded.code.amax(0) + 0.02
    found = attack_flat(LatentBox(lower, upper))
    pulled = (FLAT.basis.T @ WEIGHT).sign() * (1.0 - 2.0 * y.double())[:, None]
    expected = (coded.code + ETA * pulled).clamp(lower, upper)
    torch.testing.assert_close(found.code, expected, rtol=0, atol=1e-12)
    assert bool((found.code == upper).any())


def test_on_circles_the_worst_angle_is_that_of_a_grid() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.tensor([0, 1] * 8)
    phi = (torch.rand(16, 1, generator=generator, dtype=torch.float64) - 0.5) * 6.0
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator).double())
    box = LatentBox(torch.tensor([-3.2]), torch.tensor([3.2]))
    found = on_manifold(
        net, circles, Coded(phi, y), y, radius=0.5, box=box, steps=60, starts=8, objective="margin"
    )
    offset = torch.linspace(-0.5, 0.5, 2001, dtype=torch.float64)
    angles = (phi + offset).clamp(-3.2, 3.2)  # [16, 2001]
    with torch.no_grad():
        logits = net(circles(angles.flatten()[:, None], y.repeat_interleave(2001)))
    logits = logits.view(16, 2001, 2)
    margin = torch.where(y[:, None] == 0, 1.0, -1.0) * (logits[..., 1] - logits[..., 0])
    best = margin.amax(1)
    assert bool((found.value.double() >= best - 0.02).all())
    assert bool((found.value.double() <= best + 0.02).all())
    assert torch.equal(found.success, best > 0)
    assert 0 < int(found.success.sum()) < 16
    # The radius of the class is frozen: no point has changed circles.
    torch.testing.assert_close(found.point.norm(dim=1), 1.0 + y.double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("objective", ["cross_entropy", "margin"])
def test_with_the_identity_as_decoder_it_is_the_attack_on_pixels(objective: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)).double().eval()
    x = torch.rand(10, 8, dtype=torch.float64, generator=generator)
    y = torch.arange(10) % 3
    box = LatentBox(torch.zeros(8), torch.ones(8))
    settings: dict[str, Any] = {"steps": 12, "starts": 3, "objective": objective, "seed": 5}
    ours = on_manifold(
        net, lambda z, _: z, Coded(x, y), y, radius=0.2, box=box, batch_size=7, **settings
    )
    pixels = attacks.pgd(net, x, y, radius=0.2, **settings)
    torch.testing.assert_close(ours.point, pixels.point, rtol=0, atol=1e-9)
    torch.testing.assert_close(ours.value, pixels.value)
    assert torch.equal(ours.success, pixels.success)
    assert ours.gradient_steps == pixels.gradient_steps == 10 * 12 * 3


def glyph_attack(radius: float, starts: int = 2) -> OnManifoldResult:
    made = coded_glyphs("hard", "test", images=24)
    box = latent_box("hard")
    generator = torch.Generator().manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(10, 784, generator=generator))
        y = net(made.data.scaled()).argmax(1)
    return on_manifold(
        net, decode_glyphs, made.coded, y, radius=radius, box=box, steps=10, starts=starts
    )


def test_glyphs_stay_in_ball_and_box_and_decode_to_the_point() -> None:
    made, box = coded_glyphs("hard", "test", images=24), latent_box("hard")
    found = glyph_attack(0.3)
    assert float((found.code - made.coded.code).abs().max()) <= 0.3 + 1e-6
    assert bool(((found.code >= box.lower) & (found.code <= box.upper)).all())
    assert torch.equal(found.point, decode_glyphs(found.code, made.coded.condition))
    assert found.hits.shape == (24, 2)
    assert torch.equal(found.success, found.hits.any(1))
    assert int(found.success.sum()) > 12


def test_at_radius_0_the_result_is_the_reconstruction() -> None:
    made = coded_glyphs("hard", "test", images=24)
    found = glyph_attack(0.0)
    assert torch.equal(found.code, made.coded.code)
    assert torch.equal(found.point, decode_glyphs(found.code, made.coded.condition))
    assert found.gradient_steps == 0


def test_more_radius_never_means_less_success_on_a_flat_manifold() -> None:
    rates = [int(attack_flat(wide_box(), radius).success.sum()) for radius in (0.0, 0.2, 0.5, 3.0)]
    assert rates == sorted(rates)
    assert (rates[0], rates[-1]) == (0, 6)


def test_what_a_code_gets_does_not_depend_on_its_neighbours() -> None:
    coded, y = flat_codes(6)
    net = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    box, keywords = wide_box(), {"radius": 0.4, "steps": 5, "starts": 3}
    whole = on_manifold(net, FLAT, coded, y, box=box, **keywords)  # type: ignore[arg-type]
    part = Coded(coded.code[3:5], coded.condition[3:5])
    found = on_manifold(net, FLAT, part, y[3:5], box=box, **keywords)  # type: ignore[arg-type]
    torch.testing.assert_close(found.code, whole.code[3:5], rtol=0, atol=1e-9)


def test_model_random_state_and_gradient_mode_are_left_alone() -> None:
    coded, y = flat_codes(4)
    net = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)).double().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.get_rng_state()
    with torch.inference_mode():
        inside = Coded(coded.code.clone(), coded.condition.clone())
        on_manifold(net, FLAT, inside, y.clone(), radius=ETA, box=wide_box(), steps=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training
    assert all(torch.equal(before[name], now) for name, now in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_no_codes_give_an_empty_result() -> None:
    coded, y = flat_codes(0)
    found = on_manifold(two_classes(WEIGHT), FLAT, coded, y, radius=ETA, box=wide_box(), starts=2)
    assert found.point.shape == (0, 12)
    assert found.hits.shape == (0, 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"radius": -1.0}, "radius is -1.0, expected a number >= 0"),
        ({"radius": math.nan}, "radius is nan"),
        ({"step_size": 0.0}, "step_size is 0.0"),
        ({"steps": 0}, "steps is 0"),
        ({"objective": "hinge"}, "objective is 'hinge'"),
        ({"box": wide_box(0.5)}, "outside the box, expected codes in it"),
        ({"box": LatentBox(torch.zeros(2), torch.ones(2))}, "box has 2 coordinates and codes 3"),
        ({"y": torch.zeros(5, dtype=torch.int64)}, r"y has shape \(5,\)"),
        ({"coded": Coded(torch.zeros(6), torch.zeros(6))}, r"code is \[6\]"),
        ({"coded": Coded(torch.zeros(6, 3), torch.zeros(5))}, r"condition has shape \[5\]"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bad_arguments_are_refused_by_name(changes: dict[str, Any], said: str) -> None:
    coded, y = flat_codes(6)
    given: dict[str, Any] = {"coded": coded, "y": y, "radius": ETA, "box": wide_box(), **changes}
    with pytest.raises(ValueError, match=said):
        on_manifold(two_classes(WEIGHT), FLAT, **given)


def test_a_box_whose_sides_cross_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at most upper"):
        LatentBox(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match=r"shapes \[2\] and \[3\]"):
        LatentBox(torch.zeros(2), torch.ones(3))
