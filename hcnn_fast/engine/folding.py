"""BatchNorm layers of a prepared model, multiplied into the layers before them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hcnn_fast.engine.layers import is_plain
from hcnn_fast.engine.recording import Recorder
from hcnn_fast.engine.trial import TrialFailed, agree, trial_logits, twin

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, *_TRANSPOSED)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

_log = logging.getLogger("hcnn_fast")


@dataclass(frozen=True)
class Folded:
    """A frozen model and what became of its BatchNorm layers.

    Attributes:
        model: the frozen copy, with or without the layers.
        folded: how many were folded into the layers before them.
        unfolded: why others are left; None where none is.
    """

    model: nn.Module
    folded: int
    unfolded: str | None


class _NotFolded(Exception):
    """The model stays as it is, for the reason given."""


def fold_batch_norms(
    frozen: nn.Module,
    image: Tensor,  # [0 or 1, *image]
    original: nn.Module,
) -> Folded:
    """Fold every BatchNorm that alone reads the output of a convolution or linear layer.

    In evaluation mode such a layer multiplies and shifts channels by constants, which the weight
    and bias before it can hold. Which layers may be folded is recorded on a pass of one image and
    of two: both must be called once, with running statistics, and nothing else may read what lies
    between them or their parameters. A model whose path may depend on the values of its images is
    left as it is, as is one whose logits at the image then differ by more than rounding.

    Args:
        frozen: a copy in evaluation mode that asks for no gradients; it is not changed or run.
        image: an image to run, or none (then nothing is folded).
        original: the caller's model; if it is `frozen`, nothing is folded.
    """
    norms = sum(_is_norm(module) for module in frozen.modules())
    if not norms:
        return Folded(frozen, 0, None)
    try:
        model, folded = _fold(frozen, image, original)
        unfolded = None
        if folded < norms:
            unfolded = f"{norms - folded} of {norms} do not alone follow a layer that can hold them"
    except (_NotFolded, TrialFailed) as reason:
        model, folded, unfolded = frozen, 0, str(reason)
    _log.info(
        "%s: %d of %d BatchNorm layers folded%s",
        type(original).__name__,
        folded,
        norms,
        "" if unfolded is None else f" ({unfolded})",
    )
    return Folded(model, folded, unfolded)


def _fold(
    frozen: nn.Module,
    image: Tensor,  # [0 or 1, *image]
    original: nn.Module,
) -> tuple[nn.Module, int]:
    """The model with its layers folded, and how many."""
    if frozen is original:
        raise _NotFolded("the model cannot be copied")
    if not len(image):
        raise _NotFolded("there is no image to try it on")
    # torch leaves it untyped
    if torch.nn.modules.module._has_any_global_hook():  # type: ignore[no-untyped-call]  # torch's
        raise _NotFolded("hooks are registered for all modules")
    if any(hasattr(module, "_orig_mod") for module in frozen.modules()):
        raise _NotFolded("parts of the model are compiled")
    model, watched = twin(frozen), twin(frozen)
    pairs, logits = _pairs(watched, image)
    if pairs != _pairs(watched, torch.cat([image, image]))[0]:
        raise _NotFolded("the path through the model depends on the size of the batch")
    for norm, layer in pairs.items():
        _fold_pair(model.get_submodule(layer), model.get_submodule(norm))
    if pairs and not agree(trial_logits(twin(model), image), logits):
        raise _NotFolded("the logits change by more than rounding")
    return model, len(pairs)


def _pairs(
    model: nn.Module,
    images: Tensor,  # [B, *image]
) -> tuple[dict[str, str], Tensor]:  # [B, C]
    """Names of the norms that can be folded, each with its layer's, and the logits."""
    named = dict(model.named_modules())
    layers = {name: m for name, m in named.items() if type(m) in _LAYERS and is_plain(m)}
    norms = {
        name: m
        for name, m in named.items()
        if _is_norm(m) and is_plain(m) and m.running_mean is not None and m.running_var is not None
    }
    recorder = Recorder(layers, norms)
    logits = trial_logits(model, images, recorder)
    if recorder.dependence is not None:
        raise _NotFolded(f"the forward pass reads values of tensors ({recorder.dependence})")
    return recorder.pairs, logits


def _is_norm(module: nn.Module) -> bool:
    # torchvision is optional and slow to import: its class is known by name.
    kind = type(module)
    frozen = (kind.__module__, kind.__name__) == ("torchvision.ops.misc", "FrozenBatchNorm2d")
    return kind in _NORMS or frozen


def _fold_pair(layer: Any, norm: Any) -> None:
    """Let the layer multiply and shift as the norm does, and the norm do nothing.

    The product is taken in float64 and rounded once.
    """
    weight: Tensor = layer.weight  # [O, I / groups, ...], transposed: [I, O / groups, ...]
    mean, gain = norm.running_mean.double(), (norm.running_var.double() + norm.eps).rsqrt()  # [O]
    if norm.weight is not None:
        gain = gain * norm.weight.double()
    bias = -mean if layer.bias is None else layer.bias.double() - mean
    bias = bias * gain
    if norm.bias is not None:
        bias = bias + norm.bias.double()
    if isinstance(layer, _TRANSPOSED):
        grouped = weight.double().reshape(
            layer.groups, -1, *weight.shape[1:]
        )  # [groups, I / groups, ...]
        gains = gain.view(layer.groups, 1, -1, *[1] * (weight.dim() - 2))
        product = (grouped * gains).flatten(0, 1)
    else:
        product = weight.double() * gain.view(-1, *[1] * (weight.dim() - 1))
    layer.weight = nn.Parameter(product.to(weight.dtype), requires_grad=False)
    layer.bias = nn.Parameter(bias.to(weight.dtype), requires_grad=False)
    # In place: whatever else of the model refers to the norm refers to the identity now.
    norm.__class__ = nn.Identity
    norm._parameters.clear()
    norm._buffers.clear()
