"""The folder of a run: what killed writes left in it goes, whoever else is at work there."""

from __future__ import annotations

from pathlib import Path

import pytest

from hcnn_fast.run_folder import open_run


def test_what_killed_writes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    part = tmp_path / "chunks" / "natural"
    part.mkdir(parents=True)
    kept, left = part / "00000.parquet", part / ".00001.parquet.0123456789ab.part"
    for path in (kept, left):
        path.write_bytes(b"rows")
    with open_run(tmp_path, {"points": 4}):
        assert kept.exists()
        assert not left.exists()


def test_a_write_that_ends_while_leftovers_are_removed_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that another worker's failure ended leaves workers that finish their chunk."""
    left, whole = tmp_path / ".00001.parquet.0123456789ab.part", tmp_path / "00001.parquet"
    left.write_bytes(b"rows")
    remove = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path == left:
            left.replace(whole)  # the worker comes first
        remove(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    with open_run(tmp_path, {"points": 4}):
        assert whole.read_bytes() == b"rows"
