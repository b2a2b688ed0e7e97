"""A training run killed with -9 loses nothing but the step that it was in, where time allows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

# Imports once and forks, so that only the training itself is repeated.
SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
from hcnn_fast import data, models
from hcnn_fast.training import Recipe, checkpoint, save_weights, train

checkpoint.WRITING = float("inf")  # after every step, however long that takes
torch.set_num_threads(1)
recipe = Recipe(
    method="ccat", radius=0.1, attack_steps=2, epochs=3, batch_size=64, validation_images=64,
    validation_steps=1, precision="float32",
)
images = data.load("fashion-mnist-sample").first(384)


def run(output, report):
    torch.manual_seed(0)
    model = models.build("small-cnn")
    path = output / "checkpoint.pt"
    result = train(model, images, recipe, output, resume=path.is_file(), on_step=report)
    save_weights(output / "model.safetensors", result.weights, {})


def child(output, kill_after=None):
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        run(output, lambda *done: os.write(writing, b"%d %d %d|" % done))
        os._exit(0)
    os.close(writing)
    seen = b""
    while part := os.read(reading, 64):
        seen += part
        if kill_after is not None and seen.count(b"|") >= kill_after:
            os.kill(pid, signal.SIGKILL)
            break
    os.close(reading)
    _, status = os.waitpid(pid, 0)
    if kill_after is None and status:
        raise SystemExit(f"a run ended with status {status}")
    epoch, step, steps_per_epoch = map(int, seen.split(b"|")[-2].split())
    return (epoch - 1) * steps_per_epoch + step, steps_per_epoch


whole, killed = map(Path, sys.argv[1:])
child(whole)
for steps in (3, 6, 4):
    done, steps_per_epoch = child(killed, kill_after=steps)
    epochs, steps_done = checkpoint.checkpoint_progress(killed / "checkpoint.pt")
    stored = epochs * steps_per_epoch + steps_done
    print(done, stored)
child(killed)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and fork are POSIX")
def test_killed_runs_lose_only_their_last_step_and_end_with_the_same_bits(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    words = [sys.executable, "-c", SCRIPT, str(whole), str(killed)]
    said = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, timeout=200).stdout
    progress = [tuple(map(int, line.split())) for line in said.splitlines()]
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)
    assert len(progress) == 3
    for done, stored in progress:
        assert stored >= done >= 3
    first, second = (load_file(folder / "model.safetensors") for folder in (whole, killed))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
