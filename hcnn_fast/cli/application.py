"""The commands of `hcnn-fast`."""

from __future__ import annotations

from typing import Annotated

import typer

from hcnn_fast._version import __version__
from hcnn_fast.cli.attack import attack
from hcnn_fast.cli.bench import bench
from hcnn_fast.cli.defend import defend
from hcnn_fast.cli.demo import demo
from hcnn_fast.cli.evaluate import evaluate
from hcnn_fast.cli.info import info
from hcnn_fast.cli.serve import serve
from hcnn_fast.cli.train import train

application = typer.Typer(
    name="hcnn-fast",
    help="Fast defended inference: confidence search in the l_inf ball around each input.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hcnn-fast {__version__}")
        raise typer.Exit


@application.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it and end."),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug",
            help="Print the traceback of an error (accepted anywhere on the line).",
        ),
    ] = False,
) -> None:
    """Fast defended inference: confidence search in the l_inf ball around each input."""


application.command()(demo)
application.command()(defend)
application.command()(attack)
application.command()(evaluate)
application.command()(train)
application.command()(bench)
application.command()(serve)
application.command()(info)
