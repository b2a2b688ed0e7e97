"""Where a search works: gradient modes, models, images and what models return."""

from __future__ import annotations

import copy
import threading
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from search_uses import CONFIGS, assert_equal, every_config, state_of
from tiny_classifiers import convolutional, images, linear
from torch import Tensor, nn

import hcnn_fast as hf


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
