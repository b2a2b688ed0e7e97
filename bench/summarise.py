"""Shorten pytest-benchmark reports to what is kept under bench/results.

python bench/summarise.py out/bench.json "make bench" > bench/results/NAME.json

Of several reports of one command the first is kept, with the medians of the others.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def summary(report: dict[str, Any], command: str, others: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians and rounds of every benchmark, and the machine they were measured on."""
    medians: dict[str, list[float]] = {}
    for other in others:
        for one in other["benchmarks"]:
            medians.setdefault(one["name"], []).append(one["stats"]["median"])
    return {
        "command": command,
        "date": report["datetime"][:10],
        "machine": report["machine_info"],
        "benchmarks": {
            one["name"]: {
                "median_seconds": one["stats"]["median"],
                "rounds_seconds": one["stats"]["data"][:9],
                **({"median_seconds_of_other_runs": medians[one["name"]]} if others else {}),
                **one["extra_info"],
            }
            for one in report["benchmarks"]
        },
    }


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    *paths, command = sys.argv[1:]
    first, *others = (json.loads(Path(path).read_text()) for path in paths)
    print(json.dumps(summary(first, command, others), indent=2))
