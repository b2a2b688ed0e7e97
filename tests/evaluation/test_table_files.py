"""A table comes back from Parquet bit for bit, or the error says why not."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from attempt_tables import random_table

from hcnn_fast.evaluation import AttemptTable, read_attempts, write_attempts
from hcnn_fast.evaluation.answers import ANSWER_COLUMNS
from hcnn_fast.evaluation.table import NUMBER_COLUMNS


def assert_same(found: AttemptTable, expected: AttemptTable) -> None:
    assert found.attack == expected.attack
    assert found.norm == expected.norm
    assert found.metadata == expected.metadata
    for name in NUMBER_COLUMNS:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    for name in ANSWER_COLUMNS:
        assert torch.equal(getattr(found.base, name), getattr(expected.base, name)), name
        assert torch.equal(getattr(found.defended, name), getattr(expected.defended, name)), name


@pytest.mark.parametrize("examples", [1, 5, 300])
def test_table_comes_back_bit_for_bit(tmp_path: Path, examples: int) -> None:
    table = random_table(examples, examples)
    path = tmp_path / "attempts.parquet"
    write_attempts(path, table)
    assert_same(read_attempts(path), table)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_empty_table_and_metadata_come_back(tmp_path: Path) -> None:
    template = random_table(0)
    empty = AttemptTable.of_attempt(
        example=template.example[:0],
        label=template.label[:0],
        base=template.base.take(torch.arange(0)),
        defended=template.defended.take(torch.arange(0)),
        metadata={"model": "small_cnn", "note": 'A Ünïcode "quoted"'},
    )
    path = tmp_path / "empty.parquet"
    write_attempts(path, empty)
    assert_same(read_attempts(path), empty)


def test_columns_are_plain_to_other_readers(tmp_path: Path) -> None:
    table = random_table(3)
    path = tmp_path / "attempts.parquet"
    write_attempts(path, table)
    rows = pyarrow.parquet.read_table(str(path))
    assert rows.column("attack").to_pylist() == list(table.attack)
    assert rows.column("base_prediction").to_pylist() == table.base.prediction.tolist()
    assert rows.column("defended_confidence").to_pylist() == table.defended.confidence.tolist()


def test_what_is_not_an_attempt_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "attempts.parquet"
    with pytest.raises(FileNotFoundError):
        read_attempts(path)
    path.write_text("hello")
    with pytest.raises(ValueError, match="is not a Parquet file"):
        read_attempts(path)
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), str(path))
    with pytest.raises(ValueError, match="version none, expected 1"):
        read_attempts(path)
    write_attempts(path, random_table(0))
    rows = pyarrow.parquet.read_table(str(path))
    pyarrow.parquet.write_table(rows.drop_columns(["seed", "base_accepted"]), str(path))
    with pytest.raises(ValueError, match="lacks the columns base_accepted, seed"):
        read_attempts(path)
    late = rows.replace_schema_metadata({b"hcnn_fast.attempts": b"2"})
    pyarrow.parquet.write_table(late, str(path))
    with pytest.raises(ValueError, match="version 2, expected 1"):
        read_attempts(path)


def test_missing_pyarrow_is_named_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'pyarrow is missing: pip install "hcnn_fast\[cli\]"'):
        write_attempts(tmp_path / "attempts.parquet", random_table(0))
    assert not list(tmp_path.iterdir())


def test_a_file_from_before_a_column_reads_as_not_measured(tmp_path: Path) -> None:
    table = random_table(3)
    path, older = tmp_path / "now.parquet", tmp_path / "older.parquet"
    write_attempts(path, table)
    rows = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(rows.drop_columns(["loss"]), older)
    found = read_attempts(older)
    assert (found.loss == -1.0).all()
    assert torch.equal(found.base.confidence, table.base.confidence)
    assert not torch.equal(found.loss, table.loss)
