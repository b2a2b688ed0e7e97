"""What the repository holds: sources and small weights, nothing that was fetched or built."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LARGEST = 3 * 2**20  # bytes of a file of weights
BUILT = (".whl", ".so", ".o", ".pyc", ".zip", ".tar", ".tgz")


def test_no_tracked_file_is_large_or_was_fetched_or_built() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    tracked = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert tracked
    assert not [path.name for path in tracked if path.name.endswith(BUILT)]
    assert not [path.name for path in tracked if path.is_file() and path.stat().st_size > LARGEST]
