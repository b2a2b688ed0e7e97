"""`demo` end to end on few images: its figures against the library, its pictures, its errors."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import hcnn_fast as hf
from hcnn_fast import data, models
from hcnn_fast.cli import demo_run
from hcnn_fast.cli.demo import MODELS
from hcnn_fast.cli.demo_figures import FEWEST_ROWS, choose_examples
from hcnn_fast.cli.demo_measurement import Condition, ModelMeasurement, Predictions
from hcnn_fast.cli.demo_tables import NOTES
from hcnn_fast.evaluation import Proportion, calibrated_threshold

Run = Callable[..., Any]  # the fixture of conftest.py
MODEL = "tiny_classifier:make_for_fashion"
FEW = ("--model", MODEL, "--images", 41, "--steps", 2, "--attack-steps", 2, "--output", "out")


def accuracy(prediction: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
    return Proportion(int((prediction == y).sum()), len(y)).to_dict()


def test_demo_figures_are_those_of_the_library(run: Run, folder: Path) -> None:
    code, out, err = run("demo", *FEW, "--attack-radius", 0.02, "--json")
    assert (code, err) == (0, "")
    figures = json.loads(out)
    assert figures == json.loads((folder / "out" / "demo.json").read_text())
    assert (figures["evaluated_images"], figures["calibration_images"]) == (21, 20)
    dataset, model = data.load("fashion-mnist-sample").first(41), models.load(MODEL)
    x, y = dataset.scaled(), dataset.labels
    defense = hf.Defense(model, hf.SearchConfig.mcn(0.05, steps=2))
    with torch.no_grad():
        base = model(x).softmax(1)
    (measured,) = figures["models"]
    thresholds = measured["thresholds"]
    held_out = base[21:].max(1)
    assert thresholds["base"] == pytest.approx(
        calibrated_threshold(held_out.values, held_out.indices == y[21:], 0.99), abs=1e-6
    )
    defended = defense.calibrate(x[21:], y[21:], 0.99)
    assert thresholds["defended"] == pytest.approx(defended, abs=1e-6)
    clean, attacked = measured["conditions"]
    x, y = x[:21], y[:21]
    assert clean["base"]["accuracy"] == accuracy(base[:21].argmax(1), y)
    assert clean["defended"]["accuracy"] == accuracy(defense.predict(x).search.prediction, y)
    attack = hf.attacks.pgd(model, x, y, radius=0.02, steps=2, objective="log_odds")
    assert attacked["base"]["accuracy"]["count"] == int((~attack.success).sum())
    found = defense.predict(attack.point)
    assert attacked["defended"]["accuracy"] == accuracy(found.search.prediction, y)
    assert attacked["defended"]["rejected"]["count"] == int((~found.accepted).sum())
    started = base[:21].argmax(1) == y
    for name in ("base", "defended"):
        assert attacked[name]["recall"]["total"] == int(started.sum())
        rejected = attacked[name]["awpr_with_rejection"]["count"]
        assert rejected <= attacked[name]["awpr_original"]["count"] <= int(started.sum())


def test_demo_writes_two_pictures(run: Run, folder: Path) -> None:
    code, out, err = run("demo", *FEW, "--quiet")
    assert (code, out, err) == (0, "", "")
    for name in ("gallery.png", "confidence.png"):
        with Image.open(folder / "out" / name) as picture:
            picture.load()
            assert min(picture.size) > 300
            assert picture.convert("L").getextrema() == (0, 255)
    assert sorted(p.name for p in (folder / "out").iterdir()) == [
        "confidence.png",
        "demo.json",
        "gallery.png",
    ]


def test_demo_prints_tables_with_denominators_and_the_caveat(run: Run, folder: Path) -> None:
    code, out, err = run("demo", *FEW)
    assert (code, err) == (0, "")
    text = " ".join(out.split())
    for word in ("clean", "attack 0.05", "attack 0.1", "AWPR", "recall", "/21 ", MODEL):
        assert word in text
    assert "Croce et al. (2022)" in text
    assert all(" ".join(note.split()) in text for note in NOTES)
    assert max(map(len, out.splitlines())) <= 120


def test_demo_compares_both_models_of_its_images(run: Run, folder: Path) -> None:
    words = ("--images", 16, "--steps", 1, "--attack-steps", 1, "--attack-radius", 0.1)
    code, out, err = run("demo", *words, "--json")
    assert (code, err) == (0, "")
    assert [measured["model"] for measured in json.loads(out)["models"]] == list(MODELS)
    assert (folder / "out" / "gallery.png").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--images", "2000"), "fashion-mnist-sample:test has 1024"),
        (("--radius", "0"), "radius is 0.0"),
        (("--attack-radius", "-0.1"), "radius is -0.1"),
        (("--tpr", "1.5"), "tpr is 1.5"),
        (("--output", "file"), "file cannot be written to"),
        (("--data", "fashion:test"), "data set is 'fashion'"),
        (("--model", "nothing"), "model is 'nothing'"),
    ],
    ids=str,
)
def test_demo_refuses_wrong_usage_in_one_line(
    run: Run, folder: Path, words: tuple[str, ...], said: str
) -> None:
    (folder / "file").write_text("a file")
    model = () if "--model" in words else ("--model", MODEL)
    code, out, err = run("demo", *model, *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err


def test_interrupted_demo_says_how_far_it_got(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_run, "_attacked", interrupted)
    code, _, err = run("demo", *FEW)
    assert code == 130
    assert err == "error: interrupted after 0 of 1 models; nothing is written\n"
    assert list((folder / "out").iterdir()) == []


def measurement(base: list[int], defended: list[int], confidence: list[float]) -> ModelMeasurement:
    """One image per entry, all of class 0; the clean image is labelled right."""
    count = len(base)
    images = torch.zeros(count, 1, 2, 2)

    def predictions(label: list[int]) -> Predictions:
        return Predictions(torch.tensor(label), torch.tensor(confidence), 0.5, 1.0)

    clean = Condition(0.0, images, images, predictions([0] * count), predictions([0] * count), 0.0)
    attacked = Condition(0.1, images, images, predictions(base), predictions(defended), 1.0)
    targets = torch.zeros(count, dtype=torch.int64)
    return ModelMeasurement("model", targets, {}, (clean, attacked))


def test_gallery_shows_the_first_image_of_each_outcome() -> None:
    shown = measurement(
        base=[0, 0, 1, 1, 1, 1, 0],
        defended=[0, 0, 1, 0, 1, 0, 1],
        confidence=[0.9, 0.9, 0.9, 0.9, 0.1, 0.9, 0.9],
    )
    assert [index for index, _ in choose_examples(shown)] == [0, 3, 6, 2, 4]


def test_gallery_fills_up_where_an_outcome_is_missing() -> None:
    shown = measurement(base=[1] * 9, defended=[1] * 9, confidence=[0.9] * 9)
    assert [index for index, _ in choose_examples(shown)] == list(range(FEWEST_ROWS))
    shown = measurement(base=[1, 1, 1, 0, 1], defended=[1, 0, 1, 0, 0], confidence=[0.9] * 5)
    assert [index for index, _ in choose_examples(shown)] == [3, 1, 0, 2]


def test_means_of_no_predictions_are_null() -> None:
    right = Predictions(torch.tensor([0]), torch.tensor([0.75]), 0.0, 0.5)
    summary = right.summary(torch.tensor([0]))
    assert summary["mean_confidence_where_wrong"] is None
    assert summary["mean_confidence_where_right"] == 0.75
    assert summary["images_per_second"] == 2.0
    assert not math.isnan(summary["mean_confidence"])
