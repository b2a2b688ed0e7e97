"""Jobs of which a worker or the driver is killed at a random moment: is the table the same?

python bench/ray_kills.py --output bench/results/ray-kills-cpu.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from ray_commands import descendants, finished, machine, start_defend

WORKER = "MapWorker"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="fashion-mnist:test")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    generator = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = Path(folder, "undisturbed.parquet")
        began = time.perf_counter()
        finished(_start(given, undisturbed))
        seconds = time.perf_counter() - began
        runs = []
        while sum(run["killed"] for run in runs) < given.runs:  # some end before their moment
            victim = ("worker", "driver")[len(runs) % 2]
            moment = generator.uniform(0.0, seconds)
            output = Path(folder, f"{len(runs)}.parquet")
            runs.append(_disturbed(given, output, victim, moment))
            runs[-1]["same_table"] = output.read_bytes() == undisturbed.read_bytes()
            print(json.dumps(runs[-1]), flush=True)
    report: dict[str, Any] = {
        **machine(),
        "images": given.images,
        "workers": given.workers,
        "undisturbed_seconds": seconds,
        "runs": runs,
        "killed": sum(run["killed"] for run in runs),
        "same_tables": sum(run["same_table"] for run in runs),
    }
    if given.output is not None:
        given.output.write_text(f"{json.dumps(report, indent=2)}\n")
    print(f"{report['same_tables']} of {len(runs)} tables are the same; {report['killed']} kills")


def _start(given: argparse.Namespace, output: Path) -> subprocess.Popen[str]:
    words = ("--engine", "ray", "--workers", str(given.workers))
    return start_defend(given.data, given.images, given.steps, output, *words)


def _disturbed(
    given: argparse.Namespace, output: Path, victim: str, moment: float
) -> dict[str, Any]:
    """Kill somebody after so many seconds, and go on until the table is there."""
    process = _start(given, output)
    began = time.perf_counter()
    while time.perf_counter() - began < moment and process.poll() is None:
        time.sleep(0.01)
    pids = [process.pid] if victim == "driver" else descendants(process.pid, WORKER)
    while not pids and process.poll() is None:  # no worker lives yet: wait for one
        time.sleep(0.05)
        pids = descendants(process.pid, WORKER)
    killed = process.poll() is None
    if killed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[0], signal.SIGKILL)
    done = len(list(output.with_suffix(".parts").glob("rows/*.parquet")))
    resumed = 0
    if victim == "driver" and killed:
        process.communicate()
        finished(_start(given, output))
        resumed = 1
    else:
        finished(process)
    return {
        "victim": victim,
        "moment": time.perf_counter() - began if not killed else moment,
        "killed": killed,
        "chunks_done": done,
        "resumed": resumed,
    }


if __name__ == "__main__":
    main()
