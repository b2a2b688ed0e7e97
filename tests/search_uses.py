"""Every public way to run a model in a search, for tests of what holds for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
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
