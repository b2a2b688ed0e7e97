"""What a search promises about everything but its answer: what it leaves alone, where it works."""

from __future__ import annotations

import copy
import math
import random
import threading
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pytest
import torch
from tiny_classifiers import convolutional, images, linear
from torch import Tensor, nn

import hcnn_fast as hf

CONFIGS = {
    "mcn": hf.SearchConfig.mcn(0.1, steps=3, starts=2),
    "hcnn": hf.SearchConfig.hcnn(0.1, 0.3, "l2", steps=3),
    "ncn": hf.SearchConfig.ncn(0.1, 0.25, steps=3),
    "entropy": hf.SearchConfig.entropy(0.1, steps=3, starts=2),
    "bfloat16": hf.SearchConfig.mcn(0.1, steps=3, precision="bfloat16"),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def uses() -> dict[str, Callable[[Any, Tensor, hf.SearchConfig], Any]]:
    """Every public way to run a model in a search."""

    def differentiate(model: Any, x: Tensor, config: hf.SearchConfig) -> Any:
        with torch.enable_grad():
            return hf.Defense(model, config)(x.clone().requires_grad_()).sum().backward()

    def calibrate(model: Any, x: Tensor, config: hf.SearchConfig) -> Any:
        result = hf.search(model, x, config)
        assert bool((result.label >= 0).any())
        return hf.Defense(model, config).calibrate(x, result.prediction, tpr=0.5)

    def attack(model: Any, x: Tensor, config: hf.SearchConfig) -> Any:
        y = torch.arange(len(x))
        return hf.attacks.pgd(
            model, x, y, radius=0.1, steps=3, starts=2, precision=config.precision
        )

    return {
        "search": lambda model, x, config: hf.search(model, x, config),
        "forward": lambda model, x, config: hf.Defense(model, config)(x),
        "backward": differentiate,
        "predict": lambda model, x, config: hf.Defense(model, config).predict(x),
        "calibrate": calibrate,
        "pgd": attack,
    }


every_use = pytest.mark.parametrize("use", uses().values(), ids=uses())
without_gradients = {name: use for name, use in uses().items() if name != "backward"}


def assert_equal(a: hf.SearchResult, b: hf.SearchResult) -> None:
    for field in fields(hf.SearchResult):
        first, second = getattr(a, field.name), getattr(b, field.name)
        same = torch.equal(first, second) if isinstance(first, Tensor) else first == second
        assert same, field.name


# What is left alone


def state_of(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that must not change, and the identity of its tensors."""
    state: dict[str, Any] = {}
    for name, module in model.named_modules():
        state[f"{name} training"] = module.training
        hooks = [key for key in vars(module) if key.endswith("_hooks")]
        state[f"{name} hooks"] = {key: list(vars(module)[key].items()) for key in hooks}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        state[name] = (id(tensor), tensor.data_ptr(), tensor._version, tensor.stride())
        state[f"{name} kind"] = (tensor.dtype, tensor.device, tensor.requires_grad)
        state[f"{name} values"] = tensor.detach().clone().numpy().tobytes()
        state[f"{name} gradient"] = None if tensor.grad is None else tensor.grad.tolist()
    return state


@every_use
@every_config
@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_as_it_was(use: Any, config: hf.SearchConfig, training: bool) -> None:
    model = convolutional().train(training)
    model[3].train(not training)  # a submodule in a mode of its own
    model[0].weight.requires_grad_(False)
    model[5].weight.grad = torch.full_like(model[5].weight, 0.25)
    before = state_of(model)
    use(model, images(), config)
    assert state_of(model) == before


@every_use
def test_hooks_stay_where_they_are(use: Any) -> None:
    model = convolutional()
    calls: list[str] = []
    model[0].register_forward_hook(lambda *_: calls.append("forward"))
    model[5].register_forward_pre_hook(lambda *_: calls.append("before"))
    model[5].register_full_backward_hook(lambda *_: calls.append("backward"))
    before = state_of(model)
    use(model, images(), CONFIGS["mcn"])
    assert state_of(model) == before
    calls.clear()
    model(images(1))
    assert calls == ["forward", "before"]


@every_use
@every_config
def test_random_states_are_left_alone(use: Any, config: hf.SearchConfig) -> None:
    model, x = convolutional().train(), images()
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    before = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002
    use(model, x, config)
    after = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


@pytest.mark.parametrize("use", without_gradients.values(), ids=without_gradients)
@pytest.mark.parametrize(
    ("context", "enabled", "inference"),
    [
        (torch.enable_grad, True, False),
        (torch.no_grad, False, False),
        (torch.inference_mode, False, True),
    ],
)
def test_the_grad_mode_is_left_alone(
    use: Any, context: Any, enabled: bool, inference: bool
) -> None:
    with context():
        use(convolutional(), images(), CONFIGS["mcn"])
        assert torch.is_grad_enabled() is enabled
        assert torch.is_inference_mode_enabled() is inference


def test_the_grad_mode_comes_back_after_an_error() -> None:
    with torch.no_grad(), pytest.raises(TypeError):
        hf.search(linear(), images().int(), CONFIGS["mcn"])
    with torch.no_grad():
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()


@every_use
@every_config
def test_the_images_are_left_as_they_were(use: Any, config: hf.SearchConfig) -> None:
    x = images()
    before, version = x.clone(), x._version
    use(convolutional(), x, config)
    assert torch.equal(x, before)
    assert x._version == version
    assert not x.requires_grad
    assert x.grad is None


@every_config
def test_the_result_is_memory_of_its_own(config: hf.SearchConfig) -> None:
    model, x = convolutional(), images()
    result = hf.search(model, x, config.replace(keep_points=True))
    tensors = [value for value in vars(result).values() if isinstance(value, Tensor)]
    assert len(tensors) == 12
    owned = {x.untyped_storage().data_ptr(), *(p.data_ptr() for p in model.parameters())}
    for tensor in tensors:
        assert not tensor.requires_grad
        assert not tensor.is_inference()
        assert tensor.untyped_storage().data_ptr() not in owned
        owned.add(tensor.untyped_storage().data_ptr())
    assert len(owned) == 1 + len(list(model.parameters())) + len(tensors)


# Where it works


@every_config
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_the_result_does_not_depend_on_the_grad_mode(config: hf.SearchConfig, context: Any) -> None:
    model, x = convolutional(), images()
    expected = hf.search(model, x, config)
    with context():
        assert_equal(hf.search(model, x, config), expected)


@every_config
def test_images_made_in_inference_mode_are_searched(config: hf.SearchConfig) -> None:
    model = convolutional()
    expected = hf.search(model, images(), config)
    with torch.inference_mode():
        x = images()
        inside = hf.search(model, x, config)
    assert x.is_inference()
    assert_equal(inside, expected)
    assert_equal(hf.search(model, x, config), expected)


def with_batch_norm() -> nn.Module:
    """Linear layers and buffers, but no convolution."""
    layers = [*linear(classes=8), nn.BatchNorm1d(8), nn.ReLU(), *linear((8,), 5)]
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("make", [linear, convolutional, with_batch_norm])
def test_a_model_made_in_inference_mode_is_searched(make: Any, precision: Any) -> None:
    config = CONFIGS["mcn"].replace(precision=precision)
    expected = hf.search(make(), images(), config)
    with torch.inference_mode():
        model = make()
        assert_equal(hf.search(model, images(), config), expected)
    assert_equal(hf.search(model, images(), config), expected)
    assert next(model.parameters()).is_inference()
    leaf = images().requires_grad_()
    hf.Defense(model, config)(leaf).sum().backward()
    assert leaf.grad is not None


@every_config
def test_a_model_in_training_mode_gives_the_result_of_evaluation(config: hf.SearchConfig) -> None:
    expected = hf.search(convolutional(), images(), config)
    assert_equal(hf.search(convolutional().train(), images(), config), expected)


@every_config
def test_frozen_parameters_change_nothing(config: hf.SearchConfig) -> None:
    expected = hf.search(convolutional(), images(), config)
    assert_equal(hf.search(convolutional().requires_grad_(False), images(), config), expected)


def test_float64_models_are_searched_in_float64() -> None:
    model, x = convolutional(dtype=torch.float64), images(dtype=torch.float64)
    for name, config in CONFIGS.items():
        if config.precision != "float32":
            continue
        result = hf.search(model, x, config)
        assert result.point.dtype == torch.float64, name
        assert result.logits.dtype == torch.float64, name
        assert result.value.dtype == torch.float32, name
        assert result.confidence.dtype == torch.float32, name
        torch.testing.assert_close(result.logits, model(result.point), rtol=1e-12, atol=1e-12)


@dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None


Named = namedtuple("Named", ["loss", "logits"])

OUTPUTS: dict[str, Callable[[Tensor], Any]] = {
    "tuple": lambda logits: (logits, logits.sum()),
    "list": lambda logits: [logits],
    "object": lambda logits: Output(logits),
    "named-tuple": lambda logits: Named(logits.sum(), logits),
}


@pytest.mark.parametrize("output", OUTPUTS.values(), ids=OUTPUTS)
def test_the_logits_are_found_in_what_a_model_returns(output: Callable[[Tensor], Any]) -> None:
    network, x = linear(), images()
    expected = hf.search(network, x, CONFIGS["mcn"])

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, z: Tensor) -> Any:
            return output(self.network(z))

    assert_equal(hf.search(Wrapped(), x, CONFIGS["mcn"]), expected)
    assert_equal(hf.search(lambda z: output(network(z)), x, CONFIGS["mcn"]), expected)
    assert torch.equal(hf.Defense(Wrapped(), CONFIGS["mcn"])(x), expected.logits)


@every_config
def test_plain_callables_are_searched(config: hf.SearchConfig) -> None:
    network, x = linear(), images()
    expected = hf.search(network, x, config.replace(precision="float32"))
    got = hf.search(lambda z: network(z), x, config.replace(precision="float32"))
    assert_equal(got, expected)


@every_config
def test_an_empty_batch_gives_empty_fields(config: hf.SearchConfig) -> None:
    tried = 1 if config.objective == "entropy" else 5
    config = config.replace(keep_points=True)
    result = hf.search(convolutional(), images(0), config)
    shapes = {
        "point": (0, 3, 4, 4),
        "value": (0,),
        "label": (0,),
        "prediction": (0,),
        "confidence": (0,),
        "logits": (0, 5),
        "labels": (0, tried),
        "label_value": (0, tried),
        "label_confidence": (0, tried),
        "label_prediction": (0, tried),
        "label_point": (0, tried, 3, 4, 4),
        "steps": (0,),
    }
    full = hf.search(convolutional(), images(2), config)
    for name, shape in shapes.items():
        assert getattr(result, name).shape == shape, name
        assert getattr(result, name).dtype == getattr(full, name).dtype, name
    assert (result.forwards, result.backwards) == (0, 0)


def test_an_empty_batch_with_few_labels_keeps_their_number() -> None:
    result = hf.search(linear(), images(0), CONFIGS["mcn"].replace(labels=2))
    assert result.labels.shape == (0, 2)


@every_config
@pytest.mark.parametrize(
    "lay_out",
    [
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: torch.stack([x, x], -1)[..., 0],
        lambda x: torch.cat([x, x])[: len(x)],
    ],
    ids=["channels_last", "transposed", "gaps", "part"],
)
def test_the_layout_of_the_images_does_not_count(config: hf.SearchConfig, lay_out: Any) -> None:
    expected = hf.search(convolutional(), images(), config)
    assert_equal(hf.search(convolutional(), lay_out(images()), config), expected)


@every_config
def test_images_that_ask_for_gradients_are_searched(config: hf.SearchConfig) -> None:
    model, x = convolutional(), images()
    expected = hf.search(model, x, config)
    leaf = x.clone().requires_grad_()
    assert_equal(hf.search(model, leaf, config), expected)
    assert_equal(hf.search(model, 1.0 * leaf, config), expected)
    assert leaf.grad is None


def test_a_model_that_reads_its_maps_in_one_order_is_searched() -> None:
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = convolutional()

        def forward(self, z: Tensor) -> Tensor:
            maps = self.network[:4](z)
            logits: Tensor = self.network[5](maps.view(len(z), -1))  # refuses channels-last maps
            return logits

    result = hf.search(Viewing().eval(), images(), CONFIGS["mcn"])
    expected = hf.search(convolutional(), images(), CONFIGS["mcn"])
    torch.testing.assert_close(result.value, expected.value, rtol=1e-4, atol=1e-5)


def test_the_default_dtype_does_not_count() -> None:
    expected = {name: hf.search(convolutional(), images(), c) for name, c in CONFIGS.items()}
    model, x = convolutional(), images()
    torch.set_default_dtype(torch.float64)
    try:
        for name, config in CONFIGS.items():
            assert_equal(hf.search(model, x, config), expected[name])
    finally:
        torch.set_default_dtype(torch.float32)


@every_config
def test_the_autocast_of_the_caller_does_not_count(config: hf.SearchConfig) -> None:
    model, x = convolutional(), images()
    expected = hf.search(model, x, config)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = hf.search(model, x, config)
    assert_equal(result, expected)


def with_a(thing: Any) -> nn.Module:
    model = convolutional()
    model[4].thing = thing
    return model


@pytest.mark.parametrize(
    "make", [threading.Lock, lambda: (i for i in range(3))], ids=["lock", "generator"]
)
def test_a_model_that_cannot_be_copied_is_searched_in_evaluation_mode(make: Any) -> None:
    model = with_a(make())
    with pytest.raises(TypeError):
        copy.deepcopy(model)
    for config in CONFIGS.values():
        before = state_of(model)
        result = hf.search(model, images(), config)
        expected = hf.search(convolutional(), images(), config)
        assert state_of(model) == before
        torch.testing.assert_close(result.value, expected.value, rtol=2e-2, atol=1e-3)


def test_a_model_that_cannot_be_copied_is_refused_in_training_mode() -> None:
    model = with_a(threading.Lock()).train()
    message = "model is in training mode and cannot be copied .*expected model.eval()"
    with pytest.raises(ValueError, match=message):
        hf.search(model, images(), CONFIGS["mcn"])
    model.eval()
    model[3].train()
    with pytest.raises(ValueError, match=message):
        hf.search(model, images(), CONFIGS["mcn"])


# What is always true of the answer


@every_config
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 3.0), (0.2, 0.6), (0.0, 255.0)])
def test_points_lie_in_the_ball_and_in_the_bounds(
    config: hf.SearchConfig, bounds: tuple[float, float]
) -> None:
    low, high = bounds
    radius = 0.15 * (high - low)
    x = low + (high - low) * images(6)
    x[0, 0], x[1, 0] = low, high
    result = hf.search(
        linear(),
        x,
        config.replace(radius=radius, bounds=bounds, keep_points=True, starts=3),
    )
    assert result.label_point is not None
    for point in (result.point, *result.label_point.unbind(1)):
        assert bool(((point >= low) & (point <= high)).all())
        assert float((point - x).abs().max()) <= radius * (1 + 1e-6) + 1e-7 * max(1.0, high)
    if config.objective in ("mcn", "entropy"):
        assert float((result.point - x).abs().max()) > 0.5 * radius


def objective_at(
    config: hf.SearchConfig, logits: Tensor, label: Tensor, away: Tensor
) -> Tensor:  # [N]
    """The objective in float64, by its definition."""
    f = torch.softmax(logits.double(), 1)
    if config.objective == "entropy":
        return (f * f.log()).sum(1)
    own = f.gather(1, label[:, None])[:, 0]
    if config.objective == "ncn":
        return torch.where(own >= config.confidence, -away, -math.inf)
    return own - config.distance_weight * away


def distance(config: hf.SearchConfig, point: Tensor, x: Tensor) -> Tensor:  # [N]
    order = {"l1": 1, "l2": 2, "linf": math.inf}[config.distance_norm]
    return torch.linalg.vector_norm((point - x).double().flatten(1), order, dim=1)


@every_config
def test_the_value_is_the_objective_at_the_point(config: hf.SearchConfig) -> None:
    model, x = convolutional(), images(8)
    result = hf.search(model, x, config.replace(keep_points=True))
    feasible = result.label.clamp_min(0)
    expected = objective_at(
        config, model(result.point), feasible, distance(config, result.point, x)
    )
    torch.testing.assert_close(result.value, expected.float(), rtol=1e-5, atol=1e-6)
    assert result.label_point is not None
    for position, point in enumerate(result.label_point.unbind(1)):
        label = result.labels[:, position]
        expected = objective_at(config, model(point), label, distance(config, point, x))
        torch.testing.assert_close(
            result.label_value[:, position], expected.float(), rtol=1e-5, atol=1e-6
        )


@every_config
@pytest.mark.parametrize("model", [linear, convolutional])
def test_the_value_is_never_below_that_of_the_image(config: hf.SearchConfig, model: Any) -> None:
    network, x = model(), images(16)
    result = hf.search(network, x, config.replace(step_size=3.0, schedule="constant"))
    none = torch.zeros(len(x), dtype=torch.float64)
    logits = network(x).detach()
    own = torch.stack(
        [objective_at(config, logits, torch.full_like(result.label, k), none) for k in range(5)], 1
    )
    assert bool((result.value >= own.amax(1) - 1e-6).all())
    if config.objective != "entropy":
        assert bool((result.label_value >= own - 1e-6).all())


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "auto"])
@pytest.mark.parametrize("model", [linear, convolutional])
def test_a_search_in_low_precision_is_scored_in_float32(precision: Any, model: Any) -> None:
    network, x = model(), images(8)
    config = hf.SearchConfig.mcn(0.1, steps=6, precision=precision)
    result = hf.search(network, x, config)
    logits = network(result.point).detach()
    torch.testing.assert_close(result.logits, logits, rtol=1e-5, atol=1e-5)
    own = torch.softmax(logits, 1).gather(1, result.label[:, None])[:, 0]
    torch.testing.assert_close(result.value, own, rtol=1e-5, atol=1e-6)
    assert float((result.point - x).abs().max()) <= 0.1 + 1e-6
    assert bool(((result.point >= 0.0) & (result.point <= 1.0)).all())
    exact = hf.search(network, x, config.replace(precision="float32"))
    torch.testing.assert_close(result.value, exact.value, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    "config",
    [hf.SearchConfig.mcn(1e-4, steps=2), hf.SearchConfig.hcnn(1e-4, 3.0, steps=2)],
    ids=["mcn", "hcnn"],
)
def test_low_precision_never_costs_an_image_its_own_value(
    config: hf.SearchConfig, precision: Any
) -> None:
    # a ball so small that rounding decides which point looks best
    network, x = convolutional(), images(40)
    result = hf.search(network, x, config.replace(precision=precision, keep_points=True))
    unmoved = torch.zeros(len(x), dtype=torch.float64)
    assert result.label_point is not None
    for position, point in enumerate(result.label_point.unbind(1)):
        label = result.labels[:, position]
        own = objective_at(config, network(x).detach(), label, unmoved)
        there = objective_at(config, network(point).detach(), label, distance(config, point, x))
        value = result.label_value[:, position].double()
        torch.testing.assert_close(value, there, rtol=0.0, atol=1e-6)
        assert bool((there >= own - 1e-6).all())


def test_images_outside_the_bounds_by_rounding_are_clipped() -> None:
    x = images()
    x[:, 0, 0, 0], x[:, 1, 0, 0] = 0.0, 1.0
    outside = x.clone()
    outside[:, 0, 0, 0] -= 9e-7
    outside[:, 1, 0, 0] += 9e-7
    before = outside.clone()
    assert_equal(
        hf.search(linear(), outside, CONFIGS["mcn"]), hf.search(linear(), x, CONFIGS["mcn"])
    )
    assert torch.equal(outside, before)


def test_one_class_is_certain() -> None:
    result = hf.search(linear(classes=1), images(), CONFIGS["mcn"])
    assert result.value.tolist() == [1.0] * 4
    assert torch.equal(result.point, images())


def test_images_of_one_value_are_searched() -> None:
    network = linear((1,), 3)
    result = hf.search(network, images(4, (1,)), CONFIGS["mcn"])
    assert result.point.shape == (4, 1)
