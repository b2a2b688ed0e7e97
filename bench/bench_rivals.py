"""The search beside everything that users loop over, on several models, in one run.

Every row solves the same problem: for each image and each of its 10 labels, 10 sign steps of the
same length from the image, projected onto the ball. `search` makes these very steps; `bfloat16`
makes them in that arithmetic and scores their ends in float32; `defaults` is the search as the
library sets it up, with momentum and decaying steps, at the same number of steps; `tolerance` may
leave out steps that raise an image's confidence by less than 0.001, and labels that cannot win. The
confidence that each row reached is recorded beside its time, and a row that stays below the plain
loop fails.

RESNET18 in the environment names weights that `hcnn-fast train` has made for the ResNet-18, whose
own are random otherwise: then no label can win by much, and `tolerance` is left out. Those of
bench/results/rivals-cpu.json are of

hcnn-fast train adversarial --data cifar10 --model resnet18 --images 25000 --epochs 3
    --radius 0.0157 --attack-steps 1 --average-decay 0.99 --learning-rate 0.05
    --validation-images 500 --output runs/resnet18

The share of time outside the model is measured in one run apart from the timed rounds, by a clock
around the model (`hcnn_fast.measurement.clock`): time is read before and after each forward pass
and, by hooks on logits and images, at both ends of each backward pass. Floating-point operations
are those that the model's forward passes and input gradients need, whatever a rival computes
besides; the roof is a float32 matrix product of 2048 rows, measured in the same process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import pytest
import torch
from implementations import DEVICE
from torch import Tensor, nn

import hcnn_fast as hf
from hcnn_fast.engine.model import native_bfloat16
from hcnn_fast.measurement import CostFigures, Roofs, measure_roofs, model_work, observe
from hcnn_fast.measurement.observation import Run, looping, searching, wait_for
from hcnn_fast.measurement.rivals import RIVALS, UNCLOCKED, missing, plain_loop

RADIUS, STEPS, CLASSES = 0.03, 10, 10
STEP_SIZE = 2.5 * RADIUS / STEPS
CASES = [("fashion", 1), ("fashion", 64), ("fashion", 1024), ("resnet18", 1), ("resnet18", 32)]
CASES += [("vit", 4)] if DEVICE == "cpu" else [("resnet18", 256), ("w32-10", 32), ("vit", 32)]
IDS = [f"{DEVICE}-{name}-N{count}-L{CLASSES}-K{STEPS}" for name, count in CASES]
TIMED = 2.0  # seconds that the timed runs of a row are meant to take
ROUNDS = 3, 50  # runs at least and at most
LONG = 20.0  # seconds of a run from which on it is timed only twice
CHECKED = 2  # images on which a row's confidences are compared with the plain loop's
# In confidence: rounding turns the sign of gradients that are nearly zero, and in bfloat16, whose
# values choose the best point, that of more.
TOLERANCE, BFLOAT16_TOLERANCE = 2e-3, 2e-2

SAME_STEPS = hf.SearchConfig.mcn(
    RADIUS, steps=STEPS, step_size=STEP_SIZE, schedule="constant", momentum=0.0
)
SEARCHES = {
    "search": SAME_STEPS,
    "bfloat16": SAME_STEPS.replace(precision="bfloat16"),
    "defaults": hf.SearchConfig.mcn(RADIUS, steps=STEPS),
    "tolerance": hf.SearchConfig.mcn(RADIUS, steps=STEPS, momentum=0.0, tolerance=1e-3),
}


@contextmanager
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def vision_transformer() -> nn.Module:
    """Four layers of width 128 on 64 patches of 4x4 pixels."""
    transformer = pytest.importorskip("torchvision.models.vision_transformer")
    model: nn.Module = transformer.VisionTransformer(
        image_size=32,
        patch_size=4,
        num_layers=4,
        num_heads=4,
        hidden_dim=128,
        mlp_dim=512,
        num_classes=CLASSES,
    )
    nn.init.normal_(model.heads.head.weight, std=0.05)  # zero as made: no gradient would flow
    return model


WEIGHTS = os.environ.get("RESNET18")  # a file
MAKERS: dict[str, Callable[[], nn.Module]] = {
    "fashion": partial(hf.models.load, "fashion-adversarial"),
    "resnet18": partial(hf.models.load, "resnet18", WEIGHTS) if WEIGHTS else hf.models.ResNet18,
    "vit": vision_transformer,
    "w32-10": partial(hf.models.build, "wide-resnet-32-10"),
}
TRAINED = {"fashion"} | ({"resnet18"} if WEIGHTS else set())


@cache
def model_of(name: str) -> nn.Module:
    """The classifier, with random weights where it is not in TRAINED."""
    with seeded():
        return MAKERS[name]().eval().to(DEVICE)


@cache
def images_of(name: str, count: int) -> Tensor:  # [N, *image]
    if name == "fashion":
        return hf.data.load("fashion-mnist-sample", "test").scaled()[:count].to(DEVICE)
    if name in TRAINED:
        return hf.data.load("cifar10", "test").scaled()[:count].to(DEVICE)
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, 32, 32, generator=generator).to(DEVICE)


@cache
def roofs() -> Roofs:
    return measure_roofs(torch.device(DEVICE))


def unfit(way: str, name: str) -> str | None:
    """Why a row says nothing here; None where it does."""
    if way == "bfloat16" and not native_bfloat16(torch.device(DEVICE)):
        return "bfloat16 is emulated on this machine"
    if way == "tolerance" and name not in TRAINED:
        return "random weights: no label can win by much"
    return missing(way)


def run_of(way: str) -> Run:
    if way in SEARCHES:
        return searching(SEARCHES[way])
    return looping(RIVALS[way], RADIUS, STEPS, STEP_SIZE)


def assert_equal_work(way: str, model: nn.Module, x: Tensor) -> None:
    """The confidences of the plain loop, or, for a search that keeps the best point, no less."""
    reached = plain_loop(model, x, RADIUS, STEPS, STEP_SIZE)  # [N, C]
    if way in RIVALS:
        again = RIVALS[way](model, x, RADIUS, STEPS, STEP_SIZE)
        torch.testing.assert_close(again, reached, rtol=0, atol=TOLERANCE)
    else:
        found = hf.search(model, x, SEARCHES[way])
        given_up = BFLOAT16_TOLERANCE if way == "bfloat16" else TOLERANCE
        assert bool((found.value > reached.amax(1) - given_up).all())


@pytest.mark.parametrize("way", [*SEARCHES, *RIVALS])
@pytest.mark.parametrize(("name", "count"), CASES, ids=IDS)  # the ways of a case close in time
@pytest.mark.timeout(1800)
def bench_rivals(benchmark: Any, way: str, name: str, count: int) -> None:
    benchmark.group = f"{name} N{count}"
    reason = unfit(way, name)
    if reason is not None:
        pytest.skip(reason)
    model, x, run = model_of(name), images_of(name, count), run_of(way)
    if way == "compiled":
        compile_or_skip(run, model, x)
    assert_equal_work(way, model, x[:CHECKED])  # warms up as well
    watched = observe(run, model, x, unclocked=UNCLOCKED.get(way, ""))

    def timed() -> None:
        run(model, x)
        wait_for(x.device)

    benchmark.pedantic(timed, rounds=rounds_of(watched.seconds))
    figures = CostFigures(
        images=count,
        asked_steps=count * CLASSES * STEPS,
        seconds=tuple(benchmark.stats.stats.data),
        observation=watched,
        work=model_work(model, x[: watched.batch]),
        roofs=roofs(),
    )
    benchmark.extra_info.update(figures.to_dict(), trained=name in TRAINED)
    benchmark.extra_info["roofs"] = figures.roofs.to_dict()


def rounds_of(seconds: float) -> int:
    """How often a run is timed: short ones, which vary most, more often."""
    fewest, most = ROUNDS
    return 2 if seconds > LONG else min(max(fewest, int(TIMED / seconds)), most)


def compile_or_skip(run: Run, model: nn.Module, x: Tensor) -> None:
    """Let the compiler have its time; where it fails, skip with what it says."""
    try:
        run(model, x)
    except Exception as error:
        pytest.skip(f"torch.compile fails here: {str(error).splitlines()[0]}")
