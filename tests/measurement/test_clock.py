"""The clock tells time in the model from time around it."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest
import torch
from tiny_classifiers import convolutional, images, linear
from torch import Tensor, nn

import hcnn_fast as hf
from hcnn_fast.engine import preparation
from hcnn_fast.measurement import ClockedModel, ModelClock, Outcome, observe
from hcnn_fast.measurement.observation import searching

CONFIGS = {
    "mcn": hf.SearchConfig.mcn(0.1, steps=3, starts=2),
    "labels": hf.SearchConfig.mcn(0.1, steps=3, labels=2),
    "hcnn": hf.SearchConfig.hcnn(0.1, 0.3, steps=3),
    "entropy": hf.SearchConfig.entropy(0.1, steps=3),
}


class Sleeping(nn.Module):
    """A linear model that sleeps in its forward and in its backward pass."""

    def __init__(self, forward: float, backward: float) -> None:
        super().__init__()
        self.network = linear()
        self.naps = (forward, backward)

    def forward(self, z: Tensor) -> Tensor:
        time.sleep(self.naps[0])
        hidden = z * 1.0
        if hidden.requires_grad:
            hidden.register_hook(lambda gradient: time.sleep(self.naps[1]))
        logits: Tensor = self.network(hidden)
        return logits


def gradient_loop(pause: float, passes: int) -> object:
    """A run that pauses outside the model before every pass."""

    def run(model: nn.Module, x: Tensor) -> Outcome:
        for _ in range(passes):
            time.sleep(pause)
            leaf = x.clone().requires_grad_()
            torch.autograd.grad(model(leaf).sum(), leaf)
        return Outcome(torch.ones(len(x)), passes * len(x), passes * len(x))

    return run


@pytest.mark.parametrize(("forward", "backward"), [(0.02, 0.0), (0.0, 0.02)])
def test_a_model_that_sleeps_leaves_little_outside(forward: float, backward: float) -> None:
    found = observe(gradient_loop(0.0, 10), Sleeping(forward, backward).eval(), images(2))
    assert found.model_seconds is not None
    assert found.outside_share is not None
    assert found.model_seconds >= 10 * 0.02
    assert found.outside_share < 0.3


def test_a_loop_that_sleeps_around_a_trivial_model_is_nearly_all_outside() -> None:
    found = observe(gradient_loop(0.1, 10), linear(), images(2))  # long, for busy machines
    assert found.outside_share is not None
    assert found.outside_share > 0.7


def test_the_shares_of_equal_naps_in_and_around_the_model_are_equal() -> None:
    found = observe(gradient_loop(0.1, 6), Sleeping(0.05, 0.05).eval(), images(2))
    assert found.outside_share == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_clock_sees_every_pass_of_a_search(config: hf.SearchConfig, count: int) -> None:
    model, x = convolutional(), images(count)
    clock = ModelClock(x.device)
    result = hf.search(ClockedModel(model, clock).eval(), x, config)
    added = clock.backwards - result.backwards  # rows that fill batches up
    assert added == 0 if count == 2 else 0 <= added < result.backwards / 4
    assert clock.forwards >= result.forwards  # and those that plan the search
    assert clock.seconds() > 0.0
    found = observe(searching(config), model, x)
    assert found.unknown == ""
    assert found.outside_share is not None
    assert 0.0 < found.outside_share < 1.0


def test_a_clocked_model_is_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a search does once for a model is no part of the time around it."""
    made: list[object] = []
    prepare = preparation.PreparedModel

    def counted(*arguments: Any, **keywords: Any) -> preparation.PreparedModel:
        made.append(arguments)
        return prepare(*arguments, **keywords)

    monkeypatch.setattr(preparation, "PreparedModel", counted)
    observe(searching(CONFIGS["mcn"]), convolutional(), images(3))
    assert len(made) == 1


def test_a_clocked_search_finds_what_the_search_finds() -> None:
    model, x = convolutional(), images(3)
    plain = hf.search(model, x, CONFIGS["mcn"])
    clocked = hf.search(ClockedModel(model, ModelClock(x.device)), x, CONFIGS["mcn"])
    assert torch.equal(plain.point, clocked.point)
    assert torch.equal(plain.value, clocked.value)


def test_copies_of_a_clocked_model_report_to_the_same_clock() -> None:
    clock = ModelClock(torch.device("cpu"))
    copied = copy.deepcopy(ClockedModel(linear(), clock))
    copied(images(3))
    assert clock.forwards == 3
    assert clock.largest_batch == 3
    clock.reset()
    assert (clock.forwards, clock.seconds()) == (0, 0.0)


@pytest.mark.parametrize(("forward", "backward"), [(False, False), (True, False), (False, True)])
def test_a_pass_that_the_clock_misses_makes_the_share_unknown(
    forward: bool, backward: bool
) -> None:
    def partly_behind_its_back(model: nn.Module, x: Tensor) -> Outcome:
        assert isinstance(model, ClockedModel)
        leaf = x.clone().requires_grad_()
        if forward:
            model(x)
        if backward:
            model(leaf).sum().backward()
        return Outcome(torch.ones(len(x)), 2 * len(x), len(x))

    x = images(2)
    found = observe(partly_behind_its_back, linear(), x)
    assert found.outside_share is None
    saw = 2 * (forward + backward)
    assert found.unknown == (
        f"the clock saw {saw} of 4 forward and {2 * backward} of 2 backward passes"
    )


def test_a_backward_pass_that_the_clock_misses_is_enough() -> None:
    def without_gradients(model: nn.Module, x: Tensor) -> Outcome:
        model(x)
        return Outcome(torch.ones(len(x)), len(x), len(x))

    found = observe(without_gradients, linear(), images(2))
    assert found.unknown == "the clock saw 2 of 2 forward and 0 of 2 backward passes"


def test_an_unclocked_run_gets_the_model_itself_and_says_why_its_share_is_unknown() -> None:
    seen: list[nn.Module] = []

    def run(model: nn.Module, x: Tensor) -> Outcome:
        seen.append(model)
        return Outcome(torch.ones(len(x)), 0, 0)

    model = linear()
    found = observe(run, model, images(2), unclocked="one graph")
    assert seen == [model]
    assert (found.outside_share, found.unknown, found.batch) == (None, "one graph", 2)
