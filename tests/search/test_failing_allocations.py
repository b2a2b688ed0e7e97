"""An allocation that fails, whichever it is, costs time and nothing else."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_classifiers import convolutional, images
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import hcnn_fast as hf

PACKAGE = f"{Path(hf.__file__).parent}{os.sep}"
COMMON: dict[str, Any] = {"steps": 2, "batch_size": 4, "keep_points": True}
CONFIGS = {
    "mcn": hf.SearchConfig.mcn(0.1, starts=2, **COMMON),
    "tolerance": hf.SearchConfig.mcn(0.1, starts=2, tolerance=1e-3, **COMMON),
    "hcnn": hf.SearchConfig.hcnn(0.1, 0.1, "l2", tolerance=1e-3, **COMMON),
    "ncn": hf.SearchConfig.ncn(0.1, 0.4, **COMMON),
    "entropy": hf.SearchConfig.entropy(0.1, starts=2, **COMMON),
    "bfloat16": hf.SearchConfig.mcn(0.1, precision="bfloat16", **COMMON),
    "stops": hf.SearchConfig.mcn(
        0.02, schedule="constant", momentum=0.0, **{**COMMON, "steps": 12, "batch_size": 10}
    ),
}
STAGES = {  # functions of which each must have had an allocation fail
    "mcn": {"slopes_of_labels", "random_starts", "slope", "_record", "cat", "select", "put"},
    "tolerance": {"reach", "rows", "or_better", "finish", "_too_little"},
    "hcnn": {"or_better", "distance", "_improve", "_value", "within_bounds"},
    "ncn": {"cat", "approach", "project", "needed_from_image"},
    "entropy": {"random_starts", "_block", "objective"},
    "bfloat16": {"_rescored", "_result_of"},
    "stops": {"_without_others"},
}


class Failing(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it so
    """Notes which function of the package allocates, and lets one allocation fail."""

    def __init__(self, at: int = -1) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.at = at
        self.functions: list[str] = []  # of every allocation

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        returns = func._schema.returns
        if returns and all(value.alias_info is None for value in returns):
            frame = sys._getframe()
            while frame.f_back is not None and PACKAGE not in frame.f_code.co_filename:
                frame = frame.f_back
            self.functions.append(frame.f_code.co_name)
            if len(self.functions) - 1 == self.at:
                raise MemoryError("injected")
        return func(*args, **(kwargs or {}))


def run(
    x: Tensor,  # [N, *image]
    config: hf.SearchConfig,
    at: int = -1,
) -> tuple[hf.SearchResult, list[str], int]:
    """A search, the functions that allocated, and how many had when the blocks began."""
    module = convolutional(dtype=x.dtype).requires_grad_(False)
    mode, begun = Failing(at), []

    def model(z: Tensor) -> Tensor:
        logits: Tensor = module(z)
        begun.append(len(mode.functions))  # after the pass that counts the classes
        return logits

    with mode:
        result = hf.search(model, x, config)
    return result, mode.functions, begun[0]


@pytest.mark.parametrize("name", list(CONFIGS))
def test_an_allocation_that_fails_in_any_function_loses_nothing(name: str) -> None:
    config = CONFIGS[name]
    low = config.precision == "bfloat16"
    x = images(2, dtype=torch.float32 if low else torch.float64)
    expected, functions, begun = run(x, config)
    last = {function: at for at, function in enumerate(functions) if at >= begun}
    assert last.keys() >= STAGES[name]
    for at in last.values():
        got, tried, _ = run(x, config, at)
        assert len(tried) > len(functions)  # something was done again
        closeness = {"rtol": 0.0, "atol": 2e-2 if low else 1e-10}
        torch.testing.assert_close(got.label_value, expected.label_value, **closeness)
        torch.testing.assert_close(got.value, expected.value, **closeness)
        assert torch.equal(got.labels, expected.labels)
        if not low:
            torch.testing.assert_close(got.label_point, expected.label_point, **closeness)
            assert torch.equal(got.steps, expected.steps)
        if name not in ("tolerance", "hcnn", "stops"):  # no run ends before others of its batch
            assert (got.forwards, got.backwards) == (expected.forwards, expected.backwards)
