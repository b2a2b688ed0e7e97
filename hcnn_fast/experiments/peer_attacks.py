"""Other libraries' attacks on a model and on its defence, and the rows of their points."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy
import torch
from torch import Tensor, nn

from hcnn_fast.attacks.norm_balls import Region
from hcnn_fast.defense import Defense
from hcnn_fast.engine.inputs import as_logits
from hcnn_fast.engine.model import frozen_copy
from hcnn_fast.evaluation import AttemptTable, concatenate
from hcnn_fast.evaluation.table import Classifier
from hcnn_fast.experiments.adaptive_attacks import (
    QUERIES_A_STEP,
    answered_rows,
    error_rows,
    held_out_rows,
    likeliest_targets,
    search_config,
    share_of_image,
)
from hcnn_fast.experiments.attempts import clean_rows
from hcnn_fast.experiments.experiment import Work
from hcnn_fast.experiments.peer_libraries import (
    BOUNDS,
    LEAST_CLASSES,
    PEERS,
    Peer,
    PeerBudget,
    check_installed,
)

SLACK = 1e-5  # by so much rounding may leave ball or bounds
CLIPPED = "clipped by rounding"  # begins the names in the metadata of the rows

VICTIMS: tuple[Classifier, Classifier] = ("base", "defended")


def made_on(peer: str, victim: Classifier) -> str:
    """Name of the rows of a library's attack on a classifier."""
    return f"{peer} on {'MCN' if victim == 'defended' else 'base'}"


def held_out(work: Work) -> AttemptTable:
    """The rows of the defence's thresholds, once all libraries are found to be there.

    Raises:
        ImportError: a library is missing; says what to install.
        ValueError: too few classes for what is compared.
    """
    check_installed()
    if work.classes < LEAST_CLASSES:
        raise ValueError(
            f"the data have {work.classes} classes, expected {LEAST_CLASSES} or more: the targeted"
            " attacks of other libraries need them"
        )
    return held_out_rows(work)


def attempts(work: Work) -> AttemptTable:
    """Our attacks that look for errors, and every other library's on the base and on its MCN."""
    rows = [clean_rows(work)]
    for radius in work.settings.radii:
        rows += error_rows(work, radius)
        rows += [_peer_rows(work, radius, name, victim) for victim in VICTIMS for name in PEERS]
    return concatenate(rows)


def _peer_rows(work: Work, radius: float, name: str, victim: Classifier) -> AttemptTable:
    settings = work.settings
    model = work.subject.model
    if victim == "defended":
        model = Defense(model, search_config(settings, radius))
    budget = PeerBudget(
        steps=settings.steps,
        starts=settings.starts,
        targets=likeliest_targets(work),
        queries=QUERIES_A_STEP * settings.steps,
        seed=settings.seed,
    )
    found = peer_points(PEERS[name], model, work.x, work.y, radius=radius, budget=budget)
    attack = made_on(name, victim)
    rows = answered_rows(
        work,
        found.point,
        attack,
        radius,
        gradient_steps=share_of_image(work, found.gradient_steps),
        queries=share_of_image(work, found.queries),
    )
    if not bool(found.clipped.any()):
        return rows
    which = work.example[found.clipped.cpu()].tolist()
    name = f"{CLIPPED}: {attack}, radius {radius:g}, points {which}"
    return replace(rows, metadata={name: str(len(which))})


def clipped_points(table: AttemptTable) -> int:
    """How many points of other libraries rounding had put outside."""
    return sum(int(n) for name, n in table.metadata.items() if name.startswith(CLIPPED))


@dataclass(frozen=True, kw_only=True)
class PeerPoints:
    """What a library made of N images.

    Attributes:
        point: [N, *image], in ball and bounds.
        clipped: [N] bool, whether rounding had left them.
        gradient_steps: image passes backward, of all images.
        queries: image passes forward, of all images.
    """

    point: Tensor
    clipped: Tensor
    gradient_steps: int
    queries: int


def peer_points(
    peer: Peer,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    radius: float,
    budget: PeerBudget,
) -> PeerPoints:
    """Run another library's attack, and admit its points to the ball.

    Every image is attacked alone, from the seed of the budget: a library draws the starts of a
    batch together, so that its points would depend on the neighbours of an image. The library sees
    a frozen copy of the model; the random states of torch, NumPy and Python are as before.

    Args:
        peer: one of `PEERS`.
        model: nn.Module giving logits [N, C], such as a `Defense`; left as it is.
        x: [N, *image] float32 in [0, 1].
        y: [N] int64, the classes to be lost.
        radius: l_inf radius in input units.
        budget: what may be spent on each image.

    Raises:
        RuntimeError: the library returned a point outside ball or bounds, by more than rounding.
    """
    front = _Front(model)
    points = []
    with _random_states_left_alone(), warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # of other people's packages, on import and in use
        for image, label in zip(torch.split(x, 1), torch.split(y, 1), strict=True):
            random.seed(budget.seed)
            numpy.random.seed(budget.seed)  # noqa: NPY002  # ART draws from the global generator
            torch.manual_seed(budget.seed)
            points.append(peer(front, image.clone(), label.clone(), radius, budget).detach())
    found = torch.cat([x[:0], *points])  # [N, *image]
    region = Region(x, radius=radius, norm="linf", bounds=BOUNDS)
    point = region.project_(found.clone())
    beyond = (found - point).abs().flatten(1).amax(1)  # [N]
    if not bool((beyond <= SLACK).all()):  # NaN fails too
        raise RuntimeError(
            f"{peer.__name__} left ball or bounds by {float(beyond.max()):.2g}, expected no more"
            f" than {SLACK:g}"
        )
    return PeerPoints(
        point=point,
        clipped=beyond > 0.0,
        gradient_steps=front.gradient_steps,
        queries=front.queries,
    )


class _Front(nn.Module):
    """The classifier that a library is given: a frozen copy that counts its image passes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = frozen_copy(model)
        self.queries = self.gradient_steps = 0
        self.eval()

    def forward(self, x: Tensor) -> Tensor:  # [n, *image] -> [n, C]
        self.queries += len(x)
        logits = as_logits(self.model(x), len(x))
        if logits.requires_grad:
            logits.register_hook(self._count)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return logits

    def _count(self, gradient: Tensor) -> None:  # [n, C]
        self.gradient_steps += len(gradient)


@contextmanager
def _random_states_left_alone() -> Iterator[None]:
    """The generators of torch, NumPy and Python as before, after libraries that seed them."""
    python, array = random.getstate(), numpy.random.get_state()  # noqa: NPY002  # theirs is global
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            numpy.random.set_state(array)  # noqa: NPY002  # theirs is global
