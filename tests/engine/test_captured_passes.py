"""Captured passes: the model's own answers, whatever the batch, in memory that nobody overwrites.

Where there is no GPU, replays are played by a function that uses its memory again as they do.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_classifiers import images, smooth
from torch import Tensor, nn

from hcnn_fast.engine import captured_passes
from hcnn_fast.engine.captured_passes import CapturedPasses
from hcnn_fast.engine.graphs import WORTH, bucket_of
from hcnn_fast.engine.model import PreparedModel

SHAPE = (3, 8, 8)


def passes(classifier: Callable[[Tensor], Tensor], device: torch.device) -> CapturedPasses:
    return CapturedPasses(classifier, images(1, SHAPE).to(device))


def logits_and_gradient(forward: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    leaf = z.clone().requires_grad_()
    logits = forward(leaf)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum() - logits[:, 1].square().sum(), leaf)
    return logits.detach(), gradient


def often(captured: CapturedPasses, z: Tensor) -> None:
    """Until the passes of this size are captured."""
    for _ in range(WORTH + 1):
        logits_and_gradient(captured, z)


@pytest.mark.parametrize("rows", [1, 5, 8, 11, 40])
def test_replays_give_the_logits_and_gradients_of_the_model(
    rows: int, device: torch.device
) -> None:
    classifier = smooth().to(device)
    captured = passes(classifier, device)
    z = images(rows, SHAPE).to(device)
    often(captured, z)
    assert captured.captures.refused is None
    assert [size for size, _ in captured.captures.kept] == [bucket_of(rows)]
    for points in (z, 1.0 - z, z.flip(0)):
        got, expected = (logits_and_gradient(one, points) for one in (captured, classifier))
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


def test_what_a_pass_gave_stays_when_the_next_one_runs(device: torch.device) -> None:
    captured = passes(smooth().to(device), device)
    z = images(8, SHAPE).to(device)
    often(captured, z)
    logits, gradient = logits_and_gradient(captured, z)
    before = logits.clone(), gradient.clone()
    logits_and_gradient(captured, 1.0 - z)
    assert torch.equal(logits, before[0])
    assert torch.equal(gradient, before[1])


def test_only_small_passes_with_a_gradient_that_come_up_often_are_captured(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = smooth().to(device)
    captured = passes(classifier, device)
    z = images(20, SHAPE).to(device)
    with torch.no_grad():
        for _ in range(2 * WORTH):
            assert torch.equal(captured(z), classifier(z))
    for _ in range(WORTH):
        logits_and_gradient(captured, z)
    assert not captured.captures.kept
    logits_and_gradient(captured, z)
    assert [size for size, _ in captured.captures.kept] == [24]
    assert captured(z[:0]).shape == (0, 5)

    one = captured_passes.LARGEST // passes(classifier, device).most
    monkeypatch.setattr(captured_passes, "LARGEST", 23 * one)
    bounded = passes(classifier, device)
    for rows in (20, 16, 8, 3):  # 20 are filled up to 24, and 16 and 8 are more than 23
        often(bounded, z[:rows])
    assert [size for size, _ in bounded.captures.kept] == [16]
    assert bounded.captures.refused is None


def test_points_of_rows_count_where_activations_are_small(device: torch.device) -> None:
    image = images(1, SHAPE).to(device)
    captured = CapturedPasses(nn.Flatten(), image)  # keeps nothing for a backward pass
    assert captured_passes.LARGEST // captured.most >= 6 * 4 * image.numel()


class Counting(nn.Module):
    """Answers otherwise at every pass, as one that draws on the host does."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside, self.calls = inside, [0]

    def forward(self, x: Tensor) -> Tensor:
        self.calls[0] += 1
        answer: Tensor = self.inside(x) * float(self.calls[0])
        return answer


def test_a_model_whose_replay_would_answer_otherwise_is_not_captured(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def frozen(forward: Any, samples: Any, **keywords: Any) -> Any:
        fixed = classifier.calls[0]

        def replay(z: Tensor) -> Tensor:  # what the host did is not done again
            classifier.calls[0] = fixed
            answer: Tensor = forward(z)
            return answer

        return replay

    classifier = Counting(smooth().to(device))
    if device.type == "cpu":
        monkeypatch.setattr(captured_passes, "make_graphed_callables", frozen)
    captured = passes(classifier, device)
    z = images(8, SHAPE).to(device)
    often(captured, z)
    assert captured.captures.refused == "RuntimeError: a replay gives other values than the model"
    assert not captured.captures.kept
    calls = classifier.calls[0]
    logits_and_gradient(captured, z)
    assert classifier.calls[0] == calls + 1


def test_a_capture_that_fails_leaves_the_passes_of_the_model_and_says_why(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = []

    def fails(*arguments: Any, **keywords: Any) -> Any:
        tried.append(1)
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(captured_passes, "make_graphed_callables", fails)
    classifier = smooth().to(device)
    captured = passes(classifier, device)
    z = images(9, SHAPE).to(device)
    with caplog.at_level("INFO", "hcnn_fast"):
        for _ in range(3):
            often(captured, z)
    assert len(tried) == 1
    assert (
        captured.captures.refused
        == "RuntimeError: operation not permitted when stream is capturing"
    )
    assert captured.captures.refused in caplog.text
    got, expected = (logits_and_gradient(one, z) for one in (captured, classifier))
    torch.testing.assert_close(got, expected)


def test_a_replay_that_does_not_look_at_its_input_is_refused(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = smooth().to(device)

    def deaf(forward: Any, samples: Any, **keywords: Any) -> Any:
        return lambda z: forward(samples[0].detach() + (z - z.detach()))

    monkeypatch.setattr(captured_passes, "make_graphed_callables", deaf)
    blank = CapturedPasses(classifier, torch.zeros(1, *SHAPE, device=device))
    often(blank, torch.zeros(8, *SHAPE, device=device))
    assert blank.captures.refused == "RuntimeError: a replay gives other values than the model"


def test_a_prepared_model_with_captured_passes_is_freed_when_it_is_dropped(
    device: torch.device,
) -> None:
    gc.disable()
    try:
        prepared = PreparedModel(
            smooth().to(device), "float32", images(1, SHAPE).to(device), captured=True
        )
        assert isinstance(prepared.fast, CapturedPasses)
        often(prepared.fast, images(8, SHAPE).to(device))
        gone = weakref.ref(prepared)
        del prepared
        assert gone() is None
    finally:
        gc.enable()
