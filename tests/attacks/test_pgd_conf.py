"""PGD-Conf: the published path, the closed forms of linear models, and its accounting."""

from __future__ import annotations

from typing import Any

import closed_forms as truth
import numpy as np
import pytest
import torch
from published_pgd_conf import projected, published_pgd_conf
from tiny_classifiers import Counting, convolutional, images, linear
from torch import Tensor

from hcnn_fast.attacks import pgd_conf
from hcnn_fast.attacks.initial_points import check_initialisations, drawn_points
from hcnn_fast.attacks.norm_balls import size_of
from hcnn_fast.attacks.runs import Runs, posed
from hcnn_fast.config import SearchConfig

OBJECTIVES = ("cross_entropy", "confidence", "logit", "distal")
RADIUS = {"linf": 0.3, "l2": 1.5, "l1": 8.0, "l0": 9.5}
every_objective = pytest.mark.parametrize("objective", OBJECTIVES)
every_norm = pytest.mark.parametrize("norm", RADIUS)


def starts_of(model: Any, x: Tensor, y: Tensor, names: Any, norm: Any, **settings: Any) -> Tensor:
    """First points of the first run of each image."""
    config = SearchConfig.mcn(RADIUS[norm], **settings)
    with posed(model, x, y, config) as problem:
        rows = torch.arange(len(x))
        runs = Runs(index=rows, label=y, target=y, start=torch.zeros_like(y))
        return drawn_points(problem, runs, names, "every", norm)


# The published loop


@every_objective
@every_norm
@pytest.mark.parametrize("initialisation", ["zero", "uniform_norm"])
@pytest.mark.parametrize("backtracking", [1.5, None])
def test_every_sample_ends_where_the_published_loop_ends(
    objective: Any, norm: Any, initialisation: Any, backtracking: float | None
) -> None:
    network, x = convolutional(dtype=torch.float64), images(9, dtype=torch.float64)

    def model(z: Tensor) -> Tensor:  # so curved that steps overshoot
        return network(0.5 + 0.5 * torch.sin(9.0 * z))

    x[:3] = x[:3].round()  # the bounds cut these balls
    y = torch.cat([model(x[:6]).argmax(1), torch.tensor([0, 1, 2])])
    settings: dict[str, Any] = {"steps": 8, "momentum": 0.9}
    size = {"linf": 0.2, "l2": 6.0, "l1": 60.0, "l0": 60.0}[norm]  # too long: refused at times
    start = starts_of(model, x, y, (initialisation,), norm)
    best, error, path = published_pgd_conf(
        model,
        x,
        y,
        start - x,
        objective=objective,
        project=lambda d, image: projected(d, image, RADIUS[norm], norm, (0.0, 1.0)),
        norm=norm,
        step_size=size,
        backtracking=backtracking,
        **settings,
    )
    result = pgd_conf(
        model,
        x,
        y,
        radius=RADIUS[norm],
        norm=norm,
        objective=objective,
        step_size=size,
        backtracking=backtracking,
        initialisations=(initialisation,),
        **settings,
    )
    torch.testing.assert_close(result.point, x + best, rtol=0.0, atol=1e-9)
    torch.testing.assert_close(-result.value.double(), torch.tensor(error).double())
    if backtracking is not None:
        steps = np.diff(np.array(path), axis=0)
        assert (steps <= 1e-12).all()
        assert (np.abs(steps) < 1e-12).any()  # some are refused
        assert (steps < -1e-6).any()


@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("backtracking", [1.5, None])
def test_a_run_takes_steps_plus_one_passes_forward_and_steps_backward(
    steps: int, backtracking: float | None
) -> None:
    backward = 0

    def count(gradient: Tensor) -> None:
        nonlocal backward
        backward += len(gradient)

    network = linear()

    def watched(z: Tensor) -> Tensor:
        logits = network(z)
        if logits.requires_grad:
            logits.register_hook(count)
        return logits

    model = Counting(watched)
    names = ("zero", "uniform_norm")
    result = pgd_conf(
        model,
        images(3),
        torch.arange(3),
        radius=0.1,
        steps=steps,
        backtracking=backtracking,
        initialisations=names,
        batch_size=2,
    )
    runs = 3 * len(names)
    asked_once, scored = 1, runs  # the number of classes, and the points found
    assert model.images == runs * (steps + 1) + scored + asked_once
    assert backward == runs * steps
    assert result.gradient_steps == runs * steps


# Closed forms


