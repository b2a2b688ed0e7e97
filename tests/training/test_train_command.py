"""`hcnn-fast train` from the command line: results, errors of one line, interruption."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from idx_files import write_look_alike

from hcnn_fast import data, models
from hcnn_fast.cli.main import main
from hcnn_fast.training import EpochReport, Recipe
from hcnn_fast.training import run as training_run
from hcnn_fast.training.settings import Calibration


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small MNIST look-alike: the sample's images as IDX files."""
    root = tmp_path_factory.mktemp("data")
    write_look_alike(root)
    return root


def words(root: Path, output: Path, *more: str, method: str = "adversarial") -> list[str]:
    options = f"--data mnist --data-root {root} --output {output} --epochs 2 --images 256"
    options += " --radius 0.02 --attack-steps 2 --batch-size 32 --learning-rate 0.05"
    options += " --average-decay 0.9 --precision float32 --device cpu --test-images 64"
    return ["train", method, *options.split(), *more]


def test_training_writes_weights_that_load_and_a_card_that_is_printed(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(root, tmp_path / "run", "--json")) == 0
    captured = capsys.readouterr()
    card = json.loads(captured.out)
    assert card["test"]["clean"]["total"] == 64
    assert (card["train_images"], card["validation_images"]) == (231, 25)
    assert captured.err.count("epoch ") == 2
    path = tmp_path / "run" / "model.safetensors"
    assert models.card(str(path)) == card
    model = models.load(str(path))
    test = data.load("mnist", "test", root).first(64)
    with torch.no_grad():
        right = int((model(test.scaled()).argmax(1) == test.labels).sum())
    assert right == card["test"]["clean"]["count"]


def test_natural_training_reports_in_words_and_quiet_says_nothing(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(root, tmp_path / "run", "--first-attack-steps", "1", method="natural")) == 0
    assert "accuracy PGD-50 at radius 0.02, 1 restart(s)" in capsys.readouterr().out
    assert main(words(root, tmp_path / "quiet", "--quiet", method="natural")) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard itself
def test_curves_hold_every_epoch_once_also_after_a_resumed_run(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    output, end = tmp_path / "run", training_run._Run.end_epoch

    def interrupt(run: training_run._Run) -> EpochReport:
        if run.epochs_done == 1:
            raise KeyboardInterrupt
        return end(run)

    monkeypatch.setattr(training_run._Run, "end_epoch", interrupt)
    options = ("--quiet", "--tensorboard")
    assert main(words(root, output, *options, method="natural")) == 130
    monkeypatch.undo()
    assert main(words(root, output, *options, "--resume", method="natural")) == 0
    curves = EventAccumulator(str(output / "tensorboard")).Reload()
    state = torch.load(output / "checkpoint.pt", weights_only=True)["state"]
    for name, field in (("loss", "loss"), ("accuracy/held out", "validation_clean")):
        events, history = curves.Scalars(name), state["history"]
        assert [event.step for event in events] == [report["epoch"] for report in history] == [1, 2]
        values = [event.value for event in events]
        assert values == pytest.approx([report[field] for report in history])


def test_missing_tensorboard_says_how_to_get_it(
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert main(words(root, tmp_path / "run", "--tensorboard", method="natural")) != 0
    assert 'pip install "hcnn_fast[tensorboard]"' in capsys.readouterr().err


def test_interrupted_training_says_how_far_it_is_and_resumes(
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "run"
    step, left = training_run._Run.step, 8 + 2  # an epoch of 8 steps, and 2 of the next

    def interrupt(run: training_run._Run) -> None:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        step(run)

    monkeypatch.setattr(training_run._Run, "step", interrupt)
    monkeypatch.setattr("hcnn_fast.training.checkpoint.WRITING", math.inf)  # after every step
    assert main(words(root, output, "--quiet")) == 130
    said = capsys.readouterr().err
    assert "interrupted after 1 epoch and 2 steps; go on with --resume" in said
    assert not (output / "model.safetensors").exists()
    monkeypatch.undo()
    assert main(words(root, output, "--quiet")) == 2
    assert "holds the checkpoint of another run" in capsys.readouterr().err
    assert main(words(root, output, "--quiet", "--resume", "--seed", "4")) == 2
    assert "made with seed 0, this run has 4" in capsys.readouterr().err
    assert main(words(root, output, "--quiet", "--resume")) == 0
    assert (output / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "words_of_error"),
    [
        (["--model", "small-cn"], "did you mean 'small-cnn'"),
        (["--model", "resnet18"], "cannot read images of mnist"),
        (["--data", "mnits"], "did you mean 'mnist'"),
        (["--data", "cifar10"], "--download"),
        (["--radius", "-0.1"], "radius is -0.1"),
        (["--device", "warp"], "--device warp"),
        (["--resume"], "no checkpoint at"),
        (["--images", "1"], "--images"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    words_of_error: str,
) -> None:
    assert main(words(root, tmp_path / "run", *options)) == 2
    captured = capsys.readouterr()
    assert words_of_error in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_unwritable_output_is_refused_before_the_work(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(words(root, tmp_path / "file")) == 2
    assert "cannot be written to" in capsys.readouterr().err


def test_a_method_is_trained_and_its_settings_are_in_the_card(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--epochs", "1", "--images", "64", "--test-images", "0", "--json", "--quiet")
    assert main(words(root, tmp_path, *options, "--rho", "8", method="ccat")) == 0
    recipe = Recipe.from_dict(json.loads(capsys.readouterr().out)["recipe"])
    assert recipe.settings == Calibration(rho=8.0)
    assert main(words(root, tmp_path, *options, "--rho", "9", "--resume", method="ccat")) == 2
    refusal = capsys.readouterr().err
    assert "made with settings" in refusal
    assert refusal.count("\n") == 1
    assert main(words(root, tmp_path / "other", "--rho", "8", method="trades")) == 2
    assert "--rho is of method ccat; it says nothing to trades" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "flip"), [((), False), (("--flip",), True)])
def test_digits_are_mirrored_only_where_that_is_asked_for(
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: tuple[str, ...],
    flip: bool,
) -> None:
    short = ("--epochs", "1", "--images", "64", "--test-images", "0", "--json", "--quiet")
    assert main(words(root, tmp_path, *short, *option, method="natural")) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["flip"] is flip
