"""Virtual adversarial training: the same answer in the direction in which answers bend most."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hcnn_fast.attacks.norm_balls import unit_step
from hcnn_fast.training.losses import divergence, entropy
from hcnn_fast.training.objective import StepLoss, count_right, evaluation_mode, logits_of
from hcnn_fast.training.settings import VirtualAdversarial
from hcnn_fast.training.streams import normal_like


@dataclass(frozen=True, kw_only=True)
class VirtualAdversarialObjective:
    """Cross-entropy of x plus KL(F(x) || F(x + r)), whose left side is not trained.

    Attributes:
        settings: length of r, weight, power iterations.
        entropy_weight: of the predictions' entropy at x.
        bfloat16: run the model in bfloat16.

    Source: Miyato et al. 2018, "Virtual Adversarial Training".
    """

    settings: VirtualAdversarial
    entropy_weight: float = 0.0
    bfloat16: bool = False

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,  # [B, *image]
        labels: Tensor,  # [B]
        *,
        epoch: float,
        seed: int,
    ) -> StepLoss:
        """The mean loss of a batch; right is counted at the images."""
        with evaluation_mode(model):
            direction = most_bent_direction(
                model,
                images,
                iterations=self.settings.power_iterations,
                seed=seed,
                bfloat16=self.bfloat16,
            )  # [B, *image]
        logits = logits_of(model, images, self.bfloat16)  # [B, C]
        moved = logits_of(model, images + self.settings.l2_radius * direction, self.bfloat16)
        apart = divergence(torch.log_softmax(logits.detach(), 1), moved)  # [B]
        loss = nn.functional.cross_entropy(logits, labels) + self.settings.weight * apart.mean()
        if self.entropy_weight:
            loss = loss + self.entropy_weight * entropy(logits).mean()
        return StepLoss(loss, count_right(logits, labels))


def most_bent_direction(
    model: nn.Module,
    images: Tensor,  # [B, *image]
    *,
    iterations: int,
    seed: int,
    bfloat16: bool = False,
) -> Tensor:  # [B, *image], rows of l2 norm 1
    """The direction in which KL(F(x) || F(x + r)) grows most, to second order in r.

    At r = 0 the divergence and its gradient are 0; its Hessian is J^T (diag F - F F^T) J, with J
    the Jacobian of the logits. Power iterations from a random direction tend to its first
    eigenvector. The published code takes a finite difference of gradients; here the product with J
    is exact, so there is no step length to choose.

    Args:
        model: gives logits [B, C], twice differentiable; used in the mode it is in, which must
            treat every image for itself.
        images: where.
        iterations: products with the Hessian, three backward passes each.
        seed: seed of the first direction.
        bfloat16: run the model in bfloat16.
    """
    direction = unit_step(normal_like(images, "vat", seed), "l2")  # [B, *image]
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        logits = logits_of(model, leaf, bfloat16)  # [B, C]
        share = torch.softmax(logits.detach(), 1)  # [B, C]
        weights = torch.zeros_like(logits, requires_grad=True)  # [B, C]
        (pulled,) = torch.autograd.grad(logits, leaf, weights, create_graph=True)  # J^T weights
    for _ in range(iterations):
        # J^T weights is linear in the weights: its derivative along a direction is J direction.
        (push,) = torch.autograd.grad(pulled, weights, direction, retain_graph=True)  # [B, C]
        push = share * (push - (share * push).sum(1, keepdim=True))
        (bent,) = torch.autograd.grad(logits, leaf, push, retain_graph=True)  # [B, *image]
        direction = unit_step(bent, "l2")
    return direction