def test_momentum_averages_unit_gradients_by_its_closed_form() -> None:
    """Without backtracking m_t = (1 - mu) sum_i mu^(t - i) g_i; linear models have one g."""
    model = linear(classes=2, dtype=torch.float64)
    x, y = 0.5 * torch.ones(2, 3, 4, 4, dtype=torch.float64), torch.tensor([0, 1])
    weight = (model[1].weight[1] - model[1].weight[0]).detach().view(3, 4, 4)
    toward = torch.stack([weight, -weight])
    mu, steps, size = 0.7, 5, 1e-3
    length = sum((1.0 - mu) * sum(mu**k for k in range(t + 1)) for t in range(steps))
    for norm, unit in (
        ("linf", toward.sign()),
        ("l2", toward / weight.norm()),
        ("l1", toward / weight.abs().sum()),
    ):
        result = pgd_conf(
            model,
            x,
            y,
            radius=10.0,
            norm=norm,
            steps=steps,
            step_size=size,
            momentum=mu,
            backtracking=None,
        )
        torch.testing.assert_close(result.point, x + size * length * unit, rtol=0.0, atol=1e-12)


def test_a_bowl_is_descended_to_its_minimum_with_shorter_and_shorter_steps() -> None:
    """The logits of class 1 are -|z - c|^2: its log odds are largest at c."""
    centre = torch.linspace(0.45, 0.55, 6).double()

    def bowl(z: Tensor) -> Tensor:
        logit = -(z - centre).square().sum(1)
        return torch.stack([torch.zeros_like(logit), logit], 1)

    x, y = torch.full((1, 6), 0.5).double(), torch.zeros(1).long()
    points = [
        pgd_conf(bowl, x, y, radius=0.2, norm=norm, steps=200, step_size=0.1, backtracking=b).point
        for norm in ("linf", "l2")
        for b in (1.5, None)
    ]
    errors = [float((point - centre).abs().max()) for point in points]
    assert errors[0] < 1e-6
    assert errors[2] < 1e-6
    assert errors[1] > 1e-5  # steps of one length cannot settle
    assert errors[3] > 1e-5


@pytest.mark.parametrize("box", [False, True], ids=["ball", "box"])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_optimum_of_a_binary_linear_model_is_reached(norm: Any, box: bool) -> None:
    """max w . d with |d| <= radius and 0 <= d <= room, by the solvers of `closed_forms`."""
    for seed in range(4):
        case = truth.binary_case(seed, box=box, images=6)
        model, x = truth.classifier(case.weight, case.bias), torch.from_numpy(case.x)
        radius = {"linf": case.radius, "l2": 2.0 * case.radius, "l1": 3.0 * case.radius}[norm]
        for label in (0, 1):
            y = torch.full((len(x),), 1 - label)
            result = pgd_conf(
                model,
                x,
                y,
                radius=radius,
                norm=norm,
                bounds=case.bounds,
                steps=150,
                step_size={"linf": 0.1, "l2": 2.0, "l1": 20.0}[norm],
            )
            wide = truth.BinaryCase(case.weight, case.bias, case.x, np.inf, case.bounds)
            room = np.minimum(wide.room(label), radius)
            best = [
                odds + truth.largest_gain(np.abs(case.weight), row, radius, norm)
                for odds, row in zip(case.odds[:, label], room, strict=True)
            ]
            expected = truth.sigmoid(np.array(best))
            np.testing.assert_allclose(result.value.numpy(), expected, rtol=0, atol=1e-4)


# Where runs begin


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_starts_have_the_distributions_of_the_paper(norm: Any) -> None:
    x = torch.full((400, 3, 4, 4), 0.5, dtype=torch.float64)
    x += 1e-3 * images(400, dtype=torch.float64)  # no two alike
    y = torch.zeros(400).long()
    model = linear(dtype=torch.float64)
    radius, entries = RADIUS[norm], 48

    def away(name: str, seed: int = 0) -> Tensor:
        return starts_of(model, x, y, (name,), norm, seed=seed) - x

    assert float(away("zero").abs().max()) == 0.0
    gaussian = away("gaussian")
    assert float(gaussian.mean().abs()) < 4 * float(gaussian.std()) / (400 * entries) ** 0.5
    assert float(gaussian.std()) == pytest.approx(radius / (2 * np.log(entries)), rel=0.03)
    share = size_of(away("uniform_norm"), norm) / radius
    ends = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]).double()
    torch.testing.assert_close(torch.quantile(share, ends), ends, rtol=0.0, atol=0.08)
    share = (size_of(away("uniform_volume"), norm) / radius) ** entries
    torch.testing.assert_close(torch.quantile(share, ends), ends, rtol=0.0, atol=0.08)
    assert not torch.equal(away("gaussian", seed=1), gaussian)
    assert (
        float(torch.corrcoef(torch.stack([gaussian[0].flatten(), gaussian[1].flatten()]))[0, 1])
        < 0.5
    )


def test_l0_starts_change_two_thirds_of_the_radius() -> None:
    x = 0.5 + 1e-3 * images(400, dtype=torch.float64)
    y = torch.zeros(400).long()
    away = starts_of(linear(dtype=torch.float64), x, y, ("uniform_norm",), "l0") - x
    assert float(size_of(away, "l0").mean()) == pytest.approx(0.66 * RADIUS["l0"], rel=0.05)
    moved = away[away != 0]
    assert float(moved.abs().mean()) == pytest.approx(0.5, abs=0.03)
    assert float(moved.mean()) == pytest.approx(0.0, abs=0.05)


