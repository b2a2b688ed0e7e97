"""Our numbers and the paper's in one cell, where our radius stands for one of the paper's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from hcnn_fast.evaluation.published import Published
from hcnn_fast.evaluation.side_by_side import ComparisonRow, Measured
from hcnn_fast.experiments.experiment import Evidence, TextTable
from hcnn_fast.experiments.settings import Settings, radius_text

Number = TypeVar("Number")
Setting = tuple[tuple[str, str | float], ...]


def quantity_columns(
    title: str,
    rows: Sequence[ComparisonRow],
    found: Evidence,
    quantities: Mapping[str, str],
    notes: Sequence[str] = (),
) -> TextTable:
    """One row for each of our settings, one column for each quantity.

    Args:
        title: of the table.
        rows: ours and the paper's, of settings with a "radius" among their parts.
        found: what the rows were read from.
        quantities: headings of the quantities to show, by their names in `rows`.
        notes: what else has to be known.
    """
    ours: dict[Setting, dict[str, Measured]] = _by_setting(rows, lambda row: row.ours)
    theirs: dict[Setting, dict[str, Published]] = _by_setting(rows, lambda row: row.published)
    columns = (*_headings(rows), *quantities.values())
    lines = []
    for setting, values in ours.items():
        other = theirs.get(_at_paper_radius(setting, found.settings), {})
        cells = [_cell(values.get(name), other.get(name)) for name in quantities]
        lines.append((*_setting_cells(setting, found.settings, other), *cells))
    return TextTable(
        title=title, columns=columns, rows=tuple(lines), notes=(*notes, *paper_notes(found))
    )


def quantity_rows(
    title: str,
    rows: Sequence[ComparisonRow],
    found: Evidence,
    quantities: Mapping[str, str],
    notes: Sequence[str] = (),
) -> TextTable:
    """One row for each quantity, one column for each of our settings; see `quantity_columns`."""
    flat = quantity_columns(title, rows, found, quantities, notes)
    parts = len(flat.columns) - len(quantities)
    headings = [" ".join(row[:parts]) for row in flat.rows]
    names = flat.columns[:parts]
    return TextTable(
        title=title,
        columns=("", *(f"{', '.join(names)} {heading}" for heading in headings)),
        rows=tuple(
            (heading, *(row[parts + place] for row in flat.rows))
            for place, heading in enumerate(quantities.values())
        ),
        notes=flat.notes,
    )


def paper_notes(found: Evidence) -> tuple[str, ...]:
    """How to read the second line of a cell."""
    return (
        f"Second lines are the paper's numbers, in another setting: {found.differs};"
        f" {radius_text(found.settings.data)}. Tags: [S] printed in the paper, [A] worked out from"
        " what it prints. Intervals are exact (Clopper-Pearson, 95%).",
    )


def _by_setting(
    rows: Sequence[ComparisonRow], number: Callable[[ComparisonRow], Number | None]
) -> dict[Setting, dict[str, Number]]:
    """Numbers by setting, then by quantity, of the rows that have one."""
    found: dict[Setting, dict[str, Number]] = {}
    for row in rows:
        value = number(row)
        if value is not None:
            found.setdefault(tuple(row.setting.items()), {})[row.quantity] = value
    return found


def _headings(rows: Sequence[ComparisonRow]) -> tuple[str, ...]:
    return tuple(rows[0].setting) if rows else ()


def _at_paper_radius(setting: Setting, settings: Settings) -> Setting:
    """The same setting at the paper's radius; a radius of -1, which no row has, where none is."""

    def counterpart(value: str | float) -> float:
        radius = settings.paper_radius(float(value))
        return -1.0 if radius is None else radius

    return tuple((k, counterpart(v) if k == "radius" else v) for k, v in setting)


def _setting_cells(
    setting: Setting, settings: Settings, published: Mapping[str, Published]
) -> tuple[str, ...]:
    cells = []
    for name, value in setting:
        text = f"{value:g}" if isinstance(value, float) else str(value)
        if name == "radius" and published:
            source = next(iter(published.values())).source.split(", ")[-1]
            text += f"\npaper {settings.paper_radius(float(value)):g} ({source})"
        cells.append(text)
    return tuple(cells)


def _cell(ours: Measured | None, theirs: Published | None) -> str:
    text = "" if ours is None else f"{ours:.1%}" if isinstance(ours, float) else str(ours)
    if theirs is None:
        return text
    return f"{text}\n{_published(theirs)} [{theirs.tag}]"


def _published(number: Published) -> str:
    rate = number.proportion
    if rate is None:
        return number.printed
    low, high = rate.interval
    of = f" {rate.value:.1%}" if "/" in number.printed else f" of {rate.total}"
    return f"{number.printed}{of} [{100 * low:.1f}-{high:.1%}]"
