"""Entry point of `hcnn-fast`: parse, run, and end with one line and an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence

from hcnn_fast.cli import failures


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 failed, 2 wrong usage.

    An error is one line on stderr. The flag --debug, anywhere, or HCNN_FAST_DEBUG=1 in the
    environment prints the traceback before it.

    Args:
        arguments: the words after the program's name; None takes them from `sys.argv`.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words or os.environ.get("HCNN_FAST_DEBUG", "0") not in ("", "0")
    words = [word for word in words if word != "--debug"]
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except (Exception, KeyboardInterrupt) as error:
        _report(error, debug)
        return failures.exit_code(error)


def _run(words: list[str]) -> int:
    import typer

    from hcnn_fast.cli.application import application

    command = typer.main.get_command(application)
    try:
        with command.make_context("hcnn-fast", words) as context:
            command.invoke(context)
    except typer.Exit as ended:  # --help and --version
        return ended.exit_code
    return failures.DONE


def _report(error: BaseException, debug: bool) -> None:
    try:
        if debug:
            traceback.print_exception(error)
        print(f"error: {failures.describe(error)}", file=sys.stderr, flush=True)
        sys.stdout.flush()
    except BrokenPipeError:
        # Its reader has gone; keep the interpreter from flushing into the pipe again at the end.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
