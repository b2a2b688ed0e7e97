"""A prepared model is used again until something that its answers depend on has changed."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_classifiers import convolutional, images
from torch import Tensor, nn

import hcnn_fast as hf
from hcnn_fast.engine import preparation
from hcnn_fast.engine.model import PreparedModel

CONFIG = hf.SearchConfig.mcn(0.1, steps=3)


class Scaled(nn.Module):
    """A classifier that reads attributes of many kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.body = convolutional()
        self.scale = 1.0
        self.settings = {"shift": [0.0, {"more": 0.0}]}
        self.options = SimpleNamespace(power=1.0, inner=SimpleNamespace(offset=0.0))
        self.offset = torch.zeros(5)
        self.register_buffer("tilt", torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        shift: Any = self.settings["shift"]
        logits: Tensor = self.body(x) * self.scale * self.options.power
        logits = logits + torch.linspace(0, 1, 5) * (shift[0] + shift[1]["more"])
        return logits + self.offset + self.tilt + self.options.inner.offset * logits.detach()


def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return 2.0 * output


def change_data(model: Scaled) -> None:
    for parameter in model.body.parameters():
        parameter.data.mul_(1.5)  # no version counts this


def step_of_training(model: Scaled) -> None:
    model.train()
    optimiser = torch.optim.SGD(model.parameters(), 0.5)
    model(images(4)).square().sum().backward()
    optimiser.step()
    model.eval()


def swap_layer(model: Scaled) -> None:
    model.body[5] = nn.Linear(96, 5)


def load(model: Scaled) -> None:
    model.load_state_dict({k: 1.3 * v for k, v in model.state_dict().items()})


CHANGES: dict[str, Callable[[Scaled], Any]] = {
    "data": change_data,
    "training": step_of_training,
    "state dict": load,
    "layer": swap_layer,
    "attribute": lambda model: setattr(model, "scale", 3.0),
    "list": lambda model: model.settings["shift"].__setitem__(0, 2.0),
    "nested": lambda model: model.settings["shift"][1].update(more=2.0),
    "object": lambda model: setattr(model.options, "power", 2.0),
    "nested object": lambda model: setattr(model.options.inner, "offset", 0.5),
    "tensor": lambda model: model.offset.copy_(torch.arange(5.0)),
    "new tensor": lambda model: setattr(model, "offset", torch.arange(5.0)),
    "buffer": lambda model: model.tilt.data.copy_(torch.arange(5.0)),
    "hook": lambda model: model.body.register_forward_hook(hook),
    "statistics": lambda model: model.body[1].running_mean.add_(1.0),
    "data of the mean": lambda model: model.body[1].running_mean.data.add_(1.0),
    "data of the variance": lambda model: model.body[1].running_var.data[2].mul_(9.0),
    "variance": lambda model: model.body[1].running_var.mul_(9.0),
    "norm's weight": lambda model: model.body[1].weight.data.mul_(2.0),
    "norm's bias": lambda model: model.body[1].bias.data.add_(1.0),
    "norm's epsilon": lambda model: setattr(model.body[1], "eps", 1.0),
    "norm": lambda model: model.body.__setitem__(1, nn.BatchNorm2d(6).eval()),
    "statistics of the batch": lambda model: vars(model.body[1])["_buffers"].update(
        running_mean=None, running_var=None
    ),
    "convolution before the norm": lambda model: model.body[0].weight.data.mul_(2.0),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_was_kept_before_a_change_is_not_used_after_it(
    change: Callable[[Scaled], Any],
) -> None:
    model, x = Scaled().eval(), images(3)
    before = hf.search(model, x, CONFIG)
    change(model)
    kept = hf.search(model, x, CONFIG)
    preparation._kept.clear()
    anew = hf.search(model, x, CONFIG)
    assert torch.equal(kept.logits, anew.logits)
    assert not torch.allclose(kept.logits, before.logits)


@pytest.mark.parametrize("channel", [0, 77, 299])
def test_statistics_of_a_single_channel_of_many_are_followed(channel: int) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 300, 4), nn.BatchNorm2d(300), nn.Flatten(), nn.Linear(300, 5)
    ).eval()
    before = hf.search(model, images(1), CONFIG)
    model[1].running_mean.data[channel] += 50.0  # no version counts this
    after = hf.search(model, images(1), CONFIG)
    assert not torch.allclose(after.logits, before.logits)
    torch.testing.assert_close(after.logits, model(after.point).detach(), rtol=1e-4, atol=1e-4)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The models that were prepared."""
    seen: list[object] = []

    class Noting(PreparedModel):
        def __init__(self, model: Any, *arguments: Any, **keywords: Any) -> None:
            seen.append(model)
            super().__init__(model, *arguments, **keywords)

    monkeypatch.setattr(preparation, "PreparedModel", Noting)
    preparation._kept.clear()
    return seen


def test_an_unchanged_model_is_prepared_once(made: list[object]) -> None:
    model, x = Scaled().eval(), images(3)
    first = hf.search(model, x, CONFIG)
    again = hf.search(model, x, CONFIG.replace(steps=3))
    assert made == [model]
    assert torch.equal(first.point, again.point)
    hf.Defense(model, CONFIG)(x[:1])
    assert made == [model]
    hf.search(model, x, CONFIG.replace(precision="bfloat16"))
    assert made == [model, model]


def test_a_model_that_failed_is_prepared_anew(made: list[object]) -> None:
    model, x = Scaled().eval(), images(3)
    hf.search(model, x, CONFIG)
    with pytest.raises(ValueError, match="labels is 9"):
        hf.search(model, x, CONFIG.replace(labels=9))
    hf.search(model, x, CONFIG)
    assert made == [model, model]


def test_a_model_that_its_own_passes_change_begins_anew_in_every_search(
    made: list[object],
) -> None:
    class Tiring(nn.Module):
        """Its logits grow smaller from call to call."""

        def __init__(self) -> None:
            super().__init__()
            self.body = convolutional()
            self.register_buffer("calls", torch.zeros(()))
            self.seen: list[int] = []

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.seen.append(len(x))
            logits: Tensor = self.body(x) / self.calls
            return logits

    model, x = Tiring().eval(), images(3)
    first, again = hf.search(model, x, CONFIG), hf.search(model, x, CONFIG)
    assert torch.equal(first.logits, again.logits)
    assert float(model.calls) == 0.0
    assert made == [model, model]


def test_a_prepared_model_dies_with_its_model() -> None:
    model = Scaled().eval()
    hf.search(model, images(1), CONFIG)
    alive = weakref.ref(model)
    kept = len(preparation._kept)
    del model
    gc.collect()
    assert alive() is None
    assert len(preparation._kept) == kept - 1


def test_few_are_kept(made: list[object]) -> None:
    models = [Scaled().eval() for _ in range(preparation.KEPT + 3)]
    for model in models:
        hf.search(model, images(1), CONFIG)
    assert len(preparation._kept) == preparation.KEPT


def test_threads_do_not_share_one(made: list[object]) -> None:
    """The copy remembers its last input: two searches in it at once would mix them up."""

    class Remembering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = convolutional()

        def forward(self, x: Tensor) -> Tensor:
            self.last = x
            torch.sin(torch.rand(2000)).sum()  # some time for others to come in between
            logits: Tensor = self.body(self.last)
            return logits

    model, results = Remembering().eval(), {}
    batches = {n: images(3, seed=n) for n in range(4)}
    expected = {n: hf.search(model, x, CONFIG) for n, x in batches.items()}

    def work(n: int) -> None:
        for _ in range(5):
            results[n] = hf.search(model, batches[n], CONFIG)

    threads = [threading.Thread(target=work, args=(n,)) for n in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in batches:
        torch.testing.assert_close(results[n].logits, expected[n].logits, rtol=0, atol=1e-6)


def test_an_outline_repeats_until_an_attribute_of_any_module_changes() -> None:
    """Objects that are made while looking must not be taken for others that were seen."""
    model = nn.Sequential(*[Scaled() for _ in range(20)])
    state = preparation.ModelState.of(model)
    assert all(state.equals(preparation.ModelState.of(model)) for _ in range(5))
    for part in model:
        assert isinstance(part, Scaled)
        part.settings["shift"][1]["more"] = 1.0
        changed = preparation.ModelState.of(model)
        assert not state.equals(changed)
        state = changed


def test_a_container_that_was_empty_is_followed_too() -> None:
    model = Scaled()
    model.notes = {}  # as hooks and the like are
    state = preparation.ModelState.of(model)
    model.notes["shift"] = 1.0
    assert not state.equals(preparation.ModelState.of(model))


def test_a_kept_model_is_looked_at_once_and_its_copies_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Looking takes a good part of the time of a search on one small image."""
    model, x = Scaled().eval(), images(1)
    hf.search(model, x, CONFIG)
    looks: list[nn.Module] = []
    of = preparation.ModelState.of

    def noted(module: nn.Module) -> preparation.ModelState:
        looks.append(module)
        return of(module)

    monkeypatch.setattr(preparation.ModelState, "of", staticmethod(noted))
    hf.search(model, x, CONFIG)
    assert len(looks) == 2
    assert looks[0] is model
    assert looks[1] is not model
