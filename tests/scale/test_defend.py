"""What decides the rows and what does not; what is refused before anything is started."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from scale_classifiers import Linear

import hcnn_fast as hf
from hcnn_fast import scale
from hcnn_fast.cli.main import main
from hcnn_fast.failures import FailedRun
from hcnn_fast.jobs.defend_work import DefendTask
from hcnn_fast.jobs.inputs import InputOptions
from hcnn_fast.jobs.parts import RowParts
from hcnn_fast.jobs.readers import TensorReader
from hcnn_fast.jobs.rows import COLUMNS
from hcnn_fast.run_folder import open_run
from hcnn_fast.scale.fingerprint import fingerprint
from hcnn_fast.scale.packing import Packed
from hcnn_fast.scale.row_job import RowJob
from hcnn_fast.scale.worker import PartWorker

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
CONFIG = hf.SearchConfig.mcn(0.05, steps=2, starts=2)
CHUNK, IMAGES = 8, 29


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """A worker sets the number for its whole process, which here is that of the tests."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def job_in(folder: Path, **changes: Any) -> RowJob:
    images = torch.rand(IMAGES, 1, 6, 5, generator=torch.Generator().manual_seed(0))
    fields: dict[str, Any] = {
        "model": Linear().eval(),
        "model_name": "linear",
        "class_names": ("a", "b", "c"),
        "config": CONFIG,
        "threshold": None,
    }
    place: dict[str, Any] = {
        "reader": TensorReader(images, "array"),
        "parts": RowParts(folder, IMAGES, CHUNK, COLUMNS),
        "device": "cpu",
        "threads": 1,
    }
    task = DefendTask(**fields | {k: v for k, v in changes.items() if k in fields})
    return RowJob(task, **place | {k: v for k, v in changes.items() if k in place})


def rows_after(folder: Path, blocks: list[list[int]]) -> list[dict[str, Any]]:
    """The rows that workers make, a new worker for every list of places."""
    job = job_in(folder)
    for firsts in blocks:
        worker = PartWorker(Packed.of(job))
        done = worker({"first": numpy.array(firsts)})
        assert not any(done["failure"])
        assert done["rows"].tolist() == [job.parts.size(first) for first in firsts]
    return [row for rows in job.parts for row in rows]


def test_rows_do_not_depend_on_workers_blocks_or_order(tmp_path: Path) -> None:
    expected = rows_after(tmp_path / "one", [[0, 8, 16, 24]])
    assert [row["index"] for row in expected] == list(range(IMAGES))
    assert rows_after(tmp_path / "each", [[0], [8], [16], [24]]) == expected
    assert rows_after(tmp_path / "mixed", [[24, 0], [16], [8]]) == expected


