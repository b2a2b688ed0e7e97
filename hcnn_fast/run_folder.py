"""The folder of a run that may be killed: its fingerprint, and a lock while somebody is at work."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from hcnn_fast.atomic_files import write_atomically

Resume = Literal["automatic", "always", "never"]

RUN, LOCK = "run.json", ".lock"


@contextmanager
def open_run(
    folder: Path,
    fingerprint: Mapping[str, Any],
    resume: Resume = "automatic",
) -> Iterator[None]:
    """Begin a run in a folder, or go on with the one that is there.

    One process at a time may hold a folder; the lock goes with the process, however that ends.

    Args:
        folder: is made where missing.
        fingerprint: everything that decides the content of the run, as values of JSON.
        resume: "automatic": go on with what is there, if anything is; "always": something must be
            there; "never": nothing may be.

    Raises:
        OSError: the folder cannot be written to.
        ValueError: the folder holds a run with another fingerprint, or `resume` forbids to go on;
            or another process is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"{folder} is in use by another run; wait for its end") from error
        _check_run(folder, fingerprint, resume)
        for left in folder.rglob(".*.part"):  # of a write that was killed
            # A worker of a run that ended on another's failure may be finishing its file just now.
            left.unlink(missing_ok=True)
        yield


def _check_run(folder: Path, fingerprint: Mapping[str, Any], resume: Resume) -> None:
    path = folder / RUN
    if not path.is_file():
        if resume == "always":
            raise ValueError(f"{folder} holds no run to go on with; leave out --resume always")
        text = json.dumps(fingerprint, indent=2, sort_keys=True)
        write_atomically(path, lambda file: file.write(f"{text}\n".encode()))
        return
    if resume == "never":
        raise ValueError(f"{folder} holds a run already; choose another --output")
    try:
        stored = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}); choose another --output") from error
    unlike = differences(stored, json.loads(json.dumps(fingerprint)))
    if unlike:
        raise ValueError(
            f"{folder} holds another run ({'; '.join(unlike)}); choose another --output"
        )


def differences(stored: Any, asked: Any, name: str = "") -> list[str]:
    """In which values two records of JSON differ, each as "name was ..., now ..."."""
    if isinstance(stored, dict) and isinstance(asked, dict):
        found = []
        for key in sorted({*stored, *asked}):
            inner = f"{name}.{key}" if name else key
            found += differences(stored.get(key), asked.get(key), inner)
        return found
    return [] if stored == asked else [f"{name} was {_short(stored)}, now {_short(asked)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else f"{text[:12]}..."
