"""The search with few steps beside 500 constant steps per label: same winners, same objective?

python bench/equal_objective.py > bench/results/equal-objective-cpu.json

The long search is made for all labels of the first images and, as it takes hours, for the three
likeliest labels of the others. It is kept in out/equal-objective.pt as it goes on, and a second
call goes on from there. The times are those of the first few images alone, in one go: the long
search as a loop by hand in plain PyTorch, label by label, images batched, weights frozen
(`hcnn_fast.measurement.rivals.plain_loop`), between two calls of the short one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from conftest import commit
from torch import Tensor, nn

import hcnn_fast as hf
from hcnn_fast import data, models
from hcnn_fast.measurement.rivals import plain_loop

RADIUS = 0.05
LONG = hf.SearchConfig.mcn(RADIUS, steps=500, schedule="constant", momentum=0.0)
SHORT = hf.SearchConfig.mcn(RADIUS, steps=18, momentum=0.0, tolerance=1e-3)
KEPT = Path("out/equal-objective.pt")
CHUNK = 50


def long_search(
    model: nn.Module,
    x: Tensor,  # [N, *image]
    all_labels: int,
) -> tuple[Tensor, Tensor]:  # [N], [N]
    """Value and winning label of every image after 500 steps, from the file as far as it goes."""
    problem = {**LONG.to_dict(), "all_labels": all_labels}
    kept = torch.load(KEPT) if KEPT.exists() else {}
    done: list[tuple[Tensor, Tensor]] = kept["done"] if kept.get("problem") == problem else []
    for begin in range(CHUNK * len(done), len(x), CHUNK):
        config = LONG if begin < all_labels else LONG.replace(labels=3)
        result = hf.search(model, x[begin : begin + CHUNK], config)
        done.append((result.value, result.label))
        KEPT.parent.mkdir(exist_ok=True)
        torch.save({"problem": problem, "done": done}, KEPT)
        print(f"{begin + CHUNK} of {len(x)} images", file=sys.stderr)
    value, label = (torch.cat(columns) for columns in zip(*done, strict=True))
    return value[: len(x)], label[: len(x)]


def seconds(function: Any, *arguments: Any) -> float:
    begin = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - begin


def timed(model: nn.Module, x: Tensor) -> dict[str, Any]:  # [n, *image]
    """Seconds for these images, the long search between two rounds of the short one."""
    short = [seconds(hf.search, model, x, SHORT) for _ in range(3)]
    long = seconds(plain_loop, model, x, RADIUS, LONG.steps, LONG.step_sizes()[0])
    short += [seconds(hf.search, model, x, SHORT) for _ in range(2)]
    median = statistics.median(short)
    return {
        "images": len(x),
        "plain_500_steps_seconds": long,
        "search_seconds": short,
        "ratio_of_medians": long / median,
        "microseconds_per_plain_gradient": 1e6 * long / (len(x) * 10 * LONG.steps),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--all-labels", type=int, default=250)
    parser.add_argument("--timed", type=int, default=64)
    given = parser.parse_args()
    model = models.load("fashion-adversarial").eval()
    x = data.load("fashion-mnist", "test").scaled()[: given.images]
    speed = timed(model, x[: given.timed])
    value, label = long_search(model, x, given.all_labels)
    found = hf.search(model, x, SHORT)
    gap = value - found.value
    report = {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit(),
        "threads": torch.get_num_threads(),
        "build": hf.build_info(),
        "model": "fashion-adversarial",
        "long": LONG.to_dict(),
        "short": SHORT.to_dict(),
        "images": len(x),
        "images_with_all_labels": given.all_labels,
        "other_winners": int((label != found.label).sum()),
        "lower_by_more_than_1e-3": int((gap > 1e-3).sum()),
        "higher_by_more_than_1e-3": int((gap < -1e-3).sum()),
        "largest_gap": float(gap.max()),
        "mean_gap": float(gap.mean()),
        "gradient_steps_per_image": float(found.steps.float().mean()),
        "forward_passes_per_image": found.forwards / len(x),
        "backward_passes_per_image": found.backwards / len(x),
        "time": speed,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
