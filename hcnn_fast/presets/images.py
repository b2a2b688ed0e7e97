"""A checked and prepared problem for presets, which know no right class."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from hcnn_fast.attacks.runs import Problem, posed
from hcnn_fast.config import SearchConfig
from hcnn_fast.engine.inputs import Classifier, check_images


@contextlib.contextmanager
def posed_images(
    model: Classifier,
    x: Tensor,  # [N, *image]
    config: SearchConfig,
) -> Iterator[Problem]:
    """As `attacks.runs.posed`, with label 0 for every image, which nothing reads.

    Raises:
        TypeError, ValueError: an argument is not usable.
        RuntimeError: the chosen backend cannot run.
    """
    image = check_images(x, config)
    no_class = torch.zeros(len(image), dtype=torch.int64, device=image.device)
    with posed(model, image, no_class, config) as problem:
        yield problem
