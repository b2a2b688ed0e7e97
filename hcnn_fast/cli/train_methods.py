"""The options of `hcnn-fast train` that belong to one method, and each method's defaults."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from hcnn_fast.cli.failures import WrongUsage
from hcnn_fast.training.losses import LossName
from hcnn_fast.training.recipe import ATTACKING, Method
from hcnn_fast.training.settings import (
    Calibration,
    OnManifold,
    Settings,
    SmoothedOver,
    Smoothing,
    Trades,
    Transition,
    VirtualAdversarial,
)

ATTACK_STEPS: dict[Method, int] = {
    "adversarial": 5,
    "trades": 10,
    "at50": 40,
    "ccat": 40,
    "on-manifold": 40,
}
SMOOTHING = 0.1  # of the method "label-smoothing"
RHO: dict[Transition, float] = {"power": 10.0, "exponential": 7.0}  # as published

OF_METHODS: dict[str, tuple[Method, ...]] = {
    "loss": ("adversarial",),
    "entropy_weight": ("adversarial", "vat"),
    "label_smoothing": ("label-smoothing", "natural", "adversarial"),
    "smoothed_over": ("label-smoothing",),
    "temperature": ("label-smoothing",),
    "beta": ("trades",),
    "transition": ("ccat",),
    "rho": ("ccat",),
    "l2_radius": ("vat",),
    "divergence_weight": ("vat",),
    "manifold": ("on-manifold",),
    "latent_radius": ("on-manifold",),
}


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """What the command line says about a method; None where it says nothing.

    Attributes:
        attack_steps: of any method; those without an attack take no notice of it.
        loss, entropy_weight, label_smoothing: fields of the recipe.
        smoothed_over, temperature: of `Smoothing`.
        beta: of `Trades`.
        transition, rho: of `Calibration`.
        l2_radius, divergence_weight: of `VirtualAdversarial`.
        manifold, latent_radius: of `OnManifold`.
    """

    attack_steps: int | None = None
    loss: LossName | None = None
    entropy_weight: float | None = None
    label_smoothing: float | None = None
    smoothed_over: SmoothedOver | None = None
    temperature: float | None = None
    beta: float | None = None
    transition: Transition | None = None
    rho: float | None = None
    l2_radius: float | None = None
    divergence_weight: float | None = None
    manifold: str | None = None
    latent_radius: float | None = None


def method_fields(method: Method, radius: float, options: MethodOptions) -> dict[str, Any]:
    """The fields of a `Recipe` that the method decides.

    Args:
        method: of training.
        radius: l_inf radius, of the methods that have one.
        options: what was asked for.

    Raises:
        WrongUsage: an option of another method was given.
        ValueError: a setting is out of range.
    """
    given = {f.name: getattr(options, f.name) for f in fields(options)}
    for name, methods in OF_METHODS.items():
        if given[name] is not None and method not in methods:
            raise WrongUsage(
                f"--{name.replace('_', '-')} is of method {', '.join(methods)}; "
                f"it says nothing to {method}"
            )
    smoothing = options.label_smoothing
    if smoothing is None:
        smoothing = SMOOTHING if method == "label-smoothing" else 0.0
    return {
        "method": method,
        "radius": radius if method in ATTACKING else 0.0,
        "attack_steps": options.attack_steps or ATTACK_STEPS.get(method, 1),
        "loss": options.loss or "cross_entropy",
        "entropy_weight": options.entropy_weight or 0.0,
        "label_smoothing": smoothing,
        "settings": _settings(method, options),
    }


def _settings(method: Method, options: MethodOptions) -> Settings | None:
    """The method's settings: what was asked for, and its defaults for the rest."""
    match method:
        case "label-smoothing":
            return Smoothing(**_said(over=options.smoothed_over, temperature=options.temperature))
        case "trades":
            return Trades(**_said(beta=options.beta))
        case "ccat":
            transition = options.transition or "power"
            rho = RHO[transition] if options.rho is None else options.rho
            return Calibration(transition=transition, rho=rho)
        case "vat":
            return VirtualAdversarial(
                **_said(l2_radius=options.l2_radius, weight=options.divergence_weight)
            )
        case "on-manifold":
            return OnManifold(
                **_said(manifold=options.manifold, latent_radius=options.latent_radius)
            )
    return None


def _said(**values: Any) -> dict[str, Any]:
    """The values that are not None."""
    return {name: value for name, value in values.items() if value is not None}
