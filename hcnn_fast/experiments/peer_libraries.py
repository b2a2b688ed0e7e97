"""Attacks of other libraries as plain functions, each with the same radius and budget.

Every function takes a classifier, images in [0, 1], their classes, an l_inf radius and a budget,
and gives the points that its library returns. The libraries are called as their documentation says;
what their points are worth is for our own models to say.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hcnn_fast.engine.inputs import as_logits
from hcnn_fast.measurement.rivals import PACKAGES

BOUNDS = (0.0, 1.0)
LEAST_CLASSES = 4  # of the targeted difference of logits ratio
LIBRARIES = (*PACKAGES.values(), ("pyautoattack", "pyautoattack"))  # module, name for pip


@dataclass(frozen=True, kw_only=True)
class PeerBudget:
    """What a library may spend on an image.

    Attributes:
        steps: gradient steps of a run.
        starts: runs, or runs for each target.
        targets: likeliest wrong classes that targeted attacks aim at.
        queries: of attacks without gradients.
        seed: of the random starts.
    """

    steps: int
    starts: int
    targets: int
    queries: int
    seed: int = 0


Peer = Callable[[nn.Module, Tensor, Tensor, float, PeerBudget], Tensor]


def torchattacks_pgd(
    model: nn.Module,
    x: Tensor,  # [N, *image]
    y: Tensor,  # [N]
    radius: float,
    budget: PeerBudget,
) -> Tensor:  # [N, *image]
    """`torchattacks.PGD` on the cross entropy from uniform starts, joined by its `MultiAttack`."""
    import torchattacks

    size = 2.5 * radius / budget.steps
    runs = [
        torchattacks.PGD(model, eps=radius, alpha=size, steps=budget.steps, random_start=True)
        for _ in range(budget.starts)
    ]
    attack = runs[0] if len(runs) == 1 else torchattacks.MultiAttack(runs)
    point: Tensor = attack(x, y)
    return point


def torchattacks_apgd_targeted(
    model: nn.Module,
    x: Tensor,  # [N, *image]
    y: Tensor,  # [N]
    radius: float,
    budget: PeerBudget,
) -> Tensor:  # [N, *image]
    """`torchattacks.APGDT`: the targeted difference of logits ratio."""
    import torchattacks

    attack = torchattacks.APGDT(
        model,
        norm="Linf",
        eps=radius,
        steps=budget.steps,
        n_restarts=budget.starts,
        seed=budget.seed,
        n_classes=budget.targets + 1,
    )
    point: Tensor = attack(x, y)
    return point


def foolbox_pgd(
    model: nn.Module,
    x: Tensor,  # [N, *image]
    y: Tensor,  # [N]
    radius: float,
    budget: PeerBudget,
) -> Tensor:  # [N, *image]
    """`foolbox.attacks.LinfPGD` from random starts, repeated."""
    import foolbox

    size = 2.5 * radius / budget.steps
    attack = foolbox.attacks.LinfPGD(abs_stepsize=size, steps=budget.steps, random_start=True)
    if budget.starts > 1:
        attack = attack.repeat(budget.starts)
    return _by_foolbox(attack, model, x, y, radius)


def foolbox_fmn(
    model: nn.Module,
    x: Tensor,  # [N, *image]
    y: Tensor,  # [N]
    radius: float,
    budget: PeerBudget,
) -> Tensor:  # [N, *image]
    """`foolbox.attacks.LInfFMNAttack`: the nearest error, clipped to the radius by it."""
    import foolbox

    return _by_foolbox(foolbox.attacks.LInfFMNAttack(steps=budget.steps), model, x, y, radius)


def _by_foolbox(
    attack: Any,
    model: nn.Module,
    x: Tensor,  # [N, *image]
    y: Tensor,  # [N]
    radius: float,
) -> Tensor:  # [N, *image]
    """What an attack of Foolbox makes, clipped to the radius by it."""
    import foolbox

    wrapped = foolbox.PyTorchModel(model, bounds=BOUNDS, device=x.device)
    _, point, _ = attack(wrapped, x, y, epsilons=radius)
    clipped: Tensor = point
    return clipped


def art_apgd(
    model: nn.Module,
    x: Tensor,  # [N, *image]
    y: Tensor,  # [N]
    radius: float,
    budget: PeerBudget,
) -> Tensor:  # [N, *image]
    """`art...AutoProjectedGradientDescent` on the difference of logits ratio."""
    from art.attacks.evasion import AutoProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    with torch.no_grad():
        classes = as_logits(model(x[:1]), 1).shape[1]
    classifier = PyTorchClassifier(
        model=model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=classes,
        clip_values=BOUNDS,
        device_type="gpu" if x.device.type == "cuda" else "cpu",
    )
    attack = AutoProjectedGradientDescent(
        classifier,
        eps=radius,
        eps_step=2.0 * radius,  # as its paper begins
        max_iter=budget.steps,
        nb_random_init=budget.starts,
        batch_size=len(x),
        loss_type="difference_logits_ratio",
        verbose=False,
    )
    return torch.from_numpy(attack.generate(x.cpu().numpy(), y.cpu().numpy())).to(x)


def autoattack_apgd(
    model: nn.Module,
    x: Tensor,  # [N, *image]
    y: Tensor,  # [N]
    radius: float,
    budget: PeerBudget,
) -> Tensor:  # [N, *image]
    """AutoAttack's "apgd-ce"."""
    from pyautoattack.autopgd_base import APGDAttack

    point: Tensor = APGDAttack(model, loss="ce", **_runs(x, radius, budget)).perturb(x, y)
    return point


