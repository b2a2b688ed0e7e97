"""Every unusable input is refused in one sentence that names it, before the model is called."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_classifiers import Counting, images, linear
from torch import Tensor, nn

import hcnn_fast as hf

CONFIG = hf.SearchConfig.mcn(0.1, steps=2)
CLASSES = torch.tensor([0, 1, 2, 3])

CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "search": lambda model, x: hf.search(model, x, CONFIG),
    "forward": lambda model, x: hf.Defense(model, CONFIG)(x),
    "predict": lambda model, x: hf.Defense(model, CONFIG).predict(x),
    "calibrate": lambda model, x: hf.Defense(model, CONFIG).calibrate(x, CLASSES),
    "pgd": lambda model, x: hf.attacks.pgd(model, x, CLASSES, radius=0.1),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def changed(value: float) -> Tensor:
    x = images()
    x[1, 0, 2, 3] = value
    return x


def words(*found: str) -> str:
    """A pattern of these words in this order, in one line."""
    return r"^(?!(.|\n)*\n).*" + ".*".join(found)


BAD_IMAGES: dict[str, tuple[Any, str]] = {
    "a-list": ([[0.5]], words("x is a list", "expected a torch.Tensor")),
    "an-array": (images().numpy(), words("x is a ndarray", "expected a torch.Tensor")),
    "nothing": (None, words("x is a NoneType", "expected a torch.Tensor")),
    "nan": (changed(math.nan), words("x contains NaN", "expected finite")),
    "inf": (changed(math.inf), words("x contains NaN or inf", "expected finite")),
    "minus-inf": (changed(-math.inf), words("x contains NaN or inf", "expected finite")),
    "too-large": (changed(1.5), words("x has values", "1.5", "expected bounds", r"\[0, 1\]")),
    "too-small": (changed(-0.25), words("x has values", "-0.25", "expected bounds")),
    "outside-by-more-than-rounding": (
        changed(1.0 + 3e-6),
        words("x has values", "expected bounds"),
    ),
    "uint8": (
        (255 * images()).to(torch.uint8),
        words("x has dtype torch.uint8", "expected float32", r"scale.*x.float\(\) / 255"),
    ),
    "int8": (images().to(torch.int8), words("x has dtype torch.int8", "expected float32")),
    "int64": (images().to(torch.int64), words("x has dtype torch.int64", "expected float32")),
    "bool": (images() > 0.5, words("x has dtype torch.bool", "expected float32")),
    "complex": (images().to(torch.complex64), words("x has dtype torch.complex64", "expected")),
    "float16": (
        images().half(),
        words("x has dtype torch.float16", "expected float32", r"x.float\(\)", "precision="),
    ),
    "bfloat16": (
        images().bfloat16(),
        words("x has dtype torch.bfloat16", "expected float32", r"x.float\(\)", "precision="),
    ),
    "a-number": (torch.tensor(0.5), words(r"x has shape \(\)", r"expected \[N, \*image\]")),
    "a-vector": (
        torch.rand(4, generator=torch.Generator().manual_seed(0)),
        words(r"x has shape \(4,\)", r"expected \[N, \*image\]", r"x\[None\]"),
    ),
    "no-pixels": (torch.zeros(2, 0, 4), words(r"x has shape \(2, 0, 4\)", "expected images")),
    "sparse": (images().to_sparse(), words("x is a sparse", "expected a dense")),
}


@every_call
@pytest.mark.parametrize(("x", "message"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_unusable_images_are_refused(call: Callable[[Any, Any], Any], x: Any, message: str) -> None:
    model = Counting(linear())
    with pytest.raises((ValueError, TypeError), match=message):
        call(model, x)
    assert model.calls == 0


@pytest.mark.parametrize("bounds", [(0.0, 255.0), (-1.0, 1.0)])
def test_the_bounds_of_the_configuration_count(bounds: tuple[float, float]) -> None:
    low, high = bounds
    model = Counting(linear())
    x = low + (high - low) * images()
    x[0, 0, 0, 0] = high + 0.001
    with pytest.raises(ValueError, match=rf"expected bounds \[{low:g}, {high:g}\]"):
        hf.search(model, x, CONFIG.replace(bounds=bounds))
    assert model.calls == 0


def test_a_low_precision_search_of_float64_images_is_refused() -> None:
    model = Counting(linear(dtype=torch.float64))
    with pytest.raises(ValueError, match=r"precision is 'bfloat16' and x has dtype torch.float64"):
        hf.search(model, images(dtype=torch.float64), CONFIG.replace(precision="bfloat16"))
    assert model.calls == 0


@pytest.mark.parametrize("config", [0.1, None, {"radius": 0.1}, hf.SearchConfig])
def test_something_that_is_no_configuration_is_refused(config: Any) -> None:
    model = Counting(linear())
    with pytest.raises(TypeError, match=r"config is a \w+, expected a SearchConfig"):
        hf.search(model, images(), config)
    with pytest.raises(TypeError, match=r"config is a \w+, expected a SearchConfig"):
        hf.Defense(model, config)
    assert model.calls == 0


@every_call
@pytest.mark.parametrize("model", [None, 3, "resnet50", [nn.Linear(48, 5)]])
def test_something_that_is_no_model_is_refused(call: Callable[[Any, Any], Any], model: Any) -> None:
    with pytest.raises(TypeError, match=r"model is a \w+, expected an nn.Module or a callable"):
        call(model, images())


class CountingModule(nn.Module):
    """A module that must not be run."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.calls = 0

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        return self.network(x)


