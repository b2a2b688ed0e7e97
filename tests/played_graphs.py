"""Replays of CUDA graphs where there is no GPU: what they do to memory, done by the host again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hcnn_fast.engine.graphs import WARM_UP


def played_passes(
    forward: Callable[[Tensor], Tensor],
    samples: tuple[Tensor],
    num_warmup_iters: int,
    **mode: str,
) -> Callable[[Tensor], Tensor]:
    """Stands for torch.cuda.make_graphed_callables: one memory for inputs, logits and gradients."""
    (static,) = samples
    for _ in range(num_warmup_iters):
        forward(static)
    logits, gradient = forward(static).detach().clone(), torch.zeros_like(static)
    graph: list[Tensor] = []

    class Replay(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, z: Tensor) -> Tensor:
            assert z.shape == static.shape, "a graph has one shape"
            with torch.no_grad():
                static.copy_(z)
            with torch.enable_grad():
                graph[:] = [forward(static)]
            logits.copy_(graph[0].detach())
            return logits.detach()

        @staticmethod
        def backward(ctx: Any, *seeds: Tensor) -> Tensor:
            (found,) = torch.autograd.grad(graph.pop(), static, seeds[0])  # activations are freed
            gradient.copy_(found)
            return gradient.detach()

    return Replay.apply


def played_work(work: Callable[[], None], device: torch.device) -> Callable[[], object]:
    """Stands for `graphs.graph_of`."""
    for _ in range(WARM_UP + 1):
        work()
    return work
