"""The promises of the package: nothing of the caller's changes, everything found holds."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tiny_classifiers import convolutional, images, linear
from torch import Tensor, nn

import hcnn_fast as hf

PROBLEMS = {
    "mcn": hf.SearchConfig.mcn(0.05, steps=3, starts=2),
    "hcnn": hf.SearchConfig.hcnn(0.05, 0.5, "l2", steps=3),
    "ncn": hf.SearchConfig.ncn(0.05, 0.4, steps=3),
    "entropy": hf.SearchConfig.entropy(0.05, steps=3),
}


@pytest.fixture(params=PROBLEMS)
def config(request: pytest.FixtureRequest) -> hf.SearchConfig:
    return PROBLEMS[request.param]


def attack(model: Any, x: Tensor) -> None:
    hf.attacks.pgd(model, x, torch.zeros(len(x), dtype=torch.int64), radius=0.05, steps=2)


def calls(config: hf.SearchConfig) -> list[Callable[[Any, Tensor], object]]:
    """All that runs a caller's model."""
    return [
        lambda model, x: hf.search(model, x, config),
        lambda model, x: hf.Defense(model, config).predict(x),
        lambda model, x: hf.Defense(model, config)(x.clone().requires_grad_()).sum().backward(),
        attack,
    ]


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_as_it_was(config: hf.SearchConfig, training: bool) -> None:
    seen: list[int] = []
    model = convolutional().train(training)
    model[2].eval()
    model[0].weight.requires_grad_(False)
    model[5].weight.grad = torch.ones_like(model[5].weight)
    handle = model[0].register_forward_hook(lambda *_: seen.append(1))
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    asks = [p.requires_grad for p in model.parameters()]
    hooks = [len(module._forward_hooks) for module in model.modules()]
    for call in calls(config):
        call(model, images())
        assert [module.training for module in model.modules()] == modes
        assert [p.requires_grad for p in model.parameters()] == asks
        assert [len(module._forward_hooks) for module in model.modules()] == hooks
        assert torch.equal(model[5].weight.grad, torch.ones_like(model[5].weight))
        assert all(p.grad is None for p in model.parameters() if p is not model[5].weight)
        for name, value in model.state_dict().items():
            assert torch.equal(value, state[name]), name
    assert seen  # hooks of the model run in the search too
    handle.remove()


def test_random_states_and_the_grad_mode_are_left_as_they_were(config: hf.SearchConfig) -> None:
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())  # noqa: NPY002 (the state callers use)
    for call in calls(config):
        call(convolutional(), images())
        assert torch.is_grad_enabled()
        with torch.no_grad():
            hf.search(convolutional(), images(), config)
            assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]


def test_the_images_are_left_as_they_were_and_not_shared(config: hf.SearchConfig) -> None:
    x = images().requires_grad_()
    original = x.detach().clone()
    result = hf.search(linear(), x, config)
    for name in ("point", "logits", "value", "confidence"):
        assert not getattr(result, name).requires_grad
    result.point.fill_(-1.0)
    assert torch.equal(x.detach(), original)
    assert x.grad is None


def test_a_model_in_training_mode_gives_the_answer_of_evaluation_mode(
    config: hf.SearchConfig,
) -> None:
    expected = hf.search(convolutional(), images(), config)
    found = hf.search(convolutional().train(), images(), config)
    assert torch.equal(found.point, expected.point)
    assert torch.equal(found.logits, expected.logits)


def test_it_works_where_gradients_are_switched_off(config: hf.SearchConfig) -> None:
    expected = hf.search(convolutional(), images(), config)
    with torch.no_grad():
        assert torch.equal(hf.search(convolutional(), images(), config).point, expected.point)
    with torch.inference_mode():
        x = images()
        model = convolutional()
        assert torch.equal(hf.search(model, x, config).point, expected.point)
    assert torch.equal(hf.search(convolutional(), x, config).point, expected.point)


