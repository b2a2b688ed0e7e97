"""Progress bars on a terminal, and nowhere else."""

from __future__ import annotations

import io
import os
import sys

import pytest

from hcnn_fast.cli.progress import progress_bar


def shown_on_a_terminal(monkeypatch: pytest.MonkeyPatch, *, quiet: bool) -> str:
    master, slave = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(master, "rb", buffering=0) as reader:
        with os.fdopen(slave, "w") as terminal:
            monkeypatch.setattr(sys, "stderr", terminal)
            with progress_bar("Searching", 3, quiet=quiet) as advance:
                advance(3)
            terminal.write("end")
        shown = b""
        while not shown.endswith(b"end"):
            shown += reader.read(4096)
    return shown.decode()


def test_bar_is_shown_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = shown_on_a_terminal(monkeypatch, quiet=False)
    assert "Searching" in shown
    assert "3/3" in shown


def test_no_bar_is_shown_when_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown_on_a_terminal(monkeypatch, quiet=True) == "end"


def test_no_bar_is_shown_when_piped(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stderr", pipe)
    with progress_bar("Searching", None, quiet=False) as advance:
        advance(3)
    assert pipe.getvalue() == ""
