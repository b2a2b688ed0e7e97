"""The experiment on losses: what it finds on linear models, beside their closed forms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_task import linear, run_task, small_task

from hcnn_fast.evaluation import AttemptTable
from hcnn_fast.experiments import Evidence, Subject, Task, Training, chosen_points
from hcnn_fast.experiments import loss_family as experiment
from hcnn_fast.experiments.points import pixels
from hcnn_fast.training.losses import LOSSES

RADIUS = 0.05


@pytest.fixture(scope="module")
def task() -> Task:
    """The experiment on one linear model, which stands for a model of every loss."""
    task = small_task("loss-family", radii=(RADIUS,), paper_radii=(None,), steps=8, starts=1)
    subjects = tuple(Subject(loss, loss, linear(2.0, 1), {}) for loss in experiment.LOSSES)
    return replace(task, subjects=subjects)


@pytest.fixture(scope="module")
def found(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return run_task(task, tmp_path_factory.mktemp("run"))


def test_worst_margin_losses_come_near_the_closed_form_on_a_linear_model_and_not_above(
    task: Task, found: Evidence
) -> None:
    """cw_f6 and cw_f7 rise with the margin, whose largest value has a closed form (T-A4)."""
    model = task.subjects[0].model
    x, y = pixels(task.data, chosen_points(task)[task.subjects[0].role], task.subjects[0])
    x = x.flatten(1).double()  # [N, D]
    weight, bias = (p.detach().double() for p in model.parameters())
    low, high = (x - RADIUS).clamp_min(0.0) - x, (x + RADIUS).clamp_max(1.0) - x  # [N, D] both
    apart = weight[None] - weight[y][:, None]  # [N, C, D]
    rise = torch.where(apart > 0.0, apart * high[:, None], apart * low[:, None]).sum(2)  # [N, C]
    margin = (apart * x[:, None]).sum(2) + bias - bias[y][:, None] + rise  # [N, C]
    margin.scatter_(1, y[:, None], -torch.inf)
    worst = margin.amax(1)  # [N]
    truth = {"cw_f6": worst.clamp_min(0.0), "cw_f7": torch.nn.functional.softplus(worst)}
    for loss, values in truth.items():
        measured = experiment.worst_loss(found.tables[loss], RADIUS)
        exact = float(values.mean())
        assert 0.998 * exact < measured < exact + 1e-4, loss
    assert float(truth["cw_f6"].mean()) > 0.1


def test_what_is_found_stays_below_the_bound_of_the_loss_that_is_found(found: Evidence) -> None:
    numbers = experiment.findings(found).numbers["models"]
    assert {row["loss"] for row in numbers} == set(experiment.LOSSES)
    shares = [s for row in numbers for s in row["separation"]]
    assert any(s["hits"]["count"] for s in shares)
    assert any(s["bound"] < 1.0 for s in shares)
    for row in shares:
        assert row["hits"]["count"] / row["hits"]["total"] <= row["bound"] + 1e-12


def test_a_model_that_is_never_sure_is_said_to_show_no_separation(
    task: Task, tmp_path: Path
) -> None:
    """Scaled down, the logits decide the same and are confident of nothing."""
    faint = linear(1e-3, 1)
    subjects = tuple(
        replace(subject, model=faint) if subject.role == "cw_f6" else subject
        for subject in task.subjects
    )
    findings = experiment.findings(run_task(replace(task, subjects=subjects), tmp_path))
    rows = {row["loss"]: row for row in findings.numbers["models"]}
    sure = {loss: row["separation"][0]["sure"]["count"] for loss, row in rows.items()}
    assert sure["cw_f6"] == 0
    assert rows["cw_f6"]["clean"]["count"] > 0
    assert min(count for loss, count in sure.items() if loss != "cw_f6") > 0
    said = [sentence for sentence in findings.reading if "is no separation" in sentence]
    assert len(said) == 1
    assert "No right answer of cw_f6 has confidence" in said[0]
    compared = [s for s in findings.reading if "no difference" in s or "beyond chance" in s]
    assert len(compared) == 3
    assert not any("cw_f6" in sentence for sentence in compared)


def test_equal_models_show_no_difference(found: Evidence) -> None:
    reading = experiment.findings(found).reading
    assert sum("no difference is shown" in sentence for sentence in reading) == 4


def test_an_attempt_without_a_loss_is_refused(found: Evidence) -> None:
    table = found.tables["cw_f7"]
    unknown = AttemptTable(**(vars(table) | {"loss": torch.full_like(table.loss, -1.0)}))
    with pytest.raises(ValueError, match="loss is not measured"):
        experiment.worst_loss(unknown, RADIUS)


def test_members_differ_in_nothing_but_their_loss(task: Task) -> None:
    settings = replace(task.settings, data="mnist", training=Training(epochs=3))
    members = experiment.members(settings)
    assert [member.recipe.loss for member in members] == list(experiment.LOSSES)
    assert set(experiment.LOSSES) <= set(LOSSES)
    for member in members:
        assert member.recipe.replace(loss="squared") == members[1].recipe
        assert (member.recipe.radius, member.recipe.epochs) == (0.3, 3)
