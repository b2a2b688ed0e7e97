"""What tests that start Ray have in common."""

from __future__ import annotations

import pytest

# Of Ray itself: settings that it deprecates and reads, sockets that it leaves open.
ON_RAY = [
    pytest.mark.xdist_group("ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
