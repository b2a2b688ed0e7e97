"""Searches by captured steps and passes: their results, and what is kept of them.

Where there is no GPU, replays are played by the host, which does their work on the same memory.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_classifiers import images, smooth

import hcnn_fast as hf
from hcnn_fast.engine import graphs, model, preparation
from hcnn_fast.engine.captured_passes import CapturedPasses

SHAPE = (3, 8, 8)


@pytest.fixture(autouse=True)
def captured_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "WORTH", 0)


@pytest.mark.parametrize("tolerance", [0.0, 1e-3])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_search_by_captured_steps_equals_one_without(
    tolerance: float, precision: Any, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier, x = smooth().to(device), images(7, SHAPE).to(device)
    config = hf.SearchConfig.mcn(
        0.05, steps=12, momentum=0.0, tolerance=tolerance, precision=precision
    )
    with monkeypatch.context() as without:
        without.setattr(model, "can_capture", lambda device: False)
        expected = hf.search(classifier, x, config)
    preparation._kept.clear()
    first, second = (hf.search(classifier, x, config) for _ in range(2))
    (kept,) = preparation._kept.values()
    for passes in (kept.prepared.fast, kept.prepared.exact)[: 1 + kept.prepared.lowered]:
        assert isinstance(passes, CapturedPasses)
        assert passes.steps.captures.kept or (passes is kept.prepared.exact and tolerance == 0.0)
    for got in (first, second):
        assert torch.equal(got.label, expected.label)
        torch.testing.assert_close(got.value, expected.value, rtol=0, atol=2e-3)


def test_a_search_within_a_budget_keeps_no_captured_passes(device: torch.device) -> None:
    classifier, x = smooth().to(device), images(7, SHAPE).to(device)
    config = hf.SearchConfig.mcn(0.05, steps=12, memory_budget=2**30)
    hf.search(classifier, x, config)
    (kept,) = preparation._kept.values()
    assert kept.prepared.fast is kept.prepared.plain


def test_weights_that_change_are_captured_again(
    device: torch.device,
) -> None:
    classifier, x = smooth().to(device), images(4, SHAPE).to(device)
    config = hf.SearchConfig.mcn(0.05, steps=12)
    captured = []
    for _ in range(2):
        got, expected = hf.search(classifier, x, config), hf.reference.search(classifier, x, config)
        assert torch.equal(got.label, expected.label)
        torch.testing.assert_close(got.value, expected.value, rtol=0, atol=1e-4)
        (kept,) = preparation._kept.values()
        captured.append(kept.prepared.fast)
        assert isinstance(captured[-1], CapturedPasses)
        assert captured[-1].steps.captures.kept
        with torch.no_grad():
            classifier[3].weight.neg_()
    assert captured[0] is not captured[1]
