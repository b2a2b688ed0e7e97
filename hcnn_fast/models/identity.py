"""What tells two models apart in a record of a run."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of names, types, shapes and content of all tensors of the state dict."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, Tensor):  # a module may keep other state as well
            content = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {content.dtype} {list(content.shape)};".encode())
            digest.update(content.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
