"""Attacks on Ray: the rows of one process, whoever makes them, and whatever ends them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pyarrow.parquet
import pytest
import torch
from ray_nodes import ON_RAY
from scale_classifiers import Linear

import hcnn_fast as hf
from hcnn_fast import scale
from hcnn_fast.cli.main import main
from hcnn_fast.failures import FailedRun
from hcnn_fast.jobs.attack_work import AttackTask
from hcnn_fast.jobs.defend_work import DefendTask
from hcnn_fast.jobs.parts import RowParts
from hcnn_fast.jobs.readers import TensorReader
from hcnn_fast.jobs.work import CHUNK, torch_threads
from hcnn_fast.run_folder import open_run
from hcnn_fast.scale.fingerprint import fingerprint
from hcnn_fast.scale.row_job import RowJob

pytestmark = ON_RAY
IMAGES = 3 * CHUNK + 10
# Twelve passes for a chunk: a disk that fills after them loses the second one.
PLAN = scale.AttackPlan(methods=("pgd", "square"), radius=0.05, steps=1, queries=2)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """[N, 1, 6, 5]."""
    return torch.rand(IMAGES, 1, 6, 5, generator=torch.Generator().manual_seed(0))


def job_of(task: AttackTask | DefendTask, folder: Path, images: torch.Tensor) -> RowJob:
    parts = RowParts(folder, IMAGES, CHUNK, task.columns)
    return RowJob(task, TensorReader(images, "array"), parts, "cpu", 1)


def rows_here(images: torch.Tensor) -> list[dict[str, Any]]:
    """The rows of one process."""
    job = job_of(AttackTask(Linear(), "linear", PLAN), Path(), images)
    work, parts = job.task.work(torch.device("cpu")), job.parts
    with torch_threads(1):
        chunks = {first: job.reader.read(first, parts.size(first)) for first in parts.firsts()}
        return [row for first, chunk in chunks.items() for row in work.rows(first, chunk)[0]]


def test_a_run_that_a_full_disk_ended_goes_on_to_the_rows_of_one_process(
    two_nodes: str, images: torch.Tensor, tmp_path: Path
) -> None:
    folder, model = tmp_path / "rows", Linear(tmp_path, "fill")
    with pytest.raises(FailedRun, match=r"No space left on device; .* of 202 rows are in"):
        scale.attack(images, model, PLAN, output=folder)
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    assert 0 < len(kept) < 4
    (tmp_path / "full").unlink()
    done = scale.attack(images, model, PLAN, output=folder, cluster=scale.Cluster(workers=2))
    rows = done.to_list()
    assert rows == rows_here(images)
    assert {row["success"] for row in rows} == {True, False}
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_the_command_s_rows_and_summary_are_those_of_one_process_to_the_bit(
    two_nodes: str,
    images: torch.Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    values = images.numpy().copy()
    values[100] = 2.0
    numpy.save("images.npy", values)
    words = ["attack", "images.npy", "--model", "scale_classifiers:plain", "--radius", "0.05"]
    words += ["--method", "pgd", "--method", "rays", "--steps", "2", "--queries", "5"]
    words += ["--threads", "1", "--json", "--quiet"]
    ray = ["--engine", "ray", "--address", two_nodes]
    engines = {
        "here": ["--skip-bad"],
        "one": [*ray, "--workers", "1"],
        "two": [*ray, "--workers", "2"],
    }
    summaries, files = [], []
    for name, engine in engines.items():
        assert main([*words, *engine, "--output", f"{name}.parquet"]) == 0
        summary = json.loads(capsys.readouterr().out)
        for own in ("seconds", "images_per_second", "output"):
            summary.pop(own)
        summaries.append(summary)
        files.append(Path(f"{name}.parquet").read_bytes())
    assert files[1:] == files[:1] * 2
    assert summaries[1:] == summaries[:1] * 2
    rows = pyarrow.parquet.read_table("two.parquet").to_pylist()
    assert [row["index"] for row in rows] == list(range(IMAGES))
    assert [row["index"] for row in rows if row["error"] is not None] == [100]
    assert summaries[0]["fooled"]["count"] == sum(bool(row["success"]) for row in rows) > 0


OTHERS: dict[str, dict[str, Any]] = {
    "attack.radius": {"radius": 0.06},
    "attack.methods": {"methods": ("square", "pgd")},
    "attack.seed": {"seed": 1},
    "attack.batch_size": {"batch_size": 3},
}


@pytest.mark.parametrize(("name", "changes"), OTHERS.items(), ids=OTHERS)
def test_another_plan_is_refused_in_a_line_that_names_it(
    tmp_path: Path, images: torch.Tensor, name: str, changes: dict[str, Any]
) -> None:
    task = AttackTask(Linear(), "linear", PLAN)
    for _ in range(2):
        with open_run(tmp_path, fingerprint(job_of(task, tmp_path, images))):
            pass
    other = fingerprint(job_of(replace(task, plan=replace(PLAN, **changes)), tmp_path, images))
    expected = rf"holds another run \({name} was .*\); choose"
    with pytest.raises(ValueError, match=expected), open_run(tmp_path, other):
        pass


def test_a_folder_of_defended_rows_is_not_gone_on_with(
    tmp_path: Path, images: torch.Tensor
) -> None:
    defended = DefendTask(Linear(), "linear", None, hf.SearchConfig.mcn(0.05), None)
    with open_run(tmp_path, fingerprint(job_of(defended, tmp_path, images))):
        pass
    job = job_of(AttackTask(Linear(), "linear", PLAN), tmp_path, images)
    with (
        pytest.raises(ValueError, match='job was "defend", now "attack"'),
        open_run(tmp_path, fingerprint(job)),
    ):
        pass
