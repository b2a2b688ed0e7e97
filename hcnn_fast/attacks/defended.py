"""What an attack on a defended classifier aims at, and the values that its search attains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from hcnn_fast import reference
from hcnn_fast.attacks.checks import check_choice
from hcnn_fast.attacks.confident import needed_log_odds
from hcnn_fast.attacks.losses import log_odds
from hcnn_fast.attacks.target import ValueFunction
from hcnn_fast.config import SearchConfig
from hcnn_fast.defense import Defense
from hcnn_fast.engine.inputs import check_images
from hcnn_fast.engine.memory import in_batches
from hcnn_fast.engine.preparation import prepared_model
from hcnn_fast.search import SearchResult, search

Goal = Literal["error", "accepted_error", "rejection"]


def check_defense(defense: object) -> None:
    """Refuse what is no `Defense`: its model and its search are looked into."""
    if not isinstance(defense, Defense):
        raise TypeError(f"defense is a {type(defense).__name__}, expected a Defense")


def has_values(config: SearchConfig) -> bool:
    """Whether the search answers with the label of the largest value v_l: MCN and HCNN."""
    return config.objective in ("mcn", "hcnn")


@dataclass(frozen=True)
class Aim:
    """A goal, and the confidence from which the defence accepts.

    Attributes:
        goal: "error", a wrong prediction, accepted or not; "accepted_error", a wrong prediction
            that is accepted; "rejection", an answer that is not accepted.
        least: log odds of the least accepted confidence; None: any is.
    """

    goal: Goal
    least: float | None

    @staticmethod
    def at(defense: Defense, goal: Goal) -> Aim:
        """The aim against a defence.

        Raises:
            TypeError: `defense` is no Defense.
            ValueError: no such goal, or a rejection by a defence that accepts everything.
        """
        check_defense(defense)
        check_choice("goal", goal, get_args(Goal))
        needed = max(defense.threshold or 0.0, defense.config.confidence or 0.0)
        if needed > 0.0:
            # A confidence of 1 is an infinite demand, which no finite logits meet.
            return Aim(goal, torch.inf if needed == 1.0 else needed_log_odds(needed))
        if goal == "rejection":
            raise ValueError(
                "goal is 'rejection' and the defence has no threshold, expected one to fall below"
            )
        return Aim(goal, None)

    def rise(
        self,
        margin: Tensor,  # [B] of the best wrong label's height over that of y
        certainty: Tensor,  # [B] log odds of the answer
    ) -> Tensor:  # [B]
        """By how much the goal is passed, in log odds: what an attack makes rise."""
        if self.goal == "error" or self.least is None:
            return margin
        if self.goal == "rejection":
            return self.least - certainty
        return torch.minimum(margin, certainty - self.least)


def height_of(
    odds: Tensor,  # [B] logit(F_l)
    penalty: Tensor | None,  # [B] lambda |z - x|; None: 0
) -> tuple[Tensor, Tensor]:  # [B], [B]
    """logit(v_l) of v_l = F_l - penalty, which never saturates, and its derivative in the odds.

    A value of 0 or less, which the image itself always surpasses, has the least height there is.
    """
    if penalty is None:
        return odds, torch.ones_like(odds)
    share, rest = torch.sigmoid(odds), torch.sigmoid(-odds)
    tiny = torch.finfo(odds.dtype).tiny
    value, left = (share - penalty).clamp_min(tiny), rest + penalty  # v_l and 1 - v_l
    paid = penalty > 0.0
    derivative = share * rest * (1.0 / value + 1.0 / left)
    height = value.log() - left.log()
    return torch.where(paid, height, odds), torch.where(paid, derivative, 1.0)


def margin_of(
    height: Tensor,  # [B, C]
    y: Tensor,  # [B]
) -> Tensor:  # [B]
    """g = max_{l != y} height_l - height_y; positive where y loses."""
    own = y[:, None]
    return height.scatter(1, own, -torch.inf).amax(1) - height.gather(1, own)[:, 0]


def _heights(
    defense: Defense,
    x: Tensor,  # [N, *image]
    found: SearchResult,  # with its points
) -> Tensor:  # [N, C]
    """logit(v_l) of every label as the search attained it, -inf where it was not tried.

    NCN and the entropy search have no v_l: there the logits of the answer take their place.
    """
    config = defense.config
    if not has_values(config) or found.label_point is None:
        return found.logits
    point = found.label_point.flatten(0, 1)  # [N * L, *image]
    label = found.labels.flatten()
    odds = found.logits.new_empty(len(label))
    with prepared_model(defense.model, "float32", x[:1], config.backend) as model, torch.no_grad():

        def run(begin: int, end: int) -> None:
            odds[begin:end] = log_odds(model.exact(point[begin:end]), label[begin:end])

        in_batches(len(point), config.batch_size or model.planned_batch, run)
    penalty = None
    if config.distance_weight > 0.0:
        away = point - x.repeat_interleave(found.labels.shape[1], 0)
        penalty = config.distance_weight * reference.norm_of(away, config.distance_norm)
    height = height_of(odds, penalty)[0].view(found.labels.shape)
    return torch.full_like(found.logits, -torch.inf).scatter(1, found.labels, height)


def rise_of_answer(
    defense: Defense,
    aim: Aim,
    x: Tensor,  # [N, *image]
    y: Tensor,  # [N]
    found: SearchResult,
) -> Tensor:  # [N]
    """By how much the goal is passed at x, by what the defence's search found there."""
    certainty = log_odds(found.logits, found.prediction)
    return aim.rise(margin_of(_heights(defense, x, found), y), certainty)


def value_margin(defense: Defense, goal: Goal = "error") -> ValueFunction:
    """A function of points [B, *image] and labels [B]: how far the defence is from answering right.

    The margin g = max_{l != y} v_l - v_y of the values that its search attains (spec A.10), each as
    log odds, which do not saturate; for "accepted_error" and "rejection" weighed against the
    confidence that the defence asks for. It is positive where the goal is reached, up to a search
    that is not exact. Pass it as `objective` to `square`, `nes` and `random_search`. NCN and the
    entropy search have no v_l: the logits of the answer are compared instead.

    Raises:
        TypeError: `defense` is no Defense.
        ValueError: no such goal, or a rejection by a defence that accepts everything.
    """
    aim = Aim.at(defense, goal)
    config = defense.config.replace(keep_points=has_values(defense.config))

    def value(z: Tensor, y: Tensor) -> Tensor:  # [B, *image], [B] -> [B]
        point = check_images(z, config)
        return rise_of_answer(defense, aim, point, y, search(defense.model, point, config))

    return value
