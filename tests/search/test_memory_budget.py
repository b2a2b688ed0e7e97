"""A search stays within the memory that it is given, as the allocator counts it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch
from allocations import measured
from tiny_classifiers import images
from torch import Tensor, nn

import hcnn_fast as hf
from hcnn_fast.engine import budget, preparation
from hcnn_fast.engine.model import PreparedModel
from hcnn_fast.engine.preparation import prepared_model
from hcnn_fast.engine.winograd import weight_bytes

SHAPE = (3, 8, 8)


def deep(shape: tuple[int, ...] = SHAPE, classes: int = 3) -> nn.Module:
    """Convolutions whose activations are many times an image, with a BatchNorm to fold."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(shape[0], 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.Softplus(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(64, classes),
        ).eval()


def perceptron(classes: int = 3) -> nn.Module:
    """Two products: an image is larger than what it leaves in the layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        layers = nn.Linear(192, 40), nn.Tanh(), nn.Linear(40, classes)
        return nn.Sequential(nn.Flatten(), *layers).eval()


def transformable(channels: int) -> nn.Module:
    """Two convolutions, of which the second has weights that can be transformed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layers = nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


MODELS = {"convolutions": deep, "perceptron": perceptron}
CONFIGS = {
    "mcn": hf.SearchConfig.mcn(0.05, steps=2),
    "hcnn": hf.SearchConfig.hcnn(0.05, 0.5, "l2", steps=2),
    "ncn": hf.SearchConfig.ncn(0.05, 0.4, "l2", steps=2),
    "entropy": hf.SearchConfig.entropy(0.05, steps=2),
}


def least_budget(model: nn.Module, x: Tensor, config: hf.SearchConfig) -> int:
    """The budget that the refusal of one byte names."""
    with pytest.raises(ValueError, match=r"^memory_budget is 1, expected at least \d+") as refused:
        hf.search(model, x, config.replace(memory_budget=1))
    found = re.search(r"at least (\d+)", str(refused.value))
    assert found is not None
    return int(found[1])


def assert_equal_answers(got: hf.SearchResult, expected: hf.SearchResult) -> None:
    torch.testing.assert_close(got.value, expected.value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.label_value, expected.label_value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.logits, expected.logits, rtol=1e-3, atol=1e-4)
    assert torch.equal(got.labels, expected.labels)


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[budget.Plan]:
    """The plans of the searches of a test."""
    made: list[budget.Plan] = []

    plan_within_budget = budget.plan_within_budget

    def planned(*arguments: object) -> budget.Plan:
        made.append(plan_within_budget(*arguments))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(budget, "plan_within_budget", planned)
    return made


@pytest.mark.parametrize("tolerance", [0.0, 1e-3])
@pytest.mark.parametrize("starts", [1, 3])
@pytest.mark.parametrize(("count", "times"), [(8, 2), (256, 12)])
@pytest.mark.parametrize("name", ["mcn", "hcnn"])
@pytest.mark.parametrize("network", list(MODELS))
def test_the_peak_stays_within_the_budget_and_the_answer_as_it_was(
    network: str, name: str, count: int, times: int, starts: int, tolerance: float
) -> None:
    model, x = MODELS[network](), images(count, SHAPE)
    config = CONFIGS[name].replace(starts=starts, tolerance=tolerance)
    expected = hf.search(model, x, config)
    limit = times * least_budget(model, x, config)
    got, peak = measured(lambda: hf.search(model, x, config.replace(memory_budget=limit)))
    assert peak <= limit
    assert peak >= limit / 8
    assert_equal_answers(got, expected)


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("keywords", [{}, {"keep_points": True}, {"momentum": 0.0}], ids=str)
@pytest.mark.parametrize("name", list(CONFIGS))
def test_every_problem_stays_within_the_least_budget(
    name: str, keywords: dict[str, object], backend: str
) -> None:
    model, x = perceptron(), images(4, SHAPE)
    config = CONFIGS[name].replace(backend=backend, **keywords)
    expected = hf.search(model, x, config)
    limit = least_budget(model, x, config)
    got, peak = measured(lambda: hf.search(model, x, config.replace(memory_budget=limit)))
    assert peak <= limit
    assert_equal_answers(got, expected)


