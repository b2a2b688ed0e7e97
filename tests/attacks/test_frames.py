"""Adversarial frames: nothing but the frame changes, and a linear model is attacked exactly."""

from __future__ import annotations

import pytest
import torch
from tiny_classifiers import Counting, convolutional, images, linear
from torch import Tensor

from hcnn_fast.attacks import frames


def inside(shape: tuple[int, ...], width: int) -> Tensor:  # [H, W] bool
    mask = torch.zeros(shape[-2:], dtype=torch.bool)
    for row in range(width, shape[-2] - width):
        for column in range(width, shape[-1] - width):
            mask[row, column] = True
    return mask


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_only_the_frame_changes_and_stays_in_bounds(width: int, dtype: torch.dtype) -> None:
    shape = (2, 8, 9)
    model, x = linear(shape, 4, dtype=dtype), images(6, shape, dtype=dtype)
    result = frames(model, x, torch.arange(6) % 4, width=width, steps=20, starts=2, step_size=0.1)
    kept = inside(shape, width)
    assert torch.equal(result.point[..., kept], x[..., kept])
    assert bool((result.point[..., ~kept] != x[..., ~kept]).any(0).all())
    assert bool(((result.point >= 0.0) & (result.point <= 1.0)).all())


def test_the_frame_of_a_linear_model_ends_at_its_best_corner() -> None:
    shape = (1, 7, 7)
    model, x = linear(shape, 2, dtype=torch.float64), images(6, shape, dtype=torch.float64)
    y = torch.arange(6) % 2
    result = frames(model, x, y, width=2, steps=60, step_size=0.1, objective="margin")
    slope = (model[1].weight[1] - model[1].weight[0]).detach().view(1, *shape)
    slope = torch.where((y == 0).view(-1, 1, 1, 1), slope, -slope)
    best = torch.where(inside(shape, 2), x, (slope > 0).double())
    assert torch.equal(result.point, best)
    logits = model(best).detach()
    margin = (logits.gather(1, 1 - y[:, None]) - logits.gather(1, y[:, None]))[:, 0]
    torch.testing.assert_close(result.value, margin.float())
    assert torch.equal(result.success, logits.argmax(1) != y)


@pytest.mark.parametrize("objective", ["confidence", "margin"])
def test_the_result_says_what_the_model_does_at_the_point(objective: str) -> None:
    model, x = convolutional(), images(12)
    y = model(x).argmax(1)
    y[::4] = (y[::4] + 1) % 5
    result = frames(model, x, y, width=1, steps=15, objective=objective)
    logits = model(result.point).detach()
    assert 0 < int(result.success.sum()) < 12
    assert torch.equal(result.success, logits.argmax(1) != y)
    torch.testing.assert_close(result.confidence, torch.softmax(logits, 1).amax(1))
    scores = torch.log_softmax(logits, 1) if objective == "confidence" else logits
    value = scores.scatter(1, y[:, None], -torch.inf).amax(1)
    if objective == "margin":
        value = value - scores.gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(result.value, value)
    assert result.gradient_steps == 12 * 15


def test_a_wider_frame_and_more_starts_are_never_weaker() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).double()
    x = images(20, (1, 8, 8), dtype=torch.float64)
    y = model(x).argmax(1)
    narrow, wide = (frames(model, x, y, width=w, step_size=0.1) for w in (1, 3))
    assert bool((wide.success >= narrow.success).all())
    assert bool((wide.value >= narrow.value).all())
    again = frames(model, x, y, width=1, step_size=0.1, starts=3)
    assert bool((again.value >= narrow.value).all())


def test_the_first_start_is_the_image_and_the_others_have_random_frames() -> None:
    seen: list[Tensor] = []
    model = linear((1, 6, 6), 3)

    def recording(z: Tensor) -> Tensor:
        seen.append(z.detach().clone())
        return model(z)

    x = 0.25 + 0.5 * images(4, (1, 6, 6))
    frames(recording, x, torch.zeros(4).long(), steps=1, starts=2, width=1, batch_size=100)
    # the image, then for each start: its first point, the gradient there, the step
    assert torch.equal(seen[1], x)
    kept = inside((6, 6), 1)
    assert torch.equal(seen[4][..., kept], x[..., kept])
    border = seen[4][..., ~kept]
    assert float(border.min()) < 0.1
    assert float(border.max()) > 0.9
    assert len(seen) == 1 + 2 * 3


@pytest.mark.parametrize("batch_size", [None, 3])
def test_queries_are_the_images_that_the_model_saw(batch_size: int | None) -> None:
    model = Counting(linear())
    y = torch.arange(4)
    result = frames(model, images(), y, width=1, steps=3, starts=2, batch_size=batch_size)
    planning = 0 if batch_size else 3
    assert result.queries == model.images == planning + 4 * (1 + 2 * (1 + 3 * 2))


def test_an_image_is_attacked_alike_in_every_batch() -> None:
    model, x = convolutional(dtype=torch.float64), images(6, dtype=torch.float64)
    y = torch.arange(6) % 5
    keywords = {"width": 1, "steps": 6, "starts": 2}
    together = frames(model, x, y, **keywords)
    order = torch.tensor([4, 0, 2, 1, 5, 3])
    shuffled = frames(model, x[order], y[order], batch_size=2, **keywords)
    torch.testing.assert_close(shuffled.point, together.point[order], rtol=0, atol=1e-12)
    assert torch.equal(shuffled.attempt, together.attempt[order])


def test_frames_that_cover_all_and_models_without_gradients_are_refused() -> None:
    y = torch.zeros(4).long()
    with pytest.raises(ValueError, match="width is 2 and x has shape"):
        frames(linear(), images(), y, width=2)
    with pytest.raises(ValueError, match="width is 1 and x has shape"):
        frames(linear((9,)), images(4, (9,)), y, width=1)
    with pytest.raises(ValueError, match="width is 0"):
        frames(linear(), images(), y, width=0)
    with pytest.raises(ValueError, match="without a gradient"):
        frames(lambda z: linear()(z).detach(), images(), y, width=1, batch_size=4)
    with pytest.raises(ValueError, match="objective is 'likelihood'"):
        frames(linear(), images(), y, width=1, objective="likelihood")
