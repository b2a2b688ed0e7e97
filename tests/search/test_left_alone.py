"""What a search promises to leave alone: the model, the random states, the images."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from search_uses import CONFIGS, every_config, every_use, state_of, without_gradients
from tiny_classifiers import convolutional, images, linear
from torch import Tensor

import hcnn_fast as hf


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