@every_call
def test_a_model_on_another_device_is_refused_and_both_are_named(
    call: Callable[[Any, Any], Any],
) -> None:
    model = CountingModule(linear().to("meta"))
    message = words("model is on meta", "network.1.weight", "x on cpu", "expected one device")
    with pytest.raises(ValueError, match=message):
        call(model, images())
    assert model.calls == 0


@every_call
@pytest.mark.parametrize(
    ("of_model", "of_images"),
    [
        (torch.float64, torch.float32),
        (torch.float32, torch.float64),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)
def test_a_model_of_another_dtype_is_refused_and_both_are_named(
    call: Callable[[Any, Any], Any], of_model: torch.dtype, of_images: torch.dtype
) -> None:
    model = CountingModule(linear(dtype=of_model))
    message = words(f"model has {of_model}", f"x is {of_images}", "expected one dtype")
    with pytest.raises(TypeError, match=message):
        call(model, images(dtype=of_images))
    assert model.calls == 0


def test_more_labels_than_classes_are_refused() -> None:
    for config in (hf.SearchConfig.mcn(0.1, labels=6), hf.SearchConfig.hcnn(0.1, 0.5, labels=6)):
        with pytest.raises(ValueError, match="labels is 6, expected at most the model's 5 classes"):
            hf.search(linear(), images(), config)
        with pytest.raises(ValueError, match="labels is 6, expected at most the model's 5 classes"):
            hf.search(linear(), images(0), config)
    assert hf.search(linear(), images(), CONFIG.replace(labels=5)).labels.shape == (4, 5)


BAD_OUTPUTS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "nothing": (lambda z: None, words("model returned NoneType", r"expected logits.*\[N, C\]")),
    "a-number": (lambda z: 3.0, words("model returned float", "expected logits")),
    "a-dictionary": (lambda z: {"logits": z}, words("model returned dict", "expected logits")),
    "an-empty-tuple": (lambda z: (), words("model returned tuple", "expected logits")),
    "a-tuple-of-text": (lambda z: ("a", z), words("model returned tuple", "expected logits")),
    "integers": (
        lambda z: z.flatten(1).long(),
        words("model returned", "int64", "expected logits"),
    ),
    "images": (lambda z: z, words(r"shape \(.*, 3, 4, 4\)", r"expected \[\d+, C\]")),
    "one-row-for-all": (lambda z: z.flatten(1).sum(0), words(r"shape \(48,\)", "expected")),
    "a-score-for-each": (lambda z: z.flatten(1).sum(1), words(r"shape \(\d+,\)", "expected")),
    "no-classes": (lambda z: z.flatten(1)[:, :0], words(r"shape \(\d+, 0\)", "with C >= 1")),
    "a-row-too-few": (lambda z: z.flatten(1)[1:], words(r"shape \(\d+, 48\)", "expected")),
    "a-row-too-many": (
        lambda z: torch.cat([z, z]).flatten(1),
        words(r"shape \(\d+, 48\)", "expected"),
    ),
    "nan": (lambda z: math.nan * z.flatten(1), words("non-finite logits", "expected finite")),
    "inf": (lambda z: z.flatten(1) / 0.0, words("non-finite logits", "expected finite")),
    "no-gradient": (
        lambda z: z.detach().flatten(1),
        words("model returned logits without", "gradient", "expected"),
    ),
}


