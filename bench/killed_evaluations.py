"""Evaluations killed with SIGKILL at five random moments end with the files of one left alone.

python bench/killed_evaluations.py [EXPERIMENT ...] > bench/results/killed-evaluations-cpu.json

Every experiment that is given its models runs on the images that ship with the package, by its
command line: once to its end, and once killed five times, each time a random while after a random
chunk was stored, and continued by the same command. All tables, numbers and pages are then compared
byte by byte.
"""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from conftest import commit

from hcnn_fast.experiments import EXPERIMENTS

KILLS = 5
SEED = 11
POINTS, CHUNK = 16, 2
LONGEST = 900.0  # seconds that a run may take
SIZES = ("--points", POINTS, "--steps", 3, "--starts", 1, "--search-steps", 2, "--chunk", CHUNK)
MODELS = ("--model", "fashion-adversarial", "--natural", "fashion-natural")
OUTPUT = "out"


def command(name: str) -> list[str]:
    """The command line of an experiment; its results lie below the folder where it is run."""
    words = ("evaluate", name, *MODELS, *SIZES, "--radii", 0.05, "--output", OUTPUT, "--quiet")
    return [sys.executable, "-m", "hcnn_fast.cli.main", *map(str, words)]


def content(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a run, by its place."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def stored(folder: Path) -> int:
    """Tables that are done."""
    return len(list(folder.glob(f"{OUTPUT}/*/chunks/*/*.parquet")))


def killed(name: str, folder: Path, goal: int, delay: float) -> dict[str, Any]:
    """Begin or go on, and kill a while after `goal` tables are stored.

    Raises:
        RuntimeError: it ended before.
    """
    began = time.monotonic()
    process = subprocess.Popen(command(name), cwd=folder)
    while stored(folder) < goal and process.poll() is None:
        time.sleep(0.001)
        if time.monotonic() - began > LONGEST:
            process.kill()
            raise RuntimeError(f"{name} stored no {goal} tables in {LONGEST:g} s")
    time.sleep(delay)
    process.kill()
    if process.wait() != -signal.SIGKILL:
        raise RuntimeError(f"{name} ended with {process.returncode} before it could be killed")
    return {
        "after_tables": goal,
        "and_seconds": round(delay, 4),
        "tables_then": stored(folder),
        "files_half_written": len(list(folder.rglob("*.part"))),
    }


def compared(name: str) -> dict[str, Any]:
    """Both ways of one experiment."""
    generator = random.Random(f"{SEED} {name}")
    with tempfile.TemporaryDirectory() as place:
        whole, broken = Path(place, "whole"), Path(place, "broken")
        whole.mkdir()
        broken.mkdir()
        began = time.monotonic()
        subprocess.run(command(name), cwd=whole, check=True, timeout=LONGEST)
        tables = stored(whole)
        each = (time.monotonic() - began) / tables  # seconds for a table, the start included
        goals = sorted(generator.sample(range(1, tables), KILLS))
        kills = [killed(name, broken, goal, generator.uniform(0.0, 0.3 * each)) for goal in goals]
        subprocess.run(command(name), cwd=broken, check=True, timeout=LONGEST)
        expected, found = content(whole / OUTPUT), content(broken / OUTPUT)
    return {
        "experiment": name,
        "command": " ".join(["hcnn-fast", *command(name)[3:]]),
        "kills": kills,
        "tables": tables,
        "files": len(expected),
        "identical": found == expected,
        "different": sorted(
            path for path in {*expected, *found} if expected.get(path) != found.get(path)
        ),
        "final_tables": {
            path: digest
            for path, digest in found.items()
            if path.count("/") == 1 and path.endswith(".parquet")
        },
    }


def main(names: list[str]) -> int:
    """Print what was compared as JSON; 1 where anything differs."""
    given_models = [name for name, its in EXPERIMENTS.items() if its.family is None]
    unknown = set(names) - set(given_models)
    if unknown:
        expected = ", ".join(given_models)
        print(f"no experiments {sorted(unknown)}; expected {expected}", file=sys.stderr)
        return 2
    results = [compared(name) for name in names or given_models]
    made_by = {"seed": SEED, "commit": commit(), "torch": torch.__version__}
    print(json.dumps({**made_by, "experiments": results}, indent=2))
    return 0 if all(result["identical"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
