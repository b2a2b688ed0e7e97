"""The budget beside what the system counts: the resident memory of a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hcnn_fast.engine.free_memory import CHOSEN_BY

# A search of one image first: code is loaded, the model prepared, threads begun.
SEARCH = """
import json, sys
import torch
from torch import nn
import hcnn_fast as hf
from hcnn_fast.measurement.peak_memory import PeakMemory

torch.manual_seed(0)
torch.set_num_threads(1)
model = nn.Sequential(
    nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4),
).eval()
x = torch.rand(24, 3, 64, 64)
config = hf.SearchConfig.from_dict(json.loads(sys.argv[1]))
hf.search(model, x[:1], config)
with PeakMemory(x.device) as before:
    pass
with PeakMemory(x.device) as during:
    hf.search(model, x, config)
print(json.dumps([during.bytes - before.bytes, during.kind]))
"""


def resident_peak(**keywords: object) -> int:
    """Bytes that a search adds to the resident set of a process of its own."""
    config = {"objective": "mcn", "radius": 0.05, "steps": 8, "tolerance": 1e-3, **keywords}
    left = {name: value for name, value in os.environ.items() if name not in CHOSEN_BY}
    done = subprocess.run(
        [sys.executable, "-c", SEARCH, json.dumps(config)],
        env=left | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    peak, kind = json.loads(done.stdout.splitlines()[-1])
    if kind != "resident":
        pytest.skip("the kernel does not let the peak of the resident set be set back")
    return int(peak)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_the_resident_set_grows_by_no_more_than_the_budget() -> None:
    limit = 48_000_000
    free = resident_peak(batch_size=48)
    assert free > 1.5 * limit  # so that the budget has something to do
    within = resident_peak(memory_budget=limit)
    assert limit / 4 <= within <= limit
