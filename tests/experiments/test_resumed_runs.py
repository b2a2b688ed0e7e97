"""Runs that are killed, stopped or cut otherwise end with the rows of an uninterrupted one."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_task import linear, parquet, run_task, small_task

from hcnn_fast.evaluation import AttemptTable
from hcnn_fast.experiments import Subject, Work, chosen_points, open_store, points_done, run_chunks
from hcnn_fast.experiments.chunks import CHUNKS


def test_run_killed_at_three_random_moments_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([str(tests.parent), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, str(tests / "small_task.py"), str(whole), str(killed)]
    subprocess.run(words, env={**os.environ, "PYTHONPATH": path}, check=True, timeout=200)
    assert len(parquet(whole)) == 2 * 12 + 2
    assert parquet(killed) == parquet(whole)
    assert not list(killed.rglob("*.part"))


def test_resumed_run_makes_only_the_chunks_that_are_missing(tmp_path: Path) -> None:
    task = small_task("separation", points=16)
    run_task(task, tmp_path)
    expected = parquet(tmp_path)
    (tmp_path / CHUNKS / "natural" / "00003.parquet").unlink()
    made = []

    def counted(work: Work) -> AttemptTable:
        made.append(work.subject.name)
        return task.experiment.attempts(work)

    run_task(replace(task, experiment=replace(task.experiment, attempts=counted)), tmp_path)
    assert made == ["steep"]
    assert parquet(tmp_path) == expected


def test_run_out_of_time_keeps_equal_points_of_both_models_and_goes_on(tmp_path: Path) -> None:
    task = small_task("separation", points=10)
    found = run_task(task, tmp_path / "cut", seconds=0.0)
    assert points_done(found) == task.settings.chunk
    assert {len(torch.unique(t.example)) for t in found.tables.values()} == {task.settings.chunk}
    found = run_task(task, tmp_path / "cut", seconds=0.0)
    assert points_done(found) == 2 * task.settings.chunk
    run_task(task, tmp_path / "cut")
    run_task(task, tmp_path / "whole")
    assert parquet(tmp_path / "cut") == parquet(tmp_path / "whole")


def test_rows_do_not_depend_on_chunks(tmp_path: Path) -> None:
    expected = run_task(small_task("separation", chunk=1, points=10), tmp_path / "one")
    found = run_task(small_task("separation", chunk=7, points=10), tmp_path / "seven")
    for role, table in expected.tables.items():
        other = found.tables[role]
        names = table.attack
        order = sorted(range(len(names)), key=lambda r: key(table, r))
        places = sorted(range(len(names)), key=lambda r: key(other, r))
        assert [key(table, r) for r in order] == [key(other, r) for r in places]
        a, b = table.take(torch.tensor(order)), other.take(torch.tensor(places))
        assert torch.equal(a.base.prediction, b.base.prediction)
        # rounding of the model's own matrix product, which knows batches
        assert torch.allclose(a.base.confidence, b.base.confidence, atol=1e-5)
        assert torch.allclose(a.distance, b.distance, atol=1e-5)


def key(table: AttemptTable, row: int) -> tuple[object, ...]:
    return (int(table.example[row]), table.attack[row], float(table.radius[row]))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 5}, "settings.steps was 4, now 5"),
        ({"radii": (0.02, 0.06)}, "settings.radii was"),
        ({"seed": 4}, "settings.seed was 3, now 4"),
        ({"natural": False}, "models.natural was"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_another_run_is_refused_in_one_line(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    task = small_task("separation")
    run_task(task, tmp_path, seconds=0.0)
    before = parquet(tmp_path)
    with pytest.raises(ValueError, match="holds another run") as refusal:
        run_task(small_task("separation", **changes), tmp_path)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert parquet(tmp_path) == before


def test_other_weights_or_images_are_refused(tmp_path: Path) -> None:
    task = small_task("separation")
    run_task(task, tmp_path, seconds=0.0)
    weight = task.subjects[0].model[1].weight
    with torch.no_grad():
        weight[0, 0] += 1e-6
    with pytest.raises(ValueError, match=r"models\.adversarially trained\.weights"):
        run_task(task, tmp_path)
    task = small_task("separation")
    task.data.images[-1, 0, 0, 0] += 1
    with pytest.raises(ValueError, match=r"data\.content"):
        run_task(task, tmp_path)


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        open_store(tmp_path, {"a": 1}),
        pytest.raises(ValueError, match="in use by another run"),
        open_store(tmp_path, {"a": 1}),
    ):
        pass
    with open_store(tmp_path, {"a": 1}, "always"):
        pass


def test_resume_may_be_demanded_or_forbidden(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="no run to go on with"),
        open_store(tmp_path, {"a": 1}, "always"),
    ):
        pass
    with open_store(tmp_path, {"a": 1}, "never"):
        pass
    with (
        pytest.raises(ValueError, match="holds a run already"),
        open_store(tmp_path, {"a": 1}, "never"),
    ):
        pass


def test_chunk_of_other_points_is_not_counted(tmp_path: Path) -> None:
    run_task(small_task("separation"), tmp_path)
    folder = tmp_path / CHUNKS / "natural"
    (folder / "00001.parquet").write_bytes((folder / "00000.parquet").read_bytes())
    with pytest.raises(ValueError, match=r"00001.parquet holds other points"):
        run_task(small_task("separation"), tmp_path)


def test_two_models_of_one_kind_are_refused() -> None:
    task = small_task("separation", natural=False)
    twin = Subject("twin", task.subjects[0].role, linear(1.0, 0), {})
    with pytest.raises(ValueError, match="gentle and twin, both adversarially trained"):
        replace(task, subjects=(*task.subjects, twin))


def test_more_points_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="points is 37, and small has 36 besides the held-out"):
        chosen_points(small_task("separation", points=37))


def test_progress_counts_stored_points_too(tmp_path: Path) -> None:
    task = small_task("separation", points=10)
    points = chosen_points(task)
    for _ in range(2):
        steps: list[int] = []
        with open_store(tmp_path, task.fingerprint()) as store:
            run_chunks(task, points, store, advance=steps.append)
        assert steps == [4, 4, 2]
