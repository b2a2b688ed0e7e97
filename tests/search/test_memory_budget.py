"""A search stays within the memory that it is given, as the allocator counts it."""

from __future__ import annotations

import re
import sys

import pytest
import torch
from allocations import measured
from tiny_classifiers import images, linear
from torch import Tensor, nn

import hcnn_fast as hf
from hcnn_fast.engine import budget

SHAPE = (3, 8, 8)


def deep(shape: tuple[int, ...] = SHAPE, classes: int = 4) -> nn.Module:
    """Convolutions whose activations are many times an image, with a BatchNorm to fold."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(shape[0], 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.Softplus(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(64, classes),
        ).eval()


def perceptron(classes: int = 4) -> nn.Module:
    """Two products: an image is larger than what it leaves in the layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        layers = nn.Linear(192, 40), nn.Tanh(), nn.Linear(40, classes)
        return nn.Sequential(nn.Flatten(), *layers).eval()


MODELS = {"convolutions": deep, "perceptron": perceptron}
CONFIGS = {
    "mcn": hf.SearchConfig.mcn(0.05, steps=2),
    "hcnn": hf.SearchConfig.hcnn(0.05, 0.5, "l2", steps=2),
    "ncn": hf.SearchConfig.ncn(0.05, 0.4, "l2", steps=2),
    "entropy": hf.SearchConfig.entropy(0.05, steps=2),
}


def least_budget(model: nn.Module, x: Tensor, config: hf.SearchConfig) -> int:
    """The budget that the refusal of one byte names."""
    with pytest.raises(ValueError, match=r"^memory_budget is 1, expected at least \d+") as refused:
        hf.search(model, x, config.replace(memory_budget=1))
    found = re.search(r"at least (\d+)", str(refused.value))
    assert found is not None
    return int(found[1])


def assert_equal_answers(got: hf.SearchResult, expected: hf.SearchResult) -> None:
    torch.testing.assert_close(got.value, expected.value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.label_value, expected.label_value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.logits, expected.logits, rtol=1e-3, atol=1e-4)
    assert torch.equal(got.labels, expected.labels)


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[budget.Plan]:
    """The plans of the searches of a test."""
    made: list[budget.Plan] = []

    def planned(*arguments: object) -> budget.Plan:
        made.append(budget.plan_within_budget(*arguments))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(sys.modules["hcnn_fast.search"], "plan_within_budget", planned)
    return made


@pytest.mark.parametrize("tolerance", [0.0, 1e-3])
@pytest.mark.parametrize("starts", [1, 3])
@pytest.mark.parametrize(("count", "times"), [(8, 1), (8, 3), (256, 2)])
@pytest.mark.parametrize("name", ["mcn", "hcnn"])
@pytest.mark.parametrize("network", list(MODELS))
def test_the_peak_stays_within_the_budget_and_the_answer_as_it_was(
    network: str, name: str, count: int, times: int, starts: int, tolerance: float
) -> None:
    model, x = MODELS[network](), images(count, SHAPE)
    config = CONFIGS[name].replace(starts=starts, tolerance=tolerance)
    expected = hf.search(model, x, config)
    limit = times * least_budget(model, x, config)
    got, peak = measured(lambda: hf.search(model, x, config.replace(memory_budget=limit)))
    assert peak <= limit
    assert peak >= limit / 8
    assert_equal_answers(got, expected)


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("keywords", [{}, {"keep_points": True}, {"momentum": 0.0}], ids=str)
@pytest.mark.parametrize("name", list(CONFIGS))
def test_every_problem_stays_within_the_least_budget(
    name: str, keywords: dict[str, object], backend: str
) -> None:
    model, x = perceptron(), images(12, SHAPE)
    config = CONFIGS[name].replace(backend=backend, **keywords)
    expected = hf.search(model, x, config)
    limit = least_budget(model, x, config)
    got, peak = measured(lambda: hf.search(model, x, config.replace(memory_budget=limit)))
    assert peak <= limit
    assert_equal_answers(got, expected)
