"""What tests on Ray have in common: their marks, and clusters on this machine."""

from __future__ import annotations

import os
from typing import Any

import pytest

# Of Ray itself: settings that it deprecates and reads, sockets that it leaves open.
ON_RAY = [
    pytest.mark.xdist_group("ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
# about the least object store that Ray allows, in bytes
NODE: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 80_000_000}


def head() -> Any:
    """A cluster of one node with two CPUs, to which nobody is connected."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    niceness = {"worker_niceness": 0}  # beside other tests they would starve
    arguments = {**NODE, "include_dashboard": False, "_system_config": niceness}
    return cluster_utils.Cluster(initialize_head=True, head_node_args=arguments)
