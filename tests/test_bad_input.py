"""Every unusable input is refused by name, before the model is asked anything."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_classifiers import Counting, images, linear
from torch import Tensor, nn

import hcnn_fast as hf

CONFIG = hf.SearchConfig.mcn(0.1, steps=2)


def changed(value: float) -> Tensor:
    x = images()
    x[1, 0, 0, 0] = value
    return x


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        ([[1.0]], TypeError, ("x", "list", "torch.Tensor")),
        (changed(float("nan")), ValueError, ("x", "NaN")),
        (changed(float("inf")), ValueError, ("x", "infinite")),
        (changed(1.5), ValueError, ("x", "1.5", "bounds")),
        (changed(-0.1), ValueError, ("x", "-0.1", "bounds")),
        ((images() * 255).to(torch.uint8), TypeError, ("x", "uint8", "/ 255")),
        (images().to(torch.int64), TypeError, ("x", "int64", "/ 255")),
        (images().half(), TypeError, ("x", "float16", "x.float()")),
        (images().bfloat16(), TypeError, ("x", "bfloat16", "precision")),
        (torch.tensor(0.5), ValueError, ("x", "[N, *image]")),
        (torch.rand(4), ValueError, ("x", "(4,)", "x[None]")),
        (torch.rand(2, 0, 4, 4), ValueError, ("x", "at least one value")),
    ],
)
def test_an_unusable_image_batch_is_refused_before_the_model_runs(
    x: Any, error: type[Exception], words: tuple[str, ...]
) -> None:
    model = Counting(linear())
    for call in (
        lambda: hf.search(model, x, CONFIG),
        lambda: hf.attacks.pgd(model, x, torch.zeros(4, dtype=torch.int64), radius=0.1),
    ):
        with pytest.raises(error) as caught:
            call()
        for word in words:
            assert word in str(caught.value)
    assert model.calls == 0


def test_values_that_miss_the_bounds_by_rounding_are_clipped() -> None:
    result = hf.search(linear(), changed(1.0 + 5e-7), CONFIG)
    assert float(result.point.max()) <= 1.0


def test_a_model_elsewhere_is_refused_and_both_devices_are_named() -> None:
    with pytest.raises(ValueError, match=r"model is on meta .* and x on cpu"):
        hf.search(linear().to("meta"), images(), CONFIG)


def test_a_model_of_another_dtype_is_refused_and_both_dtypes_are_named() -> None:
    with pytest.raises(TypeError, match=r"float64 parameters .* x is torch.float32"):
        hf.search(linear().double(), images(), CONFIG)


def test_something_that_is_no_model_is_refused() -> None:
    with pytest.raises(TypeError, match="model is a str"):
        hf.search("resnet", images(), CONFIG)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("output", "error", "words"),
    [
        (lambda z: z, ValueError, "expected [4, C]"),
        (lambda z: z.flatten(1)[:2], ValueError, "expected [4, C]"),
        (lambda z: z.flatten(1)[:, :0], ValueError, "C >= 1"),
        (lambda z: None, TypeError, "NoneType"),
        (lambda z: {"scores": z}, TypeError, "dict"),
        (lambda z: torch.zeros(len(z), 3, dtype=torch.int64), TypeError, "logits"),
        (lambda z: z.flatten(1) * float("nan"), ValueError, "non-finite"),
        (lambda z: z.flatten(1) / 0.0, ValueError, "non-finite"),
    ],
)
def test_a_model_that_gives_no_logits_is_refused(
    output: Callable[[Tensor], Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        hf.search(output, images(), CONFIG.replace(batch_size=100))
    assert words in str(caught.value)


def test_tuples_and_objects_with_logits_are_accepted() -> None:
    model = linear()
    expected = hf.search(model, images(), CONFIG)
    for wrapped in (
        lambda z: (model(z), "auxiliary"),
        lambda z: SimpleNamespace(logits=model(z)),
    ):
        found = hf.search(wrapped, images(), CONFIG)
        torch.testing.assert_close(found.value, expected.value)


def test_more_labels_than_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="labels is 6, expected at most the model's 5 classes"):
        hf.search(linear(), images(), CONFIG.replace(labels=6))


@pytest.mark.parametrize(
    ("y", "error", "words"),
    [
        ([0, 1, 2, 3], TypeError, "y is a list"),
        (torch.rand(4), TypeError, "float32"),
        (torch.tensor([True] * 4), TypeError, "bool"),
        (torch.zeros(3, dtype=torch.int64), ValueError, "(3,)"),
        (torch.tensor([0, 1, 2, 5]), ValueError, "0 <= label < 5"),
        (torch.tensor([0, -1, 2, 3]), ValueError, "0 <= label < 5"),
    ],
)
def test_unusable_classes_are_refused(y: Any, error: type[Exception], words: str) -> None:
    for call in (
        lambda: hf.attacks.pgd(linear(), images(), y, radius=0.1, steps=1),
        lambda: hf.Defense(linear(), CONFIG).calibrate(images(), y),
    ):
        with pytest.raises(error) as caught:
            call()
        assert words in str(caught.value)


def test_an_unknown_attack_objective_is_refused() -> None:
    with pytest.raises(ValueError, match="objective is 'hinge'"):
        hf.attacks.pgd(
            linear(),
            images(),
            torch.zeros(4, dtype=torch.int64),
            radius=0.1,
            objective="hinge",  # type: ignore[arg-type]
        )


def test_a_backend_that_cannot_run_says_why() -> None:
    with pytest.raises(RuntimeError, match="'cuda' cannot run"):
        hf.search(linear(), images(), CONFIG.replace(backend="cuda"))
    with pytest.raises(RuntimeError, match="'triton' cannot run"):
        hf.search(linear(), images(), CONFIG.replace(backend="triton"))


@pytest.mark.parametrize(
    ("value", "words"), [("triton", "HCNN_FAST_BACKEND 'triton' cannot run"), ("tpu", "is 'tpu'")]
)
def test_the_environment_chooses_for_auto_and_is_checked_too(value: str, words: str) -> None:
    code = "from hcnn_fast import backends; backends.resolve('auto', 'cpu')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HCNN_FAST_BACKEND": value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert words in done.stderr


def test_a_model_that_cannot_be_copied_works_in_evaluation_mode_only() -> None:
    class Uncopyable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = linear()
            self.source = (i for i in range(3))  # generators cannot be copied

        def forward(self, z: Tensor) -> Tensor:
            result: Tensor = self.inner(z)
            return result

    model = Uncopyable().eval()
    expected = hf.search(linear(), images(), CONFIG)
    torch.testing.assert_close(hf.search(model, images(), CONFIG).value, expected.value)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match=r"training mode .* expected model.eval\(\)"):
        hf.search(model.train(), images(), CONFIG)
