"""AT-50% and CCAT: which half is attacked, how, and what it is taught."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hcnn_fast import attacks
from hcnn_fast.attacks.losses import LOSSES
from hcnn_fast.training import Recipe
from hcnn_fast.training.half_attacked import HalfBatchAttacked
from hcnn_fast.training.losses import soft_cross_entropy
from hcnn_fast.training.methods import objective_of
from hcnn_fast.training.objective import StepLoss
from hcnn_fast.training.settings import Calibration
from hcnn_fast.training.targets import calibrated_targets, label_share
from hcnn_fast.training.validation import validate

RADIUS = 0.1
X = torch.rand(7, 12, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2, 0])


class Watched(nn.Module):
    """A linear model behind batch statistics, which keeps what it was shown and in which mode."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            self.norm = nn.BatchNorm1d(12)
            self.layer = nn.Linear(12, 3)
        self.seen: list[tuple[bool, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((self.training, x.detach().clone()))
        logits: Tensor = self.layer(self.norm(x))
        return logits


def recipe(method: str, **changes: Any) -> Recipe:
    fields = {"method": method, "radius": RADIUS, "attack_steps": 5, "precision": "float32"}
    return Recipe(**{**fields, **changes})


def step(model: nn.Module, made: Recipe, *, epoch: float = 0.0, seed: int = 3) -> StepLoss:
    objective = objective_of(made, torch.device("cpu"))
    return objective(model, X, Y, epoch=epoch, seed=seed)


@pytest.mark.parametrize("method", ["at50", "ccat"])
def test_the_attack_runs_in_eval_mode_and_one_pass_in_train_mode_sees_both_halves(
    method: str,
) -> None:
    model = Watched().train()
    step(model, recipe(method))
    modes = [training for training, _ in model.seen]
    assert modes == [False] * (len(modes) - 1) + [True]
    assert len(modes) > 5
    assert int(model.norm.num_batches_tracked) == 1  # type: ignore[arg-type]
    _, last = model.seen[-1]
    assert torch.equal(last[:4], X[:4])  # of 7 images 4 are clean
    moved = (last[4:] - X[4:]).abs().amax(1)
    assert bool((moved > 0).all())
    assert float(moved.max()) <= RADIUS + 1e-6
    assert all(len(x) <= 3 for _, x in model.seen[:-1])
    assert model.training
    assert model.norm.training


def test_modes_of_single_layers_come_back_after_the_attack() -> None:
    model = Watched().train()
    model.norm.eval()
    step(model, recipe("ccat"))
    assert (model.training, model.norm.training, model.layer.training) == (True, False, True)


@pytest.mark.parametrize(
    ("method", "objective", "initialisations"),
    [
        ("at50", "cross_entropy", ("uniform_norm",)),
        ("ccat", "confidence", ("gaussian", "uniform_norm", "zero")),
    ],
)
def test_the_attacked_half_is_what_pgd_conf_finds_on_the_whole_model(
    method: str, objective: Any, initialisations: Any
) -> None:
    starts = set()
    for seed in range(6):
        model = Watched().train()
        model.norm.momentum = 0.0  # the statistics stay as the attack saw them
        step(model, recipe(method, attack_steps=8), seed=seed)
        attacked = model.seen[-1][1][4:]
        starts.add(bool(torch.equal(model.seen[1][1], X[4:])))
        model.eval()
        expected = attacks.pgd_conf(
            model,
            X[4:],
            Y[4:],
            radius=RADIUS,
            objective=objective,
            steps=8,
            initialisations=initialisations,
            draw="batch",
            seed=seed,
        )
        # Other rounding may turn the sign of a slope of almost 0: what is reached is the same.
        with torch.no_grad():
            reached = model(attacked)
        rise = LOSSES[objective].value(LOSSES[objective].rise(reached, Y[4:], Y[4:]))
        torch.testing.assert_close(rise, expected.value, rtol=0, atol=1e-4)
    assert starts == ({False} if method == "at50" else {False, True})


def test_targets_of_the_attacked_half_fall_with_the_distance_that_was_moved() -> None:
    settings = Calibration(rho=3.0)
    model = Watched().train()
    found = step(model, recipe("ccat", settings=settings, attack_step_size=0.05))
    points = model.seen[-1][1]
    distance = (points - X).abs().amax(1)
    share = label_share(distance, RADIUS, settings)
    assert 0.0 < float(share[4:].min()) < 0.9
    again = Watched().train()
    logits = again(points)
    by_hand = soft_cross_entropy(logits, calibrated_targets(Y, 3, share)).mean()
    torch.testing.assert_close(found.loss, by_hand)
    assert int(found.right) == int((logits.argmax(1) == Y).sum())


def test_at50_teaches_the_label_at_attacked_points() -> None:
    model = Watched().train()
    found = step(model, recipe("at50"))
    logits = Watched().train()(model.seen[-1][1])
    torch.testing.assert_close(found.loss, nn.functional.cross_entropy(logits, Y))


def test_a_ball_that_has_not_grown_yet_leaves_the_batch_alone() -> None:
    model = Watched().train()
    found = step(model, recipe("ccat", radius_warmup_epochs=2.0))
    assert len(model.seen) == 1
    expected = nn.functional.cross_entropy(Watched().train()(X), Y)
    torch.testing.assert_close(found.loss, expected)


def test_the_distance_is_measured_by_the_final_radius_while_the_ball_grows() -> None:
    model = Watched().train()
    settings = Calibration(rho=1.0, initialisations=("zero",))
    made = recipe("ccat", radius_warmup_epochs=2.0, settings=settings, attack_step_size=1.0)
    found = step(model, made, epoch=1.0)
    points = model.seen[-1][1]
    share = 1.0 - (points - X).abs().amax(1) / RADIUS
    assert float(share.min()) == pytest.approx(0.5, abs=1e-5)  # half of the radius so far
    logits = Watched().train()(points)
    by_hand = soft_cross_entropy(logits, calibrated_targets(Y, 3, share)).mean()
    torch.testing.assert_close(found.loss, by_hand)


def test_logits_that_are_not_finite_end_the_run_with_a_remedy() -> None:
    model = Watched().train()
    with torch.no_grad():
        model.layer.bias[0] = math.nan
    with pytest.raises(RuntimeError, match=r"epoch 3: .*train with a smaller learning_rate"):
        step(model, recipe("ccat"), epoch=2.5)


def test_at50_and_ccat_are_the_same_class_with_other_settings() -> None:
    kinds = {type(objective_of(recipe(m), torch.device("cpu"))) for m in ("at50", "ccat")}
    assert kinds == {HalfBatchAttacked}


class Sure(nn.Module):
    """Sure of class 1 or 0 by the first pixel; beyond 0.55 from the middle it is unsure."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        score = self.scale * (x.flatten(1)[:, :1] - 0.5)
        return torch.cat([-score, score], 1)


def test_an_epoch_of_ccat_is_judged_with_rejection() -> None:
    """Images at 0.3 and 0.7, ball 0.25: the wrong side is reached, at 0.55, but less sure."""
    first = torch.tensor([0.3, 0.7] * 10)
    images = (255 * first).round().to(torch.uint8).view(20, 1, 1, 1)
    labels = torch.tensor([0, 1] * 10)
    model = Sure(4.0)
    made = {"radius": 0.25, "validation_steps": 20, "precision": "float32"}
    clean, robust = validate(model, images, labels, Recipe(method="ccat", **made))
    assert (clean, robust) == (1.0, 1.0)
    assert validate(model, images, labels, Recipe(**made)) == (1.0, 0.0)
    far = Recipe(method="ccat", **{**made, "radius": 0.45})  # the error is as sure as the images
    assert validate(model, images, labels, far) == (1.0, 0.0)
    wrong = validate(model, images, 1 - labels, Recipe(method="ccat", **made))
    assert wrong == (0.0, 0.0)


def test_a_right_answer_that_is_rejected_does_not_count_for_ccat() -> None:
    """The least sure of 100 images falls below the threshold that keeps 99%."""
    images = torch.full((100, 1, 1, 1), 77, dtype=torch.uint8)
    images[42] = 115
    labels = torch.zeros(100, dtype=torch.int64)
    made = Recipe(method="ccat", radius=0.1, validation_steps=20, precision="float32")
    assert validate(Sure(4.0), images, labels, made) == (1.0, 0.99)
