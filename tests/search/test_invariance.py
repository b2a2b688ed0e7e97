"""An image's result depends on the image alone: not on its company, order, chunk or bad luck."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from tiny_classifiers import convolutional, images, linear
from torch import Tensor

import hcnn_fast as hf

CONFIGS = {
    "mcn": hf.SearchConfig.mcn(0.1, steps=4, starts=3, keep_points=True),
    "hcnn": hf.SearchConfig.hcnn(0.1, 0.1, "l2", steps=4, starts=2, keep_points=True),
    "ncn": hf.SearchConfig.ncn(0.1, 0.4, steps=4, starts=2, keep_points=True),
    "entropy": hf.SearchConfig.entropy(0.1, steps=4, starts=3, keep_points=True),
}
ROWS = (
    "point",
    "value",
    "label",
    "prediction",
    "confidence",
    "logits",
    "labels",
    "label_value",
    "label_confidence",
    "label_prediction",
    "label_point",
    "steps",
)
all_configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def assert_rows_equal(got: hf.SearchResult, expected: hf.SearchResult, rows: Tensor) -> None:
    """Row k of `got` is row rows[k] of `expected`."""
    for field in ROWS:
        a, b = getattr(got, field), getattr(expected, field)
        if b is None:
            assert a is None
        elif b.is_floating_point():
            torch.testing.assert_close(a, b[rows], rtol=0, atol=1e-12)
        else:
            assert torch.equal(a, b[rows]), field


class Recorder:
    """A classifier that remembers the points it was asked about."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.seen: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        logits: Tensor = self.model(x)
        return logits


@all_configs
def test_the_order_of_the_batch_does_not_matter(config: hf.SearchConfig) -> None:
    model, x = convolutional(dtype=torch.float64), images(6, dtype=torch.float64)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    expected = hf.search(model, x, config)
    assert_rows_equal(hf.search(model, x[order], config), expected, order)


@all_configs
def test_an_image_alone_gives_what_it_gives_in_company(config: hf.SearchConfig) -> None:
    model, x = convolutional(dtype=torch.float64), images(4, dtype=torch.float64)
    expected = hf.search(model, x, config)
    for n in range(len(x)):
        assert_rows_equal(hf.search(model, x[n : n + 1], config), expected, torch.tensor([n]))


@all_configs
@pytest.mark.parametrize("batch_size", [1, 2, 7, 16, 1000])
def test_the_batch_size_does_not_matter(config: hf.SearchConfig, batch_size: int) -> None:
    model, x = convolutional(dtype=torch.float64), images(5, dtype=torch.float64)
    expected = hf.search(model, x, config)
    got = hf.search(model, x, config.replace(batch_size=batch_size))
    assert_rows_equal(got, expected, torch.arange(5))
    assert got.backwards == expected.backwards


@all_configs
def test_equal_images_give_equal_results(config: hf.SearchConfig) -> None:
    model, x = convolutional(dtype=torch.float64), images(3, dtype=torch.float64)
    twice = torch.tensor([0, 1, 0, 2, 1, 0])
    expected = hf.search(model, x, config)
    assert_rows_equal(hf.search(model, x[twice], config), expected, twice)


@all_configs
def test_a_search_repeats_to_the_bit(config: hf.SearchConfig) -> None:
    model, x = convolutional(), images(3)
    first, again = hf.search(model, x, config), hf.search(model, x, config)
    for field in ROWS:
        a, b = getattr(first, field), getattr(again, field)
        assert torch.equal(a, b), field


def starts_of(x: Tensor, config: hf.SearchConfig) -> dict[int, Tensor]:
    """The random first points [L * (S - 1), *image] of each image, by its position."""
    model = Recorder(linear(shape=tuple(x.shape[1:])))
    hf.search(model, x, config.replace(batch_size=10_000))
    # One image alone, the images for all labels, the runs from them, then the random starts.
    first = model.seen[2 + config.steps].view(len(x), -1, *x.shape[1:])
    return dict(enumerate(first))


def test_random_starts_are_the_same_to_the_bit_in_every_batch() -> None:
    config, x = CONFIGS["mcn"], images(5)
    expected = starts_of(x, config)
    order = torch.tensor([3, 1, 4, 0, 2])
    for position, first in starts_of(x[order], config).items():
        assert torch.equal(first, expected[int(order[position])])
    for n in range(len(x)):
        assert torch.equal(starts_of(x[n : n + 1], config)[0], expected[n])