def test_missing_chunks_are_those_without_a_whole_file(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    assert job.parts.missing() == [0, 8, 16, 24]
    PartWorker(Packed.of(job))({"first": numpy.array([8, 24])})
    parts = job.parts
    (tmp_path / "rows" / f".{parts.path(0).name}.123.part").write_bytes(b"half")
    assert parts.missing() == [0, 16]


def test_part_of_another_chunk_is_not_read(tmp_path: Path) -> None:
    rows_after(tmp_path, [[0, 8, 16, 24]])
    parts = job_in(tmp_path).parts
    parts.path(0).write_bytes(parts.path(8).read_bytes())
    with pytest.raises(ValueError, match="holds other rows than those of its chunk; delete it"):
        parts.read(0)
    parts.path(0).write_bytes(b"damaged")
    with pytest.raises(ValueError, match="cannot be read"):
        parts.read(0)


def changed_weights() -> Linear:
    model = Linear().eval()
    with torch.no_grad():
        model.layer.bias[0] += 1e-6
    return model


OTHERS: dict[str, dict[str, Any]] = {
    "model.weights": {"model": changed_weights()},
    "config.steps": {"config": CONFIG.replace(steps=3)},
    "config.precision": {"config": CONFIG.replace(precision="bfloat16")},
    "config.batch_size": {"config": CONFIG.replace(batch_size=2)},
    "threshold": {"threshold": 0.5},
    "threads": {"threads": 2},
    "data.content": {"reader": TensorReader(torch.zeros(IMAGES, 1, 6, 5), "array")},
}


@pytest.mark.parametrize(("name", "changes"), OTHERS.items(), ids=OTHERS)
def test_another_fingerprint_is_refused_in_a_line_that_names_it(
    tmp_path: Path, name: str, changes: dict[str, Any]
) -> None:
    with open_run(tmp_path, fingerprint(job_in(tmp_path))):
        pass
    with open_run(tmp_path, fingerprint(job_in(tmp_path))):
        pass
    other = fingerprint(job_in(tmp_path, **changes))
    expected = rf"holds another run \({name} was .*\); choose"
    with pytest.raises(ValueError, match=expected) as said, open_run(tmp_path, other):
        pass
    assert "\n" not in str(said.value)


def test_fingerprint_of_another_version_is_refused(tmp_path: Path) -> None:
    known = fingerprint(job_in(tmp_path))
    with open_run(tmp_path, known | {"package": "0.0.1", "torch": "2.0.0"}):
        pass
    expected = r"package was \"0\.0\.1\", now .*; torch was \"2\.0\.0\""
    with pytest.raises(ValueError, match=expected), open_run(tmp_path, known):
        pass
    assert json.loads((tmp_path / "run.json").read_text())["package"] == "0.0.1"


def test_failure_of_a_worker_comes_back_as_it_was(tmp_path: Path) -> None:
    images = torch.rand(IMAGES, 1, 6, 5)
    images[3] = torch.nan
    worker = PartWorker(Packed.of(job_in(tmp_path, reader=TensorReader(images, "array"))))
    done = worker({"first": numpy.array([0, 8])})
    assert done["rows"].tolist() == [0, 8]
    error = pickle.loads(done["failure"][0])
    assert isinstance(error, ValueError)
    assert "NaN" in str(error)


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one image, beside which commands run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    Image.new("L", (5, 6)).save(tmp_path / "images" / "0.png")
    return tmp_path


RAY = ("--engine", "ray", "--output", "rows.csv")
WRONG_USAGE = [
    (("--engine", "ray"), "--engine ray needs --output"),
    ((*RAY, "--points", "p.npy"), "--points is for --engine local"),
    ((*RAY, "--device", "cuda"), "--device is for --engine local"),
    ((*RAY, "--gpus-per-worker", "1.5"), "gpus_per_worker is 1.5"),
    (("--workers", "2"), "need --engine ray"),
    (("--address", "auto"), "need --engine ray"),
    (("--resume", "always"), "--resume needs --engine ray"),
    ((*RAY, "--resume", "always"), "holds no run to go on with"),
]


@pytest.mark.parametrize(("words", "said"), WRONG_USAGE, ids=str)
def test_wrong_usage_is_one_line_and_starts_nothing(
    images: Path, capfd: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert main(["defend", "images", "--model", "scale_classifiers:plain", *words]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1
    assert not (images / "rows.csv").exists()


def test_missing_ray_is_one_line_with_the_remedy(
    images: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["defend", "images", "--model", "scale_classifiers:plain", *RAY]) == 1
    assert capfd.readouterr().err == 'error: ray is missing: pip install "hcnn_fast[ray]"\n'


def test_small_cluster_is_refused_at_once(two_nodes: str, tmp_path: Path) -> None:
    cluster = scale.Cluster(workers=5)
    with pytest.raises(FailedRun, match=r"5 workers need 5 CPUs and the Ray cluster has 4"):
        scale.defend(torch.rand(2, 1, 6, 5), Linear(), CONFIG, output=tmp_path, cluster=cluster)
    with pytest.raises(TypeError, match="dataset is a int"):
        scale.defend(3, Linear(), CONFIG, output=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threshold is 2"):
        scale.defend(torch.rand(2, 1, 6, 5), Linear(), CONFIG, output=tmp_path, threshold=2.0)
    options = InputOptions(shape=(1, 6, 5))
    with pytest.raises(ValueError, match="no such file"):
        scale.defend("none.npy", Linear(), CONFIG, output=tmp_path, reading=options)


@pytest.mark.parametrize(
    "fields",
    [{"workers": 0}, {"threads": True}, {"gpus_per_worker": -1.0}, {"chunks_per_block": 1.5}],
    ids=str,
)
def test_impossible_cluster_is_refused(fields: dict[str, Any]) -> None:
    name, value = next(iter(fields.items()))
    with pytest.raises(ValueError, match=rf"{name} is {value}"):
        scale.Cluster(**fields)
