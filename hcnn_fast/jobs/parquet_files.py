"""Images in Parquet files, on a disk or in an object store, read a row group at a time."""

from __future__ import annotations

import bisect
import hashlib
import io
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from hcnn_fast.failures import FailedRun, WrongUsage
from hcnn_fast.jobs.array_files import ArrayFile
from hcnn_fast.jobs.image_files import ImageFormat, read_image
from hcnn_fast.jobs.readers import Chunk

SUFFIX = ".parquet"
IMAGE, LABEL = "image", "label"


def is_address(text: str) -> bool:
    """Whether a text names something in an object store, such as s3://bucket/folder."""
    return "://" in text


def open_parquet(text: str, key: str | None, form: ImageFormat, skip_bad: bool) -> ParquetReader:
    """Find the Parquet files that an address, a file or a folder names, and read their footers.

    Args:
        text: a path, or an address that pyarrow knows (s3://, gs://, hdfs://, file://).
        key: the column of the images; None: the one that is called "image".
        form: what the images must become; of a known shape.
        skip_bad: report unreadable images instead of stopping at them.

    Raises:
        WrongUsage: no such files, or no such column.
        FailedRun: a file that is not readable Parquet.
    """
    import pyarrow
    import pyarrow.parquet

    if form.shape is None:
        raise WrongUsage("the model does not say what images it takes, and Parquet does not either")
    column = IMAGE if key is None else key
    files, counts = [], []
    system, root = _place(text)
    for path in _listed(system, root):
        try:
            file = pyarrow.parquet.ParquetFile(system.open_input_file(path))
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise FailedRun(f"{path} is not a readable Parquet file ({error})") from error
        names = file.schema_arrow.names
        if column not in names:
            raise WrongUsage(
                f"{path} has no column {column!r} of images; it has {', '.join(names)} (--key)"
            )
        # Sizes and, where they are kept, least and largest values of every column and group.
        footer = hashlib.blake2b(repr(file.metadata.to_dict()).encode(), digest_size=16)
        files.append((path, footer.hexdigest()))
        counts.append(file.metadata.num_rows)
    if not files:
        raise WrongUsage(f"{text} holds no {SUFFIX} file")
    return ParquetReader(text, tuple(files), tuple(accumulate(counts)), column, form, skip_bad)


def _place(text: str) -> tuple[Any, str]:
    """The file system that an address means, and the path there."""
    import pyarrow
    import pyarrow.fs

    if not is_address(text):
        return pyarrow.fs.LocalFileSystem(), text
    try:
        system, path = pyarrow.fs.FileSystem.from_uri(text)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise WrongUsage(f"{text} is no address that pyarrow can open ({error})") from error
    return system, path


def _listed(system: Any, root: str) -> list[str]:
    """Paths of the Parquet files at a place, in the order of their names."""
    import pyarrow.fs

    found = system.get_file_info(root)
    if found.type == pyarrow.fs.FileType.Directory:
        inside = system.get_file_info(pyarrow.fs.FileSelector(root, recursive=True))
        return sorted(f.path for f in inside if f.path.endswith(SUFFIX))
    if found.type != pyarrow.fs.FileType.File:
        raise WrongUsage(f"{root}: no such file or folder")
    return [root]


@dataclass(frozen=True)
class _Group:
    first: int  # image
    table: Any


class ParquetReader:
    """The images of Parquet files, in the order of their names; a `ChunkReader`.

    An image is a PNG or JPEG file (binary, or a struct with the field `bytes`), or a list of uint8
    or floats, nested or flat, in the order of the model's axes. Integers in a column `label` are
    the true labels.

    Args:
        text: where the files are.
        files: path of each, and a hash of its footer.
        ends: images up to the end of each.
        key: the column of the images.
        form: what they must become.
        skip_bad: report unreadable images instead of stopping at them.
    """

    def __init__(
        self,
        text: str,
        files: tuple[tuple[str, str], ...],
        ends: tuple[int, ...],
        key: str,
        form: ImageFormat,
        skip_bad: bool,
    ) -> None:
        self.text, self.files, self.ends = text, files, ends
        self.key, self.form, self.skip_bad = key, form, skip_bad
        self._group: _Group | None = None

    @property
    def count(self) -> int:
        """Number of images."""
        return self.ends[-1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_group": None}  # every process reads for itself

    def read(self, first: int, count: int) -> Chunk:
        """See `ChunkReader`.

        Raises:
            FailedRun, WrongUsage: an image cannot be used, where bad ones are not skipped.
        """
        assert self.form.shape is not None
        names: list[str] = []
        errors: list[str | None] = []
        images: list[Tensor] = []
        targets: list[int | None] = []
        for index in range(first, first + count):
            group = self._group_of(index)
            row = group.table.slice(index - group.first, 1).to_pylist()[0]
            name = f"{self.text}[{index}]"
            label = row.get(LABEL)
            names.append(name)
            targets.append(label if isinstance(label, int) else None)
            try:
                images.append(self._image(row[self.key], name))
                errors.append(None)
            except (FailedRun, WrongUsage) as error:
                if not self.skip_bad:
                    raise
                errors.append(str(error))
        stacked = torch.stack(images) if images else torch.empty(0, *self.form.shape)
        return Chunk(tuple(names), tuple(errors), stacked, tuple(targets))

    def _group_of(self, index: int) -> _Group:
        """The row group with an image: the latest is kept, for images come in order."""
        kept = self._group
        if kept is not None and kept.first <= index < kept.first + len(kept.table):
            return kept
        import pyarrow
        import pyarrow.parquet

        which = bisect.bisect_right(self.ends, index)
        first = self.ends[which - 1] if which else 0
        path, _ = self.files[which]
        system, _ = _place(self.text)
        try:
            file = pyarrow.parquet.ParquetFile(system.open_input_file(path))
            number = 0
            while index >= first + file.metadata.row_group(number).num_rows:
                first += file.metadata.row_group(number).num_rows
                number += 1
            wanted = [name for name in (self.key, LABEL) if name in file.schema_arrow.names]
            self._group = _Group(first, file.read_row_group(number, columns=wanted))
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise FailedRun(f"{path} is not a readable Parquet file ({error})") from error
        return self._group

    def _image(self, value: Any, name: str) -> Tensor:  # [C, H, W] float32
        content = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(content, bytes):
            return read_image(Path(name), self.form, io.BytesIO(content))
        assert self.form.shape is not None
        try:
            numbers = numpy.asarray(content).reshape(1, *self.form.shape)
        except (ValueError, TypeError) as error:
            raise WrongUsage(f"{name} holds no image of shape {list(self.form.shape)}") from error
        if numbers.dtype.kind in "iu" and 0 <= numbers.min() and numbers.max() <= 255:
            numbers = numbers.astype(numpy.uint8)
        elif numbers.dtype.kind != "f":
            raise WrongUsage(f"{name} holds {numbers.dtype}; expected uint8 or floats in bounds")
        array = ArrayFile(Path(name), None, numbers.shape, numbers.dtype, "none")
        images, faults = array.read(numbers, self.form.bounds)
        if faults[0] is not None:
            raise WrongUsage(f"{name} {faults[0]}")
        return images[0]

    def identity(self) -> dict[str, Any]:
        """See `ChunkReader`: names and footers of the files, whose contents are not read for it."""
        files = hashlib.blake2b(repr(self.files).encode(), digest_size=16).hexdigest()
        return {
            "name": self.text,
            "column": self.key,
            "form": repr(self.form),
            "files": files,
        }
