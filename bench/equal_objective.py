"""The search with few steps beside 500 constant steps per label: same winners, same objective?

python bench/equal_objective.py --timed 1000 > bench/results/equal-objective-cpu.json

The long search is made for all labels of the first images. As that takes hours, it is made for the
others' likeliest labels, so many of them that all are among them which a search of 10 steps for
every label brings to within 0.05 of its winner. What it found is kept in
out/equal-objective-MODEL*.pt as it goes on, and a second call goes on from there.

The times are those of the first images alone, in one go: the long search as a loop by hand in plain
PyTorch, label by label, images batched, weights frozen (`hcnn_fast.measurement.rivals.plain_loop`);
and after every label the short one, so that both see the same minutes of the machine. Every label
takes the loop as long; where all of them would take hours, `--timed-labels` of them are timed, and
the time is that of all in proportion.

How runs are made again was chosen with all test images of Fashion-MNIST in view, and with the 2,000
training images of the second of these commands, but not with those of the third:

python bench/equal_objective.py --after 6500 --images 3500 --timed 1
python bench/equal_objective.py --split train --first 58000 --images 2000 --all-labels 0 --timed 1
python bench/equal_objective.py --split train --first 56000 --images 2000 --all-labels 0 --timed 1

Another model, such as a ResNet-18 that `hcnn-fast train` has made:

python bench/equal_objective.py --model resnet18 --checkpoint runs/resnet18/model.safetensors \
    --data cifar10 --radius 0.0157 --all-labels 8 --timed 32 --timed-labels 1
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

STEPS, CLASSES = 500, 10
BLOCK = 100  # images after which what was found is kept
SCOUTED, NEAR = 10, 0.05
ROUNDS = 5  # of the short search, at least
PLAIN_BATCH = 500  # images of the loop in plain PyTorch, which more would not make faster


def labels_to_try(
    model: nn.Module,
    x: Tensor,  # [n, *image]
    config: hf.SearchConfig,
) -> Tensor:  # [n] int64
    """How many of an image's likeliest labels the long search is made for."""
    found = hf.search(model, x, config.replace(steps=SCOUTED, precision="auto"))
    with torch.no_grad():
        likeliest = model(x).argsort(dim=1, descending=True, stable=True)  # [n, C]
    near = found.label_value >= found.value[:, None] - NEAR  # [n, C]
    place = torch.arange(1, CLASSES + 1)
    return (place * near.gather(1, likeliest)).amax(1)


def long_search(
    model: nn.Module,
    x: Tensor,  # [N, *image]
    config: hf.SearchConfig,
    all_labels: int,
    path: Path,
) -> dict[str, Tensor]:  # [N] each
    """Value, winning label and labels tried of every image, from the file as far as it goes."""
    problem = {**config.to_dict(), "all_labels": all_labels, "near": [SCOUTED, NEAR]}
    kept = torch.load(path) if path.exists() else {}
    if kept.get("problem") != problem:
        kept = {"problem": problem, "value": [], "label": [], "count": []}
    path.parent.mkdir(exist_ok=True)
    done = sum(len(column) for column in kept["value"])
    for begin in range(done, len(x), BLOCK):
        images = x[begin : begin + BLOCK]
        count = labels_to_try(model, images, config)
        count[: max(0, all_labels - begin)] = CLASSES
        value, label = torch.empty(len(images)), torch.empty(len(images), dtype=torch.int64)
        for tried in count.unique().tolist():
            some = count == tried
            of_these_labels = config.replace(labels=tried, batch_size=BLOCK)
            result = hf.search(model, images[some], of_these_labels)
            value[some], label[some] = result.value, result.label
        for name, column in (("value", value), ("label", label), ("count", count)):
            kept[name].append(column)
        torch.save(kept, path)
        print(f"{begin + len(images)} of {len(x)} images", file=sys.stderr)
    return {name: torch.cat(kept[name])[: len(x)] for name in ("value", "label", "count")}


def seconds(function: Any, *arguments: Any) -> float:
    begin = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - begin


def timed(
    model: nn.Module,
    x: Tensor,  # [n, *image]
    short: hf.SearchConfig,
    long: hf.SearchConfig,
    labels: int,
) -> dict[str, Any]:
    """Seconds for these images, a round of the short search after every label of the long one."""
    rounds = [seconds(hf.search, model, x, short) for _ in range(2)]
    part = 0.0
    for label in range(labels):
        for images in x.split(PLAIN_BATCH):
            climb = (model, images, long.radius, STEPS, long.step_sizes()[0], [label])
            part += seconds(plain_loop, *climb)
        rounds.append(seconds(hf.search, model, x, short))
    while len(rounds) < ROUNDS:
        rounds.append(seconds(hf.search, model, x, short))
    plain = part * CLASSES / labels
    return {
        "images": len(x),
        "labels_of_the_plain_loop": labels,
        "plain_seconds_of_these_labels": part,
        "plain_500_steps_seconds": plain,
        "search_seconds": rounds,
        "ratio_of_medians": plain / statistics.median(rounds),
        "microseconds_per_plain_gradient": 1e6 * part / (len(x) * labels * STEPS),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="fashion-adversarial")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--split", default="test")
    parser.add_argument("--first", type=int, default=0, help="the first image of the long search")
    parser.add_argument("--radius", type=float, default=0.05)
    parser.add_argument("--precision", default="auto", help="of the short search")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--after", type=int, default=0, help="so many images that are left out")
    parser.add_argument("--all-labels", type=int, default=250)
    parser.add_argument("--timed", type=int, default=64)
    parser.add_argument("--timed-labels", type=int, default=CLASSES)
    given = parser.parse_args()
    long = hf.SearchConfig.mcn(given.radius, steps=STEPS, schedule="constant", momentum=0.0)
    short = hf.SearchConfig.mcn(
        given.radius, steps=16, momentum=0.0, tolerance=1e-3, precision=given.precision
    )
    model = models.load(given.model, given.checkpoint).eval()
    until = given.after + given.images
    everything = data.load(given.data, given.split).scaled()[given.first :][:until]
    x = everything[given.after :]
    speed = timed(model, x[: given.timed], short, long, given.timed_labels)
    part = "" if (given.split, given.first) == ("test", 0) else f"-{given.split}-{given.first}"
    path = Path(f"out/equal-objective-{given.model}{part}.pt")
    truth = long_search(model, everything, long, given.all_labels, path)
    value, label, count = (truth[name][given.after :] for name in ("value", "label", "count"))
    found = hf.search(model, x, short)
    gap, other = value - found.value, label != found.label
    report = {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit(),
        "threads": torch.get_num_threads(),
        "build": hf.build_info(),
        "model": given.model,
        "long": long.to_dict(),
        "short": short.to_dict(),
        "images": len(x),
        "split": given.split,
        "images_left_out_before": given.first + given.after,
        "images_with_all_labels": max(0, given.all_labels - given.after),
        "labels_tried_on_average": float(count.float().mean()),
        "other_winners": int(other.sum()),
        "other_winners_that_are_higher": int((other & (gap < 0.0)).sum()),
        "lower_by_more_than_1e-3": int((gap > 1e-3).sum()),
        "higher_by_more_than_1e-3": int((gap < -1e-3).sum()),
        "largest_gap": float(gap.max()),
        "mean_gap": float(gap.mean()),
        "mean_value": float(found.value.mean()),
        "gradient_steps_per_image": float(found.steps.float().mean()),
        "forward_passes_per_image": found.forwards / len(x),
        "backward_passes_per_image": found.backwards / len(x),
        "time": speed,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
