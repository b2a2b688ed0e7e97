"""How much of a search is done at once, and what it takes of a number of bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hcnn_fast.config import Precision, SearchConfig
from hcnn_fast.engine.ball import Ball
from hcnn_fast.engine.batch_sizes import filled_size
from hcnn_fast.engine.inputs import Classifier, within_bounds
from hcnn_fast.engine.live_bytes import LiveBytes
from hcnn_fast.engine.memory import POINTS_OF_A_CANDIDATE, plan_block
from hcnn_fast.engine.model import PreparedModel
from hcnn_fast.engine.preparation import prepared_model
from hcnn_fast.engine.runs import Runs
from hcnn_fast.engine.solver import Solver

USABLE = 0.9  # of the budget is planned for; the rest is for what allocators and libraries add
MEASURED = 2  # candidates that pass together to be measured, so these must fit
MEASURED_STEPS = 2  # of a run that is measured: a step after a step allocates like any other
LOGITS_OF_A_CANDIDATE = 12  # tensors of a block, as for its points
REFERENCE_LOGITS = 32  # the reference objective works in float64, one temporary a formula
SCALARS_OF_A_CANDIDATE = 40 * 8  # bytes: indices, labels, values, counts and their copies
POINTS_OF_AN_IMAGE = 6  # the image in the bounds, its winner, and copies on the way
FIGURES_OF_AN_IMAGE = 4 * 8 + 8  # bytes of a result apart from tensors with L, C or values
FIGURES_OF_A_LABEL = 3 * 8  # bytes


@dataclass(frozen=True)
class Demand:
    """Bytes that a search takes.

    Attributes:
        fixed: whatever is done at once: prepared weights, and the results of all images.
        image: of every image of a block.
        candidate: of every candidate that passes the model.
        runs: candidates of an image.
    """

    fixed: int
    image: int
    candidate: int
    runs: int

    def of(self, batch: int, block: int | None = None) -> int:
        """The peak for batches of so many candidates, in blocks that fill one if not given."""
        images = -(-batch // self.runs) if block is None else block
        return self.fixed + images * self.image + filled_size(batch) * self.candidate


@dataclass(frozen=True)
class Plan:
    """How much is done at once.

    Attributes:
        batch: candidates that pass the model.
        block: images that are searched together.
    """

    batch: int
    block: int


@contextmanager
def planned_model(
    model: Classifier,
    precision: Precision,
    config: SearchConfig,
    backend: str,
    x: Tensor,  # [N, *image], N >= 1
) -> Iterator[tuple[PreparedModel, Plan]]:
    """A prepared model for the search of these images, and how much of it is done at once.

    What is not planned for of a budget may go to transformed weights of convolutions. Where the
    search does not fit beside them, it does without.

    Raises:
        ValueError: the budget does not suffice, see `plan_within_budget`.
    """
    image = within_bounds(x[:1], config)
    if config.memory_budget is None:
        made = prepared_model(model, precision, image, backend, compiled=config.compile)
        with made as prepared:
            batch = config.batch_size or prepared.planned_batch
            runs = Solver(prepared, config, backend, batch).looker.tried * config.starts
            yield prepared, Plan(batch, plan_block(x, runs, batch))
        return
    with ExitStack() as held:

        def attempt(room: int) -> tuple[PreparedModel, Plan]:
            with ExitStack() as tried:  # a model for which the plan fails is not kept
                made = prepared_model(
                    model,
                    precision,
                    image,
                    backend,
                    room,
                    compiled=config.compile,
                    captured=False,
                )
                prepared = tried.enter_context(made)
                plan = plan_within_budget(model, prepared, config, backend, x)
                held.push(tried.pop_all())
            return prepared, plan

        try:
            found = attempt(int((1.0 - USABLE) * config.memory_budget))
        except ValueError:
            found = None
        yield found or attempt(room=0)


def plan_within_budget(
    model: Classifier,
    prepared: PreparedModel,
    config: SearchConfig,
    backend: str,
    x: Tensor,  # [N, *image], N >= 1
) -> Plan:
    """The batch and the block that the search would take anyway, as far as they fit the budget.

    Raises:
        ValueError: the budget does not suffice for a candidate, or not for `config.batch_size`.
    """
    budget = config.memory_budget
    assert budget is not None, "only a search with a budget is planned by it"
    demand = measure(model, prepared, config, backend, x)
    usable = int(USABLE * budget)
    least = max(demand.of(1), demand.of(MEASURED, block=0))
    if least > usable:
        raise ValueError(
            f"memory_budget is {budget}, expected at least {_budget_of(least)} bytes: "
            f"{demand.fixed} for the weights of the prepared model and the results of {len(x)} "
            f"image(s), {demand.image} for the candidates of an image, {demand.candidate} for each "
            f"of the {MEASURED} that pass the model to measure it"
        )
    wanted = min(config.batch_size or prepared.planned_batch, len(x) * demand.runs)
    batch = _largest(wanted, lambda size: demand.of(size) <= usable)
    if batch < wanted and batch // 2 > 1:
        # Workspaces do not grow for ever: nearer to what is planned a candidate may take less.
        nearer = measure(model, prepared, config, backend, x, batch // 2)
        larger = _largest(wanted, lambda size: nearer.of(size) <= usable)
        if larger > batch:
            demand, batch = nearer, larger
    if config.batch_size is not None and batch < wanted:
        raise ValueError(
            f"batch_size is {config.batch_size}, expected at most {batch} with memory_budget "
            f"{budget}; batches of {wanted} take {_budget_of(demand.of(wanted))} bytes"
        )
    most = plan_block(x, demand.runs, batch)
    return Plan(batch, _largest(most, lambda images: demand.of(batch, images) <= usable))


def _budget_of(taken: int) -> int:
    """The least budget whose usable part is what is taken."""
    return math.ceil(taken / USABLE) + 1


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number from 1 to `most` that fits, where 1 does and less fits better."""
    low, high = 1, max(1, most)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def measure(
    model: Classifier,
    prepared: PreparedModel,
    config: SearchConfig,
    backend: str,
    x: Tensor,  # [N, *image], N >= 1
    count: int = MEASURED // 2,
) -> Demand:
    """What the search of these images takes: passes of `count` candidates and of twice as many.

    For batches of fewer than twice as many it may say too little: the first candidates let
    workspaces grow most.
    """
    image = within_bounds(x[:1], config)
    short = config.replace(steps=min(config.steps, MEASURED_STEPS), memory_budget=None)
    solver = Solver(prepared, short, backend, batch=2 * count)
    fixed, candidate = 0, 0
    for run in (_climb, _look):
        some, twice = (run(solver, image.repeat_interleave(n, 0)) for n in (count, 2 * count))
        more = -(-max(0, twice - some) // count)
        fixed, candidate = max(fixed, twice - 2 * count * more), max(candidate, more)
    tried = solver.looker.tried
    point = image[0].numel() * image.element_size()
    logits = prepared.classes * image.element_size()
    rows = REFERENCE_LOGITS if backend == "reference" else LOGITS_OF_A_CANDIDATE
    kept = POINTS_OF_A_CANDIDATE * point + rows * logits + SCALARS_OF_A_CANDIDATE
    answer = point + logits + FIGURES_OF_AN_IMAGE
    answer += tried * (FIGURES_OF_A_LABEL + (point if config.keep_points else 0))
    return Demand(
        fixed=fixed + 2 * own_weights(model, prepared) + len(x) * answer,
        image=tried * config.starts * kept + POINTS_OF_AN_IMAGE * point + answer,
        candidate=candidate,
        runs=tried * config.starts,
    )


def own_weights(model: Classifier, prepared: PreparedModel) -> int:
    """Bytes of the prepared model's weights that it does not share with the caller's."""
    caller = model if isinstance(model, nn.Module) else nn.Module()
    shared = {tensor.untyped_storage().data_ptr() for tensor in _weights(caller)}
    own = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in _weights(prepared.copies)
    }
    return sum(size for place, size in own.items() if place not in shared)


def _weights(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _climb(
    solver: Solver,
    image: Tensor,  # [B, *image]
) -> int:
    """Peak of a climb from each of these points at once."""
    config = solver.config
    ball = Ball(image=image, radius=config.radius, bounds=config.bounds, backend=solver.backend)
    index = torch.arange(len(image), device=image.device)
    runs = Runs(
        ball=ball,
        hashes=index,
        index=index,
        label=torch.zeros_like(index),
        start=torch.zeros_like(index),
        starts=config.starts,
        seed=config.seed,
    )
    live = LiveBytes()
    with live:
        solver.climber.climb(runs.candidates(), ball, elsewhere=runs.elsewhere)
    return live.peak


def _look(
    solver: Solver,
    image: Tensor,  # [B, *image]
) -> int:
    """Peak of a pass for two labels, which keeps all activations from one to the other."""
    labels = min(2, solver.looker.tried)
    live = LiveBytes()
    with live:
        solver.looker.by_the_label(image, len(image), labels, labels)
    return live.peak
