"""A model's passes by torch.compile, where the user asks for them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from hcnn_fast.engine.inputs import Classifier


class Compiled:
    """A classifier compiled at its first pass, and once more when the size of batches varies.

    It keeps the compiled code as long as it lives, and so does the prepared model that it is of.
    """

    def __init__(self, model: Classifier) -> None:
        self._compiled: Any = torch.compile(model)

    def __call__(self, *arguments: Any) -> Any:
        """What the model answers.

        Raises:
            RuntimeError: it cannot be compiled.
        """
        try:
            return self._compiled(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = " ".join(str(error).split("\n\n")[0].split())
            raise RuntimeError(
                f"compile is True, and torch.compile cannot compile the model: {reason}"
            ) from error


def several_backward_passes(compiled: bool) -> AbstractContextManager[Any]:
    """While one forward pass of compiled code may serve the gradients of several labels."""
    if not compiled:
        return nullcontext()
    import torch._functorch.config

    patch: AbstractContextManager[Any] = torch._functorch.config.patch(donated_buffer=False)
    return patch
