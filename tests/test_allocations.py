"""The measure of allocated bytes is itself right."""

from __future__ import annotations

import torch
from allocations import measured


def test_the_peak_counts_what_is_held_at_once() -> None:
    def two_after_each_other() -> None:
        for _ in range(2):
            torch.empty(1000, dtype=torch.uint8)

    def two_at_once() -> list[torch.Tensor]:
        return [torch.empty(1000, dtype=torch.uint8) for _ in range(2)]

    assert measured(two_after_each_other)[1] == 1000
    assert measured(two_at_once)[1] == 2000


def test_releases_of_what_an_earlier_measurement_made_do_not_count() -> None:
    kept, _ = measured(lambda: [torch.empty(10**6, dtype=torch.uint8)])

    def release_and_allocate() -> torch.Tensor:
        kept.clear()
        return torch.empty(1000, dtype=torch.uint8)

    assert measured(release_and_allocate)[1] == 1000
