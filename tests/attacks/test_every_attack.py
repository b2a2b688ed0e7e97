"""What every gradient attack promises: a true result within the ball, and nothing else touched."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_classifiers import Counting, convolutional, images
from torch import Tensor

from hcnn_fast import attacks
from hcnn_fast.attacks import AttackResult
from hcnn_fast.attacks.norm_balls import size_of

Attack = Callable[..., AttackResult]
# name -> attack, norm, settings, gradient steps per image
CASES: dict[str, tuple[Attack, str, dict[str, Any], int]] = {
    "pgd-dlr": (attacks.pgd, "linf", {"objective": "dlr", "steps": 4, "starts": 2}, 8),
    "conf": (attacks.pgd_conf, "linf", {"steps": 4, "momentum": 0.3}, 4),
    "conf-l2": (
        attacks.pgd_conf,
        "l2",
        {
            "norm": "l2",
            "steps": 4,
            "momentum": 0.3,
            "initialisations": ("zero", "gaussian", "uniform_volume"),
        },
        12,
    ),
    "conf-l1": (
        attacks.pgd_conf,
        "l1",
        {
            "norm": "l1",
            "steps": 4,
            "momentum": 0.3,
            "initialisations": ("gaussian", "zero"),
            "draw": "example",
        },
        4,
    ),
    "conf-l0": (
        attacks.pgd_conf,
        "l0",
        {"norm": "l0", "steps": 4, "initialisations": ("zero", "uniform_norm")},
        8,
    ),
    "strengthened": (attacks.strengthened_pgd, "linf", {"steps": 3, "starts": 2}, 24),
    "confident-cw": (
        attacks.confident_cw,
        "linf",
        {"confidence": 0.25, "rounds": 2, "steps": 3, "targets": 2},
        12,
    ),
    "apgd": (attacks.apgd_targeted, "linf", {"steps": 5, "targets": 3}, 15),
    "apgd-l2": (attacks.apgd_targeted, "l2", {"norm": "l2", "steps": 5, "starts": 2}, 40),
}
# stops early by what else is in the batch: how many steps it takes is not fixed
STOPPING: dict[str, tuple[Attack, str, dict[str, Any], int]] = {
    "confident": (attacks.confident_pgd, "linf", {"confidence": 0.25, "steps": 12, "starts": 2}, 0),
}
RADIUS = {"linf": 0.1, "l2": 0.6, "l1": 4.0, "l0": 4.5}
every_case = pytest.mark.parametrize(
    "case", [*CASES.values(), *STOPPING.values()], ids=[*CASES, *STOPPING]
)


def run(
    case: tuple[Attack, str, dict[str, Any], int], model: Any, x: Tensor, y: Tensor, **more: Any
) -> AttackResult:
    attack, norm, settings, _ = case
    return attack(model, x, y, **{"radius": RADIUS[norm], **settings, **more})


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_result_is_what_the_model_says_at_the_point(case: Any, dtype: torch.dtype) -> None:
    model, x = convolutional(dtype=dtype), images(12, dtype=dtype)
    y = model(x).argmax(1)
    result = run(case, model, x, y)
    with torch.no_grad():
        logits = model(result.point)
    share = torch.softmax(logits.double(), 1)
    if "confidence" in case[2]:
        wrong = share.scatter(1, y[:, None], 0.0).amax(1)
        assert bool((wrong[result.success] >= 0.25 - 1e-6).all())
        assert bool((result.value[result.success] >= 0.25 - 1e-6).all())
        assert torch.equal(result.success, result.value >= 0.25)
    else:
        assert torch.equal(result.success, logits.argmax(1) != y)
    torch.testing.assert_close(result.confidence.double(), share.amax(1), rtol=1e-5, atol=1e-6)
    assert result.point.dtype == dtype
    assert (result.value.dtype, result.confidence.dtype) == (torch.float32, torch.float32)
    assert (result.success.dtype, result.attempt.dtype) == (torch.bool, torch.int64)
    assert not any(
        tensor.requires_grad for tensor in vars(result).values() if isinstance(tensor, Tensor)
    )
    if case[3]:
        assert result.gradient_steps == 12 * case[3]
    assert 0 < int(result.success.sum())


@every_case
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 2.0), (0.3, 0.5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_keep_ball_and_bounds(
    case: Any, bounds: tuple[float, float], dtype: torch.dtype
) -> None:
    low, high = bounds
    x = (low + (high - low) * images(8, dtype=dtype)).clamp(low, high)
    x[0], x[1] = low, high
    result = run(case, convolutional(dtype=dtype), x, torch.arange(8) % 5, bounds=bounds)
    assert bool(((result.point >= low) & (result.point <= high)).all())
    away = size_of(result.point.double() - x.double(), case[1])
    limit = {"linf": RADIUS["linf"] + 1e-7, "l0": math.ceil(RADIUS["l0"])}
    assert float(away.max()) <= limit.get(case[1], RADIUS[case[1]])
    assert float(away.max()) > 0.0


@every_case
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_an_image_is_attacked_alike_in_every_batch(case: Any, batch_size: int) -> None:
    model, x = convolutional(dtype=torch.float64), images(7, dtype=torch.float64)
    y = torch.arange(7) % 5
    together = run(case, model, x, y)
    order = torch.tensor([4, 0, 6, 2, 1, 5, 3])
    shuffled = run(case, model, x[order], y[order], batch_size=batch_size)
    assert torch.equal(shuffled.success, together.success[order])
    if case[0] is not attacks.confident_pgd:  # its runs stop with those beside them
        assert torch.equal(shuffled.attempt, together.attempt[order])
        torch.testing.assert_close(shuffled.point, together.point[order], rtol=0.0, atol=1e-12)


@every_case
def test_one_seed_gives_one_result_and_random_states_are_left_alone(case: Any) -> None:
    model, x, y = convolutional().train(), images(6), torch.arange(6) % 5
    state = copy.deepcopy(model.state_dict())
    before, random = x.clone(), torch.get_rng_state()
    with torch.no_grad():
        first = run(case, model, x, y, seed=3)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        again = run(case, model, x, y, seed=3)
    assert torch.equal(first.point, again.point)
    assert torch.equal(first.value, again.value)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(x, before)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


@every_case
def test_an_empty_batch_gives_an_empty_result(case: Any) -> None:
    result = run(case, convolutional(), images(0), torch.zeros(0).long())
    assert result.point.shape == (0, 3, 4, 4)
    for name in ("value", "success", "confidence", "attempt"):
        assert getattr(result, name).shape == (0,), name
    assert result.gradient_steps == 0


@every_case
def test_a_batch_for_which_memory_does_not_suffice_is_halved(case: Any) -> None:
    network, x, y = convolutional(), images(4), torch.arange(4)
    expected = run(case, network, x, y)
    refused = 0

    def small(z: Tensor) -> Tensor:
        nonlocal refused
        if len(z) > 3:
            refused += 1
            raise torch.OutOfMemoryError("no more")
        return network(z)

    result = run(case, small, x, y, batch_size=16)
    assert refused
    assert torch.equal(result.success, expected.success)
    if case[0] is not attacks.confident_pgd:
        assert torch.equal(result.attempt, expected.attempt)
        assert result.gradient_steps == expected.gradient_steps
        torch.testing.assert_close(result.point, expected.point, rtol=0.0, atol=1e-5)


@every_case
def test_a_low_precision_attack_is_scored_in_float32(case: Any) -> None:
    model, x = convolutional(), images(10)
    y = model(x).argmax(1)
    result = run(case, model, x, y, precision="bfloat16")
    with torch.no_grad():
        logits = model(result.point)
    torch.testing.assert_close(
        result.confidence, torch.softmax(logits, 1).amax(1), rtol=1e-5, atol=1e-6
    )
    assert result.point.dtype == torch.float32


@every_case
@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"radius": 0.0}, "radius is 0.0, expected a finite number > 0"),
        ({"steps": 0}, "steps is 0, expected an int >= 1"),
        ({"seed": -1}, "seed is -1, expected an int >= 0"),
        ({"bounds": (1, 0)}, r"bounds is \(1, 0\), expected"),
        ({"batch_size": 0}, "batch_size is 0, expected"),
        ({"backend": "tpu"}, "backend is 'tpu', expected one of"),
    ],
)
def test_unusable_settings_are_refused(case: Any, keywords: Any, message: str) -> None:
    model = Counting(convolutional())
    with pytest.raises(ValueError, match=message):
        run(case, model, images(), torch.arange(4), **keywords)
    assert model.calls == 0


@every_case
def test_a_model_without_a_gradient_or_with_endless_logits_is_refused(case: Any) -> None:
    network, x, y = convolutional(), images(), torch.arange(4)
    with pytest.raises(ValueError, match="logits without a gradient in x"):
        run(case, lambda z: network(z).detach(), x, y)
    with pytest.raises(ValueError, match="non-finite logits"):
        run(case, lambda z: network(z) / 0.0, x, y)


@pytest.mark.parametrize(
    ("attack", "keywords", "message"),
    [
        (attacks.strengthened_pgd, {"targets": 5}, "targets is 5, expected at most the 4 wrong"),
        (attacks.apgd_targeted, {"norm": "l1"}, "norm is 'l1', expected one of linf, l2"),
        (attacks.apgd_targeted, {"objective": "ce"}, "objective is 'ce', expected one of"),
        (attacks.confident_pgd, {"confidence": 1.0}, r"confidence is 1.0, expected .* in \(0, 1\)"),
        (
            attacks.confident_cw,
            {"confidence": 0.9, "rounds": 0},
            "rounds is 0, expected an int >= 1",
        ),
    ],
)
def test_settings_of_one_attack_are_refused_by_name(
    attack: Attack, keywords: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        attack(convolutional(), images(), torch.arange(4), radius=0.1, **keywords)


@pytest.mark.parametrize(
    ("attack", "objective", "classes", "needed"),
    [(attacks.pgd, "dlr", 2, 3), (attacks.apgd_targeted, "dlr", 3, 4)],
)
def test_a_loss_is_refused_for_too_few_classes(
    attack: Attack, objective: str, classes: int, needed: int
) -> None:
    with pytest.raises(
        ValueError, match=f"model has {classes} classes, expected at least {needed}"
    ):
        attack(
            convolutional(classes), images(), torch.zeros(4).long(), radius=0.1, objective=objective
        )
