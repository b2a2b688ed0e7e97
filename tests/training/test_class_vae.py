"""Training of the class-wise autoencoder: it learns, and it goes on where it was killed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hcnn_fast import data
from hcnn_fast.training.class_vae import VaeRecipe, train_class_vae

DATA = data.load("fashion-mnist-sample")
RECIPE = VaeRecipe(epochs=4, hidden=32, latent=4, batch_size=64)


def test_it_learns_to_rebuild_images_better_than_the_mean_of_their_class() -> None:
    losses: list[float] = []
    recipe = VaeRecipe(epochs=10, hidden=128, batch_size=64, learning_rate_decay=1.0)
    learned = train_class_vae(DATA, recipe, on_epoch=lambda _, loss: losses.append(loss))
    assert losses[-1] < 0.7 * losses[0]
    x, y = DATA.scaled(), DATA.labels
    error = (learned.decode(learned.encode(x, y).code, y) - x).square().mean((1, 2, 3))
    mean = torch.stack([x[y == c].mean(0) for c in range(10)])
    ours, theirs = float(error.mean()), float((mean[y] - x).square().mean())
    assert ours < 0.8 * theirs
    coded = learned.encode(x, y).code
    torch.testing.assert_close(coded.amin(0), learned.box.lower)  # all of them are in the box
    torch.testing.assert_close(coded.amax(0), learned.box.upper)


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole = train_class_vae(DATA, RECIPE)
    path = tmp_path / "vae.pt"

    def stop(epoch: int, _: float) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_class_vae(DATA, RECIPE, path, on_epoch=stop)
    epochs: list[int] = []
    resumed = train_class_vae(DATA, RECIPE, path, on_epoch=lambda epoch, _: epochs.append(epoch))
    assert epochs == [3, 4]
    for ours, theirs in zip(resumed.vae.parameters(), whole.vae.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match="was made with hidden 32, this run has 16"):
        train_class_vae(DATA, VaeRecipe(epochs=4, hidden=16, latent=4, batch_size=64), path)


def test_the_caller_s_random_numbers_are_left_alone() -> None:
    state = torch.get_rng_state()
    train_class_vae(DATA.first(64), VaeRecipe(epochs=1, hidden=4, latent=2))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loss_that_is_not_finite_ends_the_run() -> None:
    recipe = VaeRecipe(epochs=2, hidden=8, latent=2, learning_rate=1e6, batch_size=64)
    with pytest.raises(RuntimeError, match="train with a smaller learning_rate"):
        train_class_vae(DATA.first(256), recipe)


@pytest.mark.parametrize(
    ("field", "value"),
    [("latent", 0), ("epochs", 0), ("reconstruction", "l2"), ("learning_rate", 0.0)],
)
def test_bad_recipes_are_refused_by_field(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{field} is"):
        VaeRecipe(**{field: value})  # type: ignore[arg-type]
