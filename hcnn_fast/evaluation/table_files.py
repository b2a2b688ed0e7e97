"""Attempt tables on disk: Parquet with a version, so that metrics can be recomputed by anyone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from hcnn_fast.atomic_files import write_atomically
from hcnn_fast.evaluation.answers import ANSWER_COLUMNS, Answers
from hcnn_fast.evaluation.table import NO_LOSS, NUMBER_COLUMNS, TEXT_COLUMNS, AttemptTable

VERSION = 1
VERSION_KEY, METADATA_KEY = b"hcnn_fast.attempts", b"hcnn_fast.metadata"
CLASSIFIERS = ("base", "defended")
LATER = {"loss": NO_LOSS}  # columns that older files lack, and what stands for them


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError('pyarrow is missing: pip install "hcnn_fast[cli]"') from error
    return pyarrow


def write_attempts(path: Path, table: AttemptTable) -> None:
    """Write a table as Parquet; `path` holds the old content or all of the new.

    Args:
        path: file to be made or replaced; its folder must exist.
        table: what to write; the classifiers' columns get the prefixes "base_" and "defended_".

    Raises:
        ImportError: pyarrow is not installed; says how to get it.
        OSError: the folder cannot be written to or is full.
    """
    pyarrow = _pyarrow()
    columns = {name: pyarrow.array(getattr(table, name).numpy()) for name in NUMBER_COLUMNS}
    for name in TEXT_COLUMNS:
        columns[name] = pyarrow.array(getattr(table, name), pyarrow.string())
    for classifier in CLASSIFIERS:
        answers = getattr(table, classifier)
        for name in ANSWER_COLUMNS:
            values = getattr(answers, name).numpy()
            columns[f"{classifier}_{name}"] = pyarrow.array(values)
    description = {
        VERSION_KEY: str(VERSION),
        METADATA_KEY: json.dumps(dict(table.metadata), sort_keys=True),
    }
    rows = pyarrow.table(columns).replace_schema_metadata(description)
    write_atomically(path, lambda file: pyarrow.parquet.write_table(rows, file))


def read_attempts(path: Path) -> AttemptTable:
    """Read what `write_attempts` wrote, every value as it was.

    Raises:
        ImportError: pyarrow is not installed; says how to get it.
        FileNotFoundError: there is no such file.
        TypeError, ValueError: not Parquet, not an attempt table, another version of it, a missing
            column, or rows that `AttemptTable` refuses.
    """
    pyarrow = _pyarrow()
    try:
        rows = pyarrow.parquet.read_table(str(path))
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not a Parquet file ({error})") from error
    description = rows.schema.metadata or {}
    version = description.get(VERSION_KEY, b"none").decode()
    if version != str(VERSION):
        raise ValueError(f"{path} has the attempt-table version {version}, expected {VERSION}")
    answer_names = [f"{c}_{name}" for c in CLASSIFIERS for name in ANSWER_COLUMNS]
    missing = {*NUMBER_COLUMNS, *TEXT_COLUMNS, *answer_names} - {*rows.column_names, *LATER}
    if missing:
        raise ValueError(f"{path} lacks the columns {', '.join(sorted(missing))}")

    def column(name: str) -> torch.Tensor:  # [R]
        if name in LATER and name not in rows.column_names:
            return torch.full((len(rows),), LATER[name], dtype=NUMBER_COLUMNS[name])
        return torch.from_numpy(rows.column(name).to_numpy().copy())

    columns: dict[str, Any] = {name: column(name) for name in NUMBER_COLUMNS}
    for name in TEXT_COLUMNS:
        columns[name] = tuple(rows.column(name).to_pylist())
    base, defended = (
        Answers(**{name: column(f"{classifier}_{name}") for name in ANSWER_COLUMNS})
        for classifier in CLASSIFIERS
    )
    return AttemptTable(
        **columns,
        base=base,
        defended=defended,
        metadata=json.loads(description.get(METADATA_KEY, b"{}")),
    )
