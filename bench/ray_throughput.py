"""Images per second through workers of one core each, beside one plain process of one core.

Once on a cluster that the command starts and ends, once on one that is found running; and beside as many
plain processes at once, which is all that the machine can give.

python bench/ray_throughput.py --output bench/results/ray-throughput-cpu.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_commands import finished, machine, running_cluster, start_defend


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
        at_once = [
            _plain_at_once(given, Path(folder), count) for count in given.workers if count > 1
        ]
        runs = _Runs(given, Path(folder), plain, table)
        own = [runs.on_ray("own", workers) for workers in given.workers]
        with running_cluster(max(given.workers)) as address:
            found = [
                runs.on_ray("running", workers, "--address", address) for workers in given.workers
            ]
    report = {
        **machine(),
        "images": given.images,
        "steps": given.steps,
        "plain": plain,
        "plain_at_once": at_once,
        "cluster_of_its_own": own,
        "running_cluster": found,
    }
    text = json.dumps(report, indent=2)
    print(text)
    if given.output is not None:
        given.output.write_text(f"{text}\n")


@dataclass(frozen=True)
class _Runs:
    """Commands on Ray beside the plain one.

    Attributes:
        given: the options.
        folder: where tables go.
        plain: times of the plain command.
        table: what it wrote.
    """

    given: argparse.Namespace
    folder: Path
    plain: dict[str, Any]
    table: bytes

    def on_ray(self, name: str, workers: int, *words: str) -> dict[str, Any]:
        """One command with so many workers, and how it compares."""
        output = self.folder / f"{name}-{workers}.parquet"
        figures, found = _run(
            self.given, output, "--engine", "ray", "--workers", str(workers), *words
        )
        between = _between_chunks(output.with_suffix(".parts"))
        ideal = self.plain["seconds"] / workers
        return {
            "workers": workers,
            **figures,
            "images_per_second_between_chunks": between,
            "times_plain": self.plain["seconds"] / figures["seconds"],
            "times_plain_between_chunks": between / self.plain["images_per_second"],
            "overhead": figures["seconds"] / ideal - 1.0,
            "same_table": found == self.table,
        }


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


def _plain_at_once(given: argparse.Namespace, folder: Path, count: int) -> dict[str, Any]:
    """So many plain processes side by side, each with all images: what the machine itself gives."""
    started = [
        start_defend(given.data, given.images, given.steps, folder / f"at-once-{i}.parquet")
        for i in range(count)
    ]
    rates = [finished(process)["images_per_second"] for process in started]
    return {"processes": count, "images_per_second": sum(rates)}


def _between_chunks(parts: Path) -> float:
    """The rate from the first chunk's end to the last one's: what start and end are left out of."""
    ends = sorted(path.stat().st_mtime for path in parts.glob("rows/*.parquet"))
    images = json.loads((parts / "run.json").read_text())
    between = images["images"] - images["chunk"]
    seconds = max(ends[-1] - ends[0], 1e-9)
    return between / seconds


if __name__ == "__main__":
    main()
