"""The rows of a chunk in a Parquet file of its own, whole or absent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hcnn_fast.atomic_files import write_atomically

ROWS = "rows"


def parquet_schema(columns: Mapping[str, type]) -> Any:
    """The pyarrow schema of columns of ints, floats, bools and strings.

    Raises:
        ImportError: pyarrow is not installed; says how to get it.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError('pyarrow is missing: pip install "hcnn_fast[cli]"') from error
    types = {
        int: pyarrow.int64(),
        float: pyarrow.float64(),
        bool: pyarrow.bool_(),
        str: pyarrow.string(),
    }
    return pyarrow.schema([(name, types[kind]) for name, kind in columns.items()])


@dataclass(frozen=True)
class RowParts:
    """The rows of N images, as the files of their chunks.

    Attributes:
        folder: the run's folder; the files are in its subfolder `rows`.
        images: N.
        chunk: images of a chunk; the last may have fewer.
        columns: names and types of the rows' values.
    """

    folder: Path
    images: int
    chunk: int
    columns: Mapping[str, type]

    def path(self, first: int) -> Path:
        """The file of the chunk that begins at image `first`."""
        return self.folder / ROWS / f"{first:012d}.parquet"

    def firsts(self) -> range:
        """Where the chunks begin."""
        return range(0, self.images, self.chunk)

    def size(self, first: int) -> int:
        """Images of the chunk that begins at `first`."""
        return min(self.chunk, self.images - first)

    def missing(self) -> list[int]:
        """Where the chunks begin that have no file yet."""
        folder = self.folder / ROWS
        found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        return [first for first in self.firsts() if self.path(first).name not in found]

    def write(self, first: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Store a chunk, all or nothing.

        Raises:
            OSError: the folder cannot be written to or is full.
        """
        schema = parquet_schema(self.columns)
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.Table.from_pylist([dict(row) for row in rows], schema)
        path = self.path(first)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: pyarrow.parquet.write_table(table, file))

    def read(self, first: int) -> list[dict[str, Any]]:
        """The rows of a chunk.

        Raises:
            ValueError: the file cannot be read, or holds other rows than those of its chunk.
        """
        import pyarrow
        import pyarrow.parquet

        path = self.path(first)
        try:
            rows: list[dict[str, Any]] = pyarrow.parquet.read_table(str(path)).to_pylist()
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path} cannot be read ({error}); delete it") from error
        expected = list(range(first, first + self.size(first)))
        if [row.get("index") for row in rows] != expected:
            raise ValueError(f"{path} holds other rows than those of its chunk; delete it")
        return rows

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        return (self.read(first) for first in self.firsts())
