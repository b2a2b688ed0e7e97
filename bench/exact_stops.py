"""Exact stops off against on: the same bits, on 1,000 images?

python bench/exact_stops.py > bench/results/exact-stops-cpu.json

Without a tolerance a run ends early only where no further step can change its result: at a point
that its step leaves where it is, or in a cycle of two points under steps of one length. Both
searches below are made in one process; every field of the results is compared bit by bit.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from conftest import commit
from torch import Tensor, nn

import hcnn_fast as hf
from hcnn_fast import data, models
from hcnn_fast.engine import climber
from hcnn_fast.engine.climb import Climb

FIELDS = ("point", "value", "label", "prediction", "confidence", "logits", "label_value")
CONFIGS: dict[str, hf.SearchConfig] = {
    "shrinking steps": hf.SearchConfig.mcn(0.02, steps=20, step_size=0.04, momentum=0.0),
    "constant steps": hf.SearchConfig.mcn(0.02, steps=40, schedule="constant", momentum=0.0),
}
CONFIGS |= {f"{name}, bfloat16": c.replace(precision="bfloat16") for name, c in CONFIGS.items()}


def linear() -> nn.Module:
    """A linear classifier: every run comes to rest in a corner of its ball."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).eval()


@contextmanager
def no_early_stops() -> Iterator[None]:
    with patch.object(climber, "Climb", functools.partial(Climb, may_stop=False)):
        yield


def compared(model: nn.Module, x: Tensor, config: hf.SearchConfig) -> dict[str, Any]:
    """One search with stops and one without."""
    on = hf.search(model, x, config)
    with no_early_stops():
        off = hf.search(model, x, config)
    return {
        "differing_fields": [f for f in FIELDS if not torch.equal(getattr(on, f), getattr(off, f))],
        "images_with_stops": int((on.steps < off.steps).sum()),
        "gradient_steps": [int(on.steps.sum()), int(off.steps.sum())],
        "backward_passes": [on.backwards, off.backwards],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=1000)
    given = parser.parse_args()
    x = data.load("fashion-mnist", "test").scaled()[: given.images]
    rows: dict[str, Any] = {}
    for name, model in (
        ("linear", linear()),
        ("fashion-adversarial", models.load("fashion-adversarial").eval()),
    ):
        for title, config in CONFIGS.items():
            rows[f"{name}, {title}"] = compared(model, x, config)
            print(name, title, rows[f"{name}, {title}"], file=sys.stderr, flush=True)
    report = {
        "command": "python bench/exact_stops.py",
        "commit": commit(),
        "build": hf.build_info(),
        "images": len(x),
        "configs": {title: config.to_dict() for title, config in CONFIGS.items()},
        "results": rows,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
