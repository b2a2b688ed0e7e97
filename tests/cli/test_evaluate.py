"""`evaluate` end to end on few points: what it prints and writes, how it stops and refuses."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hcnn_fast.cli import evaluate_run
from hcnn_fast.evaluation import read_attempts
from hcnn_fast.experiments import EXPERIMENTS, Work

Run = Callable[..., Any]  # the fixture of conftest.py
MODEL = "tiny_classifier:make_for_fashion"
FEW = ("--model", MODEL, "--points", 6, "--steps", 2, "--starts", 1, "--chunk", 2)


def test_evaluate_prints_numbers_that_its_own_command_makes_again(run: Run, folder: Path) -> None:
    words = ("evaluate", "separation", *FEW, "--natural", "fashion-natural")
    code, out, err = run(*words, "--json")
    assert (code, err) == (0, "")
    numbers = json.loads(out)
    results = folder / "out" / "separation"
    assert numbers == json.loads((results / "numbers.json").read_text())
    assert numbers["points"] == {"done": 6, "asked": 6}
    assert numbers["models"]["natural"]["card"]["architecture"] == "small-cnn"
    assert {entry["model"] for entry in numbers["numbers"]["separation"]} == {
        "adversarially trained",
        "natural",
    }
    assert len(read_attempts(results / "natural.parquet").example.unique()) == 6
    assert (results / "report.html").is_file()
    again = shlex.split(numbers["command"])[1:]
    code, out, err = run(*again, "--json", "--output", "again")
    assert (code, err) == (0, "")
    assert json.loads(out)["numbers"] == numbers["numbers"]


def test_evaluate_stops_in_time_and_goes_on(run: Run, folder: Path) -> None:
    words = ("evaluate", "rejection", *FEW, "--radii", 0.05)
    code, out, err = run(*words, "--time", 0.000001)
    assert (code, err) == (0, "")
    assert "stopped after 2 of 6 points; the same command goes on" in out
    assert "AWPR with rejection" in out
    code, out, err = run(*words, "--quiet", "--resume", "always")
    assert (code, out, err) == (0, "", "")
    numbers = json.loads((folder / "out" / "rejection" / "numbers.json").read_text())
    assert numbers["points"] == {"done": 6, "asked": 6}


def test_interrupted_evaluate_says_how_far_it_got_and_goes_on(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recovery = EXPERIMENTS["recovery"]
    seen: list[int] = []

    def interrupted(work: Work) -> Any:
        seen.append(len(work.example))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return recovery.attempts(work)

    chosen = {"recovery": replace(recovery, attempts=interrupted)}
    monkeypatch.setattr(evaluate_run, "EXPERIMENTS", chosen)
    words = ("evaluate", "recovery", *FEW, "--search-steps", 1, "--radii", 0.05)
    code, out, err = run(*words)
    assert (code, out) == (130, "")
    assert err == "error: interrupted after 4 of 6 points; the same command goes on\n"
    code, _, err = run(*words, "--quiet")
    assert (code, err) == (0, "")
    assert seen == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("seperation",), "did you mean 'separation'?"),
        (("all",), "expected separation, rejection, recovery, masking, adaptive, peers"),
        (("masking", "--time", "0"), "--time is 0.0"),
        (("masking", "--radii", "a,b"), "--radii is 'a,b', expected numbers"),
        (("masking", "--radii", "-0.1"), "radii is [-0.1], expected numbers in (0, 1]"),
        (("separation", "--confidences", "1.5"), "confidences is [1.5]"),
        (("separation", "--points", "513"), "points is 513, and fashion-mnist-sample has 512"),
        (("separation", "--data", "fashion"), "data set is 'fashion'"),
        (("separation", "--data", "cifar10", "--data-root", "none"), "cifar10 is not in none"),
        (("separation", "--model", "tiny_classifier:make"), "cannot read images of"),
        (("separation", "--natural", "nothing"), "model is 'nothing'"),
        (("separation", "--resume", "always"), "no run to go on with"),
        (("separation", "--output", "file"), "file"),
        (("separation", "--model", "fashion-natural", "--natural", MODEL), "both natural"),
    ],
    ids=str,
)
def test_evaluate_refuses_wrong_usage_in_one_line(
    run: Run, folder: Path, words: tuple[str, ...], said: str
) -> None:
    (folder / "file").write_text("a file")
    model = () if "--model" in words else ("--model", MODEL)
    code, out, err = run("evaluate", *words, *model)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err


def test_another_run_in_the_folder_is_refused(run: Run, folder: Path) -> None:
    run("evaluate", "separation", *FEW, "--quiet", "--time", 0.000001)
    code, out, err = run("evaluate", "separation", *FEW, "--seed", 1)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "holds another run (settings.seed was 0, now 1); choose another --output" in err


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_defaults_keep_the_papers_radii_in_proportion(name: str) -> None:
    radii, paper = evaluate_run.radii_for("cifar10", EXPERIMENTS[name].paper_radii, None)
    assert radii == paper == EXPERIMENTS[name].paper_radii
    radii, paper = evaluate_run.radii_for("fashion-mnist", EXPERIMENTS[name].paper_radii, None)
    assert paper == EXPERIMENTS[name].paper_radii
    assert radii == pytest.approx([r / 0.3 for r in paper], rel=0.02)
    radii, paper = evaluate_run.radii_for("mnist", (0.01, 0.03), [0.3, 0.2])
    assert (radii, paper) == ((0.2, 0.3), (None, 0.03))
