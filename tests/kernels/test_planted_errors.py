"""An error planted in the Triton kernels is seen by the interpreter."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from op_differences import differences
from planted_error import PlantedError

KERNELS = Path(__file__).parents[2] / "kernels"

pytestmark = [
    pytest.mark.usefixtures("triton_interpreter"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="Triton compiles where there is a GPU"),
]


ERRORS = {
    "step-writes-past-the-row": PlantedError(
        "pgd_step.py",
        "inside = i < elements\n        old",
        "inside = i <= elements\n        old",
        "pgd_step_",
    ),
    "step-misses-the-tail": PlantedError(
        "pgd_step.py",
        "inside = i < elements\n        old",
        "inside = i < elements - 1\n        old",
        "pgd_step_",
    ),
    "smallest-entry-as-scale": PlantedError(
        "pgd_step.py", "return tl.max(size, 0)", "return tl.min(size, 0)", "pgd_step_"
    ),
    "momentum-on-the-gradient": PlantedError(
        "pgd_step.py",
        "decay * tl.load(buffer + i, mask=inside, other=0.0) + m",
        "tl.load(buffer + i, mask=inside, other=0.0) + decay * m",
        "pgd_step_",
    ),
    "best-kept-on-a-tie": PlantedError(
        "pgd_step.py",
        "kept = tl.where(score > held",
        "kept = tl.where(score >= held",
        "pgd_step_",
    ),
    "returns-unseen": PlantedError(
        "pgd_step.py", "placed != before", "placed == before", "pgd_step_"
    ),
    "reach-downhill": PlantedError(
        "pgd_step.py", "tl.where(slopes > 0.0", "tl.where(slopes < 0.0", "pgd_step_"
    ),
    "moves-at-zero": PlantedError(
        "arithmetic.py", "tl.where(direction < 0.0", "tl.where(direction <= 0.0", "pgd_step_"
    ),
    "bounds-swapped": PlantedError(
        "pgd_step.py",
        "ball_lower(centre, ball, low)",
        "ball_lower(centre, ball, high)",
        "pgd_step_",
    ),
    "copy-truncated": PlantedError(
        "arithmetic.py", "bits + 0x7FFF + ((bits >> 16) & 1)", "bits", "pgd_step_"
    ),
    "average-of-the-old-direction": PlantedError(
        "backtracking_step.py",
        "other=0.0) + share * u",
        "other=0.0) + decay * u",
        "backtracking_step_",
    ),
    "refused-and-yet-best": PlantedError(
        "backtracking_step.py",
        "better = taken & (there > held)",
        "better = tl.load(reached + b) > held",
        "backtracking_step_",
    ),
    "gradient-sign": PlantedError(
        "label_objective.py",
        "share = -factor / total",
        "share = factor / total",
        "label_objective",
    ),
    "label-among-its-rivals": PlantedError(
        "label_objective.py",
        "rivals = (k < classes) & (k != label)",
        "rivals = k < classes",
        "label_objective",
    ),
    "generator-constant": PlantedError(
        "arithmetic.py", "0xD2511F53", "0xD2511F51", "random_starts"
    ),
    "hash-of-the-padding": PlantedError(
        "starts.py", "tl.where(i < elements, share, 0)", "share", "random_starts"
    ),
    "last-of-equals": PlantedError(
        "select.py",
        "(value == than_value) & (certainty > than_certainty)",
        "(value == than_value) & (certainty >= than_certainty)",
        "select",
    ),
}


def load(folder: Path, name: str) -> ModuleType:
    """The package in a folder, under a name of its own."""
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def planted(folder: Path, name: str, error: PlantedError | None) -> ModuleType:
    """A copy of the kernels with an error."""
    shutil.copytree(KERNELS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    if error is not None:
        error.plant(folder)
    return load(folder, name)


def test_without_an_error_nothing_differs(tmp_path: Path) -> None:
    assert differences(planted(tmp_path / "kernels", "kernels_as_they_are", None)) == set()


@pytest.mark.parametrize("name", ERRORS)
def test_a_planted_error_is_seen(name: str, tmp_path: Path) -> None:
    module = planted(tmp_path / "kernels", f"kernels_{name.replace('-', '_')}", ERRORS[name])
    assert ERRORS[name].operation in differences(module)
