"""Two Ray nodes on this machine, started once for all tests that need them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ray_nodes import NODE, head


@pytest.fixture(scope="session")
def two_nodes() -> Iterator[str]:
    """Address of a cluster of two nodes with two CPUs each, to which this process is connected."""
    ray = pytest.importorskip("ray")
    cluster = head()
    cluster.add_node(**NODE)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()
