"""The on-manifold experiment: cells, resumption, and findings read off planted measures."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hcnn_fast import data
from hcnn_fast.cli.main import main
from hcnn_fast.experiments import on_manifold
from hcnn_fast.experiments.on_manifold import Study, measured_cells, run_cells
from hcnn_fast.experiments.on_manifold_claims import average, error, worst
from hcnn_fast.experiments.on_manifold_findings import findings
from hcnn_fast.experiments.on_manifold_measures import Measures
from hcnn_fast.experiments.on_manifold_settings import (
    METHODS,
    NORMAL,
    ON_MANIFOLD,
    REGULAR,
    Cell,
    OnManifoldSettings,
)
from hcnn_fast.manifolds import coded_glyphs

TINY: dict[str, Any] = {
    "data": "glyphs-easy",
    "counts": (30, 60),
    "seeds": 1,
    "updates": 4,
    "batch_size": 20,
    "training_steps": 1,
    "points": 6,
    "steps": 2,
    "starts": 2,
    "test_images": 40,
    "samples": 60,
    "projected": 2,
    "manifold_epochs": 1,
}
P, S, T, Q = 40, 2, 200, 10


def study(**changes: Any) -> Study:
    settings = OnManifoldSettings(**{**TINY, **changes})
    train, test = (coded_glyphs("easy", split, images=100).data for split in ("train", "test"))
    return Study(settings=settings, train=train, test=test, device=torch.device("cpu"))


def run(made: Study, folder: Path, **keywords: Any) -> int:
    done: list[int] = []
    run_cells(made, folder, advance=done.append, **keywords)
    return sum(done)


def same(first: Measures, second: Measures) -> bool:
    return all(
        torch.equal(getattr(first, f.name), getattr(second, f.name))
        or torch.allclose(getattr(first, f.name), getattr(second, f.name), equal_nan=True)
        for f in fields(Measures)
    )


def test_cells_are_every_method_number_and_seed_once() -> None:
    settings = OnManifoldSettings(counts=(10, 20), seeds=2)
    cells = settings.cells()
    assert len(set(cells)) == len({cell.name for cell in cells}) == 3 * 2 * 2
    assert {cell.method for cell in cells} == set(METHODS)


def test_methods_share_everything_but_the_attacked_half() -> None:
    settings = OnManifoldSettings()
    recipes = [settings.recipe(Cell(method, 250, 1), "glyphs-hard").to_dict() for method in METHODS]
    normal, regular, moved = recipes
    assert [r["method"] for r in (normal, regular, moved)] == ["natural", "at50", "on-manifold"]
    own = {"method", "radius", "settings", "radius_warmup_epochs"}
    shared = [{k: v for k, v in made.items() if k not in own} for made in recipes]
    assert shared[0] == shared[1] == shared[2]
    assert regular["radius"] == settings.radius
    assert moved["settings"] == {"manifold": "glyphs-hard", "latent_radius": 0.3}


@pytest.mark.parametrize("count", [99, 100, 250, 4000, 40_000])
def test_every_number_of_images_gets_about_the_same_updates(count: int) -> None:
    settings = OnManifoldSettings(updates=1000)
    recipe = settings.recipe(Cell(NORMAL, count, 0), "")
    steps = recipe.epochs * -(-count // recipe.batch_size)
    assert 1000 <= steps < 1000 + -(-count // recipe.batch_size)


def test_a_run_in_parts_ends_with_the_measures_of_a_whole_one(tmp_path: Path) -> None:
    made, whole, parts = study(), tmp_path / "whole", tmp_path / "parts"
    assert run(made, whole) == 6
    assert run(made, parts, seconds=0.0) == 1
    assert len(measured_cells(made, parts)) == 1
    assert run(made, parts, seconds=0.0) == 2
    assert run(made, parts) == 6
    expected, found = measured_cells(made, whole), measured_cells(made, parts)
    assert list(found) == list(made.settings.cells())
    assert all(same(found[cell], expected[cell]) for cell in found)
    names = [cell for cell in found if cell.method == NORMAL]
    assert not same(found[names[0]], found[names[1]])
    assert not list(parts.rglob("checkpoint.pt"))


def test_a_run_killed_in_the_training_of_a_model_goes_on_in_its_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = study(counts=(60,), updates=9)
    run(made, tmp_path / "whole")
    real, calls = on_manifold.train, []

    def killed(*arguments: Any, **keywords: Any) -> Any:
        def stop(report: Any) -> None:
            raise KeyboardInterrupt

        calls.append(keywords["resume"])
        return real(*arguments, **keywords, on_epoch=stop if len(calls) == 2 else None)

    monkeypatch.setattr(on_manifold, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        run(made, tmp_path / "cut")
    assert len(measured_cells(made, tmp_path / "cut")) == 1
    run(made, tmp_path / "cut")
    assert calls == [False, False, True, False]
    expected, found = (measured_cells(made, tmp_path / name) for name in ("whole", "cut"))
    assert all(same(found[cell], expected[cell]) for cell in expected)


def test_measures_are_of_the_model_that_was_trained_and_of_points_on_the_manifold(
    tmp_path: Path,
) -> None:
    made = study(counts=(60,))
    run(made, tmp_path)
    for measures in measured_cells(made, tmp_path).values():
        assert measures.wrong.shape == (40,)
        assert measures.off.shape == measures.on.shape == (6, 2)
        limit = made.settings.radius * 28
        assert bool((measures.off_size <= limit + 1e-4).all())
        assert float(measures.on_projected.max()) < 0.05 < float(measures.off_projected.min())


def test_a_learned_manifold_is_trained_once_and_kept(tmp_path: Path) -> None:
    sample = data.load("fashion-mnist-sample")
    settings = OnManifoldSettings(**{**TINY, "data": "fashion-mnist", "counts": (30,)})
    made = Study(
        settings=settings,
        train=replace(sample, split="train").first(100),
        test=sample.first(60),
        device=torch.device("cpu"),
    )
    assert run(made, tmp_path, seconds=0.0) == 1
    weights = (tmp_path / "manifold.safetensors").read_bytes()
    assert run(made, tmp_path) == 3
    assert (tmp_path / "manifold.safetensors").read_bytes() == weights
    assert not (tmp_path / "manifold.pt").exists()
    assert set(measured_cells(made, tmp_path)) == set(settings.cells())


def test_a_file_that_was_cut_is_named(tmp_path: Path) -> None:
    made = study(counts=(30,))
    run(made, tmp_path, seconds=0.0)
    path = tmp_path / "chunks" / f"{made.settings.cells()[0].name}.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot be read"):
        measured_cells(made, tmp_path)


def planted(
    errors: int, on: int, off: int, *, seed: int = 0, far: float = 2.0, near: float = 0.1
) -> Measures:
    """A model with so many of T wrong and so many of P successes."""

    def first(count: int, total: int) -> Tensor:
        return torch.arange(total) < count

    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(P, generator=generator, dtype=torch.float64)
    both = torch.stack([first(on, P), first(on // 2, P)], 1)
    return Measures(
        wrong=first(errors, T),
        right=torch.ones(P, dtype=torch.bool),
        off=torch.stack([first(off, P)] * S, 1),
        on=both,
        off_size=noise + far,
        image_residual=noise,
        off_residual=noise + far,
        on_residual=noise + near,
        off_angle=noise / 10 + 1.4,
        on_angle=noise / 10 + 0.3,
        off_projected=(noise + far)[:Q],
        on_projected=(noise * 0 + near)[:Q],
    )


def as_the_source_says(**changes: Any) -> dict[Cell, Measures]:
    cells = {}
    for seed in range(3):
        for place, count in enumerate((250, 1000, 4000)):
            wrong = 100 - 30 * place + 2 * seed
            hits = 36 - 10 * place + seed
            cells[Cell(NORMAL, count, seed)] = planted(wrong, hits, 38, seed=seed, **changes)
            cells[Cell(REGULAR, count, seed)] = planted(wrong - 1 - seed, hits, 10, seed=seed)
            cells[Cell(ON_MANIFOLD, count, seed)] = planted(wrong - 20, hits - 8, 38, seed=seed)
    return cells


def verdicts(cells: dict[Cell, Measures]) -> list[str]:
    found = findings(cells, OnManifoldSettings(), classes=10, known=True)
    json.dumps(found.numbers, allow_nan=False)
    return [claim["verdict"] for claim in found.numbers["claims"]]


def test_planted_measures_of_the_source_s_claims_make_all_four_hold() -> None:
    assert verdicts(as_the_source_says()) == ["held"] * 4


def test_each_claim_fails_where_its_opposite_is_planted() -> None:
    assert verdicts(as_the_source_says(far=0.0, near=9.0))[0] == "did not hold"
    cells = as_the_source_says()
    none = {cell: replace(m, on=m.on & False) for cell, m in cells.items()}
    assert verdicts(none)[1] == "left open"
    worse = {
        cell: replace(m, wrong=~m.wrong) if cell.method == ON_MANIFOLD else m
        for cell, m in cells.items()
    }
    assert verdicts(worse)[2] == "did not hold"
    contradictory = dict(cells)
    for cell, m in cells.items():
        if cell.method == REGULAR:
            contradictory[cell] = replace(m, wrong=torch.arange(T) < m.wrong.sum() + 20)
    assert verdicts(contradictory)[3] == "did not hold"
    as_before = {
        cell: cells[Cell(NORMAL, cell.count, cell.seed)] if cell.method == REGULAR else m
        for cell, m in cells.items()
    }
    assert verdicts(as_before)[3] == "left open"


def test_success_is_of_right_points_by_the_worst_restart_and_by_their_mean() -> None:
    m = planted(10, 20, 30)
    assert (error(m).count, error(m).total) == (10, T)
    assert (worst(m.on, m).count, worst(m.on, m).total) == (20, P)
    assert math.isclose(average(m.on, m), (20 + 10) / (2 * P))
    half = replace(m, right=torch.arange(P) >= 15)
    assert (worst(half.on, half).count, worst(half.on, half).total) == (5, 25)
    none = replace(m, right=torch.zeros(P, dtype=torch.bool))
    assert worst(none.on, none).total == 0
    assert math.isnan(average(none.on, none))


def test_models_that_learned_nothing_are_named_and_few_models_make_no_regression() -> None:
    cells = {Cell(NORMAL, 250, 0): planted(181, 5, 5)}
    found = findings(cells, OnManifoldSettings(), classes=10, known=False)
    assert "normal-250-0" in found.reading[-1]
    assert found.numbers["regression"] == {}
    assert verdicts(cells)[2:] == ["left open", "left open"]
    for drawing in found.drawings:
        drawing.draw()
    unpaired = {Cell(REGULAR, 250, 0): planted(20, 5, 5)}
    assert verdicts(unpaired) == ["left open"] * 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"counts": ()}, "counts is"),
        ({"counts": (20, 10)}, "expected rising numbers"),
        ({"counts": (1,)}, "expected ints >= 2"),
        ({"radius": 0.0}, "radius is 0"),
        ({"points": 5}, "projected is 16, expected at most points, 5"),
        ({"seeds": 0}, "seeds is 0"),
    ],
)
def test_bad_settings_are_refused_by_field(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        OnManifoldSettings(**changes)


def test_data_that_do_not_suffice_are_refused_before_any_work() -> None:
    cpu = torch.device("cpu")
    with pytest.raises(ValueError, match="has 40000 training images, expected 50000"):
        Study.load(OnManifoldSettings(counts=(50_000,)), cpu)
    with pytest.raises(ValueError, match="has 10000 test images, expected 20000"):
        Study.load(OnManifoldSettings(test_images=20_000), cpu)


def words(output: Path, *more: str) -> list[str]:
    options = "--data glyphs-easy --train-counts 30 --train-seeds 1 --updates 3 --training-steps 1"
    options += f" --points 4 --steps 2 --starts 1 --device cpu --quiet --output {output}"
    return ["evaluate", "on-manifold", *options.split(), *more]


def test_the_command_reports_goes_on_and_refuses_another_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tmp_path, "--time", "0.0001", "--json")) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["trained models"] == {"done": 1, "asked": 3}
    assert first["numbers"]["models"][0]["count"] == 30
    assert main(words(tmp_path, "--json")) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert len(numbers["numbers"]["models"]) == 3
    assert numbers["command"].startswith("hcnn-fast evaluate on-manifold --data glyphs-easy")
    folder = tmp_path / "on-manifold"
    assert numbers == json.loads((folder / "numbers.json").read_text())
    page = (folder / "report.html").read_text()
    assert "The four claims of the abstract" in page
    assert main(words(tmp_path, "--seed", "1")) == 2
    assert "holds another run (settings.seed was 0, now 1)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--model", "fashion-natural"], "--model says nothing to on-manifold"),
        (["--radii", "0.1,0.2"], "expected one radius for on-manifold"),
        (["--train-counts", "a"], "--train-counts is 'a', expected ints"),
        (["--time", "0"], "--time is 0.0, expected minutes > 0"),
    ],
)
def test_options_of_other_experiments_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert main(words(tmp_path, *more)) == 2
    captured = capsys.readouterr().err
    assert said in captured
    assert captured.count("\n") == 1
    assert main(["evaluate", "separation", "--updates", "3", "--output", str(tmp_path)]) == 2
    assert "--updates says nothing to separation" in capsys.readouterr().err
