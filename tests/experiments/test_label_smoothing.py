"""The experiment on label smoothing: truth on linear models, and a run that trains its models."""

from __future__ import annotations

import fcntl
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from idx_files import write_look_alike
from small_task import linear, run_task, small_task
from torch import nn

from hcnn_fast.cli.main import main
from hcnn_fast.evaluation import PairedDifference
from hcnn_fast.experiments import Subject, Task
from hcnn_fast.experiments import label_smoothing as experiment
from hcnn_fast.experiments.trained import MODELS


def task_of(models: dict[float, nn.Module]) -> Task:
    """The experiment on given models instead of trained ones, all on the same points."""
    task = small_task("label-smoothing", radii=(0.04,), paper_radii=(None,), steps=6, points=12)
    roles = {amount: experiment.role_of(amount) for amount in models}
    subjects = tuple(Subject(roles[a], roles[a], model, {}) for a, model in models.items())
    return replace(task, subjects=subjects)


def exact_survivors(model: nn.Module, task: Task, radius: float) -> int:
    """Points of a linear model that no point of the ball within the box turns: closed form."""
    from hcnn_fast.experiments import chosen_points
    from hcnn_fast.experiments.points import pixels

    subject = task.subjects[0]
    x, y = pixels(task.data, chosen_points(task)[subject.role], subject)
    x = x.flatten(1).double()  # [N, D]
    weight, bias = model[1].weight.double(), model[1].bias.double()  # type: ignore[index]
    lower = (x - radius).clamp_min(0.0) - x  # [N, D]
    upper = (x + radius).clamp_max(1.0) - x
    count = 0
    for point, label, low, high in zip(x, y, lower, upper, strict=True):
        apart = weight[label] - weight  # [C, D]
        margin = apart @ point + bias[label] - bias  # [C]
        worst = margin + torch.where(apart > 0, apart * low, apart * high).sum(1)
        worst[label] = torch.inf
        count += int(bool((worst > 0).all()))
    return count


def test_proportional_linear_models_are_equally_robust_and_nothing_is_gained(
    tmp_path: Path,
) -> None:
    """T-D2: on a linear model a factor on the logits changes no decision and no attack."""
    models = {}
    for amount in experiment.AMOUNTS:
        model = linear(1.5, 1)
        with torch.no_grad():
            model[1].weight.mul_(1.0 - 0.9 * amount)  # type: ignore[index, operator]
        models[amount] = model
    task = task_of(models)
    found = experiment.findings(run_task(task, tmp_path))
    truth = exact_survivors(models[0.0], task, 0.04)
    assert 0 < truth < 12
    for model in found.numbers["models"].values():
        assert model["accuracy"][experiment.UNION]["count"] == truth
    for gains in (found.numbers["gain_under_weak_attack"], found.numbers["gain_under_all_attacks"]):
        assert all(gain["gained"] == gain["lost"] == 0 for gain in gains.values())
    assert any("no gain of smoothing is shown" in sentence for sentence in found.reading)


class Steep(nn.Module):
    """A linear classifier whose cross entropy has no gradient in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = linear(1.5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1e5 * self.inner(x)


def test_a_model_that_hides_its_gradient_gains_under_the_weak_attack_and_is_found_out(
    tmp_path: Path,
) -> None:
    models = {a: Steep() if a == 0.9 else linear(1.5, 1) for a in experiment.AMOUNTS}
    found = experiment.findings(run_task(task_of(models), tmp_path))
    masked = experiment.role_of(0.9)
    weak = found.numbers["gain_under_weak_attack"][masked]
    assert weak["gained"] > weak["lost"] == 0
    rest = found.numbers["gain_under_all_attacks"][masked]
    assert rest["gained"] == rest["lost"] == 0
    assert "gradients vanish" in found.numbers["models"][masked]["masking"]["flags"]
    assert any(f"Masking is flagged for {masked}" in sentence for sentence in found.reading)


def test_command_trains_its_models_once_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "AMOUNTS", (0.0, 0.5))
    write_look_alike(tmp_path)
    words = "evaluate label-smoothing --data mnist --device cpu --epochs 1 --train-images 96"
    words += f" --points 8 --steps 3 --starts 1 --data-root {tmp_path} --output {tmp_path}/out"
    assert main(words.split()) == 0
    shown = capsys.readouterr().out
    assert "Right answers by attack" in shown
    folder = tmp_path / "out" / "label-smoothing"
    names = {path.name for path in (folder / MODELS).iterdir() if path.is_dir()}
    assert names == {"smoothing-0", "smoothing-0.5"}
    rows = {path: path.read_bytes() for path in folder.glob("*.parquet")}
    assert len(rows) == 2

    def refuse(*arguments: object) -> None:
        raise AssertionError("a step of training or an attack was made again")

    monkeypatch.setattr("hcnn_fast.training.run._Run.step", refuse)
    monkeypatch.setattr("hcnn_fast.experiments.masking_attacks.pgd", refuse)
    assert main([*words.split(), "--quiet"]) == 0
    assert {path: path.read_bytes() for path in folder.glob("*.parquet")} == rows
    with (folder / MODELS / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main([*words.split(), "--quiet"]) == 2
    assert "is in use by another run" in capsys.readouterr().err
    assert main([*words.split(), "--epochs", "2"]) == 2
    error = capsys.readouterr().err
    assert "epochs was 1, now 2" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("label-smoothing --model fashion-natural", "--model says nothing to label-smoothing"),
        ("rejection --epochs 2", "--epochs says nothing to rejection, which trains no model"),
        ("rejection --train-images 20", "--train-images says nothing to rejection"),
        ("label-smoothing", "split is 'train', expected 'test' for 'fashion-mnist-sample'"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    assert main(["evaluate", *words.split(), "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


class Constant(nn.Module):
    """Says a class that no image has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.0 * x.flatten(1)[:, :4] + torch.tensor([0.0, 0.0, 0.0, 1.0])


def test_a_model_without_a_right_answer_is_reported_as_such(tmp_path: Path) -> None:
    models = {a: Constant() if a == 0.9 else linear(1.5, 1) for a in experiment.AMOUNTS}
    task = task_of(models)
    labels = task.data.labels.clamp_max(2)
    task = replace(task, data=replace(task.data, labels=labels))
    numbers = experiment.findings(run_task(task, tmp_path)).numbers["models"]
    hopeless = numbers[experiment.role_of(0.9)]
    assert hopeless["accuracy"][experiment.CLEAN]["count"] == 0
    assert hopeless["confidence"] is hopeless["masking"] is None
    assert numbers[experiment.role_of(0.0)]["masking"] is not None


def test_a_gain_that_all_attacks_undo_is_told_from_one_of_which_some_is_left() -> None:
    promised = {"a": PairedDifference(20, 0, 100), "b": PairedDifference(9, 0, 100)}
    kept = {"a": PairedDifference(15, 0, 100), "b": PairedDifference(1, 1, 100)}
    said = experiment._reading({}, promised, kept, "PGD-10", 0.1)
    assert any(s.startswith("a looks robust") and "some of that is left" in s for s in said)
    assert any(s.startswith("b looks robust") and "no gain is shown" in s for s in said)
