"""Rows read back from every format, complete and cut off."""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pyarrow.parquet
import pytest
import torch

from hcnn_fast.cli.failures import WrongUsage
from hcnn_fast.cli.interruption import deferred_interrupt
from hcnn_fast.cli.point_files import PointFile
from hcnn_fast.cli.row_files import RowFile

COLUMNS = {"index": int, "name": str, "confidence": float, "accepted": bool}
ROWS: list[dict[str, Any]] = [
    {"index": 0, "name": 'a, "b"', "confidence": 0.25, "accepted": True},
    {"index": 1, "name": "c\nd", "confidence": None, "accepted": None},
    {"index": 2, "name": None, "confidence": 1e-9, "accepted": False},
]


def read_rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
        return rows
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with path.open(newline="") as stream:
        cells = list(csv.DictReader(stream))
    values = {"True": True, "False": False, "": None}
    return [
        {
            "index": int(row["index"]),
            "name": row["name"] or None,
            "confidence": float(row["confidence"]) if row["confidence"] else None,
            "accepted": values[row["accepted"]],
        }
        for row in cells
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_rows_come_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    with RowFile(path, COLUMNS) as rows:
        rows.write(ROWS[:2])
        assert not path.exists()
        rows.write([])
        rows.write(ROWS[2:])
    assert rows.kept == path
    assert read_rows(path) == ROWS
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_no_rows_are_a_valid_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    with RowFile(path, COLUMNS):
        pass
    assert read_rows(path) == []


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_cut_off_rows_are_valid_and_marked_as_partial(
    tmp_path: Path, suffix: str, error: type[BaseException]
) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_text("an earlier result")
    rows = RowFile(path, COLUMNS)

    def write_and_fail() -> None:
        with rows:
            rows.write(ROWS[:2])
            raise error

    with pytest.raises(error):
        write_and_fail()
    partial = tmp_path / f"rows.partial{suffix}"
    assert rows.kept == partial
    assert read_rows(partial) == ROWS[:2]
    assert path.read_text() == "an earlier result"
    assert len(list(tmp_path.iterdir())) == 2


def test_nothing_is_left_where_nothing_was_written(tmp_path: Path) -> None:
    rows = RowFile(tmp_path / "rows.csv", COLUMNS)
    with pytest.raises(KeyError), rows:
        raise KeyError
    assert rows.kept is None
    assert list(tmp_path.iterdir()) == []


def test_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        WrongUsage, match=r"rows\.txt: unknown suffix, .* \.jsonl, \.csv, \.parquet"
    ):
        RowFile(tmp_path / "rows.txt", COLUMNS)


def test_place_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongUsage, match="there is no folder"):
        RowFile(tmp_path / "missing" / "rows.csv", COLUMNS)
    (tmp_path / "rows.csv").mkdir()
    with pytest.raises(WrongUsage, match=r"rows\.csv is a folder"):
        RowFile(tmp_path / "rows.csv", COLUMNS)


@pytest.fixture
def handler() -> Iterator[None]:
    """Whatever started the tests, Ctrl-C is handled as Python does; a job control may ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt_a_write(reached: list[str]) -> None:
    with deferred_interrupt():
        signal.raise_signal(signal.SIGINT)
        reached.append("the end")


@pytest.mark.usefixtures("handler")
def test_interrupt_waits_for_the_end_of_a_write() -> None:
    reached: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        interrupt_a_write(reached)
    assert reached == ["the end"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("handler")
def test_interrupt_that_the_process_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reached: list[str] = []
    interrupt_a_write(reached)
    assert reached == ["the end"]
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.parametrize("counts", [(), (3,), (1, 0, 2000)])
def test_points_come_back(tmp_path: Path, counts: tuple[int, ...]) -> None:
    groups = [torch.randn(count, 2, 3) for count in counts]
    with PointFile(tmp_path / "points.npy") as points:
        points.begin((2, 3))
        for group in groups:
            points.write(group)
    expected = torch.cat([torch.empty(0, 2, 3), *groups]).numpy()
    numpy.testing.assert_array_equal(numpy.load(tmp_path / "points.npy"), expected)


def test_cut_off_points_are_valid_and_marked_as_partial(tmp_path: Path) -> None:
    def write_and_fail() -> None:
        with PointFile(tmp_path / "points.npy") as points:
            points.begin((2,))
            points.write(torch.ones(5, 2))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert numpy.load(tmp_path / "points.partial.npy").shape == (5, 2)
    assert not (tmp_path / "points.npy").exists()


def test_points_need_their_suffix(tmp_path: Path) -> None:
    with pytest.raises(WrongUsage, match=r"expected \.npy"):
        PointFile(tmp_path / "points.npz")
