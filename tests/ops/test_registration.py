"""Every registered operation passes torch's own checks, compiles, and uses its threads."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from backtracking_arguments import WRITTEN as WRITTEN_BY_BACKTRACKING
from backtracking_arguments import backtracking_arguments
from op_differences import positional
from step_arguments import WRITTEN, duplicate, step_arguments

from hcnn_fast import backends, ops

NAMESPACE = "hcnn_fast::"


def registered() -> list[str]:
    """Names of all operations of the package that torch knows, without their namespace."""
    names = torch._C._dispatch_get_all_op_names()
    return sorted(name.removeprefix(NAMESPACE) for name in names if name.startswith(NAMESPACE))


def channels_last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def samples(name: str) -> list[tuple[Any, ...]]:
    """Arguments of an operation that opcheck calls it with; KeyError for one that is unknown."""
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 4, 2, 2])
    image = torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(0))
    whole = step_arguments(rows=4, shape=(3, 2, 2), copy_dtype=torch.bfloat16)
    plain = step_arguments(rows=4, momentum=None, penalised=False, keeps_best=False)
    integers = torch.tensor([2, 0, 1, 1])
    return {
        "build_config": [()],
        "label_objective": [
            (logits, labels, "log_probability", 1.0, torch.empty(4), torch.empty(4, 5)),
            (
                logits.bfloat16(),
                labels,
                "negative_entropy",
                2.0,
                torch.empty(4),
                torch.empty(4, 5, dtype=torch.bfloat16),
            ),
        ],
        "pgd_step_": [positional("pgd_step_", whole), positional("pgd_step_", plain)],
        "backtracking_step_": [
            positional("backtracking_step_", backtracking_arguments(shape=(3, 2, 2))),
            positional(
                "backtracking_step_",
                backtracking_arguments(backtracking=None, direction="gradient", keeps_best=False),
            ),
        ],
        "content_hash": [(image, torch.empty(3, dtype=torch.int64))],
        "random_starts": [
            (
                image,
                integers[:3],
                integers,
                integers,
                integers,
                7,
                0.1,
                0.0,
                1.0,
                torch.empty(4, 2, 2),
            )
        ],
        "select": [
            (
                image.repeat(4, 1, 1),
                torch.randn(12, 5, generator=torch.Generator().manual_seed(1)),
                torch.rand(12, generator=torch.Generator().manual_seed(2)),
                torch.zeros(12),
                2,
                torch.empty(3, 2, dtype=torch.int64),
                torch.empty(3, dtype=torch.int64),
                torch.empty(3, 2, 2),
                torch.empty(3, dtype=torch.int64),
            )
        ],
        "winograd_convolution": [
            (
                channels_last(torch.rand(2, 16, 5, 4)),
                torch.rand(36, 16 * 16),
                torch.rand(16),
                1,
                0,
                torch.zeros(1, 12, 36 * 32 + 32),
                channels_last(torch.zeros(2, 16, 5, 4)),
            )
        ],
    }[name]


@pytest.mark.parametrize("name", registered())
def test_every_registered_operation_passes_opcheck(name: str) -> None:
    checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if name != "build_config":  # torch cannot compare the strings of a compiled call
        checks.append("test_aot_dispatch_dynamic")
    for arguments in samples(name):
        torch.library.opcheck(
            getattr(torch.ops.hcnn_fast, name).default, arguments, test_utils=checks
        )


def test_the_operations_of_the_contract_are_registered() -> None:
    assert set(registered()) >= {
        "backtracking_step_",
        "build_config",
        "content_hash",
        "label_objective",
        "pgd_step_",
        "random_starts",
        "select",
        "winograd_convolution",
    }


@pytest.mark.parametrize("name", registered())
def test_what_an_operation_writes_is_in_its_schema(name: str) -> None:
    schema = getattr(torch.ops.hcnn_fast, name).default._schema
    written = {a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write}
    assert (
        written
        == {
            "build_config": set(),
            "content_hash": {"out"},
            "label_objective": {"value", "gradient"},
            "pgd_step_": set(WRITTEN),
            "backtracking_step_": set(WRITTEN_BY_BACKTRACKING),
            "random_starts": {"point"},
            "select": {"row", "winner", "best_point", "prediction"},
            "winograd_convolution": {"workspace", "out"},
        }[name]
    )
    assert len(schema.returns) == (name == "build_config")


def test_a_step_compiles_into_one_graph() -> None:
    def step(arguments: dict[str, Any]) -> torch.Tensor:
        logits = 2.0 * arguments["point"]
        value, gradient = torch.empty(len(logits)), torch.empty_like(logits)
        torch.ops.hcnn_fast.label_objective(
            logits, arguments["image_index"], "probability", 1.0, value, gradient
        )
        arguments = {**arguments, "gradient": 2.0 * gradient, "value": value}
        torch.ops.hcnn_fast.pgd_step_(*(arguments[name] for name in names))
        return arguments["point"] + 0.0

    names = [a.name for a in torch.ops.hcnn_fast.pgd_step_.default._schema.arguments]
    eager = step_arguments(rows=4, shape=(7,))
    eager["lower"], eager["upper"] = eager["bounds"]
    compiled = duplicate(eager)
    expected = step(eager)
    got = torch.compile(step, backend="aot_eager", fullgraph=True)(compiled)
    assert torch.equal(got, expected)
    for name in ("point", "best", "best_value", "momentum_buffer", "distance"):
        assert torch.equal(compiled[name], eager[name]), name


def test_the_extension_is_built_with_openmp() -> None:
    assert backends.compiled()["openmp"] >= 201511


def ticks_per_thread() -> dict[str, int]:
    """User and system time of every thread of this process, in clock ticks."""
    times = {}
    for path in Path("/proc/self/task").iterdir():
        fields = (path / "stat").read_text().rpartition(")")[2].split()
        times[path.name] = int(fields[11]) + int(fields[12])
    return times


@pytest.fixture
def two_threads() -> Iterator[None]:
    if not Path("/proc/self/task").exists():
        pytest.skip("times of single threads need /proc")
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core only")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("backend", ["cpu"], indirect=True)
@pytest.mark.usefixtures("two_threads")
def test_a_step_runs_on_two_threads(backend: str) -> None:
    arguments = step_arguments(rows=64, shape=(3, 64, 64))
    ops.pgd_step_(**arguments, backend=backend)
    before = ticks_per_thread()
    deadline = time.monotonic() + 60.0
    busy = 0
    while busy < 2 and time.monotonic() < deadline:
        for _ in range(10):
            ops.pgd_step_(**arguments, backend=backend)
        now = ticks_per_thread()
        busy = sum(now[thread] - before.get(thread, 0) >= 3 for thread in now)
    assert busy >= 2, "all the work was done by one thread"


@pytest.mark.parametrize("backend", ["cpu"], indirect=True)
@pytest.mark.usefixtures("two_threads")
def test_two_threads_give_what_one_gives(backend: str) -> None:
    two = step_arguments(rows=40, shape=(3, 33, 33))
    one = duplicate(two)
    ops.pgd_step_(**two, backend=backend)
    torch.set_num_threads(1)
    ops.pgd_step_(**one, backend=backend)
    for name in ("point", "best", "best_value", "momentum_buffer", "distance"):
        assert torch.equal(two[name], one[name]), name
