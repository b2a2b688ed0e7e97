"""Two Ray nodes on this machine, started once for all tests that need them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

STORE = 80_000_000  # bytes of a node's object store, about the least that Ray allows


@pytest.fixture(scope="session")
def two_nodes() -> Iterator[str]:
    """Address of a cluster of two nodes with two CPUs each, to which this process is connected."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = pytest.importorskip("ray")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    node = {"num_cpus": 2, "object_store_memory": STORE}
    cluster = cluster_utils.Cluster(
        initialize_head=True,
        head_node_args={
            **node,
            "include_dashboard": False,
            "_system_config": {"worker_niceness": 0},  # beside other tests they would starve
        },
    )
    cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()
