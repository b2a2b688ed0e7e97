"""What users loop over today, each as a plain function that does the same targeted PGD.

Every function takes images in [0, 1], starts at them, makes for each label `steps` steps of length
`step_size` along the sign of the gradient of log F_l, projects onto the l_inf ball and [0, 1] after
each, and gives the confidence reached: Madry et al. 2018, once per label. The libraries are called
as their documentation says.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hcnn_fast.engine.inputs import as_logits

Rival = Callable[[nn.Module, Tensor, float, int, float], Tensor]


def torchattacks_loop(
    model: nn.Module,
    x: Tensor,  # [N, *image]
    radius: float,
    steps: int,
    step_size: float,
) -> Tensor:  # [N, C]
    """`torchattacks.PGD` in targeted mode, once per label, all images in its batch."""
    import torchattacks

    attack = torchattacks.PGD(model, eps=radius, alpha=step_size, steps=steps, random_start=False)
    attack.set_mode_targeted_by_label(quiet=True)
    return _label_by_label(model, x, attack)


def foolbox_loop(
    model: nn.Module,
    x: Tensor,  # [N, *image]
    radius: float,
    steps: int,
    step_size: float,
) -> Tensor:  # [N, C]
    """`foolbox.attacks.LinfPGD` with a targeted criterion; it never stops early."""
    import foolbox

    wrapped = foolbox.PyTorchModel(model, bounds=(0.0, 1.0), device=x.device)
    attack = foolbox.attacks.LinfPGD(abs_stepsize=step_size, steps=steps, random_start=False)

    def climb(images: Tensor, labels: Tensor) -> Tensor:
        target = foolbox.criteria.TargetedMisclassification(labels)
        _, (clipped,), _ = attack(wrapped, images, target, epsilons=[radius])
        point: Tensor = clipped
        return point

    with _gradients_left_alone(model):
        return _label_by_label(model, x, climb)


def art_loop(
    model: nn.Module,
    x: Tensor,  # [N, *image]
    radius: float,
    steps: int,
    step_size: float,
) -> Tensor:  # [N, C]
    """`art...ProjectedGradientDescentPyTorch`, targeted, arrays in and out as it asks for."""
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        model=model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=_classes(model, x),
        clip_values=(0.0, 1.0),
        device_type="gpu" if x.device.type == "cuda" else "cpu",
    )
    attack = ProjectedGradientDescentPyTorch(
        classifier,
        eps=radius,
        eps_step=step_size,
        max_iter=steps,
        targeted=True,
        num_random_init=0,
        batch_size=len(x),
        verbose=False,
    )

    def climb(images: Tensor, labels: Tensor) -> Tensor:
        point = attack.generate(images.cpu().numpy(), labels.cpu().numpy())
        return torch.from_numpy(point).to(images.device)

    with _gradients_left_alone(model):
        return _label_by_label(model, x, climb)


def plain_loop(
    model: nn.Module,
    x: Tensor,  # [N, *image]
    radius: float,
    steps: int,
    step_size: float,
    labels: Iterable[int] | None = None,
) -> Tensor:  # [N, C], or of these labels alone
    """A careful loop by hand: frozen weights, gradient in the images alone, no library around."""

    def gradient(z: Tensor, labels: Tensor) -> Tensor:
        leaf = z.detach().requires_grad_()
        loss = cross_entropy(as_logits(model(leaf), len(leaf)), labels, reduction="sum")
        return torch.autograd.grad(loss, leaf)[0]

    def climb(images: Tensor, labels: Tensor) -> Tensor:
        z = images
        for _ in range(steps):
            z = _step(z, images, gradient(z, labels), radius, step_size)
        return z

    with _frozen(model), torch.enable_grad():
        return _label_by_label(model, x, climb, labels)


def compiled_loop(
    model: nn.Module,
    x: Tensor,  # [N, *image]
    radius: float,
    steps: int,
    step_size: float,
) -> Tensor:  # [N, C]
    """The loop by hand with model, gradient and step in one graph of `torch.compile`."""
    step = _compiled_step(model)

    def climb(images: Tensor, labels: Tensor) -> Tensor:
        z = images
        for _ in range(steps):
            z = step(z, images, labels, radius, step_size)
        return z

    with _frozen(model), torch.no_grad():
        return _label_by_label(model, x, climb)


RIVALS: Mapping[str, Rival] = {
    "torchattacks": torchattacks_loop,
    "foolbox": foolbox_loop,
    "art": art_loop,
    "plain": plain_loop,
    "compiled": compiled_loop,
}
PACKAGES: Mapping[str, tuple[str, str]] = {  # what is imported, and what pip calls it
    "torchattacks": ("torchattacks", "torchattacks"),
    "foolbox": ("foolbox", "foolbox"),
    "art": ("art", "adversarial-robustness-toolbox"),
}
UNCLOCKED = {"compiled": "model and step are compiled into one graph"}


def missing(name: str) -> str | None:
    """What to install before a rival can run; None where it can be tried."""
    module, package = PACKAGES.get(name, (None, None))
    if module is None or importlib.util.find_spec(module) is not None:
        return None
    return f"{package} is not installed; run: pip install {package}"


def _label_by_label(
    model: nn.Module,
    x: Tensor,  # [N, *image]
    climb: Callable[[Tensor, Tensor], Tensor],
    labels: Iterable[int] | None = None,
) -> Tensor:  # [N, C], or of these labels alone
    """Confidence at the point where `climb(images, labels)` ends, label after label."""
    reached = []
    for label in range(_classes(model, x)) if labels is None else labels:
        z = climb(x, torch.full((len(x),), label, device=x.device))
        with torch.no_grad():
            reached.append(torch.softmax(as_logits(model(z), len(z)), 1)[:, label])
    return torch.stack(reached, 1)


def _classes(model: nn.Module, x: Tensor) -> int:
    """C, from the model at one image."""
    with torch.no_grad():
        return as_logits(model(x[:1]), 1).shape[1]


def _step(
    z: Tensor,  # [N, *image]
    images: Tensor,  # [N, *image]
    gradient: Tensor,  # [N, *image] of the cross-entropy, which falls
    radius: float,
    step_size: float,
) -> Tensor:  # [N, *image]
    """One step down the cross-entropy of the label and back into ball and box."""
    moved = z - step_size * gradient.sign()
    return torch.clamp(images + torch.clamp(moved - images, -radius, radius), 0.0, 1.0)


@lru_cache(maxsize=1)
def _compiled_step(model: nn.Module) -> Any:
    """`_step` with the model's gradient, compiled once for each model."""

    def loss(z: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(as_logits(model(z), len(z)), labels, reduction="sum")

    def step(
        z: Tensor, images: Tensor, labels: Tensor, radius: float, step_size: float
    ) -> Tensor:  # [N, *image]
        gradient: Tensor = torch.func.grad(loss)(z, labels)
        return _step(z, images, gradient, radius, step_size)

    return torch.compile(step, dynamic=False)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No parameter asks for gradients while the block runs."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_()


@contextmanager
def _gradients_left_alone(model: nn.Module) -> Iterator[None]:
    """The parameters' .grad as before, after a library that accumulates into it."""
    before = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in before:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in before:
            parameter.grad = gradient