def test_one_draw_serves_the_batch_or_every_image_has_its_own() -> None:
    """A step of length zero to rounding shows the start: the image itself, or not."""
    x = 0.25 + 0.5 * images(60, dtype=torch.float64)
    y = torch.zeros(60).long()
    model = linear(dtype=torch.float64)
    still = {"radius": 0.1, "steps": 1, "step_size": 1e-30, "backtracking": None}
    mixed = ("zero", "gaussian", "uniform_norm")

    def unmoved(draw: Any, seed: int, chosen: Any = mixed) -> Tensor:
        settings: dict[str, Any] = {**still, "seed": seed, "draw": draw, "initialisations": chosen}
        result = pgd_conf(model, x, y, **settings)
        assert result.gradient_steps == 60
        return (result.point == x).flatten(1).all(1)

    batches = [unmoved("batch", seed) for seed in range(12)]
    assert all(bool((batch == batch[0]).all()) for batch in batches)
    assert {bool(batch[0]) for batch in batches} == {True, False}
    single = unmoved("example", 0)
    assert 8 < int(single.sum()) < 32
    assert bool(unmoved("example", 0, ("zero",)).all())


# What the best run is


def test_every_run_counts_and_the_wrong_ones_come_first() -> None:
    """Left of 1/2 class 1 has 0.45 of the right class's 0.50, right of it 0.40 and wins."""
    sides = torch.tensor([[0.50, 0.45, 0.05], [0.30, 0.40, 0.30]]).log()

    def two_sides(z: Tensor) -> Tensor:
        return sides[(z[:, 0] > 0.5).long()] + 0.0 * z[:, :1]

    x, y = torch.full((40, 2), 0.5), torch.zeros(40).long()
    x[:, 1] = torch.linspace(0.1, 0.9, 40)
    names = ("zero", "gaussian", "uniform_norm")
    result = pgd_conf(two_sides, x, y, radius=0.3, steps=1, initialisations=names)
    assert 25 < int(result.success.sum()) < 40
    assert torch.equal(result.success, result.point[:, 0] > 0.5)
    expected = torch.where(result.success, 0.40, 0.45)
    torch.testing.assert_close(result.value, expected)
    assert set(result.attempt.tolist()) == {0, 1, 2}
    assert bool((result.attempt[~result.success] == 0).all())


def test_confidence_rises_where_its_probabilities_underflow() -> None:
    network = linear()

    def steep(z: Tensor) -> Tensor:
        return 1e4 * network(z)

    x = images(20)
    y = network(x).argmax(1)
    settings: dict[str, Any] = {"radius": 0.4, "steps": 30}
    with torch.no_grad():
        assert float(torch.softmax(steep(x), 1).sort(1).values[:, :-1].max()) == 0.0
    assert bool(pgd_conf(steep, x, y, **settings).success.all())


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"norm": "l3"}, "norm is 'l3', expected one of linf, l2, l1, l0"),
        ({"objective": "margin"}, "objective is 'margin', expected one of"),
        ({"draw": "image"}, "draw is 'image', expected one of every, batch, example"),
        ({"backtracking": 1.0}, "backtracking is 1.0, expected None or a finite factor > 1"),
        ({"initialisations": ()}, "initialisations is empty"),
        ({"initialisations": ("one",)}, "initialisations has 'one', expected names out of zero"),
        ({"initialisations": ("gaussian",), "norm": "l0"}, "has 'gaussian'.*for norm 'l0'"),
    ],
)
def test_unusable_settings_are_refused(keywords: Any, message: str) -> None:
    model = Counting(linear())
    with pytest.raises(ValueError, match=message):
        pgd_conf(model, images(), torch.arange(4), **{"radius": 0.1, **keywords})
    assert model.calls == 0
    with pytest.raises(TypeError, match="initialisations is 'zero', expected a sequence"):
        check_initialisations("zero", "linf")


class _Huge(torch.autograd.Function):
    """The identity, whose gradient is scaled until its entries are infinite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 1e38 * 1e38


@pytest.mark.parametrize("backtracking", [None, 1.5])
def test_infinite_gradients_are_followed_by_their_signs(backtracking: float | None) -> None:
    """Where steps are rejected, old and new directions of opposite signs meet in one entry."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(12, 8, generator=generator)
    second = torch.randn(8, 3, generator=generator)

    def plain(x: Tensor) -> Tensor:
        return torch.sin(3.0 * x.flatten(1) @ first) @ second

    def huge(x: Tensor) -> Tensor:
        return plain(_Huge.apply(x))  # type: ignore[no-untyped-call]  # torch leaves it untyped

    x = torch.rand(6, 12, generator=generator)
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    options: dict[str, Any] = {"radius": 0.4, "steps": 12, "backtracking": backtracking}
    expected, found = (pgd_conf(model, x, y, **options) for model in (plain, huge))
    assert torch.equal(found.point, expected.point)
    assert not torch.equal(expected.point, x)
