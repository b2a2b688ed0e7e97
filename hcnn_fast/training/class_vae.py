"""Training of the class-wise autoencoder whose decoded codes are a learned manifold."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from hcnn_fast.data.dataset import ImageDataset
from hcnn_fast.manifolds.class_vae import (
    ClassVae,
    LearnedManifold,
    Reconstruction,
    divergence_from_prior,
    reconstruction_loss,
)
from hcnn_fast.manifolds.manifold import LatentBox
from hcnn_fast.training.checkpoint import load_checkpoint, save_checkpoint
from hcnn_fast.training.fields import choice, integer, number
from hcnn_fast.training.streams import generator_of

ENCODED = 2000  # images encoded at a time


@dataclass(frozen=True, kw_only=True)
class VaeRecipe:
    """Hyperparameters of a `ClassVae` and its training by Adam.

    Attributes:
        latent: coordinates of a code.
        hidden: units of each hidden layer.
        reconstruction: "bernoulli" cross-entropy or "l1" error, summed over pixels.
        reconstruction_weight: of it beside the divergence from the prior.
        epochs, batch_size: passes over the images, and images of a step.
        learning_rate, learning_rate_decay: the first, and its factor after each epoch.
        seed: of weights, order and codes.

    Raises:
        TypeError, ValueError: a field has the wrong type or value; the message names the field.
    """

    latent: int = 10
    hidden: int = 256
    reconstruction: Reconstruction = "bernoulli"
    reconstruction_weight: float = 1.0
    epochs: int = 15
    batch_size: int = 250
    learning_rate: float = 2e-3
    learning_rate_decay: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("latent", "hidden", "epochs", "batch_size"):
            integer(name, getattr(self, name), 1)
        choice("reconstruction", self.reconstruction, get_args(Reconstruction))
        number("reconstruction_weight", self.reconstruction_weight, 0.0, torch.inf, above=True)
        number("learning_rate", self.learning_rate, 0.0, torch.inf, above=True)
        number("learning_rate_decay", self.learning_rate_decay, 0.0, 1.0 + 1e-12, above=True)
        integer("seed", self.seed, 0)


def train_class_vae(
    data: ImageDataset,
    recipe: VaeRecipe,
    checkpoint: Path | None = None,
    *,
    device: torch.device | str = "cpu",
    on_epoch: Callable[[int, float], None] | None = None,
) -> LearnedManifold:
    """Minimise weight * reconstruction error + KL(q(z | x, y) || N(0, I)), one sample a code.

    With a checkpoint file the state is kept there after each epoch, and a run that finds its own
    goes on from it, on a CPU to the same weights bit for bit.

    Args:
        data: images to learn.
        recipe: all hyperparameters.
        checkpoint: file; None: no checkpoints.
        device: where to train.
        on_epoch: called after each epoch, once its checkpoint is on disk, with its number from 1
            and its mean loss.

    Returns:
        The manifold, whose box is the range of the codes of these images.

    Raises:
        ValueError: the checkpoint is of another run.
        RuntimeError: the loss is no longer finite.
    """
    device = torch.device(device)
    with torch.random.fork_rng([]):
        torch.manual_seed(recipe.seed)
        shape = tuple(data.images.shape[1:])
        vae = ClassVae(shape, data.classes, latent=recipe.latent, hidden=recipe.hidden).to(device)
    optimiser = torch.optim.Adam(vae.parameters(), lr=recipe.learning_rate)
    identity: dict[str, Any] = {
        "data": f"{data.name}/{data.split}",
        "images": len(data),
        **asdict(recipe),
    }
    done = 0
    if checkpoint is not None and checkpoint.is_file():
        state = load_checkpoint(checkpoint, identity)
        vae.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        done = state["epoch"]
    for epoch in range(done, recipe.epochs):
        loss = _epoch(vae, optimiser, data, recipe, epoch, device)
        if not loss < float("inf"):
            raise RuntimeError(
                f"the loss of epoch {epoch + 1} is {loss}; train with a smaller learning_rate"
            )
        if checkpoint is not None:
            state = {"model": vae.state_dict(), "optimiser": optimiser.state_dict()}
            save_checkpoint(checkpoint, identity, {**state, "epoch": epoch + 1})
        if on_epoch is not None:
            on_epoch(epoch + 1, loss)
    return LearnedManifold(copy.deepcopy(vae), _range_of_codes(vae, data, device))


def _epoch(
    vae: ClassVae,
    optimiser: torch.optim.Optimizer,
    data: ImageDataset,
    recipe: VaeRecipe,
    epoch: int,
    device: torch.device,
) -> float:
    """One pass over the images; returns the mean loss."""
    seed = recipe.seed * 2**32 + epoch
    generator = generator_of("codes", seed)
    order = torch.randperm(len(data), generator=generator_of("order", seed))  # [N]
    for group in optimiser.param_groups:
        group["lr"] = recipe.learning_rate * recipe.learning_rate_decay**epoch
    total = 0.0
    for chosen in torch.split(order, recipe.batch_size):
        x = data.images[chosen].to(device, torch.float32) / 255.0  # [B, *image]
        y = data.labels[chosen].to(device)  # [B]
        mean, log_variance = vae.posterior(x, y)  # [B, Z] both
        noise = torch.randn(mean.shape, generator=generator).to(device)  # [B, Z]
        code = mean + torch.exp(0.5 * log_variance) * noise  # [B, Z]
        error = reconstruction_loss(vae.logits(code, y), x, recipe.reconstruction)  # [B]
        losses = recipe.reconstruction_weight * error + divergence_from_prior(mean, log_variance)
        optimiser.zero_grad(set_to_none=True)
        losses.mean().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimiser.step()
        total += float(losses.detach().sum())
    return total / len(data)


def _range_of_codes(vae: ClassVae, data: ImageDataset, device: torch.device) -> LatentBox:
    """The least box that holds the codes of all images."""
    lower = torch.full((vae.latent,), torch.inf)  # [Z]
    upper = -lower
    with torch.no_grad():
        for low in range(0, len(data), ENCODED):
            rows = slice(low, low + ENCODED)
            x = data.images[rows].to(device, torch.float32) / 255.0
            mean, _ = vae.posterior(x, data.labels[rows].to(device))
            lower = torch.minimum(lower, mean.amin(0).cpu())
            upper = torch.maximum(upper, mean.amax(0).cpu())
    return LatentBox(lower, upper)
