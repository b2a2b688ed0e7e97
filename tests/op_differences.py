"""Where an implementation of the operations differs from the reference, on a small battery."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from backtracking_arguments import WRITTEN as WRITTEN_BY_BACKTRACKING
from backtracking_arguments import backtracking_arguments
from step_arguments import WRITTEN, Arguments, duplicate, step_arguments
from torch import Tensor

from hcnn_fast import ops, reference


def differences(operations: Any) -> set[str]:
    """Names of the operations whose results are not those of the reference.

    `operations` takes arguments in the order of the schemas, on CPU tensors.
    """
    batteries = {
        "pgd_step_": _steps,
        "backtracking_step_": _backtracking_steps,
        "label_objective": _objectives,
        "random_starts": _starts,
        "select": _selections,
    }
    return {
        name
        for name, battery in batteries.items()
        if not all(_same(got, expected, limit) for got, expected, limit in battery(operations))
    }


def identical(a: Tensor, b: Tensor) -> bool:
    """Equal to the bit; zeros of both signs are one number, and so are all NaN."""
    a, b = a.cpu(), b.cpu()
    same = (a == b) | (a.isnan() & b.isnan())
    return a.dtype == b.dtype and a.shape == b.shape and bool(same.all())


Comparison = tuple[Tensor, Tensor, float]  # got, expected, largest relative difference


def _same(got: Tensor, expected: Tensor, limit: float) -> bool:
    return torch.allclose(got.double(), expected.double(), rtol=limit, atol=limit, equal_nan=True)


def _steps(operations: Any) -> Iterator[Comparison]:
    ways = [(None, False), (0.75, False), (0.75, True)]
    for seed, (shape, norm, (momentum, penalised)) in enumerate(
        (shape, norm, way)
        for shape in ((7,), (16,), (3, 5, 7))
        for norm in ("l1", "l2", "linf")
        for way in ways
    ):
        arguments = step_arguments(
            shape=shape,
            norm=norm,
            momentum=momentum,
            penalised=penalised,
            copy_dtype=torch.bfloat16,
            special=seed % 2 == 1,
            seed=seed,
        )
        arguments["best_value"][0] = arguments["value"][0]  # a tie: the kept point stays
        arguments["distance"][0] = 0.0
        arguments["previous"][1] = arguments["point"][1]
        expected, got = duplicate(arguments), duplicate(arguments)
        ops.pgd_step_(**expected, backend="reference")
        operations.pgd_step_(*positional("pgd_step_", got))
        for name in WRITTEN:
            yield (
                got[name] if got[name] is not None else torch.empty(0),
                (expected[name] if expected[name] is not None else torch.empty(0)),
                (1e-6 if name == "distance" else 0.0),
            )


def positional(name: str, arguments: Arguments) -> tuple[Any, ...]:
    """The keyword arguments of an operation of `ops` in the order of its schema."""
    low, high = arguments["bounds"]
    values = {**arguments, "lower": low, "upper": high}
    schema = getattr(torch.ops.hcnn_fast, name).default._schema
    return tuple(values[argument.name] for argument in schema.arguments)


def _backtracking_steps(operations: Any) -> Iterator[Comparison]:
    for seed, (shape, direction, backtracking) in enumerate(
        (shape, direction, backtracking)
        for shape in ((7,), (3, 5, 7))
        for direction in ("sign", "gradient")
        for backtracking in (None, 1.5)
    ):
        arguments = backtracking_arguments(
            shape=shape,
            direction=direction,
            backtracking=backtracking,
            special=seed >= 4,
            seed=seed,
        )
        expected, got = duplicate(arguments), duplicate(arguments)
        ops.backtracking_step_(**expected, backend="reference")
        operations.backtracking_step_(*positional("backtracking_step_", got))
        for name in WRITTEN_BY_BACKTRACKING:
            yield got[name], expected[name], 0.0


def _objectives(operations: Any) -> Iterator[Comparison]:
    generator = torch.Generator().manual_seed(0)
    for classes in (1, 10, 37):
        logits = 3.0 * torch.randn(5, classes, generator=generator)
        logits[0, classes // 2 :] = logits[0, classes // 2].clone()  # ties
        labels = torch.randint(classes, (5,), generator=generator)
        cases = [(kind, 1.0) for kind in reference.KINDS]
        cases += [("negative_entropy", order) for order in (0.0, 2.0, float("inf"))]
        for kind, order in cases:
            results = []
            for function in (operations.label_objective, _reference_objective):
                value, gradient = torch.empty(5), torch.empty_like(logits)
                function(logits, labels, kind, order, value, gradient)
                results.append((value, gradient))
            for got, expected in zip(*results, strict=True):
                yield got, expected, 1e-6


def _reference_objective(
    logits: Tensor, labels: Tensor, kind: str, order: float, value: Tensor, gradient: Tensor
) -> None:
    reference.label_objective(logits, labels, kind, order=order, value=value, gradient=gradient)


def _starts(operations: Any) -> Iterator[Comparison]:
    image = torch.rand(3, 5, 3, generator=torch.Generator().manual_seed(0))
    expected_hash = ops.content_hash(image, backend="reference")
    got_hash = torch.empty_like(expected_hash)
    operations.content_hash(image, got_hash)
    yield (got_hash == expected_hash), torch.ones(3, dtype=torch.bool), 0.0
    index, label = torch.tensor([0, 2, 1, 1]), torch.tensor([3, 0, 9, 9])
    start = torch.tensor([0, 1, 2, 7])
    expected = ops.random_starts(
        image,
        expected_hash,
        index,
        label,
        start,
        seed=5,
        radius=0.3,
        bounds=(0.0, 1.0),
        backend="reference",
    )
    got = torch.empty_like(expected)
    operations.random_starts(image, expected_hash, index, label, start, 5, 0.3, 0.0, 1.0, got)
    yield got, expected, 0.0


def _selections(operations: Any) -> Iterator[Comparison]:
    generator = torch.Generator().manual_seed(0)
    for images, labels, starts, classes in ((4, 5, 3, 7), (2, 37, 1, 41), (3, 1, 4, 1)):
        rows = images * labels * starts
        point = torch.rand(rows, 3, 3, generator=generator)
        logits = torch.randint(-2, 3, (rows, classes), generator=generator).float()
        value, certainty = torch.randint(-1, 2, (2, rows), generator=generator).float()
        value[::7] = float("nan")
        expected = ops.select(
            point, logits, value, certainty, labels=labels, starts=starts, backend="reference"
        )
        got = tuple(torch.empty_like(tensor) for tensor in expected)
        operations.select(point, logits, value, certainty, starts, *got)
        for one, other in zip(got, expected, strict=True):
            yield one, other, 0.0
