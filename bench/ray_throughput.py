"""Images per second through workers of one core each, beside one plain process of one core.

On a cluster that the command starts and ends, and on one that is found running. Beside them stand
as many plain processes at once, which is all that the machine can give, and what `scale.plan` says
of so many workers, from these rates and from the time of a job of one chunk.

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

from hcnn_fast.jobs.work import CHUNK
from hcnn_fast.scale.plan import JobCosts, wall_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="fashion-mnist:test")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain, table = _run(given, folder / "plain.parquet")
        rates = {1: plain["images_per_second"]}
        rates |= {count: _at_once(given, folder, count) for count in given.workers if count > 1}
        runs = _Runs(given, folder, table, rates)
        own = runs.on_ray("own")
        with running_cluster(max(given.workers)) as address:
            found = runs.on_ray("running", "--address", address)
    report = {
        **machine(),
        "images": given.images,
        "steps": given.steps,
        "plain": plain,
        "images_per_second_of_processes_at_once": rates,
        "cluster_of_its_own": own,
        "running_cluster": found,
    }
    text = json.dumps(report, indent=2)
    print(text)
    if given.output is not None:
        given.output.write_text(f"{text}\n")


@dataclass(frozen=True)
class _Runs:
    """Commands on Ray beside plain ones.

    Attributes:
        given: the options.
        folder: where tables go.
        table: what the plain command wrote.
        rates: images per second of so many plain processes at once.
    """

    given: argparse.Namespace
    folder: Path
    table: bytes
    rates: dict[int, float]

    def on_ray(self, name: str, *words: str) -> list[dict[str, Any]]:
        """The command with each number of workers, and how it compares."""
        one_chunk = argparse.Namespace(**{**vars(self.given), "images": CHUNK})
        start, _ = self._run(one_chunk, f"{name}-start", 1, *words)
        return [
            self._compared(f"{name}-{workers}", workers, start["seconds"], *words)
            for workers in self.given.workers
        ]

    def _run(
        self, given: argparse.Namespace, name: str, workers: int, *words: str
    ) -> tuple[dict[str, Any], bytes]:
        engine = ("--engine", "ray", "--workers", str(workers))
        return _run(given, self.folder / f"{name}.parquet", *engine, *words)

    def _compared(self, name: str, workers: int, start: float, *words: str) -> dict[str, Any]:
        figures, found = self._run(self.given, name, workers, *words)
        parts = self.folder / f"{name}.parts"
        costs = JobCosts(
            seconds_per_image=workers / self.rates[workers],
            start_seconds=start - CHUNK / self.rates[1],
        )
        return {
            "workers": workers,
            **figures,
            "images_per_second_between_chunks": _between_chunks(parts),
            "times_one_process": figures["images_per_second"] / self.rates[1],
            "share_of_as_many_processes": figures["images_per_second"] / self.rates[workers],
            "seconds_of_the_plan": wall_seconds(costs, self.given.images, workers),
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


def _at_once(given: argparse.Namespace, folder: Path, count: int) -> float:
    """Images per second of so many plain processes side by side, each with all images."""
    started = [
        start_defend(given.data, given.images, given.steps, folder / f"at-once-{i}.parquet")
        for i in range(count)
    ]
    return sum(float(finished(process)["images_per_second"]) for process in started)


def _between_chunks(parts: Path) -> float:
    """The rate from the first chunk's end to the last one's: what start and end are left out of."""
    ends = sorted(path.stat().st_mtime for path in parts.glob("rows/*.parquet"))
    images = json.loads((parts / "run.json").read_text())
    between = images["images"] - images["chunk"]
    seconds = max(ends[-1] - ends[0], 1e-9)
    return between / seconds


if __name__ == "__main__":
    main()
