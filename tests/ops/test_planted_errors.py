"""An error planted in the formulas of the CUDA kernels is seen without a GPU."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from op_differences import differences
from planted_error import PlantedError

ERRORS = {
    "scale-misses-the-tail": PlantedError(
        "rows/pgd_step.h",
        "i < s.elements; i += stride) {\n      const Pack<G, V> slope",
        "i + V < s.elements; i += stride) {\n      const Pack<G, V> slope",
        "pgd_step_",
    ),
    "step-misses-the-tail": PlantedError(
        "rows/pgd_step.h",
        "i < s.elements; i += stride) {\n    const Pack<T, V> old",
        "i + V < s.elements; i += stride) {\n    const Pack<T, V> old",
        "pgd_step_",
    ),
    "best-kept-on-a-tie": PlantedError(
        "rows/pgd_step.h", "score > a.best_value[b]", "score >= a.best_value[b]", "pgd_step_"
    ),
    "momentum-on-the-gradient": PlantedError(
        "rows/pgd_step.h", "s.momentum * held + share", "held + s.momentum * share", "pgd_step_"
    ),
    "moves-at-zero": PlantedError(
        "scalar_math.h", "(direction < T(0) ? -step", "(direction <= T(0) ? -step", "pgd_step_"
    ),
    "bounds-swapped": PlantedError(
        "scalar_math.h", "v > lower ? v : lower", "v < lower ? v : lower", "pgd_step_"
    ),
    "returns-unseen": PlantedError("rows/pgd_step.h", "elsewhere |=", "elsewhere &=", "pgd_step_"),
    "reach-downhill": PlantedError(
        "rows/pgd_step.h", "g > T(0) ? ball_upper", "g < T(0) ? ball_upper", "pgd_step_"
    ),
    "reach-of-a-point-a-step-on": PlantedError(
        "rows/pgd_step.h",
        "reach_entry(old.entry[j]",
        "reach_entry(old.entry[j] + step",
        "pgd_step_",
    ),
    "average-of-the-old-direction": PlantedError(
        "rows/backtracking_step.h",
        "s.momentum * average + s.fresh * uphill",
        "s.fresh * average + s.momentum * uphill",
        "backtracking_step_",
    ),
    "ties-are-refused": PlantedError(
        "rows/backtracking_step.h",
        "a.reached[b] >= a.value[b]",
        "a.reached[b] > a.value[b]",
        "backtracking_step_",
    ),
    "refused-and-yet-best": PlantedError(
        "rows/backtracking_step.h",
        "taken && a.best != nullptr",
        "a.best != nullptr",
        "backtracking_step_",
    ),
    "gradient-sign": PlantedError(
        "rows/label_objective.h", ": share * e)", ": -share * e)", "label_objective"
    ),
    "generator-constant": PlantedError("philox.h", "0xD2511F53u", "0xD2511F51u", "random_starts"),
    "last-of-equals": PlantedError(
        "rows/select.h", "best && count - k > from_end", "best", "select"
    ),
}


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The emulated operations with each of the errors."""
    from emulation import SOURCES, build

    def plant(number: int, error: PlantedError) -> Any:
        folder = tmp_path_factory.mktemp("planted")
        sources = Path(shutil.copytree(SOURCES, folder / "csrc"))
        error.plant(sources)
        return build(folder, f"hcnn_fast_planted_{number}", sources)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        built = pool.map(plant, range(len(ERRORS)), ERRORS.values())
        return dict(zip(ERRORS, built, strict=True))


def test_without_an_error_nothing_differs(emulated_operations: Any) -> None:
    assert differences(emulated_operations) == set()


def test_the_compiled_operations_do_not_differ() -> None:
    assert differences(torch.ops.hcnn_fast) == set()


@pytest.mark.parametrize("name", ERRORS)
def test_a_planted_error_is_seen(name: str, spoiled: dict[str, Any]) -> None:
    assert ERRORS[name].operation in differences(spoiled[name])
