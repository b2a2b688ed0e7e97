"""An error put into a copy of the sources on purpose: a test that matters must see it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PlantedError:
    """A text of a file, what replaces it, and the operation that it spoils."""

    file: str
    right: str
    wrong: str
    operation: str

    def plant(self, folder: Path) -> None:
        """Put the error into the file of this folder."""
        path = folder / self.file
        text = path.read_text()
        assert text.count(self.right) == 1, f"{self.file} has no longer one {self.right!r}"
        path.write_text(text.replace(self.right, self.wrong))
