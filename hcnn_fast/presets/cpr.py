"""Consistent prediction-based rejection (Chen et al. 2023): accept what a small attack leaves."""

from __future__ import annotations

import torch
from torch import Tensor

from hcnn_fast.config import BackendName, Precision, SearchConfig
from hcnn_fast.engine.ascent import ascend
from hcnn_fast.engine.ball import Candidates
from hcnn_fast.engine.climb import Climb
from hcnn_fast.engine.inputs import Classifier, check_finite
from hcnn_fast.engine.memory import in_batches
from hcnn_fast.presets.images import posed_images
from hcnn_fast.presets.result import PresetResult


def cpr(
    model: Classifier,
    x: Tensor,
    *,
    radius: float,
    steps: int = 10,
    step_size: float | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    precision: Precision = "float32",
    backend: BackendName = "auto",
    batch_size: int | None = None,
) -> PresetResult:
    """Answer with the class predicted at the image, and accept it only if a small attack fails.

    The attack climbs the cross entropy of the predicted class by sign steps of constant length,
    from the image, within |z - x|_inf <= radius and the bounds, and keeps its best point: where the
    model predicts another class there, the image is rejected.

    As far as we know measured by its authors alone, with adaptive attacks of their own, on
    adversarially trained models, and not again here: they state that the total robust loss on
    CIFAR-10 falls by at least 7.3 %. Nothing
    here makes an accepted answer right: an attack that goes further inside the wrong class than
    `radius` passes.

    Args:
        model: nn.Module or callable giving logits [N, C]; left as it is.
        x: [N, *image] float32 or float64 within `bounds`.
        radius: the consistency radius in input units; the source takes 0.0055 for CIFAR-10 and SVHN
            and 0.1 for MNIST.
        steps: number of steps; the source takes 10, and 20 for MNIST.
        step_size: length of a step in input units; None: 2 * radius / steps. The source takes
            0.001, and 0.01 for MNIST.
        bounds: smallest and largest value that an input may take.
        precision: arithmetic of the model in the attack; the answer is scored in float32.
        backend: implementation of the fused operations.
        batch_size: largest number of images that pass the model at once; None: planned.

    Returns:
        `prediction` and `probability` are the model's at the image, `point` and `logits` where the
        attack ended, and `accepted` says whether both predict the same class.

    Raises:
        TypeError, ValueError: an argument is not usable; the message names it.
        RuntimeError: the chosen backend cannot run, or memory does not suffice for one image.

    Source: Chen et al. 2023, "Stratified Adversarial Robustness with Rejection" (ICML).
    """
    config = SearchConfig.mcn(
        radius,
        steps=steps,
        step_size=step_size,
        schedule="constant",
        momentum=0.0,
        bounds=bounds,
        precision=precision,
        backend=backend,
        batch_size=batch_size,
    )
    size = 2.0 * radius / steps if step_size is None else step_size
    climb = Climb(kind="cross_entropy", step_sizes=(size,) * steps)
    forwards = backwards = 0
    with posed_images(model, x, config) as problem:
        points = torch.empty_like(problem.image)
        own = points.new_empty((len(points), problem.classes))
        attacked = torch.empty_like(own)

        def run(begin: int, end: int) -> None:
            nonlocal forwards, backwards
            image = problem.image[begin:end]
            with torch.no_grad():
                logits = check_finite(problem.model.exact(image))
            index = torch.arange(begin, end, device=image.device)
            candidates = Candidates(index=index, label=logits.argmax(1), point=image)
            found = ascend(problem.model.fast, candidates, problem.ball, climb)
            there = found.logits
            if problem.model.lowered:
                with torch.no_grad():
                    there = problem.model.exact(found.point)
                forwards += len(image)
            attacked[begin:end] = check_finite(there)
            own[begin:end] = logits
            points[begin:end] = found.point
            forwards += found.forwards + len(image)
            backwards += found.backwards

        in_batches(len(points), problem.batch, run)
    probability = torch.softmax(own, 1).float()
    prediction = own.argmax(1)
    return PresetResult(
        point=points,
        logits=attacked,
        probability=probability,
        prediction=prediction,
        confidence=probability.amax(1),
        accepted=attacked.argmax(1) == prediction,
        forwards=forwards,
        backwards=backwards,
    )
