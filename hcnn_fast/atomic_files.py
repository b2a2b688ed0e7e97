"""Files on disk that are whole or absent, never half-written."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file under a temporary name beside `path`, flush it to disk, then rename it.

    Whoever opens `path` finds the old content or the new, whatever interrupts the writing.

    Args:
        path: file to be replaced or made; its folder must exist.
        write: writes the content to the open file it is given.

    Raises:
        OSError: the folder cannot be written to or is full.
    """
    # Two machines may write into a shared folder from processes of the same number.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
