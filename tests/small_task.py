"""A task small enough for every test; as a script, runs of it that are killed."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hcnn_fast.data import ImageDataset
from hcnn_fast.experiments import (
    EXPERIMENTS,
    NATURAL,
    ROBUST,
    Evidence,
    Settings,
    Subject,
    Task,
    Training,
    chosen_points,
    evidence,
    open_store,
    run_chunks,
)

CLASSES, IMAGES = 4, 72
SHAPE = (1, 6, 6)


def linear(scale: float, seed: int) -> nn.Module:
    """A linear classifier of steep or gentle logits."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES))
    with torch.no_grad():
        model[1].weight.copy_(scale * torch.randn(CLASSES, 36, generator=generator))
        model[1].bias.zero_()
    return model.eval()


def small_data(model: nn.Module) -> ImageDataset:
    """Random images, most of them of the class that the model says."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(256, (IMAGES, *SHAPE), generator=generator, dtype=torch.uint8)
    with torch.no_grad():
        labels = model(images.float() / 255.0).argmax(1)
    labels[::6] = (labels[::6] + 1) % CLASSES
    names = tuple("abcd")
    return ImageDataset(images, labels, names, "small", "test")


def small_task(name: str, *, natural: bool = True, **changes: Any) -> Task:
    """An experiment on two linear classifiers, a gentle one and a steep one.

    One that trains a family is given linear classifiers in its place, each gentler than the last.
    """
    experiment = EXPERIMENTS[name]
    gentle = linear(0.6, 1)
    card = {"note": "<b>card</b>"}
    subjects = [Subject("gentle", ROBUST, gentle, card)]
    if natural:
        subjects.append(Subject("steep", NATURAL, linear(3.0, 1), {}))
    values: dict[str, Any] = {
        "data": "small",
        "radii": (0.02, 0.05),
        "paper_radii": (None, 0.03),
        "confidences": experiment.confidences,
        "points": 24,
        "steps": 4,
        "starts": 2,
        "search_steps": 3,
        "seed": 3,
        "chunk": 4,
        "training": experiment.family and Training(epochs=1),
    }
    settings = Settings(**{**values, **changes})
    if experiment.family is not None:
        subjects = [
            Subject(member.role, member.role, linear(3.0 / place, 1), card)
            for place, member in enumerate(experiment.family.members(settings), start=1)
        ]
    return Task(
        experiment=experiment,
        subjects=tuple(subjects),
        data=small_data(gentle),
        settings=settings,
    )


def run_task(task: Task, folder: Path, **keywords: Any) -> Evidence:
    """A whole run."""
    points = chosen_points(task)
    with open_store(folder, task.fingerprint()) as store:
        run_chunks(task, points, store, advance=lambda _: None, **keywords)
        return evidence(task, points, store)


def parquet(folder: Path) -> dict[str, bytes]:
    """The tables in a folder, by name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.parquet"))}


def run_in_child(folder: Path) -> int:
    """Process id of a child that makes a run and ends with 0."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        run_task(small_task("separation", chunk=2), folder)
        code = 0
    finally:
        os._exit(code)


def kill_at_random_moments(folder: Path, chunks: int, times: int) -> None:
    """Kill `times` runs of one folder, each a little after a chunk that is drawn."""
    generator = random.Random(7)
    for goal in sorted(generator.sample(range(1, chunks - 2), times)):
        child = run_in_child(folder)
        while len(list(folder.glob("chunks/*/*.parquet"))) < goal:
            time.sleep(0.001)
        time.sleep(generator.uniform(0.0, 0.02))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, "it ended before"
        assert not (folder / "natural.parquet").exists()


if __name__ == "__main__":
    torch.set_num_threads(1)  # no threads, which a child would lack
    whole, killed = Path(sys.argv[1]), Path(sys.argv[2])
    assert os.waitpid(run_in_child(whole), 0)[1] == 0
    kill_at_random_moments(killed, len(list(whole.glob("chunks/*/*.parquet"))), 3)
    assert os.waitpid(run_in_child(killed), 0)[1] == 0
