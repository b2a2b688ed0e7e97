"""Objects on their way to other processes, classes of the user's own modules included."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Packed:
    """An object as bytes, which only the process that uses it takes apart.

    Attributes:
        content: the object, pickled with the classes of `__main__`, or a reference to that in Ray's
            object store.
        working: the sender's working directory, which relative names of files mean.
        imports: the folders that the sender imports from.
    """

    content: Any
    working: str
    imports: tuple[str, ...]

    @staticmethod
    def of(value: object, *, stored: bool = False) -> Packed:
        """Pack an object; `stored` puts it into Ray's object store, once for all receivers."""
        ray = importlib.import_module("ray")
        content = importlib.import_module("ray.cloudpickle").dumps(value)
        imports = tuple(place for place in sys.path if place)
        return Packed(ray.put(content) if stored else content, str(Path.cwd()), imports)

    def unpacked(self) -> Any:
        """The object; this process now works and imports where the sender does, as far as it can.

        On a machine without the sender's folders, Ray's own working directory stands for them.
        """
        if Path(self.working).is_dir():
            os.chdir(self.working)
        places = (self.working, *self.imports)
        sys.path += [p for p in places if p not in sys.path and Path(p).exists()]
        content = self.content
        if not isinstance(content, bytes):
            content = importlib.import_module("ray").get(content)
        return pickle.loads(content)
