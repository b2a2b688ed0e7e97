"""The points that a search found, as one `.npy` array that grows."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import IO

import numpy
from torch import Tensor

from hcnn_fast.cli.failures import WrongUsage
from hcnn_fast.cli.row_files import UnfinishedFile


class PointFile:
    """float32 [N, *image], row i beside row i of the table; a context manager.

    The header is written first with no rows and again at the end with all of them: NumPy pads it
    so that the first axis can grow. Left by an exception it keeps what was written as
    `<name>.partial.npy`, if anything was.

    Raises:
        WrongUsage: the suffix is not .npy, or the place cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix != ".npy":
            raise WrongUsage(f"{path}: unknown suffix, expected .npy")
        self.count = 0
        self._shape: tuple[int, ...] = ()
        self._file = UnfinishedFile(path)
        self._stream: IO[bytes] = self._file.temporary.open("wb")

    def begin(self, shape: tuple[int, ...]) -> None:
        """Say the shape of one point, before the first is written."""
        self._shape = shape
        self._write_header()

    def _write_header(self) -> None:
        header = {
            "descr": numpy.lib.format.dtype_to_descr(numpy.dtype("<f4")),
            "fortran_order": False,
            "shape": (self.count, *self._shape),
        }
        numpy.lib.format.write_array_header_1_0(self._stream, header)

    def write(self, points: Tensor) -> None:  # [n, *image] float32
        """Append points."""
        values = points.detach().cpu().contiguous().numpy().astype("<f4", copy=False)
        self._stream.write(values.tobytes())
        self.count += len(values)

    def __enter__(self) -> PointFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._stream.seek(0)
            self._write_header()
            self._stream.close()
            if error is None or self.count > 0:
                self._file.keep(complete=error is None)
        finally:
            self._file.discard()
