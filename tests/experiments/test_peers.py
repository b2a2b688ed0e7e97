"""Our union of attacks finds every error that another library finds, and a miss would be seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_task import run_task, small_task

import hcnn_fast as hf
from hcnn_fast.evaluation import AttemptTable
from hcnn_fast.evaluation.table import Classifier
from hcnn_fast.experiments import ROBUST, Evidence, Settings, Subject, Task
from hcnn_fast.experiments.peer_attacks import CLIPPED, VICTIMS, made_on
from hcnn_fast.experiments.peer_libraries import PEERS
from hcnn_fast.experiments.peers import OURS, THEIRS, attack_groups, findings, outcome_at

POINTS = 8


@pytest.mark.slow
def test_our_union_finds_every_error_that_another_library_finds(tmp_path: Path) -> None:
    """On the shipped model and images, on the base and through its MCN, point by point."""
    radius = 0.08
    sample = hf.data.load("fashion-mnist-sample", "test")
    model = hf.models.load("fashion-adversarial")
    with torch.no_grad():  # the least certain of those it gets right: neither all safe nor all lost
        odds = torch.log_softmax(model(sample.scaled()), 1)  # [512, C]
    own = odds.gather(1, sample.labels[:, None])[:, 0]  # [512]
    least = odds.scatter(1, sample.labels[:, None], -torch.inf).amax(1)  # [512]
    ranked = torch.argsort(torch.where(own > least, own - least, torch.inf))  # [512]
    some = ranked[: 24 * POINTS : 12]  # every other one may be attacked
    data = replace(sample, images=sample.images[some], labels=sample.labels[some])
    settings = Settings(
        data="fashion-mnist-sample",
        radii=(radius,),
        paper_radii=(None,),
        confidences=(),
        points=POINTS,
        steps=3,
        starts=1,
        search_steps=2,
        chunk=POINTS,
    )
    task = replace(
        small_task("peers", natural=False),
        subjects=(Subject("fashion-adversarial", ROBUST, model, {}),),
        data=data,
        settings=settings,
    )
    its = outcome_at(run_task(task, tmp_path).tables[ROBUST], radius)
    assert its.only_theirs == {"base": (), "defended": ()}
    for name in VICTIMS:
        ours, theirs = its.errors[OURS][name], its.errors[THEIRS][name]
        assert 0 < theirs.count <= ours.count
        assert ours.total == POINTS
        for peer in PEERS:
            assert its.errors[peer][name].count <= ours.count
    assert its.errors[THEIRS]["base"].count < POINTS, "the libraries did not break everything"


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Task, Evidence]:
    changes = {"radii": (0.02,), "paper_radii": (None,), "points": 8, "steps": 3, "starts": 1}
    task = small_task("peers", natural=False, **changes)
    return task, run_task(task, tmp_path_factory.mktemp("small"))


def with_error(table: AttemptTable, row: int, classifier: Classifier) -> AttemptTable:
    """The same table, in one of whose rows a classifier answers wrongly."""
    answers = table.answers(classifier)
    prediction = answers.prediction.clone()
    prediction[row] = (table.label[row] + 1) % 4
    wrong = torch.where(torch.arange(len(table)) == row, answers.confidence, -torch.inf)
    changed = replace(
        answers,
        prediction=prediction,
        wrong_confidence=torch.maximum(answers.wrong_confidence, wrong),
    )
    return replace(table, **{classifier: changed})


@pytest.mark.parametrize("classifier", VICTIMS)
@pytest.mark.parametrize("victim", VICTIMS)
def test_an_error_that_only_a_library_finds_is_listed(
    small_run: tuple[Task, Evidence], classifier: Classifier, victim: Classifier
) -> None:
    _, found = small_run
    table, radius = found.tables[ROBUST], found.settings.radii[0]
    its = outcome_at(table, radius)
    assert its.only_theirs == {"base": (), "defended": ()}
    assert its.errors[OURS]["base"].count < 8
    attack = made_on("Foolbox FMN", victim)
    rows = [row for row, name in enumerate(table.attack) if name == attack]
    broken = set(table.example[table.answers(classifier).wrong(table.label)].tolist())
    row = next(row for row in rows if int(table.example[row]) not in broken)
    missed = outcome_at(with_error(table, row, classifier), radius)
    counts = classifier == "defended" or victim == "base"  # the base is judged by its own attacks
    expected = (int(table.example[row]),) if counts else ()
    assert missed.only_theirs[classifier] == expected
    said = " ".join(
        findings(replace(found, tables={ROBUST: with_error(table, row, classifier)})).reading
    )
    assert ("it is too weak there" in said) == counts
    if counts:
        assert f"(points {expected[0]})" in said


def test_an_error_that_only_ours_finds_is_listed_too(small_run: tuple[Task, Evidence]) -> None:
    _, found = small_run
    table, radius = found.tables[ROBUST], found.settings.radii[0]
    broken = set(table.example[table.base.wrong(table.label)].tolist())
    rows = [row for row, name in enumerate(table.attack) if name == "APGD-T"]
    row = next(row for row in rows if int(table.example[row]) not in broken)
    its = outcome_at(with_error(table, row, "base"), radius)
    assert its.only_ours["base"] == (int(table.example[row]),)
    assert its.only_theirs["base"] == ()


def test_errors_of_a_linear_model_are_the_exact_ones(small_run: tuple[Task, Evidence]) -> None:
    """Our union and the libraries' both end at the closed form of the base's worst margin."""
    task, found = small_run
    its = outcome_at(found.tables[ROBUST], found.settings.radii[0])
    example = torch.unique(found.tables[ROBUST].example)
    x, y = task.data.scaled()[example].double().flatten(1), task.data.labels[example]
    layer, radius = task.subjects[0].model[1], found.settings.radii[0]
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    slope = weight[y][:, None] - weight[None]  # [N, C, D]
    lower, upper = (x - radius).clamp_min(0.0)[:, None], (x + radius).clamp_max(1.0)[:, None]
    worst = (slope * torch.where(slope > 0, lower, upper)).sum(2)  # [N, C]
    margin = worst + bias[y][:, None] - bias[None]  # [N, C]
    breakable = (margin.scatter(1, y[:, None], torch.inf).amin(1) < 0.0).sum()
    assert its.errors[OURS]["base"].count == its.errors[THEIRS]["base"].count == int(breakable)


def test_every_row_belongs_to_one_side_and_costs_are_counted(
    small_run: tuple[Task, Evidence],
) -> None:
    _, found = small_run
    table = found.tables[ROBUST]
    groups = attack_groups()
    union = {*groups[OURS]["defended"], *groups[THEIRS]["defended"]}
    assert union == set(table.attack) - {"clean", "the point itself"}
    assert not set(groups[OURS]["defended"]) & set(groups[THEIRS]["defended"])
    its = outcome_at(table, found.settings.radii[0])
    for name in PEERS:
        for victim in VICTIMS:
            spent = its.gradient_steps[name][victim], its.queries[name][victim]
            assert (spent[0] > 0) == (name != "AutoAttack Square")
            assert spent[1] > 0


def test_clipped_points_are_told(small_run: tuple[Task, Evidence]) -> None:
    _, found = small_run
    table = replace(found.tables[ROBUST], metadata={f"{CLIPPED}: a": "2", f"{CLIPPED}: b": "1"})
    its = findings(replace(found, tables={ROBUST: table}))
    assert its.numbers["clipped"] == 3
    assert any(note.startswith("3 points") for part in its.tables for note in part.notes)


def test_three_classes_are_refused_before_any_work(tmp_path: Path) -> None:
    task = small_task("peers", natural=False)
    names, labels = task.data.class_names[:3], task.data.labels.clamp_max(2)
    data = replace(task.data, class_names=names, labels=labels)
    with pytest.raises(ValueError, match="the data have 3 classes, expected 4 or more"):
        run_task(replace(task, data=data), tmp_path)
