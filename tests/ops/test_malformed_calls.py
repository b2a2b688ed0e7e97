"""The compiled operations refuse what they cannot do, name the argument, and never crash."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from backtracking_arguments import WRITTEN as WRITTEN_BY_BACKTRACKING
from backtracking_arguments import backtracking_arguments
from op_backends import fast_backend
from step_arguments import WRITTEN, step_arguments
from torch import Tensor

from hcnn_fast import ops

Arguments = dict[str, Any]


def pgd_step_() -> Arguments:
    return step_arguments(rows=4, shape=(3, 2, 2), copy_dtype=torch.bfloat16)


def backtracking_step_() -> Arguments:
    return backtracking_arguments(rows=4, shape=(3, 2, 2))


def label_objective() -> Arguments:
    generator = torch.Generator().manual_seed(0)
    return {
        "logits": torch.randn(4, 5, generator=generator),
        "labels": torch.tensor([0, 4, 2, 2]),
        "kind": "log_probability",
        "order": 1.0,
        "value": torch.zeros(4),
        "gradient": torch.zeros(4, 5),
    }


def random_starts() -> Arguments:
    image = torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(0))
    return {
        "image": image,
        "image_hash": torch.tensor([5, -7, 0]),
        "image_index": torch.tensor([2, 0, 1, 1]),
        "label": torch.tensor([1, 0, 3, 3]),
        "start": torch.tensor([1, 0, 2, 3]),
        "seed": 3,
        "radius": 0.1,
        "bounds": (0.0, 1.0),
    }


def content_hash() -> Arguments:
    return {"image": random_starts()["image"]}


def select() -> Arguments:
    generator = torch.Generator().manual_seed(0)
    return {
        "point": torch.rand(12, 3, 2, generator=generator),
        "logits": torch.randn(12, 5, generator=generator),
        "value": torch.randint(3, (12,), generator=generator).float(),
        "certainty": torch.randint(3, (12,), generator=generator).float(),
        "labels": 3,
        "starts": 2,
    }


VALID: dict[str, Callable[[], Arguments]] = {
    "pgd_step_": pgd_step_,
    "backtracking_step_": backtracking_step_,
    "label_objective": label_objective,
    "random_starts": random_starts,
    "content_hash": content_hash,
    "select": select,
}
TENSORS = [
    (op, name)
    for op in ("pgd_step_", "backtracking_step_", "label_objective", "random_starts")
    for name, value in VALID[op]().items()
    if isinstance(value, Tensor)
]
every_tensor = pytest.mark.parametrize(("op", "name"), TENSORS)


def call(op: str, arguments: Arguments, backend: str, device: torch.device) -> Arguments:
    """The arguments after the call, on the CPU, and what is returned as result0, result1, ..."""
    moved = {
        k: v.to(device) if isinstance(v, Tensor) and v.device.type != "meta" else v
        for k, v in arguments.items()
    }
    result = getattr(ops, op)(**moved, backend=backend)
    results = result if isinstance(result, tuple) else (result,)
    moved |= {f"result{i}": tensor for i, tensor in enumerate(results)}
    return {k: v.cpu() if isinstance(v, Tensor) else v for k, v in moved.items()}


def expect_refusal(
    op: str, name: str, arguments: Arguments, backend: str, device: torch.device
) -> None:
    with pytest.raises(RuntimeError, match=rf"\b{name}\b"):
        call(op, arguments, backend, device)


@fast_backend
@pytest.mark.parametrize("op", VALID)
def test_the_valid_calls_pass(backend: str, device: torch.device, op: str) -> None:
    call(op, VALID[op](), backend, device)


@fast_backend
@every_tensor
def test_a_tensor_with_a_wrong_number_of_rows_is_refused(
    backend: str, device: torch.device, op: str, name: str
) -> None:
    free = {
        ("pgd_step_", "image"),
        ("backtracking_step_", "image"),
        ("random_starts", "image_index"),
    }
    if (op, name) in free:
        return  # their length is free: any number of images, of candidates
    arguments = VALID[op]()
    arguments[name] = torch.cat([arguments[name], arguments[name][:1]])
    others = [n for o, n in TENSORS if o == op]
    with pytest.raises(RuntimeError, match=r"\b(" + "|".join(others) + r")\b has shape"):
        call(op, arguments, backend, device)


@fast_backend
@every_tensor
def test_a_tensor_with_one_dimension_too_many_is_refused(
    backend: str, device: torch.device, op: str, name: str
) -> None:
    if (op, name) == ("random_starts", "image"):
        return  # an image may have any shape
    arguments = VALID[op]()
    arguments[name] = arguments[name][..., None]
    with pytest.raises(RuntimeError, match=r"has shape|expected"):
        call(op, arguments, backend, device)


@fast_backend
@every_tensor
def test_a_tensor_of_integers_is_refused_where_numbers_are_expected(
    backend: str, device: torch.device, op: str, name: str
) -> None:
    arguments = VALID[op]()
    if arguments[name].dtype == torch.int64:
        arguments[name] = arguments[name].to(torch.int32)
    else:
        arguments[name] = arguments[name].to(torch.int64)
    with pytest.raises(RuntimeError, match="scalar type"):
        call(op, arguments, backend, device)


@fast_backend
@every_tensor
def test_a_tensor_with_gaps_is_refused(
    backend: str, device: torch.device, op: str, name: str
) -> None:
    if (op, name) == ("random_starts", "image"):
        return  # made contiguous first
    arguments = VALID[op]()
    tensor = arguments[name]
    arguments[name] = torch.stack([tensor, tensor], -1)[..., 0]
    with pytest.raises(RuntimeError, match=r"contiguous|dense|stride"):
        call(op, arguments, backend, device)


@fast_backend
@pytest.mark.parametrize(
    ("op", "name"),
    [
        *(("pgd_step_", n) for n in ("gradient", "image", "momentum_buffer", "best", "copy")),
        *(("backtracking_step_", n) for n in ("gradient", "image", "point", "average", "best")),
    ],
)
def test_inner_strides_other_than_those_of_the_first_argument_are_refused(
    backend: str, device: torch.device, op: str, name: str
) -> None:
    arguments = VALID[op]()
    arguments[name] = arguments[name].contiguous(memory_format=torch.channels_last)
    expect_refusal(op, name, arguments, backend, device)


@fast_backend
@pytest.mark.parametrize(
    ("op", "name", "bad"),
    [
        ("pgd_step_", "image_index", 3),
        ("pgd_step_", "image_index", -1),
        ("backtracking_step_", "image_index", 3),
        ("backtracking_step_", "image_index", -1),
        ("label_objective", "labels", 5),
        ("label_objective", "labels", -1),
        ("random_starts", "image_index", 3),
        ("random_starts", "image_index", -1),
        ("random_starts", "label", -1),
        ("random_starts", "label", 2**32),
        ("random_starts", "start", -1),
        ("random_starts", "start", 2**32),
    ],
)
def test_an_index_out_of_range_is_refused(
    backend: str, device: torch.device, op: str, name: str, bad: int
) -> None:
    arguments = VALID[op]()
    arguments[name][1] = bad
    with pytest.raises(RuntimeError, match=rf"{name}\[1\] is {bad}, expected 0 <= index < "):
        call(op, arguments, backend, device)


@fast_backend
@pytest.mark.parametrize(
    ("op", "name", "bad", "message"),
    [
        ("pgd_step_", "radius", -0.1, "radius is -0.1"),
        ("pgd_step_", "radius", math.nan, "radius is -?nan"),
        ("pgd_step_", "bounds", (1.0, 0.0), "lower is 1, expected at most upper"),
        ("pgd_step_", "bounds", (math.nan, 0.0), "lower is -?nan"),
        ("pgd_step_", "norm", "l3", "norm is 'l3', expected l1, l2 or linf"),
        ("pgd_step_", "value", None, "best needs best_value and value"),
        ("pgd_step_", "best_value", None, "best needs best_value and value"),
        ("pgd_step_", "best", None, "best needs best_value and value"),
        ("backtracking_step_", "radius", -0.1, "radius is -0.1"),
        ("backtracking_step_", "bounds", (1.0, 0.0), "lower is 1, expected at most upper"),
        ("backtracking_step_", "backtracking", 0.5, "backtracking is 0.5, expected a number >= 1"),
        ("backtracking_step_", "backtracking", math.nan, "backtracking is -?nan, expected"),
        ("backtracking_step_", "direction", "up", "direction is 'up', expected sign or gradient"),
        ("backtracking_step_", "best", None, "best goes with best_value"),
        ("backtracking_step_", "best_value", None, "best goes with best_value"),
        ("label_objective", "kind", "logit", "kind is 'logit', expected"),
        ("random_starts", "radius", -1.0, "radius is -1"),
        ("random_starts", "radius", math.nan, "radius is -?nan"),
        ("random_starts", "bounds", (2.0, 1.0), "lower is 2, expected at most upper"),
    ],
)
def test_a_number_out_of_range_is_refused(
    backend: str, device: torch.device, op: str, name: str, bad: object, message: str
) -> None:
    arguments = VALID[op]()
    arguments[name] = bad
    with pytest.raises(RuntimeError, match=message):
        call(op, arguments, backend, device)


@fast_backend
@pytest.mark.parametrize("order", [-0.5, math.nan])
def test_a_negative_order_is_refused(backend: str, device: torch.device, order: float) -> None:
    arguments = label_objective()
    arguments.update(kind="negative_entropy", order=order)
    expect_refusal("label_objective", "order", arguments, backend, device)


@fast_backend
def test_a_hash_that_does_not_fit_is_refused(backend: str, device: torch.device) -> None:
    op = torch.ops.hcnn_fast.content_hash
    image = torch.rand(3, 4, device=device)
    with pytest.raises(RuntimeError, match="out has shape"):
        op(image, torch.zeros(2, dtype=torch.int64, device=device))
    with pytest.raises(RuntimeError, match="out has scalar type"):
        op(image, torch.zeros(3, device=device))
    with pytest.raises(RuntimeError, match="image has scalar type"):
        op(image.half(), torch.zeros(3, dtype=torch.int64, device=device))
    with pytest.raises(RuntimeError, match="image is not a contiguous"):
        op(image.t(), torch.zeros(4, dtype=torch.int64, device=device))


def sharing(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Tensors of the same shapes, dtypes and strides at one address, all zeros."""
    size = max(t.numel() * t.element_size() for t in (first, second))
    storage = torch.zeros(size, dtype=torch.uint8, device=first.device).untyped_storage()

    def view(like: Tensor) -> Tensor:
        empty = torch.empty(0, dtype=like.dtype, device=like.device)
        return empty.set_(storage, 0, like.shape, like.stride())

    return view(first), view(second)


