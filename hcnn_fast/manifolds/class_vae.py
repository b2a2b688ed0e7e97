"""A learned manifold: a variational autoencoder for each class, so that no code changes class."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hcnn_fast.engine.inputs import check_labels
from hcnn_fast.manifolds.manifold import Coded, LatentBox
from hcnn_fast.models.registry import read_weights

Reconstruction = Literal["bernoulli", "l1"]

KIND = "class-vae"  # in the card of its weights


class ClassVae(nn.Module):
    """An encoder and a decoder for each class, with one hidden layer each.

    Args:
        image_shape: of one image.
        classes: number of classes.
        latent: coordinates Z of a code.
        hidden: units of the hidden layers.

    Source: Kingma and Welling 2014; Stutz, Hein and Schiele 2019, who add a discriminator.
    """

    def __init__(
        self,
        image_shape: tuple[int, ...],
        classes: int,
        *,
        latent: int = 10,
        hidden: int = 256,
    ) -> None:
        super().__init__()
        self.image_shape, self.classes = tuple(image_shape), classes
        self.latent, self.hidden = latent, hidden
        size = torch.Size(image_shape).numel()
        self.encoders = nn.ModuleList(
            nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent))
            for _ in range(classes)
        )
        self.decoders = nn.ModuleList(
            nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, size))
            for _ in range(classes)
        )

    def posterior(
        self,
        images: Tensor,  # [B, *image] in [0, 1]
        labels: Tensor,  # [B] int64
    ) -> tuple[Tensor, Tensor]:  # [B, Z], [B, Z]
        """Mean and logarithm of the variance of q(z | x, y)."""
        mean, log_variance = _by_class(self.encoders, images.flatten(1), labels).chunk(2, 1)
        return mean, log_variance

    def logits(
        self,
        code: Tensor,  # [B, Z]
        labels: Tensor,  # [B] int64
    ) -> Tensor:  # [B, D]
        """Log odds of the pixels of the decoded images."""
        return _by_class(self.decoders, code, labels)

    def forward(
        self,
        code: Tensor,  # [B, Z]
        labels: Tensor,  # [B] int64
    ) -> Tensor:  # [B, *image] in [0, 1]
        """The decoded images, in the precision of the weights."""
        code = code.to(next(self.parameters()).dtype)
        return torch.sigmoid(self.logits(code, labels)).view(len(code), *self.image_shape)


def divergence_from_prior(
    mean: Tensor,  # [B, Z]
    log_variance: Tensor,  # [B, Z]
) -> Tensor:  # [B]
    """KL(N(mean, diag exp(log_variance)) || N(0, I)) = -1/2 sum(1 + v - mean^2 - e^v)."""
    return -0.5 * (1.0 + log_variance - mean.square() - log_variance.exp()).sum(1)


def reconstruction_loss(
    logits: Tensor,  # [B, D]
    images: Tensor,  # [B, *image] in [0, 1]
    kind: Reconstruction,
) -> Tensor:  # [B]
    """Sum over pixels of the Bernoulli cross-entropy, or of the absolute error."""
    target = images.flatten(1)
    if kind == "l1":
        return (torch.sigmoid(logits) - target).abs().sum(1)
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(1)


class LearnedManifold:
    """The decoded codes of a trained `ClassVae`; the condition of an image is its class.

    Args:
        vae: trained; its weights are frozen.
        box: where codes are valid: the range of those of the training images.
    """

    def __init__(self, vae: ClassVae, box: LatentBox) -> None:
        self.vae = vae.eval().requires_grad_(False)
        self._box = box

    @property
    def box(self) -> LatentBox:
        """Where codes are valid."""
        return self._box

    def decode(
        self,
        code: Tensor,  # [B, Z]
        condition: Tensor,  # [B] int64
    ) -> Tensor:  # [B, *image]
        """Images of codes, each of the class of its condition."""
        images: Tensor = self.vae(code, condition)
        return images

    def encode(
        self,
        images: Tensor,  # [B, *image] in [0, 1]
        labels: Tensor,  # [B] int64
    ) -> Coded:
        """The means of the encoder, clipped to the box: `decode` gives reconstructions.

        Raises:
            ValueError: images of another shape, or more classes than were learned.
        """
        if tuple(images.shape[1:]) != self.vae.image_shape:
            found, expected = list(images.shape[1:]), list(self.vae.image_shape)
            raise ValueError(f"images have shape {found}, expected those learned, {expected}")
        labels = check_labels(labels, images, self.vae.classes)
        with torch.no_grad():
            mean, _ = self.vae.posterior(images, labels)
        return Coded(self._box.like(mean).clamp(mean), labels)

    def to(self, device: torch.device) -> LearnedManifold:
        """The same on a device; the autoencoder is moved, not copied."""
        return LearnedManifold(self.vae.to(device), self._box)

    def card(self) -> dict[str, Any]:
        """What `load_manifold` must know besides the weights, as plain values."""
        return {
            "manifold": KIND,
            "image_shape": list(self.vae.image_shape),
            "classes": self.vae.classes,
            "latent": self.vae.latent,
            "hidden": self.vae.hidden,
            "lower": self._box.lower.tolist(),
            "upper": self._box.upper.tolist(),
        }


def load_manifold(path: Path) -> LearnedManifold:
    """A learned manifold from a `.safetensors` file with its card beside it.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the card is not one of a manifold, or the weights do not fit it.
    """
    weights, card = read_weights(path), _card(path.with_suffix(".json"))
    vae = ClassVae(
        tuple(card["image_shape"]), card["classes"], latent=card["latent"], hidden=card["hidden"]
    )
    try:
        vae.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit its card {path.with_suffix('.json')}") from error
    return LearnedManifold(vae, LatentBox(torch.tensor(card["lower"]), torch.tensor(card["upper"])))


def _card(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no card {path} beside the weights of a manifold")
    card: Any = json.loads(path.read_text())
    if not isinstance(card, dict) or card.get("manifold") != KIND:
        raise ValueError(f"{path} is not the card of a learned manifold ({KIND})")
    return card


def _by_class(
    modules: nn.ModuleList,
    rows: Tensor,  # [B, I]
    labels: Tensor,  # [B]
) -> Tensor:  # [B, O]
    """Each row through the module of its class."""
    order = labels.argsort(stable=True)  # [B]
    counts = torch.bincount(labels, minlength=len(modules)).tolist()
    parts = torch.split(rows[order], counts)
    done = torch.cat([module(part) for module, part in zip(modules, parts, strict=True)])  # [B, O]
    return done[order.argsort()]
