"""An experiment on a linear classifier of two classes, whose worst margins are known exactly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from small_task import small_task
from torch import Tensor, nn

from hcnn_fast.data import ImageDataset
from hcnn_fast.experiments import ROBUST, Evidence, Settings, Subject, Task

RADII = (0.02, 0.05)
POINTS = 24


def two_classes(scale: float = 2.0) -> nn.Module:
    generator = torch.Generator().manual_seed(2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    with torch.no_grad():
        model[1].weight.copy_(scale * torch.randn(2, 36, generator=generator))
        model[1].bias.copy_(-model[1].weight.sum(1) / 2)  # the grey image is on the boundary
    return model.eval()


def two_class_task(name: str, model: nn.Module | None = None, **changes: Any) -> Task:
    """An experiment on 80 images around grey, one in seven of the other class."""
    small = small_task(name, natural=False)
    generator = torch.Generator().manual_seed(6)
    images = torch.randint(60, 196, (80, 1, 6, 6), generator=generator, dtype=torch.uint8)
    with torch.no_grad():
        labels = two_classes()(images.float() / 255.0).argmax(1)
    labels[::7] = 1 - labels[::7]
    values = {**vars(small.settings), "radii": RADII, "points": POINTS, **changes}
    return replace(
        small,
        subjects=(Subject("two", ROBUST, model or two_classes(), {}),),
        data=ImageDataset(images, labels, ("a", "b"), "two", "test"),
        settings=Settings(**values),
    )


def margins(task: Task, found: Evidence, radius: float) -> Tensor:  # [N] by rising id
    """Z_y - Z_wrong at the worst point of ball and box, exactly."""
    example = torch.unique(found.tables[ROBUST].example)
    x, y = task.data.scaled()[example].double().flatten(1), task.data.labels[example]
    layer = task.subjects[0].model[1]
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    slope = weight[y] - weight[1 - y]  # [N, D]
    lowest = torch.where(slope > 0, (x - radius).clamp_min(0), (x + radius).clamp_max(1))  # [N, D]
    return (slope * lowest).sum(1) + bias[y] - bias[1 - y]
