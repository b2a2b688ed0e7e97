"""Experiments on Ray: the rows of one process, whoever makes them, and whatever ends them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from ray_nodes import ON_RAY
from small_task import parquet, run_task, small_task

from hcnn_fast.cli.main import main
from hcnn_fast.experiments import Task, Work, chosen_points, evidence, open_store
from hcnn_fast.experiments.run import missing_chunks
from hcnn_fast.jobs.work import torch_threads
from hcnn_fast.scale import Cluster
from hcnn_fast.scale.evaluate import run_chunks_on_ray

pytestmark = ON_RAY


def run_on_ray(task: Task, folder: Path, workers: int) -> list[int]:
    """A whole run on a cluster that is connected to; what its progress was told."""
    told: list[int] = []
    points = chosen_points(task)
    cluster = Cluster(workers=workers)
    with open_store(folder, task.fingerprint(cluster.device, cluster.threads)) as store:
        run_chunks_on_ray(task, points, store, cluster=cluster, advance=told.append)
        evidence(task, points, store)
    return told


@pytest.mark.usefixtures("two_nodes")
@pytest.mark.parametrize(
    ("name", "workers"),
    [("separation", 4), ("rejection", 2)],  # the second has held-out points
)
def test_rows_are_those_of_one_process(tmp_path: Path, name: str, workers: int) -> None:
    task = small_task(name)
    with torch_threads(1):
        run_task(task, tmp_path / "local")
    assert sum(run_on_ray(task, tmp_path / "ray", workers)) == task.settings.points
    assert parquet(tmp_path / "ray") == parquet(tmp_path / "local")


@pytest.mark.usefixtures("two_nodes")
def test_a_run_goes_on_with_what_another_engine_made(tmp_path: Path) -> None:
    task = small_task("separation")
    with torch_threads(1):
        run_task(task, tmp_path / "local")
        run_task(task, tmp_path / "both", seconds=0.0)  # one chunk of six
    told = run_on_ray(task, tmp_path / "both", 2)
    assert told[0] == task.settings.chunk
    assert parquet(tmp_path / "both") == parquet(tmp_path / "local")


class FailsOnce:
    """Attempts that a full disk ends, at the first call that finds no file to say so."""

    def __init__(self, inner: Callable[[Work], object], mark: Path) -> None:
        self._inner, self._mark = inner, mark

    def __call__(self, work: Work) -> object:
        if len(work.example) and not self._mark.exists():
            self._mark.touch()
            raise OSError(28, "No space left on device")
        return self._inner(work)


@pytest.mark.usefixtures("two_nodes")
def test_what_a_worker_fails_with_ends_the_run_and_the_rest_is_made_later(tmp_path: Path) -> None:
    task = small_task("separation")
    with torch_threads(1):
        run_task(task, tmp_path / "local")
    failing = FailsOnce(task.experiment.attempts, tmp_path / "mark")
    broken = replace(task, experiment=replace(task.experiment, attempts=failing))
    with pytest.raises(OSError, match="No space left"):
        run_on_ray(broken, tmp_path / "ray", 2)
    with open_store(tmp_path / "ray", task.fingerprint("cpu", 1)) as store:
        assert missing_chunks(task, store)
    run_on_ray(broken, tmp_path / "ray", 2)
    assert parquet(tmp_path / "ray") == parquet(tmp_path / "local")


def test_the_command_runs_on_a_cluster(
    two_nodes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attack = ["--points", "4", "--steps", "2", "--starts", "1", "--chunk", "2"]
    words = ["evaluate", "separation", *attack, "--json", "--quiet"]
    found = {}
    on_ray = ["--engine", "ray", "--workers", "2", "--address", two_nodes]
    for engine in (["--threads", "1"], on_ray):
        output = tmp_path / engine[1]
        assert main([*words, *engine, "--output", str(output)]) == 0
        found[engine[1]] = json.loads(capsys.readouterr().out)
        del found[engine[1]]["command"]  # it names the folder
        assert (output / "separation" / "report.html").is_file()
    assert found["1"] == found["ray"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("separation --workers 2", "need --engine ray"),
        ("separation --engine ray --time 1", "--time is for --engine local"),
        ("separation --engine ray --device cpu", "--device is for --engine local"),
        ("on-manifold --engine ray", "say nothing to on-manifold"),
    ],
)
def test_options_that_say_nothing_are_refused(
    given: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    assert main(["evaluate", *given.split(), "--output", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_threads_are_part_of_what_a_run_is(tmp_path: Path) -> None:
    task = small_task("separation")
    with torch_threads(1):
        run_task(task, tmp_path, seconds=0.0)
    with torch_threads(2), pytest.raises(ValueError, match="threads was 1, now 2"):
        run_task(task, tmp_path)
