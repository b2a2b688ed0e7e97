"""`Defense.predict` on many images: peak memory over what is in use before, and images a second.

python bench/memory_of_predict.py --data cifar10 > bench/results/memory-of-predict-cpu.json
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from functools import partial
from typing import Any

import torch
from conftest import commit
from torch import Tensor

import hcnn_fast as hf
from hcnn_fast import data, models
from hcnn_fast.cli.sizes import parse_size
from hcnn_fast.measurement.observation import wait_for
from hcnn_fast.measurement.peak_memory import PeakMemory
from hcnn_fast.models.registry import TRAINED

IMAGE = (3, 32, 32)


def images(name: str | None, count: int) -> Tensor:  # [N, 3, 32, 32]
    """The first test images of a data set, or random ones."""
    return data.load(name, "test").scaled()[:count] if name else torch.rand(count, *IMAGE)


def measure(words: argparse.Namespace, config: hf.SearchConfig) -> dict[str, Any]:
    """Predict all images at once, after one alone; everything that JSON should say."""
    torch.manual_seed(0)
    trained = words.checkpoint or words.model in TRAINED
    load = partial(models.load, checkpoint=words.checkpoint) if trained else models.build
    classifier = load(words.model).eval().to(words.device)
    defense = hf.Defense(classifier, config, threshold=0.5)
    x = images(words.data, words.images).to(words.device)
    defense.predict(x[:1])
    with PeakMemory(x.device) as before:
        pass
    begin = time.perf_counter()
    with PeakMemory(x.device) as during:
        answer = defense.predict(x)
        wait_for(x.device)
    seconds = time.perf_counter() - begin
    found = [*vars(answer).values(), *vars(answer.search).values()]
    held = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in found
        if isinstance(tensor, torch.Tensor)
    }
    return {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit(),
        "device": torch.cuda.get_device_name() if x.is_cuda else platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "model": words.model,
        "data": words.data or "random",
        "images": len(x),
        "config": config.to_dict(),
        "peak_kind": during.kind,
        "peak_bytes_over_baseline": during.bytes - before.bytes,
        "result_bytes": sum(held.values()),
        "baseline_bytes": before.bytes,
        "seconds": seconds,
        "images_per_second": len(x) / seconds,
        "gradient_steps_per_image": float(answer.search.steps.float().mean()),
    }


def main() -> None:
    """Measure what the command line asks for, and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="cifar10-adversarial")
    parser.add_argument("--checkpoint")
    parser.add_argument("--data", help="a data set of 3x32x32 images; random ones if not given")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--labels", type=int)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--memory-budget", type=parse_size)
    parser.add_argument("--device", default="cpu")
    words = parser.parse_args()
    config = hf.SearchConfig.mcn(
        8 / 255,
        steps=words.steps,
        labels=words.labels,
        tolerance=words.tolerance,
        precision=words.precision,
        memory_budget=words.memory_budget,
    )
    print(json.dumps(measure(words, config), indent=2))


if __name__ == "__main__":
    main()
