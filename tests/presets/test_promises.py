"""What every preset promises besides its formula, and what it refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_classifiers import Counting, convolutional, images
from torch import Tensor

import hcnn_fast as hf
from hcnn_fast.presets import PresetResult

Preset = Callable[..., PresetResult]
PRESETS: dict[str, Preset] = {
    "hedge": hf.presets.hedge,
    "pnml": hf.presets.pnml,
    "cpr": hf.presets.cpr,
}
every_preset = pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
TENSORS = ("point", "logits", "probability", "prediction", "confidence", "accepted")


def assert_equal(one: PresetResult, other: PresetResult) -> None:
    for name in TENSORS:
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-5, atol=1e-6)


@every_preset
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 2.0), (0.3, 0.5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_keep_ball_and_bounds(
    preset: Preset, bounds: tuple[float, float], dtype: torch.dtype
) -> None:
    low, high = bounds
    x = (low + (high - low) * images(8, dtype=dtype)).clamp(low, high)
    x[0], x[1] = low, high
    found = preset(convolutional(dtype=dtype), x, radius=0.1, bounds=bounds)
    assert bool(((found.point >= low) & (found.point <= high)).all())
    away = (found.point.double() - x.double()).abs().amax()
    assert 0.09 < float(away) <= 0.1 + 1e-7


@every_preset
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_have_the_dtypes_and_shapes_that_are_written_down(
    preset: Preset, dtype: torch.dtype
) -> None:
    x = images(6, dtype=dtype)
    found = preset(convolutional(dtype=dtype), x, radius=0.1)
    assert (found.point.shape, found.point.dtype) == (x.shape, dtype)
    assert (found.logits.shape, found.logits.dtype) == ((6, 5), dtype)
    assert (found.probability.shape, found.probability.dtype) == ((6, 5), torch.float32)
    assert (found.prediction.shape, found.prediction.dtype) == ((6,), torch.int64)
    assert (found.confidence.shape, found.confidence.dtype) == ((6,), torch.float32)
    assert (found.accepted.shape, found.accepted.dtype) == ((6,), torch.bool)
    assert not any(getattr(found, name).requires_grad for name in TENSORS)
    torch.testing.assert_close(found.probability.sum(1), torch.ones(6))


@every_preset
def test_no_images_give_an_empty_result(preset: Preset) -> None:
    found = preset(convolutional(), images(4)[:0], radius=0.1)
    assert found.point.shape == (0, 3, 4, 4)
    assert found.logits.shape == found.probability.shape == (0, 5)
    assert found.prediction.shape == found.confidence.shape == found.accepted.shape == (0,)
    assert (found.forwards, found.backwards) == (0, 0)


@every_preset
def test_nothing_of_the_caller_is_changed(preset: Preset) -> None:
    model = convolutional().train()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    state, x = copy.deepcopy(model.state_dict()), images()
    kept, random = x.clone(), torch.get_rng_state()
    preset(model, x, radius=0.1)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad and bool((p.grad == 1).all()) for p in model.parameters())
    assert torch.equal(x, kept)
    assert x.grad is None
    assert torch.equal(torch.get_rng_state(), random)


@every_preset
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_presets_work_where_gradients_are_off(preset: Preset, mode: Any) -> None:
    model, x = convolutional(), images()
    expected = preset(model, x, radius=0.1)
    with mode():
        found = preset(model, x.clone(), radius=0.1)
        assert not torch.is_grad_enabled()
    assert_equal(found, expected)


@every_preset
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_an_answer_does_not_depend_on_the_batch(preset: Preset, batch_size: int) -> None:
    model, x = convolutional(dtype=torch.float64), images(7, dtype=torch.float64)
    together = preset(model, x, radius=0.1)
    parts = [preset(model, x[i : i + 1], radius=0.1) for i in reversed(range(7))][::-1]
    for name in TENSORS:
        alone = torch.cat([getattr(part, name) for part in parts])
        torch.testing.assert_close(getattr(together, name), alone, rtol=1e-9, atol=1e-9)
    assert_equal(preset(model, x, radius=0.1, batch_size=batch_size), together)


@every_preset
def test_passes_are_counted(preset: Preset) -> None:
    model, x = Counting(convolutional()), images(5)
    found = preset(model, x, radius=0.1, batch_size=40)
    planning = 2  # one image for the number of classes, one at most for its shape
    assert found.forwards <= model.images <= found.forwards + planning


@every_preset
def test_a_search_in_low_precision_is_scored_in_full(preset: Preset) -> None:
    model, x = convolutional(), images(8)
    found = preset(model, x, radius=0.1, precision="bfloat16")
    torch.testing.assert_close(found.logits, model(found.point).detach(), rtol=1e-5, atol=1e-6)
    assert float((found.point - x).abs().amax()) <= 0.1 + 1e-7


@every_preset
def test_the_reference_backend_gives_the_same_answers(preset: Preset) -> None:
    model, x = convolutional(dtype=torch.float64), images(5, dtype=torch.float64)
    assert_equal(preset(model, x, radius=0.1, backend="reference"), preset(model, x, radius=0.1))


def test_probabilities_serve_attacks_that_ask_for_no_gradient() -> None:
    model, x = convolutional(), images(6)
    y = hf.presets.cpr(model, x, radius=0.02).prediction

    def defended(z: Tensor) -> Tensor:
        return hf.presets.cpr(model, z, radius=0.02).probability.log()

    result = hf.attacks.square(defended, x, y, radius=0.3, queries=30)
    with torch.no_grad():
        assert torch.equal(result.success, defended(result.point).argmax(1) != y)


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "radius-zero": ({"radius": 0.0}, ValueError, "radius is 0.0"),
    "radius-text": ({"radius": "0.1"}, TypeError, "radius is '0.1'"),
    "radius-nan": ({"radius": float("nan")}, ValueError, "radius is nan"),
    "bounds": ({"radius": 0.1, "bounds": (1.0, 0.0)}, ValueError, "bounds is"),
    "precision": ({"radius": 0.1, "precision": "int8"}, ValueError, "precision is 'int8'"),
    "backend": ({"radius": 0.1, "backend": "fast"}, ValueError, "backend is 'fast'"),
    "batch-size": ({"radius": 0.1, "batch_size": 0}, ValueError, "batch_size is 0"),
}
BAD_RUN: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "steps-zero": ({"radius": 0.1, "steps": 0}, ValueError, "steps is 0"),
    "steps-half": ({"radius": 0.1, "steps": 1.5}, TypeError, "steps is 1.5"),
    "step-size": ({"radius": 0.1, "step_size": -0.1}, ValueError, "step_size is -0.1"),
}


@every_preset
@pytest.mark.parametrize(("settings", "error", "words"), BAD.values(), ids=BAD)
def test_a_bad_setting_is_refused_by_name(
    preset: Preset, settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    model = Counting(convolutional())
    with pytest.raises(error, match=words):
        preset(model, images(), **settings)
    assert model.calls == 0


@pytest.mark.parametrize("preset", [hf.presets.hedge, hf.presets.cpr])
@pytest.mark.parametrize(("settings", "error", "words"), BAD_RUN.values(), ids=BAD_RUN)
def test_a_bad_run_is_refused_by_name(
    preset: Preset, settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        preset(convolutional(), images(), **settings)


def test_a_bad_seed_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="seed is -1"):
        hf.presets.hedge(convolutional(), images(), radius=0.1, seed=-1)


@every_preset
def test_bad_images_and_models_are_refused_by_name(preset: Preset) -> None:
    with pytest.raises(TypeError, match="x is a list"):
        preset(convolutional(), [0.5], radius=0.1)
    with pytest.raises(ValueError, match="x has values"):
        preset(convolutional(), 2.0 * images(), radius=0.1)
    with pytest.raises(TypeError, match="model is a int"):
        preset(3, images(), radius=0.1)
    with pytest.raises(ValueError, match="non-finite logits"):
        preset(lambda z: z.flatten(1)[:, :3] * torch.nan, images(), radius=0.1)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"step_size": None}, TypeError, "step_size is None"),
        ({"step_size": "a"}, TypeError, "step_size is 'a'"),
        ({"step_size": 0.0}, ValueError, "step_size is 0.0"),
        ({"steps": 0}, ValueError, "steps is 0"),
        ({"steps": 2.0}, TypeError, "steps is 2.0"),
        ({"bounds": (1.0, 1.0)}, ValueError, "bounds is"),
    ],
)
def test_a_bad_anti_adversary_is_refused_by_name(
    settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        hf.presets.anti_adversary(**settings)
