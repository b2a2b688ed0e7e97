"""Shorten a pytest-benchmark report to what is kept under bench/results.

python bench/summarise.py out/bench.json "make bench" > bench/results/NAME.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def summary(report: dict[str, Any], command: str) -> dict[str, Any]:
    """Medians and rounds of every benchmark, and the machine they were measured on."""
    return {
        "command": command,
        "date": report["datetime"][:10],
        "machine": report["machine_info"],
        "benchmarks": {
            one["name"]: {
                "median_seconds": one["stats"]["median"],
                "rounds_seconds": one["stats"]["data"][:9],
                **one["extra_info"],
            }
            for one in report["benchmarks"]
        },
    }


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    loaded = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps(summary(loaded, sys.argv[2]), indent=2))