def test_random_starts_are_the_same_to_the_bit_in_every_chunk() -> None:
    config, x = CONFIGS["mcn"], images(3)
    expected = torch.cat(list(starts_of(x, config).values()))  # [N * L * (S - 1), *image]
    model = Recorder(linear())
    hf.search(model, x, config.replace(batch_size=4))
    from_images = math.ceil(3 * 5 / 4)  # chunks, whose first points were seen with the images
    seen = model.seen[2 + from_images * config.steps :]
    chunks = []
    while seen:
        chunks.append(seen[0])
        seen = seen[config.steps + 1 :]
    assert torch.equal(torch.cat(chunks), expected)


def test_random_starts_hang_on_label_start_and_seed() -> None:
    config, x = CONFIGS["mcn"], images(1)
    first = starts_of(x, config)[0].view(5, 2, -1)  # [L, S - 1, D]
    assert len(torch.unique(first.view(10, -1), dim=0)) == 10
    other = starts_of(x, config.replace(seed=1))[0].view(5, 2, -1)
    assert not bool((other == first).all(-1).any())


def test_more_starts_keep_those_there_were() -> None:
    config, x = CONFIGS["mcn"], images(2)
    few, many = starts_of(x, config), starts_of(x, config.replace(starts=5))
    for n in range(2):
        shared = many[n].view(5, 4, -1)[:, :2]
        assert torch.equal(few[n].view(5, 2, -1), shared)


# Ties


def constant(logits: list[float]) -> Callable[[Tensor], Tensor]:
    """A model with the same logits everywhere, differentiable."""

    def model(x: Tensor) -> Tensor:
        row = torch.tensor(logits, dtype=x.dtype)
        return row + 0.0 * x.flatten(1).sum(1, keepdim=True)

    return model


@pytest.mark.parametrize("search", [hf.search, hf.reference.search], ids=["fast", "reference"])
def test_constant_logits_leave_the_image_and_the_lowest_of_the_likeliest(
    search: Callable[..., hf.SearchResult],
) -> None:
    x = images(2, dtype=torch.float64)
    for config in CONFIGS.values():
        result = search(constant([0.0, 1.0, 1.0, -1.0]), x, config)
        if config.objective != "ncn":
            assert torch.equal(result.point, x)  # start 0 before the random ones
            assert result.label.tolist() == [1, 1]
        assert result.prediction.tolist() == [1, 1]


@pytest.mark.parametrize("search", [hf.search, hf.reference.search], ids=["fast", "reference"])
def test_ncn_that_nothing_satisfies_keeps_the_first_of_equally_confident_points(
    search: Callable[..., hf.SearchResult],
) -> None:
    x = images(2, dtype=torch.float64)
    result = search(constant([0.0, 1.0, 1.0, -1.0]), x, CONFIGS["ncn"].replace(confidence=0.9))
    assert torch.equal(result.point, x)
    assert result.label.tolist() == [-1, -1]
    assert torch.equal(result.value, torch.full((2,), -torch.inf))


@pytest.mark.parametrize("search", [hf.search, hf.reference.search], ids=["fast", "reference"])
def test_labels_that_tie_exactly_go_to_the_lowest(
    search: Callable[..., hf.SearchResult],
) -> None:
    """Seen from the middle, the classes are mirror images of each other, without any rounding."""
    slope = torch.tensor([1.0, -0.5, 2.0, 0.25], dtype=torch.float64)

    def mirrored(x: Tensor) -> Tensor:
        odds = ((x - 0.5) * slope).sum(1, keepdim=True)
        return torch.cat([odds, -odds], dim=1)

    x = torch.full((3, 4), 0.5, dtype=torch.float64)
    config = hf.SearchConfig.mcn(0.125, steps=4, bounds=(-1.0, 2.0))
    for problem in (config, hf.SearchConfig.hcnn(0.125, 0.25, steps=4, bounds=(-1.0, 2.0))):
        result = search(mirrored, x, problem)
        assert torch.equal(result.label_value[:, 0], result.label_value[:, 1])
        assert bool((result.label_value[:, 0] > 0.5).all())
        assert result.label.tolist() == [0, 0, 0]


@pytest.mark.parametrize("search", [hf.search, hf.reference.search], ids=["fast", "reference"])
def test_starts_that_reach_the_same_corner_count_as_the_first(
    search: Callable[..., hf.SearchResult],
) -> None:
    model, x = linear(classes=2, dtype=torch.float64), images(3, dtype=torch.float64)
    config = CONFIGS["mcn"].replace(bounds=(-1.0, 2.0))
    one, many = search(model, x, config.replace(starts=1)), search(model, x, config)
    torch.testing.assert_close(one.point, many.point, rtol=0, atol=1e-12)
    assert torch.equal(one.label, many.label)


