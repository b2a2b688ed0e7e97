"""Random search in the l_inf ball: the baseline that every attack has to beat."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from hcnn_fast.attacks.black_box import run_in_blocks
from hcnn_fast.attacks.block import Block
from hcnn_fast.attacks.checks import check_choice, check_count
from hcnn_fast.attacks.result import AttackResult
from hcnn_fast.attacks.target import Objective
from hcnn_fast.config import BackendName, SearchConfig
from hcnn_fast.engine.inputs import Classifier

Sampling = Literal["uniform", "corners"]


def random_search(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    *,
    radius: float,
    queries: int = 1000,
    sampling: Sampling = "uniform",
    objective: Objective = "confidence",
    seed: int = 0,
    stop_at_success: bool = False,
    bounds: tuple[float, float] = (0.0, 1.0),
    backend: BackendName = "auto",
    batch_size: int | None = None,
) -> AttackResult:
    """Try points drawn independently from the l_inf ball around x, and keep the best.

    Where it finds what an attack with gradients misses, the gradients are masked (Athalye et al.
    2018).

    Args:
        model: nn.Module or callable giving logits [N, C]; left as it is, never differentiated.
        x: [N, *image] float32 or float64 within `bounds`.
        y: [N] int64, the classes to be lost.
        radius: l_inf radius in input units.
        queries: points per image, after x itself.
        sampling: "uniform" in ball and bounds, or "corners", every entry lowest or highest.
        objective: what rises, as for `square`.
        seed: seed of the points, which depend on it and on the image alone.
        stop_at_success: ask no more about an image once the model is wrong about it.
        bounds: smallest and largest value that an input may take.
        backend: implementation of the random numbers.
        batch_size: largest number of images that pass the model at once; None: 512.

    Returns:
        Of all points asked about the best: a success before a failure, then the larger objective.

    Raises:
        TypeError, ValueError: an argument is not usable; the message names it.
        RuntimeError: the chosen backend cannot run, or memory does not suffice for one image.
    """
    check_count("queries", queries)
    check_choice("sampling", sampling, get_args(Sampling))
    config = SearchConfig.mcn(
        radius, seed=seed, bounds=bounds, backend=backend, batch_size=batch_size
    )

    def attack(block: Block) -> None:
        draw = 0
        while draw < queries:
            block.drop_successes()
            if not len(block):
                return
            # where an image may leave, one by one: else its last points would depend on the batch
            last = min(queries, draw + (1 if stop_at_success else block.room))
            block.judge_all([_sample(block, sampling, d) for d in range(draw, last)])
            draw = last

    return run_in_blocks(
        model, x, y, config, attack, objective=objective, stop_at_success=stop_at_success
    )


def _sample(block: Block, sampling: Sampling, draw: int) -> Tensor:  # [n, *image]
    if sampling == "uniform":
        return block.uniform_point(attempt=0, stream=0, draw=draw)
    x = block.images.x
    drawn = block.uniform(x[0].numel(), attempt=0, stream=0, draw=draw)
    return block.corner((drawn < 0.5).view_as(x))
