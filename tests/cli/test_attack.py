"""`attack`, against the library's own calls, a linear model's closed form, and the plain model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pyarrow.parquet
import pytest
import torch

import hcnn_fast as hf
from hcnn_fast import attacks, data, models
from hcnn_fast.attacks import AttackResult, named
from hcnn_fast.cli import row_run
from hcnn_fast.jobs.attack_rows import ATTACK_COLUMNS
from hcnn_fast.jobs.image_files import ImageFormat, read_image

Run = Callable[..., Any]  # the fixture of conftest.py
SAMPLE, LIMIT, RADIUS = "fashion-mnist-sample:test", 70, 0.15  # a chunk of 64 images and one of 6
STEP = 0.1  # so short that the black-box attack finds errors that this one does not
UNION = (
    *("attack", SAMPLE, "--limit", LIMIT, "--radius", RADIUS, "--seed", 3),
    *("--method", "pgd", "--method", "square", "--steps", 1, "--queries", 20),
    *("--step-size", STEP),
)
GREY = ImageFormat((1, 6, 5), (0.0, 1.0), resize=False, convert=False)
TINY = ("--model", "tiny_classifier:make")


def rows_in(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_rows_are_the_most_confident_error_of_the_library_s_own_attacks(
    run: Run, folder: Path
) -> None:
    code, out, err = run(*UNION)
    assert code == 0, err
    rows, dataset = rows_in(out), data.load("fashion-mnist-sample").first(LIMIT)
    model = models.load("fashion-adversarial").eval()
    assert all(list(row) == list(ATTACK_COLUMNS) for row in rows)
    assert [row["index"] for row in rows] == list(range(LIMIT))
    assert [row["true_label"] for row in rows] == dataset.labels.tolist()
    assert [row["attacked_label"] for row in rows] == dataset.labels.tolist()
    winners = set()
    for part in (slice(0, 64), slice(64, 70)):
        x, y = dataset.scaled()[part], dataset.labels[part]
        with torch.no_grad():
            base_confidence, base = model(x).softmax(1).max(1)
        right = base == y
        tried = {
            "pgd": attacks.pgd(
                model, x[right], y[right], radius=RADIUS, steps=1, step_size=STEP, seed=3
            ),
            "square": attacks.square(model, x[right], y[right], radius=RADIUS, queries=20, seed=3),
        }
        place = 0
        for i, row in enumerate(rows[part]):
            assert row["base_label"] == base[i]
            assert row["base_confidence"] == pytest.approx(float(base_confidence[i]), abs=1e-6)
            if not right[i]:
                assert row["method"] == "none"
                assert (row["success"], row["label"]) == (True, base[i])
                assert (row["distance"], row["value"], row["attempt"]) == (0.0, None, None)
                assert (row["found_by"], row["gradient_steps"], row["queries"]) == ("", 0, 0)
                continue
            found = [name for name, result in tried.items() if result.success[place]]
            best = max(found, key=lambda name: float(tried[name].confidence[place]), default="pgd")
            result = tried[best]
            assert row["found_by"] == ",".join(found)
            assert row["success"] == bool(found)
            assert row["method"] == best
            assert row["attempt"] == result.attempt[place]
            assert row["value"] == pytest.approx(float(result.value[place]), abs=1e-6)
            assert row["confidence"] == pytest.approx(float(result.confidence[place]), abs=1e-6)
            assert row["distance"] == float((result.point[place] - x[i]).abs().max())
            assert (row["gradient_steps"], row["queries"]) == (
                1,
                21,
            )  # the image itself is asked about too
            winners.add((best, row["success"]))
            place += 1
    assert winners == {("pgd", True), ("square", True), ("pgd", False)}


def test_points_are_allowed_and_the_plain_model_says_what_their_rows_say(
    run: Run, folder: Path
) -> None:
    words = (*UNION, "--output", "rows.parquet", "--points", "points.npy", "--quiet")
    assert run(*words) == (0, "", "")
    rows = pyarrow.parquet.read_table("rows.parquet").to_pylist()
    points = torch.from_numpy(numpy.load("points.npy"))  # [N, 1, 28, 28]
    dataset = data.load("fashion-mnist-sample").first(LIMIT)
    x, y = dataset.scaled(), dataset.labels
    assert points.dtype == torch.float32
    assert bool(((points >= 0) & (points <= 1)).all())
    distance = (points.double() - x.double()).abs().flatten(1).amax(1)  # [N]
    assert float(distance.max()) <= RADIUS + 1e-7
    model = models.load("fashion-adversarial").eval()
    with torch.no_grad():
        confidence, label = model(points).softmax(1).max(1)
    assert [row["label"] for row in rows] == label.tolist()
    assert [row["success"] for row in rows] == (label != y).tolist()
    found = torch.tensor([row["confidence"] for row in rows])
    torch.testing.assert_close(found, confidence, atol=1e-6, rtol=0)
    assert {row["success"] for row in rows} == {True, False}


def test_a_linear_model_is_fooled_exactly_within_the_distance_of_its_boundary(
    run: Run, folder: Path
) -> None:
    """Z_y - Z_k falls by at most radius * |w_y - w_k|_1 in the ball, and some corner attains it."""
    x = 0.4 + 0.2 * torch.rand(20, 1, 6, 5, generator=torch.Generator().manual_seed(1))
    numpy.save("grey.npy", x.numpy())
    layer = models.load("tiny_classifier:make")[1]
    weight, logits = layer.weight.detach(), layer(x.flatten(1)).detach()
    own = logits.argmax(1)
    gap = logits.gather(1, own[:, None]) - logits  # [20, 3]
    reach = (weight[own][:, None] - weight).abs().sum(2)  # [20, 3]
    distance = (gap / reach).nan_to_num(torch.inf).masked_fill(reach == 0, torch.inf).amin(1)
    middle = distance.sort().values[9:11]
    radius = float(middle.mean())
    assert float(middle[1] - middle[0]) > 1e-4  # none is on the border
    words = ("--method", "apgd", "--objective", "margin", "--steps", 3, "--radius", radius)
    rows = rows_in(run("attack", "grey.npy", *TINY, *words).out)
    assert [row["success"] for row in rows] == (distance < radius).tolist()
    assert [row["attacked_label"] for row in rows] == own.tolist()
    assert all(row["true_label"] is None and row["method"] == "apgd" for row in rows)


@pytest.mark.parametrize("lie", [True, False])
def test_what_an_attack_says_of_itself_is_not_believed(
    run: Run, images: Path, monkeypatch: pytest.MonkeyPatch, lie: bool
) -> None:
    """One that claims an error where there is none, and one that does not see its own."""

    def liar(model: Any, x: torch.Tensor, y: torch.Tensor, **settings: Any) -> AttackResult:
        point = x if lie else x.flip(0)
        return AttackResult(
            point=point,
            value=torch.zeros(len(x)),
            success=torch.full((len(x),), lie),
            confidence=torch.ones(len(x)),
            attempt=torch.zeros(len(x), dtype=torch.int64),
            gradient_steps=0,
        )

    monkeypatch.setitem(named.METHODS, "liar", named.Method(liar))
    rows = rows_in(run("attack", images, *TINY, "--method", "liar").out)
    base = [row["base_label"] for row in rows]
    assert [row["label"] for row in rows] == (base if lie else base[::-1])
    assert [row["success"] for row in rows] == [row["label"] != row["base_label"] for row in rows]
    assert any(row["success"] for row in rows) is not lie
    assert [row["found_by"] == "liar" for row in rows] == [row["success"] for row in rows]


def test_of_a_defence_the_rows_say_what_it_answers_as_a_whole(run: Run, images: Path) -> None:
    words = ("--search-radius", 0.02, "--search-steps", 2, "--radius", 0.07, "--steps", 4)
    words += ("--points", "points.npy", "--method", "danskin", "--method", "long-range")
    code, out, err = run("attack", images, *TINY, *words)
    assert code == 0, err
    config = hf.SearchConfig.mcn(0.02, steps=2)
    defense = hf.Defense(models.load("tiny_classifier:make"), config)
    x = torch.stack([read_image(path, GREY) for path in sorted(images.rglob("*.png"))])
    points = torch.from_numpy(numpy.load("points.npy"))
    rows = rows_in(out)
    for name, at in (("base_", x), ("", points)):
        answer = defense.predict(at)
        assert [row[f"{name}label"] for row in rows] == answer.label.tolist()
        found = torch.tensor([row[f"{name}confidence"] for row in rows])
        torch.testing.assert_close(found, answer.confidence, atol=1e-6, rtol=0)
    assert {row["success"] for row in rows} == {True, False}
    assert {row["method"] for row in rows} <= {"danskin", "long-range"}


def test_json_summary_counts_what_the_rows_say(run: Run, folder: Path) -> None:
    code, out, err = run(*UNION, "--output", "rows.jsonl", "--json", "--threads", 1)
    assert code == 0, err
    summary, rows = json.loads(out), rows_in((folder / "rows.jsonl").read_text())
    right = [row for row in rows if row["base_label"] == row["true_label"]]
    lost = [row for row in right if row["success"]]
    assert (summary["rows"], summary["errors"], summary["attacked"]) == (LIMIT, 0, len(right))
    for name, count, total in (
        ("fooled", len(lost), len(right)),
        ("accuracy", len(right), LIMIT),
        ("accuracy_under_attack", len(right) - len(lost), LIMIT),
    ):
        assert (summary[name]["count"], summary[name]["total"]) == (count, total)
        assert summary[name]["low"] < count / total < summary[name]["high"]
    both = sum(row["found_by"] == "pgd,square" for row in rows)
    alone = {name: sum(row["found_by"] == name for row in rows) for name in ("pgd", "square")}
    assert min(both, *alone.values()) > 0
    assert summary["found"] == {
        "pgd": {"found": alone["pgd"] + both, "first": alone["pgd"] + both, "alone": alone["pgd"]},
        "square": {
            "found": alone["square"] + both,
            "first": alone["square"],
            "alone": alone["square"],
        },
    }
    assert summary["gradient_steps"] == len(right)
    assert summary["queries"] == 21 * len(right)
    assert summary["attack"]["methods"]["pgd"]["steps"] == 1
    assert summary["attack"]["methods"]["pgd"]["objective"] == "cross_entropy"
    assert summary["attack"]["methods"]["square"]["queries"] == 20
    assert f"accuracy {len(right)}/70 " in err
    assert f"under attack {len(right) - len(lost)}/70 " in err


def test_an_input_without_labels_has_no_accuracy_and_a_bad_image_is_a_row(
    run: Run, images: Path
) -> None:
    (images / "2.png").write_bytes(b"broken")
    words = ("--skip-bad", "--points", "points.npy", "--output", "rows.jsonl", "--json")
    code, out, err = run("attack", images, *TINY, "--steps", 2, *words)
    assert code == 0, err
    summary, rows = json.loads(out), rows_in(Path("rows.jsonl").read_text())
    assert (summary["rows"], summary["errors"], summary["attacked"]) == (7, 1, 6)
    assert "accuracy" not in summary
    assert "accuracy" not in err
    assert "6 images, 1 unreadable: " in err
    bad = rows.pop(2)
    assert "2.png is not a readable image" in bad["error"]
    assert {name for name, value in bad.items() if value is not None} == {"index", "name", "error"}
    assert all(row["attacked_label"] == row["base_label"] for row in rows)
    points = numpy.load("points.npy")
    assert numpy.isnan(points).reshape(7, -1).any(1).tolist() == [i == 2 for i in range(7)]


def test_no_images_and_no_readable_images_give_no_attack(run: Run, folder: Path) -> None:
    numpy.save("none.npy", numpy.zeros((0, 1, 6, 5), dtype=numpy.uint8))
    assert run("attack", "none.npy", *TINY, "--quiet") == (0, "", "")
    numpy.save("bad.npy", numpy.full((2, 1, 6, 5), numpy.nan, dtype=numpy.float32))
    code, out, err = run("attack", "bad.npy", *TINY, "--skip-bad")
    assert code == 0, err
    assert all(row["error"] is not None for row in rows_in(out))
    assert err.startswith("0 images, 2 unreadable: 0/0 of the right answers lost")


WRONG_USAGE = [
    (("images", "--method", "pdg"), "methods has 'pdg', expected names of pgd, apgd"),
    (("images", "--method", "pgd", "--method", "pgd"), "methods is pgd, pgd, expected each name"),
    (("images", "--method", "apgd", "--momentum", "0.5"), "momentum is 0.5, which says nothing to"),
    (("images", "--method", "rays", "--steps", "3"), "which says nothing to rays; it is for pgd"),
    (("images", "--targets", "2"), "says nothing to pgd; it is for apgd, confident"),
    (("images", "--queries", "9"), "says nothing to pgd; it is for square, rays"),
    (("images", "--objective", "logit"), "says nothing to pgd; it is for pgd-conf"),
    (
        ("images", "--objective", "distal"),
        "'distal', which says nothing to pgd; it is for no attack",
    ),
    (("images", "--method", "square", "--queries", "0"), "queries is 0, expected an int >= 1"),
    (("images", "--method", "apgd", "--targets", "0"), "targets is 0, expected an int >= 1"),
    (("images", "--method", "apgd"), "the model has 3 classes, expected at least 4"),
    (("images", "--steps", "0"), "steps is 0, expected an int >= 1"),
    (("images", "--radius", "nan"), "radius is nan"),
    (("images", "--search-radius", "0"), "search_radius is 0.0, expected a number > 0"),
    (("images", "--search-steps", "2"), "search_steps is 2, expected None without a search_radius"),
    (
        ("images", "--search-radius", "1", "--method", "pgd"),
        "names of danskin, long-range",
    ),
    (("images", "--search-radius", "1", "--objective", "dlr"), "says nothing to danskin"),
    (("images", "--json"), "--json needs --output"),
    (("images", "--points", "points.npz"), "expected .npy"),
    (("images", "--workers", "2"), "need --engine ray"),
    (("images", "--engine", "ray", "--output", "r.csv", "--points", "p.npy"), "--engine local"),
    (("images", "--model", "tiny_classifier:make_colour"), "cannot read images of shape"),
    ((SAMPLE, "--model", "tiny_classifier:make_three"), "expected 0 <= label < 3, the number of"),
]


@pytest.mark.parametrize(("words", "said"), WRONG_USAGE, ids=str)
def test_wrong_usage_is_one_line_and_leaves_nothing(
    run: Run, images: Path, folder: Path, words: tuple[str, ...], said: str
) -> None:
    before = sorted(folder.rglob("*"))
    model = () if "--model" in words else TINY
    output = () if "--output" in words or "--json" in words else ("--output", "rows.jsonl")
    code, out, err = run("attack", *words, *model, *output)
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    after = [path for path in sorted(folder.rglob("*")) if "__pycache__" not in path.parts]
    assert after == [path for path in before if "__pycache__" not in path.parts]


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (OSError("disk"), 1)])
def test_what_ends_an_attack_leaves_the_rows_until_then(
    run: Run,
    images: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
) -> None:
    calls = []

    def failing(model: Any, x: torch.Tensor, y: torch.Tensor, **settings: Any) -> AttackResult:
        calls.append(len(x))
        if len(calls) == 3:
            raise error
        return attacks.pgd(model, x, y, **settings)

    monkeypatch.setitem(named.METHODS, "pgd", named.Method(failing))
    monkeypatch.setattr(row_run, "CHUNK", 2)
    found, _, err = run("attack", images, *TINY, "--output", "rows.jsonl")
    assert found == code
    assert err.endswith("; 4 of 7 rows are in rows.partial.jsonl\n")
    assert not (folder / "rows.jsonl").exists()
    assert [row["index"] for row in rows_in((folder / "rows.partial.jsonl").read_text())] == [
        *range(4)
    ]