def test_points_never_leave_ball_and_bounds(config: hf.SearchConfig) -> None:
    bounds = (-1.0, 2.0)
    x = images(8, dtype=torch.float64) * 3.0 - 1.0
    x[0] = -1.0
    x[1] = 2.0
    far = config.replace(bounds=bounds, radius=0.3, step_size=1.0, keep_points=True)
    result = hf.search(linear(dtype=torch.float64), x, far)
    assert result.label_point is not None
    for point in (result.point[:, None], result.label_point):
        assert float(point.min()) >= bounds[0]
        assert float(point.max()) <= bounds[1]
        assert float((point - x[:, None]).abs().max()) <= 0.3 + 1e-15


def test_no_image_gets_less_than_it_has(config: hf.SearchConfig) -> None:
    x = images(16)
    rough = config.replace(steps=1, step_size=5.0, radius=0.5)  # one wild step
    own = hf.search(linear(), x, rough.replace(radius=1e-9, step_size=1e-9))
    found = hf.search(linear(), x, rough)
    assert bool((found.label_value >= own.label_value - 1e-6).all())


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_low_precision_search_is_scored_in_float32(
    config: hf.SearchConfig, precision: str
) -> None:
    model = convolutional()
    result = hf.search(model, images(), config.replace(precision=precision))
    with torch.no_grad():
        logits = model(result.point)
    torch.testing.assert_close(result.logits, logits)
    assert result.logits.dtype == result.point.dtype == torch.float32
    torch.testing.assert_close(result.confidence, torch.softmax(logits, 1).amax(1))
    assert float((result.point - images()).abs().max()) <= config.radius + 1e-7
    if config.objective == "mcn":
        reached = torch.softmax(logits, 1).gather(1, result.label[:, None])[:, 0]
        torch.testing.assert_close(result.value, reached)
        exact = hf.search(model, images(), config)
        torch.testing.assert_close(result.value, exact.value, atol=0.02, rtol=0.0)


def test_an_empty_batch_gives_an_empty_result(config: hf.SearchConfig) -> None:
    for search in (hf.search, hf.reference.search):
        result = search(convolutional(), images(0), config.replace(keep_points=True))
        tried = 1 if config.objective == "entropy" else 5
        assert result.point.shape == (0, 3, 4, 4)
        assert result.logits.shape == (0, 5)
        assert result.labels.shape == result.label_value.shape == (0, tried)
        assert result.label_point is not None
        assert result.label_point.shape == (0, tried, 3, 4, 4)
        assert result.value.shape == result.label.shape == result.steps.shape == (0,)
        assert (result.forwards, result.backwards) == (0, 0)
    prediction = hf.Defense(convolutional(), config).predict(images(0))
    assert prediction.label.shape == (0,)
    assert hf.Defense(convolutional(), config)(images(0)).shape == (0, 5)


def test_layouts_of_the_images_do_not_matter(config: hf.SearchConfig) -> None:
    x = images()
    expected = hf.search(convolutional(), x, config).value
    strided = torch.zeros(4, 3, 4, 8)[..., ::2].copy_(x)
    for other in (x.to(memory_format=torch.channels_last), strided):
        torch.testing.assert_close(hf.search(convolutional(), other, config).value, expected)


def test_float64_models_and_plain_functions_are_searched(config: hf.SearchConfig) -> None:
    model = convolutional(dtype=torch.float64)
    x = images(dtype=torch.float64)
    result = hf.search(model, x, config)
    assert result.point.dtype == result.logits.dtype == torch.float64
    assert result.value.dtype == torch.float32
    by_function = hf.search(lambda z: model(z), x, config)
    torch.testing.assert_close(by_function.point, result.point)


def test_new_weights_of_the_model_are_seen_by_the_next_search(config: hf.SearchConfig) -> None:
    model = linear()
    defense = hf.Defense(model, config)
    defense.predict(images())
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.zero_()
    assert defense.predict(images()).confidence.tolist() == pytest.approx([0.2] * 4)


def test_a_model_that_reads_its_maps_with_view_is_searched(config: hf.SearchConfig) -> None:
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = convolutional()

        def forward(self, z: Tensor) -> Tensor:
            maps = self.layers[:4](z)
            result: Tensor = self.layers[5](maps.view(len(maps), -1))
            return result

    found = hf.search(Viewing().eval(), images(), config)
    torch.testing.assert_close(found.value, hf.search(convolutional(), images(), config).value)
