"""How a classifier is trained: `Recipe`, a frozen record that is valid once it exists."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from hcnn_fast.training.fields import choice, integer, number
from hcnn_fast.training.losses import LossName
from hcnn_fast.training.settings import SETTINGS, Settings

Method = Literal[
    "adversarial", "natural", "label-smoothing", "at50", "trades", "ccat", "vat", "on-manifold"
]
TrainingPrecision = Literal["auto", "float32", "bfloat16"]

ATTACKING = ("adversarial", "at50", "trades", "ccat")  # methods with an l_inf ball
SMOOTHED = ("natural", "adversarial", "label-smoothing")  # methods whose targets can be smoothed


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All hyperparameters of a training run.

    Distances are in the units of the model's input (pixels in [0, 1]).

    Attributes:
        method: "natural": images as they are; "label-smoothing": the same with a share of each
            target on other classes; "adversarial": the worst point of each image's ball (Madry et
            al. 2018, equation 2.1); "at50": half of each batch attacked; "trades": images, and the
            divergence within their balls; "ccat": half of each batch attacked, confidence falling
            with the distance; "vat": images, and the divergence in the worst direction;
            "on-manifold": half of each batch moved along the manifold of its class.
        radius: l_inf radius eps > 0 of the ball for "adversarial", "at50", "trades" and "ccat"; 0
            for the others.
        loss: what "adversarial" minimises at its maximum over the ball; see `losses`.
        entropy_weight: weight of the predictions' Shannon entropy, added to the loss of
            "adversarial" and, at the images, of "vat".
        settings: what only this method has, of the class that `SETTINGS` names; None: its defaults.
        attack_steps: gradient steps of the inner attack in the last epoch.
        first_attack_steps: steps in the first epoch, rising linearly to attack_steps by
            `attack_ramp_epochs`; None: attack_steps throughout.
        attack_ramp_epochs: epochs until all attack_steps are made.
        attack_step_size: length of a step in units of the current radius; None: 2.5 / steps.
        radius_warmup_epochs: epochs over which the radius grows linearly from 0.
        epochs: passes over the training images.
        batch_size: images of a step.
        learning_rate: largest learning rate of the one-cycle schedule.
        learning_rate_warmup: share of all steps that rise linearly; the rest is a cosine to 0.
        momentum: Nesterov momentum of SGD.
        weight_decay: L2 weight on matrices and kernels, not on biases and normalisation.
        label_smoothing: share of the target spread evenly over all classes; for "label-smoothing"
            over those that the settings say. Above 0 with it and with cross-entropy only.
        flip: mirror half of the images.
        shift: move each image by up to so many pixels in both directions, filling with 0.
        average_decay: decay per step of the running average of weights that is kept; 0: none.
        precision: arithmetic of the model; "auto": bfloat16 where the device is made for it.
        channels_last: store weights channel-last, the faster layout of most convolutions.
        validation_images: training images held out to choose the epoch that is kept.
        validation_steps: gradient steps of the attack on them.
        patience: stop after so many epochs without a better one; None: never.
        seed: seed of initial order, augmentation and attack starts.

    Raises:
        TypeError, ValueError: a field has the wrong type or value; the message names the field.
    """

    method: Method = "adversarial"
    radius: float = 0.1
    loss: LossName = "cross_entropy"
    entropy_weight: float = 0.0
    settings: Settings | None = None
    attack_steps: int = 7
    first_attack_steps: int | None = None
    attack_ramp_epochs: int = 0
    attack_step_size: float | None = None
    radius_warmup_epochs: float = 0.0
    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 0.1
    learning_rate_warmup: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 2e-4
    label_smoothing: float = 0.0
    flip: bool = True
    shift: int = 0
    average_decay: float = 0.999
    precision: TrainingPrecision = "auto"
    channels_last: bool = True
    validation_images: int = 2000
    validation_steps: int = 10
    patience: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        choice("method", self.method, get_args(Method))
        choice("precision", self.precision, get_args(TrainingPrecision))
        number("radius", self.radius, 0.0, math.inf)
        choice("loss", self.loss, get_args(LossName))
        number("entropy_weight", self.entropy_weight, 0.0, math.inf)
        number("label_smoothing", self.label_smoothing, 0.0, 1.0)
        self._check_method()
        integer("attack_steps", self.attack_steps, 1)
        if self.first_attack_steps is not None:
            integer("first_attack_steps", self.first_attack_steps, 1)
        integer("attack_ramp_epochs", self.attack_ramp_epochs, 0)
        if self.attack_step_size is not None:
            number("attack_step_size", self.attack_step_size, 0.0, math.inf, above=True)
        number("radius_warmup_epochs", self.radius_warmup_epochs, 0.0, math.inf)
        integer("epochs", self.epochs, 1)
        integer("batch_size", self.batch_size, 1)
        number("learning_rate", self.learning_rate, 0.0, math.inf, above=True)
        number("learning_rate_warmup", self.learning_rate_warmup, 0.0, 1.0)
        number("momentum", self.momentum, 0.0, 1.0)
        number("weight_decay", self.weight_decay, 0.0, math.inf)
        integer("shift", self.shift, 0)
        number("average_decay", self.average_decay, 0.0, 1.0)
        integer("validation_images", self.validation_images, 0)
        integer("validation_steps", self.validation_steps, 1)
        if self.patience is not None:
            integer("patience", self.patience, 1)
        if integer("seed", self.seed, 0) >= 2**31:
            raise ValueError(f"seed is {self.seed!r}, expected an int >= 0 and < 2**31")
        for name in ("flip", "channels_last"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} is {getattr(self, name)!r}, expected True or False")

    def _check_method(self) -> None:
        """What goes with which method; the settings of a method that has some are filled in."""
        attacks, method = self.method in ATTACKING, self.method
        if attacks != (self.radius > 0.0):
            expected = "a number > 0" if attacks else "0"
            raise ValueError(
                f"radius is {self.radius!r}, expected {expected} for method {method!r}"
            )
        if method != "adversarial" and self.loss != "cross_entropy":
            raise ValueError(
                f"loss is {self.loss!r}, expected 'cross_entropy' for method {method!r}"
            )
        if method not in ("adversarial", "vat") and self.entropy_weight != 0.0:
            raise ValueError(
                f"entropy_weight is {self.entropy_weight!r}, expected 0 for method {method!r}"
            )
        smooths = self.label_smoothing > 0.0
        if smooths and (method not in SMOOTHED or self.loss != "cross_entropy"):
            raise ValueError(
                f"label_smoothing is {self.label_smoothing!r}, expected 0 for method {method!r} "
                f"with loss {self.loss!r}"
            )
        if method == "label-smoothing" and not smooths:
            raise ValueError("label_smoothing is 0, expected a number > 0 for 'label-smoothing'")
        if method in ("at50", "ccat", "on-manifold") and self.batch_size == 1:
            raise ValueError(f"batch_size is 1, expected 2 or more for method {method!r}")
        kind = SETTINGS.get(method)
        if self.settings is None and kind is not None:
            object.__setattr__(self, "settings", kind())
        elif type(self.settings) is not (kind or type(None)):
            raise TypeError(
                f"settings is a {type(self.settings).__name__}, expected "
                f"{'None' if kind is None else kind.__name__} for method {method!r}"
            )

    @classmethod
    def natural(cls, **keywords: Any) -> Recipe:
        """Training on the images as they are."""
        return cls(method="natural", radius=0.0, **keywords)

    def replace(self, **changes: Any) -> Recipe:
        """A copy with some fields changed, checked anew."""
        unknown = changes.keys() - {f.name for f in fields(self)}
        if unknown:
            raise TypeError(f"Recipe has no field {sorted(unknown)[0]!r}")
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values that JSON can hold."""
        values = asdict(self)
        if self.settings is not None:
            values["settings"] = self.settings.to_dict()
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """The inverse of `to_dict`; an unknown field raises ValueError."""
        unknown = values.keys() - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"from_dict key is {sorted(unknown)[0]!r}, expected a Recipe field")
        settings = values.get("settings")
        if isinstance(settings, Mapping):
            kind = SETTINGS.get(str(values.get("method")))
            if kind is None:
                raise ValueError(
                    f"settings is {settings!r}, expected None for method {values.get('method')!r}"
                )
            values = {**values, "settings": kind.from_dict(settings)}
        return cls(**values)

    def learning_rate_at(self, progress: float) -> float:
        """Learning rate after a share `progress` in [0, 1] of all steps: linear up, cosine down."""
        if progress < self.learning_rate_warmup:
            return self.learning_rate * progress / self.learning_rate_warmup
        rest = max(1.0 - self.learning_rate_warmup, 1e-12)
        return (
            self.learning_rate
            * 0.5
            * (1.0 + math.cos(math.pi * (progress - self.learning_rate_warmup) / rest))
        )

    def radius_at(self, epoch: float) -> float:
        """Radius of the ball after `epoch` epochs, fractions included."""
        if epoch >= self.radius_warmup_epochs:
            return self.radius
        return self.radius * epoch / self.radius_warmup_epochs

    def attack_steps_at(self, epoch: int) -> int:
        """Gradient steps of the inner attack in an epoch, counted from 0."""
        if self.first_attack_steps is None or epoch >= self.attack_ramp_epochs:
            return self.attack_steps
        share = epoch / self.attack_ramp_epochs
        return round(
            self.first_attack_steps + share * (self.attack_steps - self.first_attack_steps)
        )

    def attack_step_size_at(self, epoch: float, steps: int) -> float:
        """Length in input units of one of `steps` steps of the inner attack."""
        relative = 2.5 / steps if self.attack_step_size is None else self.attack_step_size
        return relative * self.radius_at(epoch)
