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
from tiny_classifiers import images
from torch import Tensor, nn

import hcnn_fast as hf
from hcnn_fast.engine import graphs, model, preparation
from hcnn_fast.engine.graphs import WORTH, CapturedPasses, bucket_of
from hcnn_fast.engine.model import PreparedModel

SHAPE = (3, 8, 8)
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
    ),
]


def played(
    forward: Callable[[Tensor], Tensor],
    samples: tuple[Tensor],
    num_warmup_iters: int,
    **mode: str,
) -> Callable[[Tensor], Tensor]:
    """Stands for torch.cuda.make_graphed_callables: one memory for inputs, logits and gradients."""
    (static,) = samples
    for _ in range(num_warmup_iters):
        forward(static)
    logits, gradient = forward(static).detach().clone(), torch.zeros_like(static)
    graph: list[Tensor] = []

    class Replay(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, z: Tensor) -> Tensor:
            assert z.shape == static.shape, "a graph has one shape"
            with torch.no_grad():
                static.copy_(z)
            with torch.enable_grad():
                graph[:] = [forward(static)]
            logits.copy_(graph[0].detach())
            return logits.detach()

        @staticmethod
        def backward(ctx: Any, *seeds: Tensor) -> Tensor:
            (found,) = torch.autograd.grad(graph.pop(), static, seeds[0])  # activations are freed
            gradient.copy_(found)
            return gradient.detach()

    return Replay.apply


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    if request.param == "cpu":
        monkeypatch.setattr(graphs, "make_graphed_callables", played)
        monkeypatch.setattr(model, "can_capture", lambda device: True)
    monkeypatch.setenv(graphs.ENVIRONMENT, "1")
    monkeypatch.setattr(preparation, "_kept", type(preparation._kept)())
    return torch.device(request.param)


@pytest.mark.parametrize(
    ("device", "value", "captured"),
    [("cuda", "1", True), ("cuda", "0", False), ("cuda", None, False), ("cpu", "1", False)],
)
def test_passes_are_captured_on_a_gpu_where_it_is_asked_for(
    device: str, value: str | None, captured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(graphs.ENVIRONMENT, raising=False)
    if value is not None:
        monkeypatch.setenv(graphs.ENVIRONMENT, value)
    assert graphs.can_capture(torch.device(device)) == captured


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Softplus(), nn.Flatten(), nn.Linear(8 * 64, 5)
    ).requires_grad_(False)


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


def test_buckets_hold_what_they_are_for_with_little_to_fill() -> None:
    assert [bucket_of(n) for n in (1, 8, 9, 12, 13, 17, 24, 25, 48, 49)] == [
        8,
        8,
        12,
        12,
        16,
        24,
        24,
        32,
        48,
        64,
    ]
    for rows in range(8, 3000):
        assert rows <= bucket_of(rows) < 1.5 * rows
        assert bucket_of(bucket_of(rows)) == bucket_of(rows)


@pytest.mark.parametrize("rows", [1, 5, 8, 11, 40])
def test_replays_give_the_logits_and_gradients_of_the_model(
    rows: int, device: torch.device
) -> None:
    classifier = network().to(device)
    captured = passes(classifier, device)
    z = images(rows, SHAPE).to(device)
    often(captured, z)
    assert captured.refused is None
    assert list(captured._captured) == [bucket_of(rows)]
    for points in (z, 1.0 - z, z.flip(0)):
        got, expected = (logits_and_gradient(one, points) for one in (captured, classifier))
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


def test_what_a_pass_gave_stays_when_the_next_one_runs(device: torch.device) -> None:
    captured = passes(network().to(device), device)
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
    classifier = network().to(device)
    captured = passes(classifier, device)
    z = images(20, SHAPE).to(device)
    with torch.no_grad():
        for _ in range(2 * WORTH):
            assert torch.equal(captured(z), classifier(z))
    for _ in range(WORTH):
        logits_and_gradient(captured, z)
    assert not captured._captured
    logits_and_gradient(captured, z)
    assert list(captured._captured) == [24]
    assert captured(z[:0]).shape == (0, 5)

    one = graphs.LARGEST // passes(classifier, device).most
    monkeypatch.setattr(graphs, "LARGEST", 23 * one)
    bounded = passes(classifier, device)
    for rows in (20, 16, 8, 3):  # 20 are filled up to 24, and 16 and 8 are more than 23
        often(bounded, z[:rows])
    assert list(bounded._captured) == [16]
    assert bounded.refused is None


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

    classifier = Counting(network().to(device))
    if device.type == "cpu":
        monkeypatch.setattr(graphs, "make_graphed_callables", frozen)
    captured = passes(classifier, device)
    z = images(8, SHAPE).to(device)
    often(captured, z)
    assert captured.refused == "RuntimeError: a replay gives other values than the model"
    assert not captured._captured
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

    monkeypatch.setattr(graphs, "make_graphed_callables", fails)
    classifier = network().to(device)
    captured = passes(classifier, device)
    z = images(9, SHAPE).to(device)
    with caplog.at_level("INFO", "hcnn_fast"):
        for _ in range(3):
            often(captured, z)
    assert len(tried) == 1
    assert captured.refused == "RuntimeError: operation not permitted when stream is capturing"
    assert captured.refused in caplog.text
    got, expected = (logits_and_gradient(one, z) for one in (captured, classifier))
    torch.testing.assert_close(got, expected)


