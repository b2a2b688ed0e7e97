"""Trial passes: logits that may be compared, whatever the model does inside."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hcnn_fast.engine.trial import agree, trial_logits


class LooksAtItsGradient(nn.Module):
    """Its logits are steps along a gradient of its own, as of defences that purify their input."""

    def forward(self, x: Tensor) -> Tensor:  # [B, D] -> [B, D]
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(leaf.square().sum(), leaf, create_graph=True)
            return leaf - 0.5 * gradient.tanh()


def test_logits_of_a_model_that_turns_gradients_on_are_compared_without_a_graph() -> None:
    x = torch.rand(2, 3)
    logits = trial_logits(LooksAtItsGradient(), x)
    assert not logits.requires_grad
    assert agree(logits, logits.clone())
    assert not agree(logits, logits + 0.1)