# labels = k


@pytest.mark.parametrize("name", ["mcn", "hcnn", "ncn"])
@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_the_likeliest_labels_are_the_full_search_restricted_to_them(name: str, count: int) -> None:
    model, x = convolutional(dtype=torch.float64), images(6, dtype=torch.float64)
    config = CONFIGS[name]
    full = hf.search(model, x, config)
    part = hf.search(model, x, config.replace(labels=count))
    logits = model(x).detach()
    for n in range(len(x)):
        kept = sorted(logits[n].topk(count).indices.tolist())
        assert part.labels[n].tolist() == kept
        assert full.label_point is not None
        assert part.label_point is not None
        torch.testing.assert_close(
            part.label_value[n], full.label_value[n, kept], rtol=0, atol=1e-12
        )
        torch.testing.assert_close(
            part.label_point[n], full.label_point[n, kept], rtol=0, atol=1e-12
        )
        values = full.label_value[n, kept]
        if bool((values > -torch.inf).any()):
            assert int(part.label[n]) == kept[int(values.argmax())]
        else:
            assert int(part.label[n]) == -1
    assert part.backwards * 5 == full.backwards * count


def test_equally_likely_labels_are_tried_in_their_order() -> None:
    x = images(2)
    config = CONFIGS["mcn"].replace(labels=2)
    for search in (hf.search, hf.reference.search):
        result = search(constant([0.0, 1.0, 1.0, 1.0, -1.0]), x, config)
        assert result.labels.tolist() == [[1, 2], [1, 2]]


# Memory that does not suffice


class Short:
    """A classifier that runs out of memory above a number of images, or at one call."""

    def __init__(
        self,
        model: torch.nn.Module,
        error: Callable[[], Exception],
        *,
        largest: int = 10_000,
        failing_call: int | None = None,
    ) -> None:
        self.model = model
        self.error = error
        self.largest = largest
        self.failing_call = failing_call
        self.calls = 0
        self.sizes: list[int] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.failing_call or len(x) > self.largest:
            raise self.error()
        self.sizes.append(len(x))
        logits: Tensor = self.model(x)
        return logits


ERRORS = {
    "torch": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "cpu": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 99 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "python": lambda: MemoryError("std::bad_alloc"),
}
errors = pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS.keys())


@errors
@pytest.mark.parametrize("name", ["mcn", "hcnn", "ncn", "entropy"])
def test_a_call_that_runs_out_of_memory_loses_nothing(
    name: str, error: Callable[[], Exception]
) -> None:
    model, x = linear(dtype=torch.float64), images(3, dtype=torch.float64)
    config = CONFIGS[name].replace(batch_size=1000)
    expected = hf.search(model, x, config)
    counted = Short(model, error)
    hf.search(counted, x, config)
    calls = counted.calls
    for failing in range(2, calls + 1):  # the first passes one image alone
        short = Short(model, error, failing_call=failing)
        got = hf.search(short, x, config)
        assert_rows_equal(got, expected, torch.arange(3))
        assert short.calls > failing


@errors
@pytest.mark.parametrize("largest", [1, 2, 5])
def test_batches_are_halved_until_they_fit(largest: int, error: Callable[[], Exception]) -> None:
    model, x = linear(dtype=torch.float64), images(3, dtype=torch.float64)
    config = CONFIGS["mcn"].replace(batch_size=64)
    expected = hf.search(model, x, config)
    short = Short(model, error, largest=largest)
    got = hf.search(short, x, config)
    assert_rows_equal(got, expected, torch.arange(3))
    assert max(short.sizes) <= largest
    assert 2 * max(short.sizes) > largest  # no smaller than needed
    # What did not fit once is not tried again and again: few calls fail.
    assert short.calls - len(short.sizes) <= 16


@errors
@pytest.mark.parametrize("batch_size", [None, 8])
def test_one_clear_error_says_that_not_even_one_candidate_fits(
    batch_size: int | None, error: Callable[[], Exception]
) -> None:
    config = CONFIGS["mcn"].replace(batch_size=batch_size)
    with pytest.raises(RuntimeError, match="out of memory with a single candidate") as raised:
        hf.search(Short(linear(), error, largest=0), images(2), config)
    assert isinstance(raised.value.__cause__, type(error()))


def test_a_model_that_fails_otherwise_is_not_tried_again() -> None:
    calls = []

    def broken(x: Tensor) -> Tensor:
        calls.append(len(x))
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        hf.search(broken, images(4), CONFIGS["mcn"].replace(batch_size=8))
    assert len(calls) == 1