@every_call
@pytest.mark.parametrize(("output", "message"), BAD_OUTPUTS.values(), ids=BAD_OUTPUTS)
def test_a_model_that_does_not_give_logits_is_refused(
    call: Callable[[Any, Any], Any], output: Callable[[Tensor], Any], message: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        call(output, images())


@pytest.mark.parametrize("objective", ["mcn", "hcnn", "ncn", "entropy"])
@pytest.mark.parametrize(("output", "message"), BAD_OUTPUTS.values(), ids=BAD_OUTPUTS)
def test_no_search_takes_something_else_than_logits(
    objective: str, output: Callable[[Tensor], Any], message: str
) -> None:
    own = {"hcnn": {"distance_weight": 0.1}, "ncn": {"confidence": 0.1}}.get(objective, {})
    config = getattr(hf.SearchConfig, objective)(0.1, **own, steps=1, batch_size=3)
    with pytest.raises((ValueError, TypeError), match=message):
        hf.search(output, images(), config)


def test_a_model_under_no_grad_is_refused() -> None:
    network = linear()
    with pytest.raises(ValueError, match="model returned logits without a gradient in x"):
        hf.search(torch.no_grad()(network.forward), images(), CONFIG)


def test_logits_that_are_not_finite_in_the_ball_alone_are_refused() -> None:
    # finite at the image, where all pixels are 0; infinite at every other point
    def steep(z: Tensor) -> Tensor:
        return torch.where(z > 0, math.inf, z).flatten(1)

    with pytest.raises(ValueError, match="non-finite logits"):
        hf.search(steep, torch.zeros(2, 3), CONFIG.replace(step_size=0.05))


def test_errors_of_the_model_itself_come_through() -> None:
    def broken(z: Tensor) -> Tensor:
        raise KeyError("my own mistake")

    with pytest.raises(KeyError, match="my own mistake"):
        hf.search(broken, images(), CONFIG)


WITH_CLASSES: dict[str, Callable[[Any, Any], Any]] = {
    "pgd": lambda model, y: hf.attacks.pgd(model, images(), y, radius=0.1),
    "calibrate": lambda model, y: hf.Defense(model, CONFIG).calibrate(images(), y),
}
with_classes = pytest.mark.parametrize("use", WITH_CLASSES.values(), ids=WITH_CLASSES)

BAD_CLASSES: dict[str, tuple[Any, str]] = {
    "a-list": ([0, 1, 2, 3], words("y is a list", "expected a torch.Tensor")),
    "nothing": (None, words("y is a NoneType", "expected a torch.Tensor")),
    "floats": (torch.rand(4), words("y has dtype torch.float32", "expected integer")),
    "bools": (torch.ones(4, dtype=torch.bool), words("y has dtype torch.bool", "expected integer")),
    "one-hot": (torch.eye(4).long(), words(r"y has shape \(4, 4\)", r"expected \(4,\)")),
    "too-few": (CLASSES[:3], words(r"y has shape \(3,\)", r"expected \(4,\)")),
    "too-many": (torch.zeros(5).long(), words(r"y has shape \(5,\)", r"expected \(4,\)")),
    "elsewhere": (CLASSES.to("meta"), words("y is on meta and x on cpu", "expected one device")),
}


@with_classes
@pytest.mark.parametrize(("y", "message"), BAD_CLASSES.values(), ids=BAD_CLASSES)
def test_unusable_classes_are_refused(use: Any, y: Any, message: str) -> None:
    model = Counting(linear())
    with pytest.raises((ValueError, TypeError), match=message):
        use(model, y)
    assert model.calls == 0


@with_classes
@pytest.mark.parametrize("bad", [5, -1, 2**40])
def test_classes_that_the_model_does_not_have_are_refused(use: Any, bad: int) -> None:
    y = torch.tensor([0, 1, bad, 3])
    with pytest.raises(ValueError, match=words("y has labels in", str(bad), "0 <= label < 5")):
        use(linear(), y)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"radius": 0.0}, "radius is 0.0, expected a finite number > 0"),
        ({"radius": math.nan}, "radius is nan, expected a finite number > 0"),
        ({"radius": 0.1, "steps": 0}, "steps is 0, expected an int >= 1"),
        ({"radius": 0.1, "starts": 0}, "starts is 0, expected an int >= 1"),
        ({"radius": 0.1, "objective": "hinge"}, "objective is 'hinge', expected one of"),
        ({"radius": 0.1, "momentum": 1.0}, r"momentum is 1.0, expected a number in \[0, 1\)"),
        ({"radius": 0.1, "bounds": (1, 0)}, r"bounds is \(1, 0\), expected"),
        ({"radius": 0.1, "precision": "int8"}, "precision is 'int8', expected one of"),
    ],
)
def test_unusable_settings_of_an_attack_are_refused(keywords: Any, message: str) -> None:
    model = Counting(linear())
    with pytest.raises(ValueError, match=message):
        hf.attacks.pgd(model, images(), CLASSES, **keywords)
    assert model.calls == 0
