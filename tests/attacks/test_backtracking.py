"""Sign ascent with momentum and backtracking: its trajectory by hand, and where it ends."""

from __future__ import annotations

import torch
from torch import Tensor

from hcnn_fast.attacks.backtracking import Ascent, climb
from hcnn_fast.attacks.black_box import run_in_blocks
from hcnn_fast.attacks.block import Block
from hcnn_fast.config import SearchConfig

CENTRE = torch.tensor([0.52, 0.43, 0.9], dtype=torch.float64)


def two_classes(z: Tensor) -> Tensor:
    return torch.zeros(len(z), 2)


def trajectory(
    x: Tensor, slope: Tensor | None, ascent: Ascent, radius: float = 0.2
) -> tuple[list[Tensor], Tensor]:
    """Points asked about and the best point, on slope . z or, for None, -|z - CENTRE|^2."""
    asked: list[Tensor] = []

    def value(z: Tensor, y: Tensor) -> Tensor:
        asked.append(z.clone())
        return -(z - CENTRE).square().sum(1) if slope is None else (z * slope).sum(1)

    def gradient(block: Block, point: Tensor, attempt: int, step: int) -> Tensor:
        return CENTRE - point if slope is None else slope.expand_as(point)

    def attack(block: Block) -> None:
        climb(block, 0, block.images.x, gradient, ascent)

    config = SearchConfig.mcn(radius)
    y = torch.zeros(len(x)).long()
    result = run_in_blocks(two_classes, x, y, config, attack, objective=value)
    return asked[1:], result.point


def test_momentum_is_the_running_mean_of_the_signs() -> None:
    # signs that never change: m_t = 1 - mu^t, and the point adds them up
    x = torch.full((2, 3), 0.5, dtype=torch.float64)
    slope = torch.tensor([2.0, -0.1, 0.0], dtype=torch.float64)
    asked, best = trajectory(x, slope, Ascent(6, 0.01, 0.9, 1.5))
    moved = 0.0
    assert torch.equal(asked[0], x)
    for t, z in enumerate(asked[1:], 1):
        moved += 0.01 * (1.0 - 0.9**t)
        expected = x + moved * torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)
        torch.testing.assert_close(z, expected, rtol=0, atol=1e-15)
    assert len(asked) == 7
    assert torch.equal(best, asked[-1])


def test_a_step_down_is_not_taken_and_the_next_is_shorter() -> None:
    x = torch.tensor([[0.5, 0.43, 0.9]], dtype=torch.float64)
    asked, _ = trajectory(x, None, Ascent(4, 0.09, 0.0, 2.0))
    # 0.02 from the centre: steps of 0.09 and 0.045 overshoot, 0.0225 does not, -0.0225 would
    lengths = [float(z[0, 0]) - 0.5 for z in asked]
    for found, expected in zip(lengths, [0.0, 0.09, 0.045, 0.0225, 0.0], strict=True):
        assert abs(found - expected) < 1e-12


def test_accepted_values_never_fall_and_lead_to_the_known_maximum() -> None:
    x = 0.4 + 0.2 * torch.rand(8, 3, generator=torch.Generator().manual_seed(0)).double()
    asked, best = trajectory(x, None, Ascent(300, 0.05, 0.9, 1.1))
    nearest = torch.minimum(torch.maximum(CENTRE, x - 0.2), x + 0.2)
    torch.testing.assert_close(best, nearest, rtol=0, atol=2e-3)
    # without backtracking the steps keep their length, and circle
    _, circling = trajectory(x, None, Ascent(300, 0.05, 0.9, 1.0))
    assert float((best - nearest).abs().max()) <= float((circling - nearest).abs().max())
    inside = all(
        bool(((z >= (x - 0.2).clamp_min(0)) & (z <= (x + 0.2).clamp_max(1))).all()) for z in asked
    )
    assert inside


def test_a_gradient_that_is_not_a_number_does_not_move() -> None:
    x = torch.full((1, 3), 0.5)
    slope = torch.tensor([torch.nan, 1.0, 0.0])
    seen: list[Tensor] = []

    def gradient(block: Block, point: Tensor, attempt: int, step: int) -> Tensor:
        return slope.expand_as(point)

    def attack(block: Block) -> None:
        climb(block, 0, block.images.x, gradient, Ascent(3, 0.01, 0.0, 1.1))
        seen.append(block.best.point)

    config = SearchConfig.mcn(0.1)
    run_in_blocks(
        two_classes, x, torch.zeros(1).long(), config, attack, objective=lambda z, y: z.sum(1)
    )
    torch.testing.assert_close(seen[0], torch.tensor([[0.5, 0.53, 0.5]]))
