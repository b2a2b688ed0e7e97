"""How commands end: one line, the exit code, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from hcnn_fast._version import __version__
from hcnn_fast.cli import application, failures
from hcnn_fast.cli.main import main

Run = Callable[..., Any]  # the fixture of conftest.py

WRONG_USAGE = [
    ([], "Missing command"),
    (["nonsense"], "No such command 'nonsense'"),
    (["defend"], "Missing argument 'INPUT'"),
    (["info", "--nonsense"], "No such option: --nonsense"),
    (["defend", "x.png", "--radius", "wide"], "'--radius'"),
    (["defend", "x.png", "--objective", "best"], "'--objective'"),
    (["defend", "x.png", "--limit", "0"], "'--limit'"),
    (["demo", "--images", "1"], "'--images'"),
]


@pytest.mark.parametrize(("words", "said"), WRONG_USAGE, ids=str)
def test_wrong_usage_is_one_line_and_code_2(run: Run, words: list[str], said: str) -> None:
    code, out, err = run(*words)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err


def test_version_is_printed(run: Run) -> None:
    assert run("--version") == (0, f"hcnn-fast {__version__}\n", "")


@pytest.mark.parametrize("command", ["", "demo", "defend", "attack", "train", "info"])
def test_help_is_printed(run: Run, command: str) -> None:
    code, out, err = run(*command.split(), "--help")
    assert (code, err) == (0, "")
    assert "Usage: hcnn-fast" in out


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make `info` fail with a given exception."""
    commands = {c.callback.__name__: c for c in application.application.registered_commands}

    def fail_with(error: BaseException) -> None:
        def info() -> NoReturn:
            raise error

        monkeypatch.setattr(commands["info"], "callback", info)

    return fail_with


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("radius is -1"), 2, "radius is -1"),
        (TypeError("seed is 'a'"), 2, "seed is 'a'"),
        (FileNotFoundError(2, "No such file or directory", "x.npy"), 2, "x.npy: No such file"),
        (NotADirectoryError(20, "Not a directory", "x/y"), 2, "x/y: Not a directory"),
        (failures.WrongUsage("two\nlines\tand a tab"), 2, "two lines and a tab"),
        (failures.FailedRun("the disk is full"), 1, "the disk is full"),
        (OSError(28, "No space left on device", "rows.csv"), 1, "rows.csv: No space left"),
        (RuntimeError("a kernel\nfailed"), 1, "RuntimeError: a kernel failed"),
        (RuntimeError("CUDA out of memory. Tried"), 1, "out of memory; a smaller --batch-size"),
        (MemoryError(), 1, "out of memory; a smaller --batch-size"),
        (KeyError("x"), 1, "KeyError: 'x'"),
        (ValueError(), 2, "ValueError:"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), 1, "UnicodeDecodeError:"),
        (ModuleNotFoundError("No module", name="pyarrow"), 1, "pip install 'hcnn_fast[cli]'"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (failures.Interrupted("interrupted after 3 of 9"), 130, "interrupted after 3 of 9"),
        (BrokenPipeError(32, "Broken pipe"), 1, "standard output was closed by its reader"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_exception_becomes_one_line_and_its_code(
    run: Run, failing: Callable[[BaseException], None], error: BaseException, code: int, line: str
) -> None:
    failing(error)
    found, out, err = run("info")
    assert found == code
    assert out == ""
    assert err.startswith("error: ")
    assert line in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("way", ["before", "after", "environment"])
def test_debug_prints_the_traceback_before_the_line(
    run: Run, failing: Callable[[BaseException], None], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    failing(ValueError("radius is -1"))
    if way == "environment":
        monkeypatch.setenv("HCNN_FAST_DEBUG", "1")
    words = {"before": ["--debug", "info"], "after": ["info", "--debug"], "environment": ["info"]}
    code, _, err = run(*words[way])
    assert code == 2
    assert err.startswith("Traceback (most recent call last):")
    assert err.endswith("error: radius is -1\n")


def test_debug_is_off_for_0_in_the_environment(
    run: Run, failing: Callable[[BaseException], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(ValueError("radius is -1"))
    monkeypatch.setenv("HCNN_FAST_DEBUG", "0")
    assert run("info").err == "error: radius is -1\n"


def test_arguments_come_from_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["hcnn-fast", "--version"])
    assert main() == 0
    assert __version__ in capsys.readouterr().out


PROBE = """
import sys
from hcnn_fast.cli.main import main
codes = [main(["--help"]), main(["defend"]), main(["defend", "nothing.png"])]
assert codes == [0, 2, 2], codes
heavy = {"torchvision", "matplotlib", "pyarrow", "PIL", "scipy"} & set(sys.modules)
assert not heavy, heavy
for name in ("typer", "rich"):
    for key in [key for key in sys.modules if key.split(".")[0] == name]:
        del sys.modules[key]
for key in [key for key in sys.modules if key.startswith("hcnn_fast.cli.")]:
    del sys.modules[key]
sys.modules["typer"] = None
from hcnn_fast.cli.main import main
sys.exit(main(["--help"]))
"""


def test_start_is_light_and_a_missing_extra_is_named() -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROBE],
        capture_output=True,
        text=True,
        timeout=120,
        env=dict(os.environ),
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    assert ended.stderr.splitlines()[-1] == (
        "error: this needs typer, not installed here; run: pip install 'hcnn_fast[cli]'"
    )
    assert ended.returncode == 1
