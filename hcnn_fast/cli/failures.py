"""How a command ends: exit codes, and every error as one line."""

from __future__ import annotations

import os
import re

from hcnn_fast.failures import FailedRun as FailedRun
from hcnn_fast.failures import WrongUsage as WrongUsage

DONE = 0
FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells report it

OPTIONAL_MODULES = ("typer", "rich", "matplotlib", "PIL", "pyarrow", "safetensors")
USAGE_ERRORS = (ValueError, TypeError, FileNotFoundError, NotADirectoryError)


class Interrupted(Exception):
    """Ctrl-C; the message says how far the command got."""


def exit_code(error: BaseException) -> int:
    """The exit code that an exception stands for."""
    if isinstance(error, (Interrupted, KeyboardInterrupt)):
        return INTERRUPTED
    if isinstance(error, WrongUsage) or is_command_line_error(error):
        return WRONG_USAGE
    if isinstance(error, USAGE_ERRORS) and not isinstance(error, UnicodeError):
        return WRONG_USAGE
    return FAILED


def is_command_line_error(error: BaseException) -> bool:
    """Whether the parser of the command line raised it (unknown option, bad value, ...)."""
    return hasattr(error, "format_message") and getattr(error, "exit_code", None) == WRONG_USAGE


def describe(error: BaseException) -> str:
    """An exception as one line; the type is named where the message was not written for users."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, BrokenPipeError):
        return "standard output was closed by its reader"
    if is_command_line_error(error):
        message = error.format_message()  # type: ignore[attr-defined]  # click has it
        return one_line(f"{message.rstrip('.')} (see hcnn-fast --help)")
    if isinstance(error, ModuleNotFoundError) and error.name in OPTIONAL_MODULES:
        return f"this needs {error.name}, not installed here; run: pip install 'hcnn_fast[cli]'"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return one_line(f"{os.fsdecode(error.filename)}: {error.strerror}")
    if "out of memory" in str(error) or isinstance(error, MemoryError):
        return one_line(f"out of memory; a smaller --batch-size needs less ({error})")
    expected = (WrongUsage, FailedRun, Interrupted, ImportError, *USAGE_ERRORS)
    if isinstance(error, expected) and str(error) and not isinstance(error, UnicodeError):
        return one_line(str(error))
    return one_line(f"{type(error).__name__}: {error}")


def one_line(text: str) -> str:
    """The text with every run of white space and control characters made one blank."""
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", text).strip()
