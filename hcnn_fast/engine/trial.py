"""Trial passes of a model that is being prepared: does a change leave its logits as they are?"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from hcnn_fast.engine.inputs import as_logits

# Of the largest logit, or of 1: rounding of deep networks stays below, a wrong factor does not.
# In float32 it is 1.5e-5 per logit, which moves no probability by more than half as much.
TOLERANCE = 128  # machine epsilons


class TrialFailed(Exception):
    """The model does not run, for the reason given."""


def twin(frozen: nn.Module) -> nn.Module:
    """A copy with the same parameters: a trial leaves its traces there."""
    return copy.deepcopy(frozen, {id(p): p for p in frozen.parameters()})


def trial_logits(
    model: nn.Module,
    images: Tensor,  # [B, *image]
    watcher: AbstractContextManager[object] | None = None,
) -> Tensor:  # [B, C]
    """A pass that draws the same random numbers every time and uses up none.

    The watcher is left while what the model returns is alive.

    Raises:
        TrialFailed: it fails, or its output is not [B, C].
    """
    devices = [images.device] if images.device.type == "cuda" else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices):
            with watcher or nullcontext():
                answer = model(images)
            return as_logits(answer, len(images)).detach()
    except Exception as error:
        raise TrialFailed(f"a trial failed: {type(error).__name__}: {error}") from error


def agree(
    found: Tensor,  # [B, C]
    expected: Tensor,  # [B, C]
) -> bool:
    """Whether the logits are the same up to the rounding of their dtype."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    scale = max(1.0, float(expected.abs().max()))
    allowed = TOLERANCE * torch.finfo(expected.dtype).eps * scale
    return bool(((found - expected).abs() <= allowed).all())  # False for NaN