def autoattack_apgd_targeted(
    model: nn.Module,
    x: Tensor,  # [N, *image]
    y: Tensor,  # [N]
    radius: float,
    budget: PeerBudget,
) -> Tensor:  # [N, *image]
    """AutoAttack's "apgd-t", on the targeted difference of logits ratio."""
    from pyautoattack.autopgd_base import APGDAttack_targeted

    runs = _runs(x, radius, budget)
    attack = APGDAttack_targeted(model, n_target_classes=budget.targets, **runs)
    point: Tensor = attack.perturb(x, y)
    return point


def autoattack_fab_targeted(
    model: nn.Module,
    x: Tensor,  # [N, *image]
    y: Tensor,  # [N]
    radius: float,
    budget: PeerBudget,
) -> Tensor:  # [N, *image]
    """AutoAttack's "fab-t": the nearest error, where that is within the radius."""
    from pyautoattack.fab_pt import FABAttack_PT

    runs = _runs(x, radius, budget)
    attack = FABAttack_PT(model, targeted=True, n_target_classes=budget.targets, **runs)
    point: Tensor = attack.perturb(x, y)
    return point


def autoattack_square(
    model: nn.Module,
    x: Tensor,  # [N, *image]
    y: Tensor,  # [N]
    radius: float,
    budget: PeerBudget,
) -> Tensor:  # [N, *image]
    """AutoAttack's "square", its schedule of windows that of the queries that it may make."""
    from pyautoattack.square import SquareAttack

    attack = SquareAttack(
        model,
        n_queries=budget.queries,
        n_restarts=1,
        eps=radius,
        seed=budget.seed,
        p_init=0.8,
        resc_schedule=True,
        device=x.device,
    )
    point: Tensor = attack.perturb(x, y)
    return point


def _runs(x: Tensor, radius: float, budget: PeerBudget) -> dict[str, Any]:
    """The keywords that AutoAttack's gradient attacks share."""
    return {
        "n_iter": budget.steps,
        "n_restarts": budget.starts,
        "eps": radius,
        "seed": budget.seed,
        "device": x.device,
    }


PEERS: Mapping[str, Peer] = {
    "torchattacks PGD": torchattacks_pgd,
    "torchattacks APGD-T": torchattacks_apgd_targeted,
    "Foolbox PGD": foolbox_pgd,
    "Foolbox FMN": foolbox_fmn,
    "ART APGD": art_apgd,
    "AutoAttack APGD-CE": autoattack_apgd,
    "AutoAttack APGD-T": autoattack_apgd_targeted,
    "AutoAttack FAB-T": autoattack_fab_targeted,
    "AutoAttack Square": autoattack_square,
}


def check_installed() -> None:
    """Refuse where a library is missing.

    Raises:
        ImportError: names what is missing and the command that installs it.
    """
    absent = [package for module, package in LIBRARIES if not importlib.util.find_spec(module)]
    if absent:
        verb = "is" if len(absent) == 1 else "are"
        raise ImportError(f'{", ".join(absent)} {verb} missing: pip install "hcnn_fast[peers]"')
