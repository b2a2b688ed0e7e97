"""Workers and drivers that are killed, full disks, bad images: every row once, and the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from ray_nodes import ON_RAY, head
from scale_classifiers import Linear

import hcnn_fast as hf
from hcnn_fast import scale
from hcnn_fast.cli.main import main
from hcnn_fast.failures import FailedRun
from hcnn_fast.jobs.defend_work import DefendWork
from hcnn_fast.jobs.inputs import InputOptions
from hcnn_fast.jobs.work import CHUNK
from hcnn_fast.scale.arguments import source_of

pytestmark = ON_RAY
IMAGES = 5 * CHUNK + 10
CONFIG = hf.SearchConfig.mcn(0.05, steps=3, starts=2)
WAITING = [
    "--model",
    "scale_classifiers:waiting",
    "--steps",
    "3",
    "--starts",
    "2",
    "--threads",
    "1",
    "--quiet",
]


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """[N, 1, 6, 5]."""
    return torch.rand(IMAGES, 1, 6, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def expected(images: torch.Tensor) -> list[dict[str, Any]]:
    """The rows of one process."""
    work = DefendWork(hf.Defense(Linear().eval(), CONFIG), torch.device("cpu"), None, "linear")
    source = source_of(images, CONFIG, InputOptions())
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    chunks = enumerate(source.chunks(CHUNK))
    rows = [row for i, chunk in chunks for row in work.rows(i * CHUNK, chunk)[0]]
    torch.set_num_threads(before)
    return rows


def defend(images: torch.Tensor, model: Linear, folder: Path, **cluster: Any) -> scale.StoredRows:
    return scale.defend(images, model, CONFIG, output=folder, cluster=scale.Cluster(**cluster))


def test_killed_worker_costs_no_row_and_doubles_none(
    two_nodes: str, images: torch.Tensor, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    done = defend(images, Linear(tmp_path, "kill"), tmp_path / "rows", workers=2)
    assert (tmp_path / "kill").exists()
    assert done.to_list() == expected
    assert not list(tmp_path.rglob("*.part"))


def test_two_nodes_share_the_work_and_the_rows_are_the_same(
    two_nodes: str, images: torch.Tensor, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "nodes").mkdir()
    done = defend(images, Linear(tmp_path / "nodes", "tell"), tmp_path / "rows", workers=4)
    assert done.to_list() == expected
    assert len(list((tmp_path / "nodes").iterdir())) == 2


def test_slow_worker_is_left_behind(
    two_nodes: str, images: torch.Tensor, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    done = defend(images, Linear(tmp_path, "slow"), tmp_path / "rows", workers=2)
    assert done.to_list() == expected
    passes = {who: (tmp_path / f"{who} passes").stat().st_size for who in ("slow", "other")}
    assert passes["slow"] < passes["other"], passes


def test_full_disk_is_one_line_and_the_run_goes_on(
    two_nodes: str, images: torch.Tensor, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    folder, model = tmp_path / "rows", Linear(tmp_path, "fill")
    with pytest.raises(
        FailedRun, match=r"No space left on device; .* of 330 rows are in"
    ) as raised:
        defend(images, model, folder, workers=1)
    assert "\n" not in str(raised.value)
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    assert len(kept) < 6
    (tmp_path / "full").unlink()
    done = defend(images, model, folder, workers=1, chunks_per_block=4)
    assert done.to_list() == expected
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def driver_after_two_chunks(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> subprocess.Popen[bytes]:
    """A command in a process of its own, in the middle of its job."""
    tests = str(Path(__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")]))
    program = f"import sys; from hcnn_fast.cli.main import main; sys.exit(main({words!r}))"
    driver = subprocess.Popen([sys.executable, "-c", program])
    deadline = time.monotonic() + 120
    while len(list(Path("rows.parts").glob("rows/*.parquet"))) < 2:
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return driver


def test_lost_head_ends_the_command_which_goes_on_with_another(
    images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "3")  # 60 by itself
    numpy.save("images.npy", images.numpy())
    words = ["defend", "images.npy", *WAITING]
    ray = ["--engine", "ray", "--output", "rows.parquet", "--address"]
    lost = head()
    driver = driver_after_two_chunks([*words, *ray, lost.address], monkeypatch)
    lost.head_node.kill_all_processes(check_alive=False, allow_graceful=False)
    assert driver.wait(60) == 1
    kept = {path: path.stat().st_mtime_ns for path in Path("rows.parts").rglob("*.parquet")}
    assert 2 <= len(kept) < 6
    restarted = head()
    command = [sys.executable, "-m", "hcnn_fast.cli.main", *words, *ray, restarted.address]
    assert subprocess.run(command, timeout=120).returncode == 0
    restarted.shutdown()
    assert main([*words, "--output", "one.parquet"]) == 0
    assert Path("rows.parquet").read_bytes() == Path("one.parquet").read_bytes()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_killed_driver_is_resumed_and_a_damaged_image_is_a_row(
    two_nodes: str, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    for i, image in enumerate((images[:, 0] * 255).byte().numpy()):
        Image.fromarray(image).save(f"images/{i:03d}.png")
    Path("images/100.png").write_bytes(b"damaged")
    words = ["defend", "images", *WAITING]
    ray = ["--engine", "ray", "--address", two_nodes, "--output", "rows.parquet"]
    driver = driver_after_two_chunks([*words, *ray], monkeypatch)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait(60)
    assert not Path("rows.parquet").exists()
    kept = {path: path.stat().st_mtime_ns for path in Path("rows.parts").rglob("*.parquet")}
    assert 2 <= len(kept) < 6
    assert main([*words, *ray, "--resume", "always"]) == 0
    assert main([*words, "--skip-bad", "--output", "one.parquet"]) == 0
    assert Path("rows.parquet").read_bytes() == Path("one.parquet").read_bytes()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    rows = pyarrow.parquet.read_table("rows.parquet").to_pylist()
    assert [row["index"] for row in rows] == list(range(IMAGES))
    assert [row["index"] for row in rows if row["error"] is not None] == [100]
    assert "100.png is not a readable image" in rows[100]["error"]
