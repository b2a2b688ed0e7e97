"""Compile all kernels for one compute capability, without a GPU: run by test_compiles.py."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from itertools import cycle
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

Types = dict[str, str]
Constants = dict[str, Any]
Case = tuple[Any, Types, Constants]

backtracking_step, label_objective, pgd_step, select, starts = (
    importlib.import_module(f"hcnn_fast.kernels.{name}")
    for name in ("backtracking_step", "label_objective", "pgd_step", "select", "starts")
)
OPTIONAL = (
    "momentum_buffer",
    "penalty",
    "value",
    "best",
    "best_value",
    "distance",
    "low_copy",
    "previous",
    "motion",
    "reach",
)
NUMBERS = ("radius", "lower", "upper", "momentum", "distance_weight")


def steps() -> Iterator[Case]:
    for wide, slope, low in (
        ("fp32", "fp32", None),
        ("fp32", "bf16", "bf16"),
        ("fp32", "fp16", "fp16"),
        ("fp64", "fp64", None),
    ):
        required = dict.fromkeys(("point", "image", "step_size"), f"*{wide}")
        required |= {"gradient": f"*{slope}", "image_index": "*i64", "elements": "i32"}
        required |= dict.fromkeys(NUMBERS, "fp64")
        for norm in pgd_step.NORMS:
            constants: Constants = {"NORM": norm, "BLOCK": 1024}
            if slope == "fp32":
                yield pgd_step.step_kernel, required, constants | dict.fromkeys(OPTIONAL)
            optional = dict.fromkeys(OPTIONAL, f"*{wide}") | {"motion": "*u8"}
            optional |= {"low_copy": f"*{low}"}
            if low is None:
                del optional["low_copy"]
                constants["low_copy"] = None
            yield pgd_step.step_kernel, required | optional, constants


def backtracking_steps() -> Iterator[Case]:
    numbers = ("radius", "lower", "upper", "momentum", "fresh", "backtracking")
    for wide in ("fp32", "fp64"):
        names = set(backtracking_step.backtracking_kernel.arg_names)
        constants: Constants = {"BACKTRACKS": True, "SIGNS": True, "BLOCK": 1024}
        types = dict.fromkeys(names - {*constants, *numbers}, f"*{wide}")
        types |= dict.fromkeys(numbers, "fp64") | {"image_index": "*i64", "elements": "i32"}
        yield backtracking_step.backtracking_kernel, types, constants
        constants = {"BACKTRACKS": False, "SIGNS": False, "BLOCK": 1024}
        absent = dict.fromkeys(("best", "best_value"))
        required = {name: kind for name, kind in types.items() if name not in absent}
        yield backtracking_step.backtracking_kernel, required, constants | absent


def objectives() -> Iterator[Case]:
    kinds = [(kind, "none") for kind in label_objective.KINDS if kind != "negative_entropy"]
    kinds += [("negative_entropy", order) for order in ("shannon", "zero", "infinite", "renyi")]
    dtypes = cycle((("fp32", "fp32"), ("bf16", "fp32"), ("fp64", "fp64"), ("fp16", "fp32")))
    for (kind, order), (logits, value) in zip(kinds, dtypes, strict=False):
        types = {"logits": f"*{logits}", "gradient": f"*{logits}", "value": f"*{value}"}
        types |= {"labels": "*i64", "classes": "i32", "order": "fp64"}
        constants = {"KIND": kind, "ORDER": order, "BLOCK": 1024}
        yield label_objective.objective_kernel, types, constants


def others() -> Iterator[Case]:
    for wide in ("fp32", "fp64"):
        image = {"image": f"*{wide}", "elements": "i32"}
        yield starts.hash_kernel, image | {"out": "*i64"}, {"BLOCK": 1024}
        indices = dict.fromkeys(("image_hash", "image_index", "label", "start"), "*i64")
        numbers = dict.fromkeys(("radius", "lower", "upper"), "fp64")
        for seed in ("i32", "i64"):
            types = image | indices | numbers | {"point": f"*{wide}", "seed": seed}
            yield starts.starts_kernel, types, {"BLOCK": 1024}
        for logits in ("bf16", wide):
            types = dict.fromkeys(("point", "best_point", "value", "certainty"), f"*{wide}")
            types |= dict.fromkeys(("row", "winner", "prediction"), "*i64")
            types |= dict.fromkeys(("labels", "starts", "classes", "elements"), "i32")
            constants = {"LANES": 16, "BLOCK": 1024}
            yield select.select_kernel, types | {"logits": f"*{logits}"}, constants


def ptx_of(case: Case, target: GPUTarget) -> str:
    kernel, types, constants = case
    names = list(kernel.arg_names)
    assert set(names) == {*types, *constants}, set(names) ^ {*types, *constants}
    source = ASTSource(
        kernel,
        {name: types.get(name, "constexpr") for name in names},
        {(names.index(name),): value for name, value in constants.items()},
    )
    options = {"num_warps": 4, "enable_fp_fusion": False}
    ptx: str = triton.compile(source, target=target, options=options).asm["ptx"]
    return ptx


def main(capability: int) -> None:
    target = GPUTarget("cuda", capability, 32)
    cases = [*steps(), *backtracking_steps(), *objectives(), *others()]
    for case in cases:
        ptx = ptx_of(case, target)
        if case[0] is label_objective.objective_kernel:
            continue  # in float64, not to the bit
        inexact = set(re.findall(r"\b(?:div\.full|\w+\.approx|\w+\.ftz|fma)[.\w]*", ptx))
        assert not inexact, (case[0].__name__, case[2], inexact)
    print(len(cases))


main(int(sys.argv[1]))
