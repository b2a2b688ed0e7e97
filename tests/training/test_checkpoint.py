"""Checkpoints are whole or absent, and only their own run may go on from them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hcnn_fast.training import load_checkpoint, save_checkpoint, save_weights
from hcnn_fast.training.checkpoint import WRITING, CheckpointFile, checkpoint_progress

IDENTITY = {"data": "fashion-mnist/train", "radius": 0.1, "epochs": 5, "patience": None}
STATE = {"epoch": 3, "step": 5, "model": {"weight": torch.arange(6.0).view(2, 3)}}


def test_saved_state_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    assert checkpoint_progress(path) == (0, 0)
    save_checkpoint(path, IDENTITY, STATE)
    state = load_checkpoint(path, IDENTITY)
    assert (state["epoch"], state["step"]) == checkpoint_progress(path) == (3, 5)
    assert torch.equal(state["model"]["weight"], STATE["model"]["weight"])  # type: ignore[index]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("radius", 0.2, "made with radius 0.1, this run has 0.2"),
        ("epochs", 9, "made with epochs 5, this run has 9"),
        ("data", "mnist/train", "made with data 'fashion-mnist/train'"),
        ("patience", 4, "made with patience None, this run has 4"),
    ],
)
def test_checkpoint_of_another_recipe_is_refused_in_one_line(
    tmp_path: Path, name: str, value: object, words: str
) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, IDENTITY, STATE)
    with pytest.raises(ValueError, match=words) as caught:
        load_checkpoint(path, IDENTITY | {name: value})
    assert "\n" not in str(caught.value)


def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_checkpoint(path, IDENTITY)
    for content in (b"", b"nothing of the kind"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not a checkpoint") as caught:
            load_checkpoint(path, IDENTITY)
        assert "\n" not in str(caught.value)
    torch.save([1, 2, 3], path)
    with pytest.raises(ValueError, match="is not a checkpoint"):
        load_checkpoint(path, IDENTITY)
    torch.save({"format": 99, "identity": {}, "state": {}}, path)
    with pytest.raises(ValueError, match="format 99, expected 2"):
        load_checkpoint(path, IDENTITY)


def test_writing_between_steps_takes_its_share_of_the_time_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of 1 s and writes of 0.3 s on a clock of its own."""
    now, writes = 0.0, 0

    def write(*arguments: object) -> None:
        nonlocal now, writes
        now, writes = now + 0.3, writes + 1

    monkeypatch.setattr("hcnn_fast.training.checkpoint.save_checkpoint", write)
    monkeypatch.setattr("hcnn_fast.training.checkpoint.time.monotonic", lambda: now)
    file = CheckpointFile(tmp_path / "checkpoint.pt", IDENTITY)
    for _ in range(1000):
        now += 1.0
        file.save_when_due(lambda: STATE)
    assert 0.8 * WRITING < 0.3 * writes / now <= WRITING


WRITER = """
import sys, torch
from pathlib import Path
from hcnn_fast.training import save_checkpoint
weight = torch.zeros(2_000_000)
for epoch in range(1, 10_000):
    save_checkpoint(Path(sys.argv[1]), {}, {"epoch": epoch, "weight": weight.fill_(epoch)})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_a_killed_writer_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)])
    try:
        deadline = time.monotonic() + 120
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.25)
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    state = load_checkpoint(path, {})
    assert state["epoch"] >= 1
    assert (state["weight"] == state["epoch"]).all()


def test_weights_and_card_are_written_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    weight = torch.rand(4, 3, 2, 2).to(memory_format=torch.channels_last)
    save_weights(path, {"weight": weight}, {"architecture": "x", "seed": 3})
    assert torch.equal(load_file(path)["weight"], weight)
    assert json.loads((tmp_path / "model.json").read_text()) == {"architecture": "x", "seed": 3}
    assert len(list(tmp_path.iterdir())) == 2


def test_missing_safetensors_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match=r'pip install "hcnn_fast\[cli\]"'):
        save_weights(tmp_path / "x.safetensors", {}, {})