PAIRS = {
    "pgd_step_": WRITTEN,
    "backtracking_step_": WRITTEN_BY_BACKTRACKING,
    "label_objective": ("value", "gradient"),
}


@fast_backend
@pytest.mark.parametrize(
    ("op", "written", "other"),
    [
        (op, written, name)
        for op, names in PAIRS.items()
        for written in names
        for o, name in TENSORS
        if o == op and name != written
    ],
)
def test_memory_that_is_written_is_not_seen_through_another_argument(
    backend: str, device: torch.device, op: str, written: str, other: str
) -> None:
    arguments = VALID[op]()
    arguments = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in arguments.items()}
    arguments[written], arguments[other] = sharing(arguments[written], arguments[other])
    with pytest.raises(RuntimeError, match=rf"\b({written} shares memory with|{other})\b"):
        getattr(ops, op)(**arguments, backend=backend)


@fast_backend
def test_rows_that_overlap_each_other_are_refused(backend: str, device: torch.device) -> None:
    arguments = pgd_step_()
    arguments["point"] = arguments["point"][:1].expand(4, -1, -1, -1)
    expect_refusal("pgd_step_", "point", arguments, backend, device)


CHANGES: tuple[Callable[[Tensor], Any], ...] = (
    lambda t: t[:-1],
    lambda t: t[:0],
    lambda t: torch.cat([t, t]),
    lambda t: t[..., None],
    lambda t: t.flatten(),
    lambda t: t.mT if t.ndim > 1 else t[None],
    lambda t: t.flip(0),
    lambda t: t[::2],
    lambda t: t[:1].expand_as(t),
    lambda t: t.reshape(-1)[:1].expand(t.shape),
    lambda t: t.sum(),
    lambda t: t.half(),
    lambda t: t.double(),
    lambda t: t.long(),
    lambda t: t.bool(),
    lambda t: t.to(torch.complex64),
    lambda t: None,
    lambda t: t.tolist(),
    lambda t: t.float().cpu().numpy(),
    lambda t: t.to_sparse(),
    lambda t: torch.empty(0),
    lambda t: 3.0,
    lambda t: t.to("meta"),
    lambda t: t * float("nan"),
)
VALUE_CHANGES: tuple[Callable[[Tensor], Any], ...] = (
    lambda t: t - 1,
    lambda t: t + 2**40,
    lambda t: torch.full_like(t, -(2**62) if t.dtype == torch.int64 else 0),
    lambda t: t * 2**33,
)