class Draws(nn.Module):
    """Draws random numbers that do not matter."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = network()

    def forward(self, x: Tensor) -> Tensor:
        torch.rand(1, device=x.device)
        answer: Tensor = self.inside(x)
        return answer


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_a_capture_uses_up_no_random_numbers() -> None:
    captured = passes(Draws().cuda(), torch.device("cuda"))
    before = torch.get_rng_state(), torch.cuda.get_rng_state()
    captured._capture(8)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.equal(torch.cuda.get_rng_state(), before[1])


def test_a_replay_that_does_not_look_at_its_input_is_refused(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = network().to(device)

    def deaf(forward: Any, samples: Any, **keywords: Any) -> Any:
        return lambda z: forward(samples[0].detach() + (z - z.detach()))

    monkeypatch.setattr(graphs, "make_graphed_callables", deaf)
    blank = CapturedPasses(classifier, torch.zeros(1, *SHAPE, device=device))
    often(blank, torch.zeros(8, *SHAPE, device=device))
    assert blank.refused == "RuntimeError: a replay gives other values than the model"


def test_a_prepared_model_with_captured_passes_is_freed_when_it_is_dropped(
    device: torch.device,
) -> None:
    gc.disable()
    try:
        prepared = PreparedModel(
            network().to(device), "float32", images(1, SHAPE).to(device), captured=True
        )
        assert prepared._captured is not None
        often(prepared._captured, images(8, SHAPE).to(device))
        gone = weakref.ref(prepared)
        del prepared
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("tolerance", [0.0, 1e-3])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_search_by_captured_passes_equals_one_without(
    tolerance: float, precision: Any, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "WORTH", 1)
    classifier, x = network().to(device), images(7, SHAPE).to(device)
    config = hf.SearchConfig.mcn(
        0.05, steps=12, momentum=0.0, tolerance=tolerance, precision=precision
    )
    with monkeypatch.context() as without:
        without.setattr(model, "can_capture", lambda device: False)
        expected = hf.search(classifier, x, config)
    preparation._kept.clear()
    first, second = (hf.search(classifier, x, config) for _ in range(2))
    (kept,) = preparation._kept.values()
    assert kept.prepared._captured is not None
    assert kept.prepared._captured._captured
    for got in (first, second):
        assert torch.equal(got.label, expected.label)
        torch.testing.assert_close(got.value, expected.value, rtol=0, atol=2e-3)


def test_a_search_within_a_budget_keeps_no_captured_passes(device: torch.device) -> None:
    classifier, x = network().to(device), images(7, SHAPE).to(device)
    config = hf.SearchConfig.mcn(0.05, steps=12, memory_budget=2**30)
    hf.search(classifier, x, config)
    (kept,) = preparation._kept.values()
    assert kept.prepared._captured is None


def test_weights_that_change_are_captured_again(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "WORTH", 1)
    classifier, x = network().to(device), images(4, SHAPE).to(device)
    config = hf.SearchConfig.mcn(0.05, steps=12)
    captured = []
    for _ in range(2):
        got, expected = hf.search(classifier, x, config), hf.reference.search(classifier, x, config)
        assert torch.equal(got.label, expected.label)
        torch.testing.assert_close(got.value, expected.value, rtol=0, atol=1e-4)
        (kept,) = preparation._kept.values()
        captured.append(kept.prepared._captured)
        assert captured[-1]._captured
        with torch.no_grad():
            classifier[3].weight.neg_()
    assert captured[0] is not captured[1]
