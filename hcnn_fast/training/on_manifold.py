"""On-manifold adversarial training: half of each batch where the model errs within the class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hcnn_fast.manifolds import LearnedManifold, Manifold, on_manifold
from hcnn_fast.training.objective import StepLoss, count_right, evaluation_mode, logits_of
from hcnn_fast.training.recipe import Recipe
from hcnn_fast.training.settings import OnManifold


@dataclass(frozen=True, kw_only=True)
class OnManifoldAttacked:
    """Cross-entropy of half a batch as it is and of the rest where `on_manifold` finds it high.

    While it is attacked the model is in eval mode; one pass then takes both halves together. Of an
    odd number the larger part is clean. The decoder is frozen.

    Attributes:
        recipe: steps and step size of the attack; its l_inf ball plays no part.
        settings: the latent radius.
        manifold: of the images.
        bfloat16: run the model in bfloat16; the decoder never is.

    Raises:
        ValueError: the manifold knows images that the recipe would mirror or shift.

    Source: Stutz, Hein and Schiele 2019, "Disentangling Adversarial Robustness and Generalization".
    """

    recipe: Recipe
    settings: OnManifold
    manifold: Manifold
    bfloat16: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.manifold, LearnedManifold):  # which can place any image
            return
        for name, left in (("flip", False), ("shift", 0)):
            if getattr(self.recipe, name) != left:
                raise ValueError(
                    f"{name} is {getattr(self.recipe, name)!r}, expected {left!r}: codes are known"
                    f" of the images of {self.settings.manifold} as they are"
                )

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,  # [B, *image]
        labels: Tensor,  # [B]
        *,
        epoch: float,
        seed: int,
    ) -> StepLoss:
        """The mean loss of a batch.

        Raises:
            RuntimeError: the model's logits are no longer finite.
            ValueError: an image cannot be placed on the manifold.
        """
        clean = len(images) - len(images) // 2
        moved = self._moved(model, images[clean:], labels[clean:], epoch, seed)  # [b, *image]
        logits = logits_of(model, torch.cat([images[:clean], moved]), self.bfloat16)  # [B, C]
        loss = nn.functional.cross_entropy(logits, labels)
        return StepLoss(loss, count_right(logits, labels))

    def _moved(
        self,
        model: nn.Module,
        images: Tensor,  # [b, *image]
        labels: Tensor,  # [b]
        epoch: float,
        seed: int,
    ) -> Tensor:  # [b, *image]
        """Images of high loss on the manifold, near where these lie."""
        if not len(images):
            return images
        coded, radius = self.manifold.encode(images, labels), self.settings.latent_radius
        steps, relative = self.recipe.attack_steps_at(int(epoch)), self.recipe.attack_step_size
        with evaluation_mode(model):
            try:
                return on_manifold(
                    # A module would be copied, in every step anew.
                    lambda x: logits_of(model, x, self.bfloat16),
                    self.manifold.decode,
                    coded,
                    labels,
                    radius=radius,
                    box=self.manifold.box,
                    steps=steps,
                    step_size=None if relative is None else relative * radius,
                    seed=seed,
                    batch_size=len(images),
                ).point
            except ValueError as error:  # all else was checked before
                raise RuntimeError(
                    f"epoch {int(epoch) + 1}: {error}; train with a smaller learning_rate"
                ) from error