def test_a_budget_that_is_not_needed_changes_nothing(plans: list[budget.Plan]) -> None:
    model, x = deep(), images(64, SHAPE)
    config = CONFIGS["mcn"]
    expected = hf.search(model, x, config)
    got = hf.search(model, x, config.replace(memory_budget=2**33))
    with prepared_model(model, "float32", x[:1]) as prepared:
        wanted = min(prepared.planned_batch, 3 * len(x))
    assert plans[-1].batch == wanted
    assert torch.equal(got.point, expected.point)
    assert (got.forwards, got.backwards) == (expected.forwards, expected.backwards)


@pytest.mark.parametrize("network", list(MODELS))
def test_a_budget_is_used(network: str, plans: list[budget.Plan]) -> None:
    model, x = MODELS[network](), images(64, SHAPE)
    config = CONFIGS["hcnn"].replace(batch_size=64)
    _, free = measured(lambda: hf.search(model, x, config.replace(batch_size=64)))
    limit = 3 * free // 4
    _, peak = measured(
        lambda: hf.search(model, x, config.replace(batch_size=None, memory_budget=limit))
    )
    assert limit / 4 <= peak <= limit
    assert plans[-1].batch >= 16


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_a_workspace_that_stops_growing_is_not_planned_for_every_candidate(
    plans: list[budget.Plan],
) -> None:
    """Each thread has its own, and few tiles do not take them all."""
    model = transformable(32)
    x, config = images(256, SHAPE), hf.SearchConfig.mcn(0.05, steps=2, labels=2)
    limit = 60 * weight_bytes(32, 32)
    expected = hf.search(model, x, config)
    got, peak = measured(lambda: hf.search(model, x, config.replace(memory_budget=limit)))
    assert limit / 4 <= peak <= limit
    assert_equal_answers(got, expected)
    with prepared_model(model, "float32", x[:1], room=limit // 10) as prepared:
        assert prepared.winograd == 1
        of_one = budget.measure(model, prepared, config, "cpu", x)
    assert of_one.of(plans[-1].batch // 2) > limit  # what one candidate and two would have allowed


def test_the_peak_does_not_grow_with_the_number_of_images() -> None:
    model = deep()
    config = CONFIGS["mcn"].replace(batch_size=8, labels=2)  # at least two blocks of 32
    hf.search(model, images(1, SHAPE), config)  # the prepared model is kept from here on
    peaks = []
    for count in (64, 1024):
        x = images(count, SHAPE)
        result, peak = measured(lambda x=x: hf.search(model, x, config))
        held = [value for value in vars(result).values() if isinstance(value, Tensor)]
        peaks.append(peak - sum(tensor.untyped_storage().nbytes() for tensor in held))
    assert abs(peaks[1] - peaks[0]) <= 0.03 * peaks[0]


def test_a_budget_counts_the_results_of_all_images() -> None:
    model, config = perceptron(), CONFIGS["mcn"]
    few, many = (least_budget(model, images(count, SHAPE), config) for count in (10, 110))
    answer = 4 * (192 + 3)  # bytes of a point and its logits, the most of a result
    assert many - few >= 100 * answer
    kept = config.replace(keep_points=True)
    more = least_budget(model, images(110, SHAPE), kept) - many
    assert more >= 110 * 3 * 4 * 192


def test_a_budget_counts_the_weights_that_folding_copies() -> None:
    x, config = images(1, SHAPE), CONFIGS["mcn"]
    product = nn.Sequential(nn.Flatten(), nn.Linear(192, 2000), nn.Linear(2000, 3)).eval()
    folded = nn.Sequential(*product[:2], nn.BatchNorm1d(2000), product[2]).eval()
    with prepared_model(product, "float32", x) as shared:
        assert budget.own_weights(product, shared) == 0
    weights = 4 * (192 * 2000 + 2000)
    with prepared_model(folded, "float32", x) as own:
        assert budget.own_weights(folded, own) >= weights
    more = least_budget(folded, x, config) - least_budget(product, x, config)
    assert more >= weights


def test_a_budget_leaves_out_the_transformed_weights_that_it_has_no_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = transformable(64)
    x, config = images(2, SHAPE), hf.SearchConfig.mcn(0.05, steps=2, labels=2)
    transformed = 2 * weight_bytes(64, 64)
    expected, least = hf.search(model, x, config), least_budget(model, x, config)
    assert least < transformed
    planned = budget.plan_within_budget
    used: list[int] = []

    def watched(classifier: nn.Module, prepared: PreparedModel, *rest: object) -> budget.Plan:
        used.append(prepared.winograd)
        return planned(classifier, prepared, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(budget, "plan_within_budget", watched)
    last = []
    for times in (1, 2, 4, 8, 16, 32, 64, 128):
        limited = config.replace(memory_budget=times * least)
        got, peak = measured(lambda: hf.search(model, x, limited))  # noqa: B023
        assert peak <= times * least
        assert_equal_answers(got, expected)
        last.append(used[-1])
    assert last == sorted(last)
    assert (last[0], last[-1]) == (0, 1)


def test_a_search_that_does_not_fit_beside_transformed_weights_does_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, x, config = deep(), images(2, SHAPE), CONFIGS["mcn"]
    least = least_budget(model, x, config)
    expected = hf.search(model, x, config)
    planned = budget.plan_within_budget
    tried: list[int] = []

    def tight(classifier: nn.Module, prepared: PreparedModel, *rest: object) -> budget.Plan:
        tried.append(prepared.winograd)
        if prepared.winograd:
            raise ValueError("memory_budget is too small, for this test")
        return planned(classifier, prepared, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(budget, "plan_within_budget", tight)
    got = hf.search(model, x, config.replace(memory_budget=2**30 + least))
    assert tried == [1, 0]
    assert_equal_answers(got, expected)
    kept = [entry for entry in preparation._kept.values() if entry.owner() is model]
    assert [entry.prepared.winograd for entry in kept] == [0]


def test_searches_with_other_budgets_keep_one_prepared_model() -> None:
    model, x, config = deep(), images(2, SHAPE), CONFIGS["mcn"]
    least = least_budget(model, x, config)
    for times in (2, 30, 64, None, 3):
        hf.search(model, x, config.replace(memory_budget=times and times * least))
        assert sum(entry.owner() is model for entry in preparation._kept.values()) == 1


def test_a_batch_size_that_does_not_fit_is_refused_with_the_one_that_does() -> None:
    model, x = deep(), images(64, SHAPE)
    config = CONFIGS["mcn"].replace(memory_budget=2 * least_budget(deep(), x, CONFIGS["mcn"]))
    with pytest.raises(
        ValueError, match=r"batch_size is 100, expected at most \d+ .*budget \d+;"
    ) as e:
        hf.search(model, x, config.replace(batch_size=100))
    found = re.search(r"at most (\d+)", str(e.value))
    assert found is not None
    fitting = int(found[1])
    assert 1 <= fitting < 100
    hf.search(model, x, config.replace(batch_size=fitting))
    with pytest.raises(ValueError, match=f"expected at most {fitting} "):
        hf.search(model, x, config.replace(batch_size=fitting + 1))


def test_the_least_that_is_named_does_and_a_byte_less_does_not() -> None:
    model, x, config = perceptron(), images(3, SHAPE), CONFIGS["hcnn"]
    least = least_budget(model, x, config)
    hf.search(model, x, config.replace(memory_budget=least))
    with pytest.raises(ValueError, match=r"^memory_budget is"):
        hf.search(model, x, config.replace(memory_budget=least - 2))


def test_no_images_take_a_budget_too() -> None:
    x = images(0, SHAPE)
    result = hf.search(perceptron(), x, CONFIGS["mcn"].replace(memory_budget=2**24))
    assert result.point.shape == (0, *SHAPE)
