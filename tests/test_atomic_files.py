"""Files are replaced whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import pytest

from hcnn_fast.atomic_files import write_atomically


def test_a_write_makes_the_file_or_replaces_it_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "numbers.bin"
    write_atomically(path, lambda file: file.write(b"a long first content"))
    assert path.read_bytes() == b"a long first content"
    write_atomically(path, lambda file: file.write(b"second"))
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "numbers.bin"
    path.write_bytes(b"whole")

    def fail(file: IO[bytes]) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]
