"""What is captured as CUDA graphs, and what is not."""

from __future__ import annotations

import pytest
import torch
from tiny_classifiers import images

from hcnn_fast.engine import graphs
from hcnn_fast.engine.graphs import (
    GRAPHS,
    IDLE,
    WORTH,
    Captures,
    bucket_of,
    check_alike,
    noise_around,
)


@pytest.mark.parametrize(
    ("device", "value", "captured"),
    [("cuda", "1", True), ("cuda", "0", False), ("cuda", None, False), ("cpu", "1", False)],
)
def test_work_is_captured_on_a_gpu_where_it_is_asked_for(
    device: str, value: str | None, captured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(graphs.ENVIRONMENT, raising=False)
    if value is not None:
        monkeypatch.setenv(graphs.ENVIRONMENT, value)
    assert graphs.can_capture(torch.device(device)) == captured


def test_buckets_hold_what_they_are_for_with_little_to_fill() -> None:
    assert [bucket_of(n) for n in (1, 8, 9, 12, 13, 17, 24, 25, 48, 49)] == [
        8,
        8,
        12,
        12,
        16,
        24,
        24,
        32,
        48,
        64,
    ]
    for rows in range(8, 3000):
        assert rows <= bucket_of(rows) < 1.5 * rows
        assert bucket_of(bucket_of(rows)) == bucket_of(rows)


def test_what_comes_up_often_is_captured_while_there_is_room() -> None:
    captures: Captures[str] = Captures(torch.device("cpu"), "passes")
    made: list[str] = []

    def get(key: str, rows: int) -> str | None:
        def capture() -> str:
            made.append(key)
            return key.upper()

        return captures.get(key, rows, 20, capture)

    for _ in range(WORTH):
        assert get("a", 12) is None
        assert get("b", 8) is None
    assert get("a", 12) == "A"
    assert get("b", 8) == "B"
    for _ in range(2 * WORTH):
        assert get("c", 1) is None  # 20 rows are taken
    assert get("a", 12) == "A"
    assert made == ["a", "b"]
    assert get("d", 21) is None
    for _ in range(IDLE):
        get("a", 12)
    for _ in range(2 * WORTH):
        assert get("d", 21) is None  # for which nothing could make room
    assert len(captures.kept) == 2
    assert get("c", 1) == "C"  # nobody has asked for b in a while
    assert get("b", 8) is None
    assert get("a", 12) == "A"


def test_no_more_graphs_are_kept_than_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "WORTH", 0)
    captures: Captures[int] = Captures(torch.device("cpu"), "passes")
    got = [captures.get(key, 1, 10**6, lambda key=key: key) for key in range(GRAPHS + 1)]
    assert got == [*range(GRAPHS), None]


def test_a_switch_of_the_process_tells_captures_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "WORTH", 0)
    captures: Captures[str] = Captures(torch.device("cpu"), "passes")
    assert captures.get("a", 1, 10, lambda: "exact") == "exact"
    with monkeypatch.context() as switched:
        switched.setattr(graphs, "float32_products", lambda: {"matrices": "other"})
        assert captures.get("a", 1, 10, lambda: "fast") == "fast"
    assert captures.get("a", 1, 10, lambda: "new") == "exact"


def test_after_a_capture_that_fails_there_are_none(caplog: pytest.LogCaptureFixture) -> None:
    captures: Captures[str] = Captures(torch.device("cpu"), "steps")
    tried: list[str] = []

    def fails() -> str:
        tried.append("b")
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    with caplog.at_level("INFO", "hcnn_fast"):
        for _ in range(WORTH + 1):
            captures.get("a", 8, 100, lambda: "A")
        for _ in range(2 * WORTH):
            assert captures.get("b", 8, 100, fails) is None
    assert tried == ["b"]
    assert captures.refused == "RuntimeError: operation not permitted when stream is capturing"
    assert f"steps are not captured as CUDA graphs: {captures.refused}" in caplog.text
    assert captures.get("a", 8, 100, lambda: "A") is None
    assert not captures.kept


def test_replays_are_compared_at_points_that_all_differ() -> None:
    image = images(1)
    for points in noise_around(image, 5):
        assert points.shape == (5, 3, 4, 4)
        assert len(points.flatten(1).unique(dim=0)) == 5
    for value in (1.0, 1e-6, -3.0):
        found = torch.full((4,), value)
        check_alike(found * (1.0 + 1e-5), found)
        for wrong in (found * 1.01, found.where(torch.arange(4) > 0, torch.nan)):
            with pytest.raises(RuntimeError, match="other values than the model"):
                check_alike(wrong, found)
