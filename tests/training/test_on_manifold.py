"""On-manifold adversarial training: which half is moved, along what, and what that does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hcnn_fast import data
from hcnn_fast.manifolds import ClassVae, LatentBox, LearnedManifold, manifold_of, on_manifold
from hcnn_fast.manifolds.glyphs import coded_glyphs, decode_glyphs, known_glyphs
from hcnn_fast.training import EpochReport, OnManifold, Recipe, save_weights, train
from hcnn_fast.training.methods import objective_of
from hcnn_fast.training.objective import StepLoss

CPU = torch.device("cpu")
GLYPHS = coded_glyphs("hard", "train", images=9)
X, Y = GLYPHS.data.scaled(), GLYPHS.data.labels
SETTINGS = OnManifold(latent_radius=0.2)


class Watched(nn.Module):
    """A linear model behind batch statistics, which keeps what it was shown and in which mode."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            self.norm = nn.BatchNorm2d(1, momentum=0.0)  # the statistics stay as the attack saw
            self.layer = nn.Linear(784, 10)
        self.seen: list[tuple[bool, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((self.training, x.detach().clone()))
        logits: Tensor = self.layer(self.norm(x).flatten(1))
        return logits


def recipe(**changes: Any) -> Recipe:
    fields = {"method": "on-manifold", "radius": 0.0, "attack_steps": 4, "flip": False}
    return Recipe(**{**fields, "settings": SETTINGS, "precision": "float32", **changes})


def step(model: nn.Module, made: Recipe | None = None, *, seed: int = 3) -> StepLoss:
    return objective_of(made or recipe(), CPU)(model, X, Y, epoch=0.0, seed=seed)


def test_half_is_moved_in_eval_mode_and_one_pass_in_train_mode_sees_both_halves() -> None:
    model = Watched().train()
    found = step(model)
    modes = [training for training, _ in model.seen]
    assert modes == [False] * 5 + [True]
    last = model.seen[-1][1]
    assert torch.equal(last[:5], X[:5])  # of 9 images 5 are clean
    moved = model.eval()(last)
    expected = nn.functional.cross_entropy(model.train()(last), Y)
    torch.testing.assert_close(found.loss, expected)
    assert moved.shape == (9, 10)


def test_the_moved_half_is_what_the_attack_finds_near_the_known_codes() -> None:
    model = Watched().train()
    step(model)
    attacked = model.seen[-1][1][5:]
    manifold = known_glyphs("hard")
    coded = manifold.encode(X[5:], Y[5:])
    assert torch.equal(coded.code, GLYPHS.coded.code[5:])
    expected = on_manifold(
        model.eval(),
        decode_glyphs,
        coded,
        Y[5:],
        radius=0.2,
        box=manifold.box,
        steps=4,
        seed=3,
    )
    torch.testing.assert_close(attacked, expected.point, rtol=0, atol=1e-5)
    other = Watched().train()
    step(other, seed=4)
    assert not torch.equal(other.seen[-1][1][5:], attacked)  # another step, other starts


def test_augmented_images_have_no_known_codes() -> None:
    for changes, said in (({"flip": True}, "flip is True"), ({"shift": 2}, "shift is 2")):
        with pytest.raises(ValueError, match=said):
            objective_of(recipe(**changes), CPU)


def test_images_that_are_not_on_the_manifold_are_said_to_be_so() -> None:
    objective = objective_of(recipe(), CPU)
    with pytest.raises(ValueError, match="4 of 4 images are not among those whose codes are known"):
        objective(Watched(), 1.0 - X, Y, epoch=0.0, seed=0)


def test_a_learned_manifold_trains_from_its_file_and_stays_frozen(tmp_path: Path) -> None:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        vae = ClassVae((1, 28, 28), 10, latent=2, hidden=8)
    side = torch.full((2,), 2.0)
    learned = LearnedManifold(vae, LatentBox(-side, side))
    path = tmp_path / "manifold.safetensors"
    save_weights(path, vae.state_dict(), learned.card())
    made = recipe(settings=OnManifold(manifold=str(path)), flip=True)
    assert Recipe.from_dict(made.to_dict()) == made
    model = Watched().train()
    found = objective_of(made, CPU)(model, X, Y, epoch=0.0, seed=0)
    found.loss.backward()
    moved = model.seen[-1][1][5:]
    assert model.layer.weight.grad is not None
    rebuilt = learned.decode(learned.encode(X[5:], Y[5:]).code, Y[5:])
    assert 0.0 < float((moved - rebuilt).abs().max())  # moved from the reconstruction
    assert float((moved - rebuilt).abs().max()) < float((moved - X[5:]).abs().max())


def test_manifolds_that_are_not_there_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="manifold is 'glyphs-herd'; did you mean 'glyphs-hard'"):
        manifold_of("glyphs-herd", CPU)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        manifold_of(str(tmp_path / "none.safetensors"), CPU)
    with pytest.raises(ValueError, match="latent_radius is 0"):
        OnManifold(latent_radius=0.0)
    with pytest.raises(TypeError, match="manifold is 3"):
        OnManifold(manifold=3)  # type: ignore[arg-type]


def small_net() -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))


def easy(**changes: Any) -> Recipe:
    settings = OnManifold(manifold="glyphs-easy", latent_radius=0.1)
    fields = {"batch_size": 50, "learning_rate": 0.05, "validation_images": 0, "seed": 1}
    return recipe(**{**fields, "settings": settings, **changes})


def test_training_on_the_manifold_lowers_the_success_of_its_attack() -> None:
    images = data.load("glyphs-easy", "train").first(600)
    test = coded_glyphs("easy", "test", images=200)
    success = {}
    for method in ("natural", "on-manifold"):
        model, made = small_net(), easy(epochs=10)
        settings = made.settings if method == "on-manifold" else None
        train(model, images, replace(made, method=method, settings=settings))
        found = on_manifold(
            model,
            decode_glyphs,
            test.coded,
            test.data.labels,
            radius=0.1,
            box=known_glyphs("easy").box,
            steps=10,
        )
        success[method] = int(found.success.sum())
    assert success["on-manifold"] < success["natural"] - 20


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    images, made = data.load("glyphs-easy", "train").first(100), easy(epochs=3)
    whole = train(small_net(), images, made)

    def stop(_: EpochReport) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(small_net(), images, made, tmp_path, on_epoch=stop)
    resumed = train(small_net(), images, made, tmp_path, resume=True)
    assert all(torch.equal(whole.weights[name], resumed.weights[name]) for name in whole.weights)
    farther = easy(epochs=3, settings=OnManifold(manifold="glyphs-easy", latent_radius=0.2))
    with pytest.raises(ValueError, match="was made with settings"):
        train(small_net(), images, farther, tmp_path, resume=True)
