"""`compile=True`: the same answers, code that is kept, and an error where there can be none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_classifiers import images
from torch import Tensor, nn

import hcnn_fast as hf
from hcnn_fast.engine import preparation
from hcnn_fast.engine.compilation import Compiled, compiled_passes
from hcnn_fast.engine.model import PreparedModel

SHAPE = (3, 8, 8)
CONFIG = hf.SearchConfig.mcn(0.05, steps=6, compile=True)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.Flatten(),
        nn.Linear(16 * 64, 5),
    ).eval()


@pytest.mark.slow  # the first call compiles
def test_a_compiled_search_equals_the_reference_and_compiles_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[Any] = []
    compile_model = torch.compile

    def compiling(model: Any) -> Any:
        compiled.append(model)
        return compile_model(model)

    monkeypatch.setattr(torch, "compile", compiling)
    model, x = network(), images(6, SHAPE)
    config = CONFIG.replace(tolerance=1e-3)  # one forward pass for the slopes of two labels
    plain = config.replace(compile=False)
    expected = hf.reference.search(model, x, plain)
    for _ in range(2):
        got = hf.search(model, x, config)
        assert torch.equal(got.label, expected.label)
        torch.testing.assert_close(got.value, expected.value, rtol=0, atol=1e-3)
    assert len(compiled) == 1
    hf.search(model, x, plain)
    assert len(compiled) == 1
    kept = [entry for entry in preparation._kept.values() if entry.owner() is model]
    assert [isinstance(entry.prepared.plain.model, Compiled) for entry in kept] == [True, False]
    assert [entry.prepared.winograd for entry in kept] == [0, 1]


@pytest.mark.slow
def test_code_on_disk_that_serves_one_backward_pass_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Torch keeps such code for whoever compiles the same model, and does not ask which it is."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    x = images(6, SHAPE)
    prepared = PreparedModel(network(), "float32", x[:1], compiled=True)

    def gradients(forward: Any, labels: int) -> list[Tensor]:
        torch._dynamo.reset()
        leaf = x.clone().requires_grad_()
        logits = forward(leaf)
        seeds = torch.eye(5)[:labels, None].expand(labels, 6, 5)
        return [torch.autograd.grad(logits, leaf, s, retain_graph=labels > 1)[0] for s in seeds]

    def found_on_disk() -> int:
        groups = torch._dynamo.utils.counters.values()
        return sum(n for group in groups for name, n in group.items() if name.endswith("cache_hit"))

    for _ in range(2):
        before = found_on_disk()
        gradients(torch.compile(prepared.plain.model._compiled._orig_mod), 1)
    assert found_on_disk() > before, "torch has kept no code"
    before = found_on_disk()
    with compiled_passes(compiled=True):
        found = gradients(prepared.plain, 2)
    assert found_on_disk() == before
    for one, expected in zip(found, gradients(network(), 2), strict=True):
        torch.testing.assert_close(one, expected, rtol=0, atol=1e-6)


def test_compiled_passes_have_the_rows_that_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows that fill up a batch are no leaf, and torch warns where it compiles for such."""
    seen: list[int] = []

    def noting(model: Any) -> Any:
        def run(z: Tensor) -> Any:
            seen.append(len(z))
            return model(z)

        return run

    monkeypatch.setattr(torch, "compile", noting)
    hf.search(network(), images(9, SHAPE), CONFIG)
    assert 9 * 5 in seen  # 48 otherwise


def broken(graph: Any, inputs: Any) -> Any:
    raise NotImplementedError("no code for this processor")


def test_what_cannot_be_compiled_is_an_error_and_not_run_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compile_model = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compile_model(model, backend=broken))
    message = r"compile is True, and torch.compile cannot compile the model: .*no code for this"
    with pytest.raises(RuntimeError, match=message):
        hf.search(network(), images(2, SHAPE), CONFIG)


def test_an_error_of_the_model_itself_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(z: Tensor) -> Tensor:
        raise ZeroDivisionError("mine")

    monkeypatch.setattr(torch, "compile", lambda model: failing)
    with pytest.raises(ZeroDivisionError, match="mine"):
        hf.search(network(), images(2, SHAPE), CONFIG)


def test_many_models_are_all_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def noting(graph: Any, inputs: Any) -> Any:
        def run(*arguments: Any) -> Any:
            ran.append(len(made))
            return graph(*arguments)

        return run

    compile_model = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compile_model(model, backend=noting))
    made: list[Any] = []
    for width in range(12):  # torch gives up after 8 of them by itself, with a warning
        made.append(Compiled(nn.Sequential(nn.Linear(4 + width, 3))))
        with compiled_passes(compiled=True):
            made[-1](torch.rand(2, 4 + width))
    assert ran == list(range(1, 13))
