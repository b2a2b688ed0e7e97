"""Options of commands that make a row for every image: the images, the model, and the files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hcnn_fast.cli.engine_options import PANEL, Engine
from hcnn_fast.cli.failures import WrongUsage
from hcnn_fast.config import BackendName
from hcnn_fast.jobs.array_files import Layout
from hcnn_fast.run_folder import Resume

INPUT, SEARCH, RESULT = "Input and model", "Search", "Result"

SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="INPUT",
        help="A PNG or JPEG file, a folder of them, a .npy or .npz array, Parquet (a file, a"
        " folder, or an address such as s3://bucket/folder), or a data set and its split such"
        " as fashion-mnist:test.",
    ),
]
ModelOption = Annotated[
    str,
    typer.Option(
        help="A shipped model, or module:factory of a function that makes one.",
        rich_help_panel=INPUT,
    ),
]
CheckpointOption = Annotated[
    Path | None,
    typer.Option(
        help="Weights for the model: .safetensors, or a torch file of a state dict.",
        rich_help_panel=INPUT,
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(help="Array of an .npz file, or column of Parquet files.", rich_help_panel=INPUT),
]
LayoutOption = Annotated[
    Layout,
    typer.Option(
        help="Axes of an array. auto: N,C,H,W or N,H,W,C, whichever the model takes, and N,H,W"
        " as one channel; none: as they are.",
        rich_help_panel=INPUT,
    ),
]
BoundsOption = Annotated[
    tuple[float, float],
    typer.Option(help="Values of black and white for the model.", rich_help_panel=INPUT),
]
LimitOption = Annotated[
    int | None, typer.Option(min=1, help="First so many images.", rich_help_panel=INPUT)
]
ResizeOption = Annotated[
    bool, typer.Option("--resize", help="Fit images of another size.", rich_help_panel=INPUT)
]
ConvertOption = Annotated[
    bool,
    typer.Option(
        "--convert", help="Make grey of colour, drop transparency.", rich_help_panel=INPUT
    ),
]
SkipBadOption = Annotated[
    bool,
    typer.Option(
        "--skip-bad", help="Write an error row for an unusable image.", rich_help_panel=INPUT
    ),
]
DataRootOption = Annotated[
    Path | None, typer.Option(help="Folder of the data sets.", rich_help_panel=INPUT)
]
DownloadOption = Annotated[
    bool, typer.Option("--download", help="Fetch a missing data set.", rich_help_panel=INPUT)
]
BackendOption = Annotated[BackendName, typer.Option(help="Implementation.", rich_help_panel=SEARCH)]
DeviceOption = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:1; auto: CUDA if any.", rich_help_panel=SEARCH)
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(help="Candidates per pass; planned if not given.", rich_help_panel=SEARCH),
]
CompileOption = Annotated[
    bool,
    typer.Option("--compile", help="Passes by torch.compile.", rich_help_panel=SEARCH),
]
ResumeOption = Annotated[
    Resume,
    typer.Option(
        help="always: rows must be there to go on with; never: none may.",
        rich_help_panel=PANEL,
    ),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        help="File for the rows: .jsonl, .csv or .parquet. JSON lines on standard output if"
        " not given.",
        rich_help_panel=RESULT,
    ),
]
PointsOption = Annotated[
    Path | None,
    typer.Option(help=".npy file for the points found.", rich_help_panel=RESULT),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Summary as JSON on standard output.", rich_help_panel=RESULT),
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", help="No progress, no summary.", rich_help_panel=RESULT)
]


def check_results(
    engine: Engine,
    *,
    output: Path | None,
    points: Path | None,
    json_summary: bool,
    resume: Resume,
) -> None:
    """Refuse files and a summary that do not go together, or not with the engine.

    Raises:
        WrongUsage: says which.
    """
    if json_summary and output is None:
        raise WrongUsage("--json needs --output: standard output carries the rows")
    if engine == "ray" and output is None:
        raise WrongUsage("--engine ray needs --output: the workers' rows are stored beside it")
    if engine == "ray" and points is not None:
        raise WrongUsage("--points is for --engine local")
    if engine == "local" and resume != "automatic":
        raise WrongUsage("--resume needs --engine ray")
