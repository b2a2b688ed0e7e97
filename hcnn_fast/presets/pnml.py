"""Adversarial pNML (Pesso et al. 2021): every label makes its case in one step."""

from __future__ import annotations

import torch
from torch import Tensor

from hcnn_fast.config import BackendName, Precision, SearchConfig
from hcnn_fast.engine.inputs import Classifier
from hcnn_fast.presets.result import PresetResult
from hcnn_fast.search import search


def pnml(
    model: Classifier,
    x: Tensor,
    *,
    radius: float,
    bounds: tuple[float, float] = (0.0, 1.0),
    precision: Precision = "float32",
    backend: BackendName = "auto",
    batch_size: int | None = None,
) -> PresetResult:
    """Refine each image towards every label, and compare what the labels reach.

    z_l is the image after one step of length `radius` along the sign of the gradient of log F_l;
    the answer is the distribution p_l = F_l(z_l) / sum_k F_k(z_k) (predictive normalised maximum
    likelihood). It is a one-step search for the most confident neighbour (MCN) over all labels,
    which predicts the label whose run won and not the class at its point.

    Unlike the source, a label keeps the image itself where the step would make it less likely. The
    cost is C backward passes for each image and between C + 1 and 2 C forward passes: few images
    pass the model with all their labels at once.

    As far as we know measured by its authors alone; see `hcnn_fast.presets` for what became of its
    relatives when others attacked them as a whole.

    Args:
        model: nn.Module or callable giving logits [N, C]; left as it is.
        x: [N, *image] float32 or float64 within `bounds`.
        radius: strength of the refinement in input units; the source takes 0.03 for CIFAR-10.
        bounds: smallest and largest value that an input may take.
        precision: arithmetic of the model in the step; the answer is scored in float32.
        backend: implementation of the fused operations.
        batch_size: largest number of candidates that pass the model at once; None: planned.

    Returns:
        `probability` is p, `prediction` its largest label, and `point` that label's z_l. No image
        is rejected.

    Raises:
        TypeError, ValueError: an argument is not usable; the message names it.
        RuntimeError: the chosen backend cannot run, or memory does not suffice for one candidate.

    Source: Pesso et al. 2021, "Utilizing Adversarial Targeted Attacks to Boost Adversarial
    Robustness".
    """
    config = SearchConfig.mcn(
        radius,
        steps=1,
        step_size=radius,
        schedule="constant",
        momentum=0.0,
        bounds=bounds,
        precision=precision,
        backend=backend,
        batch_size=batch_size,
    )
    found = search(model, x, config)
    # The labels tried are all classes in their order.
    probability = found.label_value / found.label_value.sum(1, keepdim=True)  # [N, C]
    return PresetResult(
        point=found.point,
        logits=found.logits,
        probability=probability,
        prediction=found.label,
        confidence=probability.gather(1, found.label[:, None])[:, 0],
        accepted=torch.ones_like(found.label, dtype=torch.bool),
        forwards=found.forwards,
        backwards=found.backwards,
    )
