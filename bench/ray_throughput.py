"""Images per second through workers of one core each, beside one plain process of one core.

python bench/ray_throughput.py --output bench/results/ray-throughput-cpu.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from ray_commands import finished, machine, start_defend


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="fashion-mnist:test")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plain, table = _run(given, Path(folder, "plain.parquet"))
        rows = []
        for workers in given.workers:
            name = Path(folder, f"{workers}.parquet")
            words = ("--engine", "ray", "--workers", str(workers))
            figures, found = _run(given, name, *words)
            rows.append(
                {
                    "workers": workers,
                    **figures,
                    **_between_chunks(name.with_suffix(".parts")),
                    "same_table": found == table,
                    "against_plain": plain["seconds"] / figures["seconds"],
                }
            )
    report = {
        **machine(),
        "images": given.images,
        "steps": given.steps,
        "plain": plain,
        "ray": rows,
        "against_first": [row["images_per_second"] / rows[0]["images_per_second"] for row in rows],
        "overhead_of_engine": rows[0]["seconds"] / plain["seconds"] - 1.0,
        "overhead_between_chunks": (
            plain["images_per_second"] / rows[0]["images_per_second_between_chunks"] - 1.0
        ),
    }
    text = json.dumps(report, indent=2)
    print(text)
    if given.output is not None:
        given.output.write_text(f"{text}\n")


def _run(given: argparse.Namespace, output: Path, *words: str) -> tuple[dict[str, Any], bytes]:
    """Times of a command, and the table that it wrote."""
    began = time.perf_counter()
    summary = finished(start_defend(given.data, given.images, given.steps, output, *words))
    figures = {
        "seconds": summary["seconds"],  # with the start of Ray and of its workers
        "images_per_second": summary["images_per_second"],
        "process_seconds": time.perf_counter() - began,
    }
    return figures, output.read_bytes()


def _between_chunks(parts: Path) -> dict[str, float]:
    """The rate from the first chunk's end to the last one's: what start and end are left out of."""
    ends = sorted(path.stat().st_mtime for path in parts.glob("rows/*.parquet"))
    images = json.loads((parts / "run.json").read_text())
    between = images["images"] - images["chunk"]
    seconds = max(ends[-1] - ends[0], 1e-9)
    return {"images_per_second_between_chunks": between / seconds}


if __name__ == "__main__":
    main()
