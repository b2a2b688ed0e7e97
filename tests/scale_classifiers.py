"""Classifiers that disturb a job: kill or slow their worker, fill its disk, tell where they run."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from hcnn_fast import atomic_files

VALUES, CLASSES = 30, 3
PAUSE, SLOW = 0.05, 0.5  # seconds
MEETING = 60.0  # seconds, at most
_passes = 0  # through any model of this process


class Linear(nn.Module):
    """One layer whose rounding depends on how many images pass together; may do more at a pass.

    Args:
        folder: where it leaves its marks.
        deed: "kill", once, in the middle of a chunk; "fill", once; "tell" its node, and wait for
            another to tell; "wait" at every pass; "slow", a long time at every pass of the worker
            that comes first, and tell whose passes there were.
    """

    def __init__(self, folder: Path | None = None, deed: str = "") -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layer = nn.Linear(VALUES, CLASSES)
        with torch.no_grad():
            for parameter in self.layer.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.folder, self.deed = None if folder is None else str(folder), deed

    def forward(self, x: Tensor) -> Tensor:
        global _passes
        _passes += 1
        if self.folder is not None:
            self._do(Path(self.folder))
        return self.layer(x.flatten(1))

    def _do(self, folder: Path) -> None:
        if self.deed == "wait":
            time.sleep(PAUSE)
        elif self.deed == "slow":
            with contextlib.suppress(FileExistsError), (folder / "slow").open("x") as mark:
                mark.write(str(os.getpid()))
            slow = (folder / "slow").read_text() == str(os.getpid())
            with (folder / ("slow passes" if slow else "other passes")).open("a") as passes:
                passes.write(".")
            time.sleep(SLOW if slow else 0.0)
        elif self.deed == "tell":
            ray = __import__("ray")
            (folder / ray.get_runtime_context().get_node_id()).touch()
            deadline = time.monotonic() + MEETING
            while len(list(folder.iterdir())) < 2 and time.monotonic() < deadline:
                time.sleep(PAUSE)
        elif _passes > 12 and not (folder / self.deed).exists():
            (folder / self.deed).touch()
            if self.deed == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            atomic_files.os = FullDisk(folder)


class FullDisk:
    """The module os, on a disk that is full while the file `full` is there."""

    def __init__(self, folder: Path) -> None:
        self._full = folder / "full"
        self._full.touch()

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def fsync(self, file: int) -> None:
        if self._full.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file)


def waiting() -> nn.Module:
    """For the command line: every pass takes a while."""
    return Linear(Path("."), "wait")


def plain() -> nn.Module:
    """For the command line."""
    return Linear()
