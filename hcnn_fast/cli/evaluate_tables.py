"""Tables of an experiment on the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from hcnn_fast.experiments import TextTable


def rich_table(content: TextTable) -> Table:
    """The same table for rich; text is taken as it is, without markup."""
    table = Table(
        title=Text(content.title),
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        show_lines=False,
        padding=(0, 1, 0, 0),
    )
    for name in content.columns:
        table.add_column(Text(name))
    for row in content.rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
