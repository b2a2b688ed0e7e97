"""A model's passes by torch.compile, where the user asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from hcnn_fast.engine.inputs import Classifier

MODELS = 512  # times sizes of their batches; torch counts those of all models together
SEVERAL_BACKWARD_PASSES = "hcnn_fast: several backward passes"  # part of the key of kept code


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
        dynamo = torch._dynamo.exc
        try:
            return self._compiled(*arguments)
        except (dynamo.TorchDynamoException, dynamo.FailOnRecompileLimitHit) as error:
            reason = " ".join(str(error).split("\n\n")[0].split())
            raise RuntimeError(
                f"compile is True, and torch.compile cannot compile the model: {reason}"
            ) from error


@contextmanager
def compiled_passes(compiled: bool) -> Iterator[None]:
    """While compiled code is used, if it is: for several models, and never replaced by eager code.

    One forward pass may serve the gradients of several labels. So a backward pass must not write to
    what it reads, and code for which it may, which torch keeps on disk, must not be taken for ours.
    """
    if not compiled:
        yield
        return
    import torch._dynamo.config
    import torch._functorch.config
    import torch.compiler.config

    code = torch._dynamo.config.patch(
        recompile_limit=MODELS, accumulated_recompile_limit=MODELS, fail_on_recompile_limit_hit=True
    )
    compiler: Any = torch.compiler.config
    kept = compiler.patch(cache_key_tag=compiler.cache_key_tag + SEVERAL_BACKWARD_PASSES)
    with code, kept, torch._functorch.config.patch(donated_buffer=False):
        yield
