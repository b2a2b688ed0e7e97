"""The report needs nothing else, shows all it was given, and lets no text become markup."""

from __future__ import annotations

import html.parser
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from small_task import run_task, small_task

from hcnn_fast.experiments import EXPERIMENTS, Evidence, Task, points_done
from hcnn_fast.experiments.report import ReportContext, write_report

NASTY = "<script>alert('x')</script>&"


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def context(task: Task, found: Evidence) -> ReportContext:
    return ReportContext(
        experiment=task.experiment,
        subjects=task.subjects,
        command=f"hcnn-fast evaluate {NASTY}",
        settings=task.settings.to_dict(),
        versions={"hcnn_fast": "1"},
        done=points_done(found),
        asked=task.settings.points,
    )


def nasty_task(name: str) -> Task:
    """A task whose every name is markup."""
    task = small_task(name, points=8)
    subjects = [replace(s, name=f"{s.name} {NASTY}", card={"note": NASTY}) for s in task.subjects]
    return replace(task, subjects=tuple(subjects), settings=replace(task.settings, data="cifar10"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_report_is_self_contained_and_escaped(tmp_path: Path, name: str) -> None:
    task = nasty_task(name)
    found = run_task(task, tmp_path)
    findings = task.experiment.findings(found)
    numbers = write_report(tmp_path, findings, context(task, found))
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert text.count("<script") == 0
    assert NASTY in page.text
    sources = [a[k] or "" for _, a in page.tags for k in ("src", "href", "data") if k in a]
    assert len(sources) == len(findings.drawings) > 0
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "url(" not in text
    assert "@import" not in text
    for table in findings.tables:
        for cell in (*table.columns, *(c for row in table.rows for c in row), *table.notes):
            assert all(line in page.text for line in cell.split("\n"))
        assert {len(row) for row in table.rows} == {len(table.columns)}
    assert findings.reading
    assert page.text.count(NASTY) >= 3, "command, model and card"
    assert all(sentence in page.text for sentence in findings.reading)
    assert json.loads((tmp_path / "numbers.json").read_text()) == numbers
    for picture in numbers["pictures"]:
        with Image.open(tmp_path / picture) as image:
            image.load()
            assert min(image.size) > 250


def test_partial_run_says_so_and_the_same_run_writes_the_same_report(tmp_path: Path) -> None:
    task = small_task("separation", natural=False)
    found = run_task(task, tmp_path, seconds=0.0)
    texts = []
    for _ in range(2):
        write_report(tmp_path, task.experiment.findings(found), context(task, found))
        texts.append((tmp_path / "report.html").read_text())
    assert texts[0] == texts[1]
    assert "4 of 24 points are done" in texts[0]


def cells(task: Task, found: Evidence) -> list[dict[str, str]]:
    table = task.experiment.findings(found).tables[0]
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_paper_number_stands_only_beside_the_radius_that_stands_for_its_own(
    tmp_path: Path,
) -> None:
    task = small_task("separation")  # 0.05 stands for the paper's 0.03, 0.02 for none
    for row in cells(task, run_task(task, tmp_path)):
        has_paper = "\n" in row["B found"]
        assert has_paper == row["radius"].startswith("0.05")
        if has_paper:
            count = "26/300" if row["model"] == "adversarially trained" else "277/300"
            assert f"{count} " in row["B found"]
            assert row["B found"].endswith("[S]")
            assert "paper 0.03 (Table 1)" in row["radius"]


def test_paper_rates_are_shown_with_total_and_interval(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"points": 4, "radii": (0.02, 0.05), "paper_radii": (0.01, 0.02)}
    task = small_task("rejection", **changes)
    rows = cells(task, run_task(task, tmp_path))
    (row,) = (
        r
        for r in rows
        if r["model"].startswith("adv")
        and r["radius"].startswith("0.02")
        and r["threshold"] == "p = 0.9"
    )
    assert row["AWPR"].endswith("11% of 1000 [9.1-13.1%] [S]")
    assert row["recall (clean)"].split("\n")[1].startswith("86.7% of 1000")
    assert all("\n" not in r["AWPR"] for r in rows if r["threshold"].startswith("TPR"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("cifar10", "model gentle, not a wide ResNet"),
        ("mnist", "data mnist, model gentle, not CIFAR-10 and a wide ResNet"),
    ],
)
def test_what_differs_from_the_paper_is_said_of_each_data_set(
    tmp_path: Path, data: str, words: str
) -> None:
    task = small_task("recovery", points=4)
    task = replace(task, settings=replace(task.settings, data=data))
    assert run_task(task, tmp_path).differs == words
