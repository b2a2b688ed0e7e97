"""The tables of `hcnn-fast bench`: one row for each way to solve the problem."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from hcnn_fast.cli.bench_run import BenchReport, Row, device_name
from hcnn_fast.measurement import CostFigures

COLUMNS = (
    "images/s",
    "steps/s",
    "µs/step",
    "outside model",
    "GFLOP/s",
    "of roof",
    "peak MiB",
    "confidence",
)


def heading(report: BenchReport) -> list[str]:
    """What is measured, on what, and the roofs."""
    config, roofs = report.request.config, report.roofs
    labels = "all labels" if config.labels is None else f"{config.labels} labels"
    sources = {row.model: row.images for row in report.rows}
    count = next(row.figures.images for row in report.rows if row.figures is not None)
    return [
        f"MCN search, radius {config.radius:g}, {labels}, {config.starts} start(s),"
        f" {config.steps} steps, {config.precision}; {device_name(report.request.device)},"
        f" {roofs.threads} thread(s)",
        f"{count} images: " + "; ".join(f"{source} for {name}" for name, source in sources.items()),
        f"roofs measured here: {roofs.flops_per_second / 1e9:,.1f} GFLOP/s (float32 matrix product"
        f" of {roofs.size} rows), {roofs.bytes_per_second / 1e9:,.1f} GB/s (copy)",
    ]


def cost_table(report: BenchReport) -> Table:
    """Speed, share outside the model, work against the roof, memory, and the confidence reached.

    Steps are gradient steps: passes of one image back through the model.
    """
    table = Table(box=SIMPLE_HEAD)
    table.add_column("model", no_wrap=True)
    table.add_column("way", no_wrap=True)
    for name in COLUMNS:
        table.add_column(name, justify="right", min_width=max(map(len, name.split())))
    previous = None
    for row in report.rows:
        table.add_row(Text(row.model if row.model != previous else ""), row.way, *_cells(row))
        previous = row.model
    return table


def sentences(report: BenchReport) -> list[str]:
    """What bounds each search, why a rival is missing, and how the rest compare with the search.

    First comes which layers the search computes otherwise.
    """
    lines = [f"{name}: {text}" for name, text in report.preparation.items()]
    own: CostFigures | None = None
    for row in report.rows:
        if row.figures is None:
            lines.append(f"{row.model}, {row.way}: not measured: {row.reason}")
        elif row.way == "search":
            own = row.figures
            lines.append(f"{row.model}: {own.bound()}")
        elif own is not None:
            ratio = row.figures.median / own.median
            lines.append(f"{row.model}, {row.way}: {ratio:.2f} times the time of the search")
    return lines


def scaling_table(report: BenchReport) -> Table:
    """Seconds and time per gradient step at every size measured."""
    table = Table(
        title="Cost against one size, the others held", title_justify="left", box=SIMPLE_HEAD
    )
    table.add_column("model")
    table.add_column("size")
    for name in ("value", "ms", "gradient steps", "µs per step"):
        table.add_column(name, justify="right")
    shown = ("", "")
    for point in report.scaling:
        table.add_row(
            Text(point.model if point.model != shown[0] else ""),
            point.size if (point.model, point.size) != shown else "",
            f"{point.value:,}",
            f"{1e3 * point.seconds:,.1f}",
            f"{point.gradient_steps:,}",
            f"{point.microseconds_per_step:,.1f}",
        )
        shown = (point.model, point.size)
    return table


def _cells(row: Row) -> tuple[str, ...]:
    if row.figures is None:
        return ("-",) * len(COLUMNS)
    found = row.figures.to_dict()
    outside = found["share_outside_model"]
    return (
        f"{found['images_per_second']:,.1f}",
        f"{found['gradient_steps_per_second']:,.0f}",
        f"{found['microseconds_per_gradient_step']:,.1f}",
        "unknown" if outside is None else f"{outside:.0%}",
        f"{found['flops_per_second'] / 1e9:,.1f}",
        f"{found['share_of_matrix_product_rate']:.0%}",
        f"{found['peak_memory_bytes'] / 2**20:,.0f}",
        f"{found['mean_confidence']:.4f}",
    )
