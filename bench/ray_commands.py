"""What the measurements on Ray share: the command that is timed, its processes, the machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hcnn_fast import __version__

PROGRAM = "import sys; from hcnn_fast.cli.main import main; sys.exit(main(sys.argv[1:]))"


def start_defend(
    data: str,
    images: int,
    steps: int,
    output: Path,
    *words: str,
) -> subprocess.Popen[str]:
    """`hcnn-fast defend` in a process of its own, with one torch thread; its summary is JSON."""
    search = ["--steps", str(steps), "--threads", "1", "--limit", str(images), "--skip-bad"]
    given = ["defend", data, *search, "--output", str(output), "--json", "--quiet", *words]
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"},
    )


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The summary of a command, which must have succeeded."""
    out, err = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"hcnn-fast defend ended with {process.returncode}: {err[-2000:]}")
    summary: dict[str, Any] = json.loads(out[out.index("{") :])
    return summary


@contextmanager
def running_cluster(cpus: int) -> Iterator[str]:
    """Address of a cluster of one node on this machine, which commands find running."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": cpus, "include_dashboard": False}
    settings = {"worker_niceness": 0}  # the priority that the plain command has
    cluster = Cluster(initialize_head=True, head_node_args={**node, "_system_config": settings})
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


def descendants(pid: int, name: str) -> list[int]:
    """Processes that a process has started, directly or not, of which the command has that name."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                status = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended meanwhile
                continue
            parents[int(folder.name)] = int(status[1])
    found = []
    for each in parents:
        ancestor = each
        while ancestor in parents and ancestor != pid:
            ancestor = parents[ancestor]
        if ancestor == pid and each != pid and name in command_of(each):
            found.append(each)
    return found


def command_of(pid: int) -> str:
    """A process's command, or "" where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def machine() -> dict[str, Any]:
    """Where the numbers come from."""
    import ray

    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "package": __version__,
        "torch": torch.__version__,
        "ray": ray.__version__,
        "command": " ".join(sys.argv),
    }
