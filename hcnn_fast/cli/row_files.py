"""Tables of rows as JSON lines, CSV or Parquet, complete under their name or marked as partial."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

from hcnn_fast.cli.failures import WrongUsage
from hcnn_fast.cli.interruption import deferred_interrupt
from hcnn_fast.jobs.parts import parquet_schema

Row = Mapping[str, Any]
SUFFIXES = (".jsonl", ".csv", ".parquet")


class RowStream(Protocol):
    """One format of rows, open for writing."""

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows."""

    def close(self) -> None:
        """Finish the file; what was written until now is valid."""


class JsonLines:
    """One JSON object per line; a missing value is null."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows, and hand them to the system so that a reader sees them."""
        for row in rows:
            self._stream.write(json.dumps(row, allow_nan=False) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Flush; standard output stays open."""
        self._stream.flush()
        if self._stream is not sys.stdout:
            self._stream.close()


class CommaSeparated:
    """RFC 4180 with a header line; a missing value is an empty cell."""

    def __init__(self, stream: IO[str], columns: Sequence[str]) -> None:
        self._stream = stream
        self._writer = csv.DictWriter(stream, columns)
        self._writer.writeheader()

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        self._writer.writerows(rows)
        self._stream.flush()

    def close(self) -> None:
        """Finish the file."""
        self._stream.close()


class Parquet:
    """One row group per call of `write`."""

    def __init__(self, path: Path, columns: Mapping[str, type]) -> None:
        self._schema = parquet_schema(columns)
        import pyarrow
        import pyarrow.parquet

        self._table = pyarrow.Table
        self._writer = pyarrow.parquet.ParquetWriter(str(path), self._schema)

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows as one row group."""
        if rows:
            self._writer.write_table(self._table.from_pylist([dict(r) for r in rows], self._schema))

    def close(self) -> None:
        """Write the footer, without which no reader opens the file."""
        self._writer.close()


class UnfinishedFile:
    """A file under a temporary name beside `path`, which gets its name when it is complete.

    Creating one checks that the folder exists and can be written to.

    Raises:
        WrongUsage: the folder is missing or not writable, or `path` is a folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
        if not path.parent.is_dir():
            raise WrongUsage(f"{path}: there is no folder {path.parent}")
        if path.is_dir():
            raise WrongUsage(f"{path} is a folder, expected the name of a file")
        try:
            self.temporary.touch()
        except OSError as error:
            raise WrongUsage(f"{path.parent} cannot be written to: {error.strerror}") from error

    @property
    def partial(self) -> Path:
        """Where an incomplete file is kept."""
        return self.path.with_name(f"{self.path.stem}.partial{self.path.suffix}")

    def keep(self, *, complete: bool) -> Path:
        """Give the file its name, or that of a partial one; returns the name."""
        name = self.path if complete else self.partial
        os.replace(self.temporary, name)
        return name

    def discard(self) -> None:
        """Remove the temporary file."""
        self.temporary.unlink(missing_ok=True)


class RowFile:
    """Rows into a file by its suffix, or as JSON lines to standard output; a context manager.

    Left by an exception it keeps what was written as `<name>.partial<suffix>`, if anything was.

    Attributes:
        count: rows written.
        kept: where the file is after the end; None on standard output or if there is none.

    Raises:
        WrongUsage: unknown suffix, or a place that cannot be written to.
    """

    def __init__(self, path: Path | None, columns: Mapping[str, type]) -> None:
        self.count = 0
        self.kept: Path | None = None
        self._file: UnfinishedFile | None = None
        self._stream = self._open(path, columns)

    def _open(self, path: Path | None, columns: Mapping[str, type]) -> RowStream:
        if path is None:
            return JsonLines(sys.stdout)
        openers: dict[str, Callable[[Path], RowStream]] = {
            ".jsonl": lambda p: JsonLines(p.open("w", encoding="utf-8")),
            ".csv": lambda p: CommaSeparated(
                p.open("w", encoding="utf-8", newline=""), tuple(columns)
            ),
            ".parquet": lambda p: Parquet(p, columns),
        }
        if path.suffix not in openers:
            raise WrongUsage(f"{path}: unknown suffix, expected one of {', '.join(SUFFIXES)}")
        self._file = UnfinishedFile(path)
        try:
            return openers[path.suffix](self._file.temporary)
        except BaseException:
            self._file.discard()
            raise

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        with deferred_interrupt():
            self._stream.write(rows)
            self.count += len(rows)

    def __enter__(self) -> RowFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is None:
            if error is None:
                self._stream.close()
            return
        with deferred_interrupt():
            try:
                self._stream.close()
                if error is None or self.count > 0:
                    self.kept = self._file.keep(complete=error is None)
            finally:
                self._file.discard()
