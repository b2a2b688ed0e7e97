"""The experiment on CCAT: its rows on linear models, and the verdicts on its claims."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_task import run_task, small_task

from hcnn_fast.attacks import AttackResult, pgd_conf
from hcnn_fast.evaluation import CcatMetrics, Proportion, concatenate, roc_curve
from hcnn_fast.evaluation.small_perturbations import SHARES
from hcnn_fast.experiments import Evidence, Task, Training, ccat, points_done
from hcnn_fast.experiments.ccat_attacks import DISTAL, LOWEST, STRONG, noise_id, threats
from hcnn_fast.experiments.ccat_claims import claims
from hcnn_fast.experiments.ccat_measures import measure, threats_in


@pytest.fixture(scope="module")
def task() -> Task:
    return small_task("ccat", steps=10, starts=1, points=12, confidences=())


@pytest.fixture(scope="module")
def found(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return run_task(task, tmp_path_factory.mktemp("run"))


def test_every_threat_has_rows_for_every_point_and_noise_is_apart(
    task: Task, found: Evidence
) -> None:
    assert points_done(found) == 12
    for table in found.tables.values():
        images, noise = table.take(table.example >= 0), table.take(table.example < 0)
        assert set(noise.attack) == {"clean", DISTAL}
        assert (noise.label == -1).all()
        points = torch.unique(images.example)
        assert torch.equal(torch.unique(noise.example), noise_id(points).sort().values)
        assert threats_in(images) == threats(task.settings, 6)
        for threat in threats(task.settings, 6):
            some = images.select(norm=threat.norm, radius=threat.radius)
            assert len(torch.unique(some.example[~some.is_clean()])) == 12
        assert LOWEST in images.attack


def test_errors_in_the_seen_ball_equal_the_closed_form_of_a_linear_model(
    task: Task, found: Evidence
) -> None:
    """At tau = 0 the ICLR form is the share of points wrong when clean or within the ball."""
    radius = task.settings.radii[0]
    for subject in task.subjects:
        images = found.tables[subject.role].take(found.tables[subject.role].example >= 0)
        example = torch.unique(images.example)
        x = task.data.images[example].flatten(1).double() / 255.0  # [N, D]
        y = task.data.labels[example]
        weight, bias = (p.detach().double() for p in subject.model.parameters())
        low, high = (x - radius).clamp_min(0.0) - x, (x + radius).clamp_max(1.0) - x  # [N, D]
        apart = weight[None] - weight[y][:, None]  # [N, C, D]
        rise = torch.where(apart > 0.0, apart * high[:, None], apart * low[:, None]).sum(2)
        margin = (apart * x[:, None]).sum(2) + bias - bias[y][:, None] + rise  # [N, C]
        margin.scatter_(1, y[:, None], -torch.inf)
        lost = int((margin.amax(1) > 0.0).sum())
        model = measure(found.tables[subject.role], found.held_out[subject.role])
        at_zero = model.threats[f"linf {radius:g}"][0]
        assert at_zero.robust_error_iclr == Proportion(lost, len(y))
        assert 0 < lost < len(y)


def test_a_larger_ball_and_more_attacks_never_have_fewer_errors(found: Evidence) -> None:
    for role, table in found.tables.items():
        model = measure(table, found.held_out[role])
        seen, larger = (model.threats[name] for name in ("linf 0.02", "linf 0.05"))
        for place in (0, 1):
            few, many = seen[place].false_positive_rate, larger[place].false_positive_rate
            assert few.count <= many.count
        for alone in model.alone.values():
            assert alone.false_positive_rate.count <= seen[1].false_positive_rate.count


def test_an_error_found_in_a_small_ball_counts_in_the_larger_one(found: Evidence) -> None:
    table = found.tables["normal"]
    kept = ~((table.radius == 0.05) & (table.example >= 0))  # every attempt in the larger ball
    harmless = table.take(torch.tensor([name == "clean" for name in table.attack]))
    harmless = replace(
        harmless,
        attack=(STRONG,) * len(harmless),
        radius=torch.full_like(harmless.radius, 0.05),
        distance=torch.zeros_like(harmless.distance),
    ).take(harmless.example >= 0)
    model = measure(concatenate([table.take(kept), harmless]), found.held_out["normal"])
    seen, larger = (model.threats[name][0] for name in ("linf 0.02", "linf 0.05"))
    assert larger.false_positive_rate == seen.false_positive_rate
    assert seen.false_positive_rate.count > 0


def test_the_strong_attack_begins_at_the_point_itself_and_the_others_at_random(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[Any, int, Any]] = []

    def spy(*arguments: Any, **options: Any) -> AttackResult:
        begun.append((options["initialisations"], options["steps"], options["backtracking"]))
        return pgd_conf(*arguments, **options)

    monkeypatch.setattr("hcnn_fast.experiments.ccat_attacks.pgd_conf", spy)
    subject = task.subjects[0]
    task.experiment.attempts(task.work(subject, torch.arange(2)))
    strong, others = (("zero",), 10, 1.1), (("uniform_norm",), 10, 1.1)
    balls = len(threats(task.settings, 6)) - 1  # besides the frame
    assert begun.count(strong) == begun.count(others) == balls
    assert begun.count((("zero",), 10, None)) == 1
    assert begun.count((("uniform_norm",), 2, 1.1)) == balls  # PGD-CE
    shares = [share for share in SHARES if 0.0 < share < 1.0]
    assert begun.count((("zero",), 2, 1.1)) == len(shares)


def test_findings_name_every_threat_and_claim(found: Evidence) -> None:
    findings = ccat.findings(found)
    assert len(findings.reading) == 5
    text = " ".join(cell for table in findings.tables for row in table.rows for cell in row)
    for threat in ("linf 0.02", "linf 0.05", "l2 1.5", "l1 12", "l0 10", "frame of 1"):
        assert threat in text
    assert set(findings.numbers["thresholds"]) == {"normal", "AT", "CCAT"}
    for drawing in findings.drawings:
        drawing.draw()


def test_the_picture_of_confidence_is_of_the_points_and_not_of_noise(found: Evidence) -> None:
    drawing = next(d for d in ccat.findings(found).drawings if d.name == "confidence")
    titles = [axes.get_title(loc="left") for axes in drawing.draw().axes]
    counts = [re.findall(r"(\d+) right, (\d+) wrong", title) for title in titles]
    assert len(counts) == 6
    for ((right, wrong),) in counts:
        assert int(right) + int(wrong) == 12


def metrics(errors: int, of: int = 100, clean: int = 5) -> Any:
    """Metrics of a threat with so many accepted errors, and so many of clean images."""
    rate = Proportion(errors, of)
    at_tau = CcatMetrics(
        threshold=0.5,
        tpr=Proportion(99, 100),
        error=Proportion(clean, 100),
        robust_error_iclr=rate,
        robust_error_icml=rate,
        robust_error_supremum=rate,
        false_positive_rate=rate,
    )
    area = roc_curve(torch.tensor([0.9, 0.8]), torch.tensor([0.2])).area()
    return (replace(at_tau, threshold=0.0), at_tau, area)


@pytest.mark.parametrize(
    ("ours", "theirs", "place", "expected"),
    [
        ((100, 30), (20, 80), 0, True),
        ((50, 30), (20, 80), 0, False),
        ((82, 30), (20, 80), 0, None),
        ((100, 30), (20, 80), 2, True),
        ((20, 30), (100, 80), 2, False),
        ((50, 30), (50, 80), 2, None),
        ((100, 30), (20, 80), 3, True),
        ((100, 80), (20, 30), 3, False),
        ((100, 50), (20, 55), 3, None),
    ],
)
def test_verdicts_follow_the_intervals(
    ours: tuple[int, int], theirs: tuple[int, int], place: int, expected: bool | None
) -> None:
    threats_of = {
        "CCAT": {"linf 0.1": metrics(ours[0]), "l2 1": metrics(ours[1])},
        "AT": {"linf 0.1": metrics(theirs[0]), "l2 1": metrics(theirs[1])},
    }
    checked = claims(threats_of, {"CCAT": {"noise": Proportion(0, 50)}})
    assert checked[place].held is expected
    assert len(checked) == 5


def test_clean_errors_and_noise_decide_their_claims() -> None:
    for clean, noise, expected in ((0, 0, (True, True)), (60, 1, (False, False))):
        threats_of = {
            "CCAT": {"linf 0.1": metrics(100, clean=clean)},
            "AT": {"linf 0.1": metrics(20, clean=20)},
        }
        checked = claims(threats_of, {"CCAT": {"noise": Proportion(noise, 50)}})
        assert (checked[1].held, checked[4].held) == expected
        words = "held" if expected[0] else "did not hold"
        assert f": {words}. CCAT {clean}/100" in checked[1].sentence


def test_members_share_all_but_the_method(task: Task) -> None:
    settings = replace(task.settings, training=Training(epochs=3))
    normal, at, ours = (member.recipe for member in ccat.members(settings))
    assert (normal.method, at.method, ours.method) == ("natural", "at50", "ccat")
    assert at.radius == ours.radius == settings.radii[0]
    assert at.epochs == ours.epochs == normal.epochs == 3