IN_BALLS = ("pgd_step_", "backtracking_step_", "random_starts")


def malformed(op: str, chance: random.Random) -> tuple[Arguments, tuple[str, ...]]:
    """A valid call with one or two of its tensors replaced, and the names of those."""
    arguments = VALID[op]()
    names = [name for name, value in arguments.items() if isinstance(value, Tensor)]
    changed = tuple(chance.sample(names, min(len(names), chance.choice([1, 1, 2]))))
    for name in changed:
        inside = op in IN_BALLS and name in ("image", "point", "proposal")
        if chance.random() < 0.2:
            arguments[name] = arguments[chance.choice(names)]
        else:
            # Images keep to the bounds and points to the ball: their values stay.
            changes = CHANGES[:-1] if inside else CHANGES + VALUE_CHANGES
            arguments[name] = chance.choice(changes)(arguments[name])
    return arguments, changed


CALLS = {"triton": 100}  # interpreted: each takes a hundred times as long


@fast_backend
@pytest.mark.parametrize("op", VALID)
def test_malformed_calls_raise_or_give_the_right_answer(
    backend: str, device: torch.device, op: str
) -> None:
    chance = random.Random(op)
    calls = CALLS.get(backend, 2000)
    refused = 0
    for _ in range(calls):
        state = chance.getstate()
        arguments, changed = malformed(op, chance)
        try:
            got = call(op, arguments, backend, device)
        except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError):
            refused += 1  # by a check, or by Python or torch for what is no tensor at all
            continue
        chance.setstate(state)
        fresh, _ = malformed(op, chance)
        expected = call(op, fresh, "reference", torch.device("cpu"))
        for name, value in expected.items():
            if isinstance(value, Tensor):
                torch.testing.assert_close(
                    got[name],
                    value,
                    rtol=1e-6,
                    atol=0.0,
                    equal_nan=True,
                    msg=f"{name} of {op} with {changed} changed",
                )
    assert calls / 4 < refused < calls
