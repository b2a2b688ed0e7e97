"""The defended model under attack: closed forms, and a defence that gains nothing."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from small_task import run_task
from torch import Tensor, nn
from two_class_task import POINTS, margins, two_class_task

from hcnn_fast.config import SearchConfig
from hcnn_fast.data import ImageDataset
from hcnn_fast.defense import Defense
from hcnn_fast.experiments import ROBUST, Evidence, Subject, Task
from hcnn_fast.experiments.adaptive_attacks import DANSKIN, STATIC, at_radius, threshold_of
from hcnn_fast.experiments.adaptive_outcomes import (
    ALL_STATIC,
    NOTHING,
    UNION,
    measured,
    measured_at,
)
from hcnn_fast.experiments.points import divide


@pytest.fixture(scope="module")
def linear_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Task, Evidence]:
    task = two_class_task("adaptive", confidences=(0.6, 0.9), steps=4, starts=1, chunk=24)
    return task, run_task(task, tmp_path_factory.mktemp("linear"))


def test_mcn_is_right_exactly_where_its_linear_base_is(linear_run: tuple[Task, Evidence]) -> None:
    """With balls inside the box MCN keeps the sign of a binary linear model (spec A.4, T-A1)."""
    task, found = linear_run
    counts = set()
    for radius, its in measured(found).items():
        survive = margins(task, found, radius) > 0.0  # [N]
        for name in ("base", "defended"):
            assert torch.equal(its.union.plain[name].right, survive)
            assert torch.equal(its.attacks[ALL_STATIC].plain[name].right, survive)
            clean = margins(task, found, 0.0) > 0.0  # [N] with the errors that the labels have
            assert torch.equal(its.attacks[NOTHING].plain[name].right, clean)
            assert not bool(clean.all())
        gain = its.union.gain
        assert (gain.gained, gain.lost, gain.total, gain.p_value) == (0, 0, POINTS, 1.0)
        counts.add(int(survive.sum()))
    assert len(counts) == 2, "the radii are told apart"


def test_wrong_answers_that_pass_the_threshold_are_the_exact_ones(
    linear_run: tuple[Task, Evidence],
) -> None:
    task, found = linear_run
    for radius, its in measured(found).items():
        # at the worst point MCN moves further by its own radius, in whose corner it answers
        for name, reach in (("base", radius), ("defended", 2.0 * radius)):
            threshold = its.thresholds[name]
            assert 0.5 < threshold < 1.0
            wrong = margins(task, found, radius) < 0.0  # [N]
            accepted = torch.sigmoid(-margins(task, found, reach)) >= threshold  # [N]
            assert torch.equal(its.union.rejecting[name].wrong, wrong & accepted)


def test_half_radius_lemma_counts_what_linear_models_say(
    linear_run: tuple[Task, Evidence],
) -> None:
    task, found = linear_run
    goods = set()
    for radius, its in measured(found).items():
        for bound in its.bounds:
            certain = torch.sigmoid(margins(task, found, 0.0)) >= bound.confidence
            safe = torch.sigmoid(-margins(task, found, 2.0 * radius)) < bound.confidence
            assert bound.good.count == int((certain & safe).sum())
            assert bound.good.count <= its.union.plain["defended"].rate("right").count
            goods.add(bound.good.count)
    assert len(goods) >= 3


def test_rejections_within_a_share_are_those_in_reach(linear_run: tuple[Task, Evidence]) -> None:
    """Both classifiers answer with |margin|, MCN with as much more as its ball adds.

    Where the sign turns, few steps may leap over the margins that are rejected.
    """
    task, found = linear_run
    rejected = set()
    for radius, its in measured(found).items():
        reach = margins(task, found, 0.0) - margins(task, found, radius)  # [N] of the ball
        for name, points in its.stratified.items():
            added = reach if name == "defended" else torch.zeros_like(reach)
            for point in points:
                clean = margins(task, found, 0.0).abs()  # [N]
                least = (clean - point.share * reach).clamp_min(0.0)  # [N]
                low = torch.sigmoid(least + added) < its.thresholds[name]  # [N]
                at_once = torch.sigmoid(clean + added) < its.thresholds[name]  # [N]
                found_surely = (low & (least > 0.0)) | at_once  # [N]
                assert int(found_surely.sum()) <= point.rejected.count <= int(low.sum())
                rejected.add(point.rejected.count)
    assert len(rejected) >= 3


def test_thresholds_are_those_of_a_calibrated_defence(linear_run: tuple[Task, Evidence]) -> None:
    task, found = linear_run
    held = divide(task.data, task.settings.seed).held_out
    x, y = task.data.scaled()[held], task.data.labels[held]
    for radius in task.settings.radii:
        config = SearchConfig.mcn(radius, steps=task.settings.search_steps)
        expected = Defense(task.subjects[0].model, config).calibrate(x, y, tpr=0.99)
        stored = threshold_of(found.held_out[ROBUST], "defended", radius)
        assert stored == pytest.approx(expected, abs=1e-6)
        assert set(found.held_out[ROBUST].example.tolist()) == set(held.tolist())


def test_conclusion_claims_nothing_where_nothing_is_gained(
    linear_run: tuple[Task, Evidence],
) -> None:
    task, found = linear_run
    said = task.experiment.findings(found).reading
    survive = int((margins(task, found, task.settings.radii[0]) > 0.0).sum())
    assert f"MCN answers {survive} of {POINTS} points rightly, the base {survive} of" in said[0]
    assert said[0].endswith("MCN is not better than the base.")
    assert not any("better than the base against" in sentence for sentence in said)


def test_clean_rows_of_a_radius_hold_the_answers_of_its_search(
    linear_run: tuple[Task, Evidence],
) -> None:
    task, found = linear_run
    for radius in task.settings.radii:
        here = at_radius(found.tables[ROBUST], radius)
        clean = here.take(here.is_clean())
        assert len(clean) == POINTS
        x = task.data.scaled()[clean.example]
        config = SearchConfig.mcn(radius, steps=task.settings.search_steps)
        confidence = Defense(task.subjects[0].model, config).predict(x).confidence
        assert torch.allclose(clean.defended.confidence.float(), confidence, atol=1e-5)
        assert bool((clean.defended.confidence > clean.base.confidence).all())


def test_stopped_run_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    changes = {"radii": (0.05,), "paper_radii": (None,), "points": 4, "chunk": 2}
    task = two_class_task("adaptive", steps=2, starts=1, search_steps=2, **changes)
    run_task(task, tmp_path / "whole")
    found = run_task(task, tmp_path / "cut", seconds=0.0)
    assert len(found.tables[ROBUST].example.unique()) == 2
    run_task(task, tmp_path / "cut")
    whole, cut = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.parquet")}
        for name in ("whole", "cut")
    )
    assert len(whole) == 2 + 2
    assert cut == whole


class Trap(nn.Module):
    """Wrong in a narrow notch on one side, and very wrong further out on the other.

    With radius 0.1 the first pixel moves from 0.5 to [0.4, 0.6]. There the model errs around 0.42
    alone, where MCN finds the right class beside it; but from 0.6 MCN reaches 0.7.
    """

    KNOTS = ((0.0, 1.0), (0.38, 1.0), (0.42, -1.0), (0.46, 2.0), (0.5, 2.1), (0.62, 1.0))
    END = (0.7, -6.0)

    def forward(self, x: Tensor) -> Tensor:  # [n, *image] -> [n, C]
        u = x.flatten(1)[:, 0]  # [n]
        value, before = torch.full_like(u, self.KNOTS[0][1]), 0.0
        knots = (*self.KNOTS, self.END)
        for (left, low), (right, high) in pairwise(knots):
            slope = (high - low) / (right - left)
            value = value + (slope - before) * (u - left).clamp_min(0.0)
            before = slope
        value = value - before * (u - self.END[0]).clamp_min(0.0)
        return torch.stack([value, -value], 1)


def test_defence_that_static_attacks_praise_gains_nothing_under_the_union(tmp_path: Path) -> None:
    changes = {"radii": (0.1,), "paper_radii": (None,), "points": 8, "chunk": 8}
    task = two_class_task("adaptive", steps=10, starts=4, search_steps=10, **changes)
    images = task.data.images.clone()
    images.flatten(1)[:, 0] = 128
    data = ImageDataset(images, torch.zeros(len(images), dtype=torch.int64), *("ab", "two", "test"))
    subject = Subject("trap", ROBUST, Trap().eval(), {})
    task = replace(task, subjects=(subject,), data=data)
    found = run_task(task, tmp_path)
    (its,) = measured(found).values()
    static, union = its.attacks[ALL_STATIC], its.attacks[UNION]
    assert static.plain["base"].rate("right").count == 0
    praised = static.plain["defended"].rate("right").count
    assert praised >= 6
    assert static.gain.interval[0] > 0.0, "more than chance explains, it seems"
    assert union.plain["defended"].rate("right").count == 0
    assert union.gain.difference == 0.0
    said = task.experiment.findings(found).reading
    assert said[0].endswith("MCN is not better than the base.")
    assert f"would have left MCN {praised} of 8: of these, {praised} lost" in said[1]


def test_every_attack_has_its_cost_and_every_point_its_rows(
    linear_run: tuple[Task, Evidence],
) -> None:
    _, found = linear_run
    for its in measured(found).values():
        for name, each in its.attacks.items():
            assert len(each.plain["base"].right) == POINTS
            if name == NOTHING:
                assert (each.gradient_steps, each.searches) == (0, 0)
                continue
            assert each.gradient_steps + each.searches > 0
            assert (each.searches == 0) == (name in (*STATIC, ALL_STATIC))


def test_the_cost_of_an_attack_is_its_mean_over_all_points(
    linear_run: tuple[Task, Evidence],
) -> None:
    """Chunks cost different amounts where attacks stop early, so no one row speaks for all."""
    task, found = linear_run
    (table,) = found.tables.values()
    (held_out,) = found.held_out.values()
    radius = task.settings.radii[0]
    row = torch.tensor([name == DANSKIN for name in table.attack]) & (table.radius == radius)
    other = table.example == table.example[row][0]
    steps = torch.where(row & other, 1000 + 0 * table.example, table.gradient_steps)
    steps = torch.where(row & ~other, 0, steps)
    dear = replace(table, gradient_steps=steps)
    accepted = torch.tensor([name == f"{DANSKIN}, accepted" for name in table.attack])
    rest = int(table.gradient_steps[accepted & (table.radius == radius)].sum())
    cost = measured_at(dear, held_out, radius, (0.9,)).attacks[DANSKIN].gradient_steps
    assert cost == round((1000 + rest) / POINTS)
