"""The report of an experiment: one HTML file that needs nothing else, its pictures, its numbers."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from hcnn_fast.atomic_files import write_atomically
from hcnn_fast.experiments.experiment import Findings, Heading, Subject, TextTable
from hcnn_fast.experiments.figures import png

REPORT, NUMBERS = "report.html", "numbers.json"

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; margin: 2.5rem auto;
  max-width: 72rem; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.lead { color: #555; margin-top: 0; }
.partial { background: #fdf3d8; border-left: .3rem solid #e69f00; padding: .5rem .8rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; margin: .8rem 0 .4rem; }
caption { text-align: left; font-weight: 600; padding-bottom: .4rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .9rem .3rem 0;
  border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums; }
td span { display: block; color: #777; }
.note { color: #555; font-size: .85rem; margin: .2rem 0; }
figure { margin: 1.4rem 0; } figure img { max-width: 100%; }
figcaption { color: #555; font-size: .88rem; }
pre { background: #f5f5f5; padding: .7rem .9rem; overflow-x: auto; font-size: .82rem; }
summary { cursor: pointer; }
"""


@dataclass(frozen=True, kw_only=True)
class ReportContext:
    """What a report says besides the findings.

    Attributes:
        experiment: which.
        subjects: the models, those that are only transferred from included.
        command: the command line that makes the report again.
        settings: as plain values.
        versions: of what made it, by name.
        done: points of every model that the rows are of.
        asked: points that were asked for.
        unit: what is counted so.
    """

    experiment: Heading
    subjects: tuple[Subject, ...]
    command: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    done: int
    asked: int
    unit: str = "points"

    def to_dict(self, findings: Findings) -> dict[str, Any]:
        """The numbers with all that has to be known about them, as plain values."""
        return {
            "experiment": self.experiment.name,
            "models": {s.role: {"name": s.name, "card": dict(s.card)} for s in self.subjects},
            self.unit: {"done": self.done, "asked": self.asked},
            "settings": dict(self.settings),
            "command": self.command,
            "versions": dict(self.versions),
            "numbers": dict(findings.numbers),
            "reading": list(findings.reading),
            "pictures": [f"{drawing.name}.png" for drawing in findings.drawings],
        }


def write_report(folder: Path, findings: Findings, context: ReportContext) -> dict[str, Any]:
    """Write pictures, numbers and report into a folder; returns the numbers.

    Raises:
        ImportError: matplotlib is not installed; says how to get it.
        OSError: the folder cannot be written to.
    """
    try:
        import matplotlib  # noqa: F401  # drawn with below
    except ImportError as error:
        raise ImportError('matplotlib is missing: pip install "hcnn_fast[cli]"') from error
    pictures = {drawing.name: png(drawing.draw()) for drawing in findings.drawings}
    for name, content in pictures.items():
        _write(folder / f"{name}.png", content)
    numbers = context.to_dict(findings)
    text = json.dumps(numbers, indent=2, allow_nan=False)
    _write(folder / NUMBERS, f"{text}\n".encode())
    _write(folder / REPORT, page(findings, context, pictures).encode())
    return numbers


def page(findings: Findings, context: ReportContext, pictures: Mapping[str, bytes]) -> str:
    """The report as HTML; every text in it is escaped, every picture inside it."""
    experiment = context.experiment
    body = [
        f"<h1>{escape(experiment.title)}</h1>",
        f'<p class="lead">{escape(experiment.question)}</p>',
    ]
    if context.done < context.asked:
        body.append(
            f'<p class="partial">{context.done} of {context.asked} {context.unit} are done; the'
            " same command goes on with the others.</p>"
        )
    body += ["<h2>What the numbers say</h2>", _list(findings.reading), "<h2>Numbers</h2>"]
    body += [_table(table) for table in findings.tables]
    body.append("<h2>Pictures</h2>")
    for drawing in findings.drawings:
        data = base64.b64encode(pictures[drawing.name]).decode()
        caption = escape(drawing.caption)
        body.append(
            f'<figure><img src="data:image/png;base64,{data}" alt="{caption}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    body += ["<h2>How it was made</h2>", f"<pre>{escape(context.command)}</pre>"]
    body.append(_pairs("Settings", context.settings))
    body.append(_pairs("Versions", context.versions))
    for subject in context.subjects:
        card = json.dumps(dict(subject.card), indent=2) if subject.card else "no card"
        body.append(
            f"<details><summary>Model card: {escape(subject.name)} ({escape(subject.role)})"
            f"</summary><pre>{escape(card)}</pre></details>"
        )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(experiment.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _list(sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f"<ul>{items}</ul>"


def _table(table: TextTable) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    lines = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in table.notes)
    return (
        f'<div class="wide"><table><caption>{escape(table.title)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>{notes}"
    )


def _cell(text: str) -> str:
    first, *others = text.split("\n")
    return f"<td>{escape(first)}{''.join(f'<span>{escape(line)}</span>' for line in others)}</td>"


def _pairs(title: str, values: Mapping[str, Any]) -> str:
    text = "\n".join(f"{name}: {value}" for name, value in values.items())
    return f'<p class="note">{escape(title)}</p><pre>{escape(text)}</pre>'


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda file: file.write(content))
