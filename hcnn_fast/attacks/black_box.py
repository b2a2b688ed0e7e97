"""The frame of every attack that only asks questions: checks, blocks of images, the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor

from hcnn_fast import backends, ops
from hcnn_fast.attacks.block import Best, Block, Images
from hcnn_fast.attacks.result import AttackResult
from hcnn_fast.attacks.target import NO_CLASS, Judgement, Objective, Target, check_objective
from hcnn_fast.config import SearchConfig
from hcnn_fast.engine.inputs import Classifier, check_images, check_labels
from hcnn_fast.engine.memory import in_batches

BATCH = 512  # images that pass at once where nothing else is asked for; memory may halve it

Room = Callable[[Tensor], tuple[Tensor, Tensor]]  # [n, *image] to its lowest and highest points
JudgeImages = Callable[[Target, Tensor, Tensor], Judgement]


def run_in_blocks(
    model: Classifier,
    x: Tensor,  # [N, *image]
    y: Tensor | None,  # [N]; None: no class is right
    config: SearchConfig,
    attack: Callable[[Block], None],
    *,
    objective: Objective,
    room: Room | None = None,
    judge_images: JudgeImages = Target.judge_images,
    stop_at_success: bool = False,
    batch_size: Callable[[Target, Tensor], int] | None = None,
) -> AttackResult:
    """Judge every image, then let `attack` improve on it, block by block.

    Args:
        model: what is attacked.
        x: the images.
        y: the classes to be lost.
        config: radius, bounds, seed, backend and batch size.
        attack: improves the best points of a block.
        objective: what rises.
        room: where an image may be moved to; None: the ball of the configuration in its bounds.
        judge_images: how the images themselves are judged.
        stop_at_success: leave an image alone once the model is wrong about it.
        batch_size: plans the size of a block where the configuration does not say; None: BATCH.
    """
    check_objective(objective)
    if not isinstance(stop_at_success, bool):
        raise TypeError(f"stop_at_success is {stop_at_success!r}, expected True or False")
    with torch.inference_mode(False), torch.no_grad():
        images = check_images(x, config)
        classes = torch.full((len(images),), NO_CLASS, device=images.device)
        if y is not None:
            classes = check_labels(y, images)
        backend = backends.resolve(config.backend, images.device.type)
        with torch.autocast(images.device.type, enabled=False):
            target = Target(model, images, objective, labelled=y is not None)
            size = config.batch_size or BATCH
            if batch_size is not None and config.batch_size is None and len(images):
                size = batch_size(target, images)
            result = _empty(images)

            def run(begin: int, end: int) -> None:
                part = slice(begin, end)
                some = _with_room(images[part], classes[part], room or _ball(config), backend)
                judged = judge_images(target, some.x, some.y)
                block = Block(
                    target,
                    some,
                    Best(
                        point=some.x,
                        value=judged.value,
                        wrong=judged.wrong,
                        confidence=judged.confidence,
                        attempt=torch.zeros_like(some.y),
                    ),
                    seed=config.seed,
                    backend=backend,
                    stop_at_success=stop_at_success,
                    batch_size=size,
                )
                attack(block)
                target.verify()
                found = block.found()
                for f in fields(Best):
                    getattr(result, f.name)[part] = getattr(found, f.name)

            in_batches(len(images), size, run)
    return AttackResult(
        point=result.point,
        value=result.value,
        success=result.wrong,
        confidence=result.confidence,
        attempt=result.attempt,
        gradient_steps=0,
        queries=target.queries,
    )


def _ball(config: SearchConfig) -> Room:
    low, high = config.bounds
    return lambda x: ((x - config.radius).clamp_min(low), (x + config.radius).clamp_max(high))


def _with_room(x: Tensor, y: Tensor, room: Room, backend: str) -> Images:
    lower, upper = room(x)
    return Images(
        position=torch.arange(len(x), device=x.device),
        x=x,
        y=y,
        lower=lower,
        upper=upper,
        content=ops.content_hash(x, backend=backend),
    )


def _empty(x: Tensor) -> Best:
    numbers = torch.empty(len(x), device=x.device)
    return Best(
        point=torch.empty_like(x),
        value=numbers,
        wrong=torch.empty_like(numbers, dtype=torch.bool),
        confidence=torch.empty_like(numbers),
        attempt=torch.empty_like(numbers, dtype=torch.int64),
    )
