"""`Defense.predict` on many images: peak memory over what is in use before, and images a second.

python bench/memory_of_predict.py --images 10000 > out/memory-of-predict.json
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from typing import Any

import torch
from conftest import commit

import hcnn_fast as hf
from hcnn_fast import models
from hcnn_fast.cli.sizes import parse_size
from hcnn_fast.measurement.peak_memory import PeakMemory

IMAGE = (3, 32, 32)


def measure(
    model: str, checkpoint: str | None, count: int, config: hf.SearchConfig, device: str
) -> dict[str, Any]:
    """Predict `count` random images at once, after one alone; everything that JSON should say."""
    torch.manual_seed(0)
    classifier = models.load(model, checkpoint) if checkpoint else models.build(model)
    defense = hf.Defense(classifier.eval().to(device), config, threshold=0.5)
    x = torch.rand(count, *IMAGE, device=device)  # [N, 3, 32, 32]
    defense.predict(x[:1])
    with PeakMemory(x.device) as before:
        pass
    begin = time.perf_counter()
    with PeakMemory(x.device) as during:
        answer = defense.predict(x)
    seconds = time.perf_counter() - begin
    found = [*vars(answer).values(), *vars(answer.search).values()]
    held = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in found
        if isinstance(tensor, torch.Tensor)
    }
    return {
        "commit": commit(),
        "device": torch.cuda.get_device_name() if x.is_cuda else platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "model": model,
        "images": count,
        "config": config.to_dict(),
        "peak_kind": during.kind,
        "peak_bytes_over_baseline": during.bytes - before.bytes,
        "result_bytes": sum(held.values()),
        "baseline_bytes": before.bytes,
        "images_per_second": count / seconds,
    }


def main() -> None:
    """Measure what the command line asks for, and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="compact-resnet")
    parser.add_argument("--checkpoint")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--labels", type=int, default=2)
    parser.add_argument("--memory-budget", type=parse_size)
    parser.add_argument("--device", default="cpu")
    words = parser.parse_args()
    config = hf.SearchConfig.mcn(
        8 / 255, steps=words.steps, labels=words.labels, memory_budget=words.memory_budget
    )
    report = measure(words.model, words.checkpoint, words.images, config, words.device)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
