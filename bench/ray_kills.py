"""Jobs of which a worker or the driver is killed at a random moment: is the table the same?

The moment is a random while after a random number of chunks is stored.

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
DELAY = 1.0  # seconds, at most


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
        finished(_start(given, undisturbed))
        chunks, runs = _stored(undisturbed), []
        for number in range(given.runs):
            victim = ("worker", "driver")[number % 2]
            output = Path(folder, f"{number}.parquet")
            goal, delay = generator.randrange(chunks), generator.uniform(0.0, DELAY)
            run = _disturbed(given, output, victim, goal, delay)
            runs.append({**run, "same_table": output.read_bytes() == undisturbed.read_bytes()})
            print(json.dumps(runs[-1]), flush=True)
    report: dict[str, Any] = {
        **machine(),
        "images": given.images,
        "workers": given.workers,
        "chunks": chunks,
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


def _stored(output: Path) -> int:
    """Chunks that are stored."""
    return len(list(output.with_suffix(".parts").glob("rows/*.parquet")))


def _disturbed(
    given: argparse.Namespace, output: Path, victim: str, goal: int, delay: float
) -> dict[str, Any]:
    """Kill somebody some seconds after so many chunks, and go on until the table is there."""
    process = _start(given, output)
    while process.poll() is None:
        pids = [process.pid] if victim == "driver" else descendants(process.pid, WORKER)
        if pids and _stored(output) >= goal:
            break
        time.sleep(0.01)
    time.sleep(delay)
    killed = process.poll() is None
    if killed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[0], signal.SIGKILL)
    done = _stored(output)
    resumed = 0
    if victim == "driver" and killed:
        process.communicate()
        finished(_start(given, output))
        resumed = 1
    else:
        finished(process)
    return {
        "victim": victim,
        "after_chunks": goal,
        "and_seconds": delay,
        "killed": killed,
        "chunks_done": done,
        "resumed": resumed,
    }


if __name__ == "__main__":
    main()
