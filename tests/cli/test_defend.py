"""`defend` on every kind of input and output, with a tiny model, against the library itself."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pyarrow.parquet
import pytest
import torch
from PIL import Image

import hcnn_fast as hf
from hcnn_fast import data, models
from hcnn_fast.cli import row_run
from hcnn_fast.jobs.rows import COLUMNS

Run = Callable[..., Any]  # the fixture of conftest.py
TINY = ("--model", "tiny_classifier:make", "--steps", "3")
FASHION = ("--model", "tiny_classifier:make_for_fashion", "--steps", "1")
SAMPLE = "fashion-mnist-sample:test"


def rows_in(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def expected(folder: Path, pixels: numpy.ndarray) -> hf.Prediction:
    """What the library says about the images."""
    model = models.load("tiny_classifier:make")
    x = torch.from_numpy(pixels)[:, None].float() / 255
    return hf.Defense(model, hf.SearchConfig.mcn(0.05, steps=3)).predict(x)


@pytest.fixture(params=["folder", "file", "npy uint8", "npy float", "npy last", "npz"])
def source(request: pytest.FixtureRequest, images: Path, pixels: numpy.ndarray) -> str:
    """The same images in every form."""
    kind: str = request.param
    if kind == "folder":
        return str(images)
    if kind == "file":
        return str(images / "0.png")
    if kind == "npz":
        numpy.savez_compressed("images.npz", images=pixels[:, None])
        return "images.npz"
    forms = {
        "npy uint8": pixels,
        "npy float": (pixels[:, None] / 255).astype(numpy.float32),
        "npy last": pixels[..., None],
    }
    numpy.save("images.npy", forms[kind])
    return "images.npy"


def test_defend_says_what_the_library_says_for_every_input(
    run: Run, source: str, expected: hf.Prediction
) -> None:
    code, out, err = run("defend", source, *TINY)
    assert code == 0, err
    rows = rows_in(out)
    count = len(rows)
    assert count == (1 if source.endswith(".png") else 7)
    assert all(list(row) == list(COLUMNS) for row in rows)
    assert [row["index"] for row in rows] == list(range(count))
    assert [row["label"] for row in rows] == expected.label[:count].tolist()
    assert [row["winner"] for row in rows] == expected.search.label[:count].tolist()
    confidence = torch.tensor([row["confidence"] for row in rows])
    assert torch.allclose(confidence, expected.confidence[:count], atol=1e-5)
    value = torch.tensor([row["value"] for row in rows])
    assert torch.allclose(value, expected.search.value[:count], atol=1e-5)
    assert all(row["accepted"] and row["error"] is None for row in rows)
    assert f"{count} images: {count} accepted, 0 rejected" in err


def test_base_answers_are_those_of_the_model(run: Run, images: Path, pixels: numpy.ndarray) -> None:
    rows = rows_in(run("defend", images, *TINY, "--quiet").out)
    x = torch.from_numpy(pixels)[:, None].float() / 255
    with torch.no_grad():
        confidence, label = models.load("tiny_classifier:make")(x).softmax(1).max(1)
    assert [row["base_label"] for row in rows] == label.tolist()
    found = torch.tensor([row["base_confidence"] for row in rows])
    assert torch.allclose(found, confidence, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_chunks_change_nothing(
    run: Run, images: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rows_in(run("defend", images, *TINY, "--quiet").out)
    monkeypatch.setattr(row_run, "CHUNK", chunk)
    pieces = rows_in(run("defend", images, *TINY, "--quiet").out)
    for first, second in zip(whole, pieces, strict=True):
        assert first | {"value": 0, "confidence": 0, "base_confidence": 0} == second | {
            "value": 0,
            "confidence": 0,
            "base_confidence": 0,
        }
        assert first["confidence"] == pytest.approx(second["confidence"], abs=1e-5)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_defend_writes_every_format(run: Run, images: Path, folder: Path, suffix: str) -> None:
    rows = rows_in(run("defend", images, *TINY).out)
    code, out, err = run("defend", images, *TINY, "--output", f"rows{suffix}")
    assert (code, out) == (0, "")
    assert f"written to rows{suffix}" in err
    path = folder / f"rows{suffix}"
    if suffix == ".jsonl":
        assert rows_in(path.read_text()) == rows
    elif suffix == ".parquet":
        assert pyarrow.parquet.read_table(path).to_pylist() == rows
    else:
        lines = path.read_text().splitlines()
        assert lines[0] == ",".join(COLUMNS)
        assert len(lines) == 8


def test_defend_takes_named_data_sets_with_classes_and_labels(run: Run, folder: Path) -> None:
    code, out, err = run("defend", SAMPLE, *FASHION, "--limit", 70)
    assert code == 0, err
    rows, dataset = rows_in(out), data.load("fashion-mnist-sample").first(70)
    assert [row["true_label"] for row in rows] == dataset.labels.tolist()
    assert [row["class_name"] for row in rows] == [dataset.class_names[r["label"]] for r in rows]
    right = sum(row["label"] == row["true_label"] for row in rows)
    assert f"accepted {right}/70 right and {70 - right}/70 wrong" in err


def test_json_summary_tells_what_was_done(run: Run, folder: Path) -> None:
    words = ("defend", SAMPLE, *FASHION, "--limit", 9, "--threshold", 0.5)
    code, out, err = run(*words, "--output", "rows.jsonl", "--json", "--quiet")
    assert (code, err) == (0, "")
    summary = json.loads(out)
    rows = rows_in((folder / "rows.jsonl").read_text())
    assert summary["rows"] == 9
    assert summary["accepted"] == sum(row["accepted"] for row in rows)
    assert summary["accepted"] + summary["rejected"] == 9
    assert summary["wrong_and_accepted"]["total"] == 9
    assert summary["threshold"] == 0.5
    assert summary["config"] == hf.SearchConfig.mcn(0.05, steps=1).to_dict()


def test_threshold_rejects_and_names_no_class(run: Run, folder: Path) -> None:
    rows = rows_in(run("defend", SAMPLE, *FASHION, "--limit", 40, "--threshold", 0.3).out)
    assert {row["accepted"] for row in rows} == {True, False}
    for row in rows:
        assert row["accepted"] == (row["confidence"] >= 0.3)
        assert (row["label"] == -1) == (not row["accepted"])
        assert (row["class_name"] is None) == (not row["accepted"])


def test_calibration_takes_the_last_images_and_none_of_the_input(run: Run, folder: Path) -> None:
    words = ("--calibrate", SAMPLE, "--calibrate-limit", 50, "--tpr", 0.9)
    tail = ("--output", "rows.csv", "--json", "--quiet")
    summary = json.loads(run("defend", SAMPLE, *FASHION, "--limit", 3, *words, *tail).out)
    dataset = data.load("fashion-mnist-sample")
    model = models.load("tiny_classifier:make_for_fashion")
    defense = hf.Defense(model, hf.SearchConfig.mcn(0.05, steps=1))
    defense.calibrate(dataset.scaled()[-50:], dataset.labels[-50:], 0.9)
    assert summary["threshold"] == pytest.approx(defense.threshold, abs=1e-6)
    assert summary["calibration_images"] == 50
    overlapping = run("defend", SAMPLE, *FASHION, "--limit", 1000, *words, *tail)
    assert json.loads(overlapping.out)["calibration_images"] == 24
    code, _, err = run("defend", SAMPLE, *FASHION, *words)
    assert code == 2
    assert "every image of fashion-mnist-sample:test is in the input" in err


@pytest.mark.parametrize(
    "words",
    [
        ("--objective", "hcnn", "--distance-weight", "0.5", "--distance-norm", "l2"),
        ("--objective", "ncn", "--confidence", "0.7"),
        ("--objective", "entropy", "--order", "2"),
        ("--labels", "2", "--starts", "2", "--seed", "3", "--schedule", "constant"),
        ("--step-size", "0.01", "--momentum", "0", "--precision", "bfloat16", "--batch-size", "2"),
        ("--backend", "reference", "--device", "cpu", "--radius", "0.2"),
        ("--tolerance", "0.01"),
        ("--memory-budget", "100000000"),
    ],
    ids=lambda words: words[0] + " " + words[1],
)
def test_search_options_reach_the_search(run: Run, images: Path, words: tuple[str, ...]) -> None:
    code, out, err = run("defend", images, *TINY, *words, "--output", "r.csv", "--json")
    assert code == 0, err
    config = json.loads(out)["config"]
    for name, value in zip(words[::2], words[1::2], strict=True):
        key = name.removeprefix("--").replace("-", "_")
        if key != "device":
            assert str(config[key]) in (value, f"{value}.0"), key


def test_compiled_passes_are_asked_for(
    run: Run, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda model: asked.append(model) or model)
    code, out, err = run("defend", images, *TINY, "--compile", "--output", "r.csv", "--json")
    assert code == 0, err
    assert json.loads(out)["config"]["compile"] is True
    assert len(asked) == 1


def test_a_search_without_options_has_the_defaults_of_the_library(run: Run, images: Path) -> None:
    code, out, err = run("defend", images, *TINY, "--json", "--output", "r.csv")
    assert code == 0, err
    config = json.loads(out)["config"]
    given = {name: config[name] for name in ("radius", "bounds", "steps")}
    assert config == hf.SearchConfig.mcn(**given).to_dict()


def test_infeasible_ncn_is_a_rejection_without_value(run: Run, images: Path) -> None:
    words = ("--objective", "ncn", "--confidence", "0.999999")
    rows = rows_in(run("defend", images, *TINY, *words).out)
    assert all(r["label"] == -1 and r["value"] is None and r["winner"] == -1 for r in rows)


def test_points_lie_beside_the_rows(run: Run, images: Path, expected: hf.Prediction) -> None:
    Image.new("L", (5, 6)).save(images / "5.png")
    (images / "2.png").write_bytes(b"broken")
    code, out, err = run("defend", images, *TINY, "--points", "points.npy", "--skip-bad")
    assert code == 0, err
    points = numpy.load("points.npy")
    assert points.shape == (7, 1, 6, 5)
    assert numpy.isnan(points[2]).all()
    numpy.testing.assert_allclose(points[3], expected.search.point[3], atol=1e-6)
    assert rows_in(out)[2]["error"] == f"{images / '2.png'} is not a readable image " + (
        f"(cannot identify image file {str(images / '2.png')!r})"
    )


def test_resize_and_convert_make_other_images_fit(run: Run, images: Path) -> None:
    Image.new("RGB", (10, 12), (10, 20, 30)).save(images / "6.png")
    code, out, err = run("defend", images, *TINY, "--resize", "--convert")
    assert code == 0, err
    assert len(rows_in(out)) == 8


def test_other_files_of_a_folder_are_left_out_with_a_note(run: Run, images: Path) -> None:
    (images / "notes.txt").write_text("notes")
    code, out, err = run("defend", images, *TINY)
    assert code == 0
    assert len(rows_in(out)) == 7
    assert err.startswith("note: left out 1 file(s)")


def test_empty_array_gives_no_rows(run: Run, folder: Path) -> None:
    numpy.save("none.npy", numpy.zeros((0, 1, 6, 5), dtype=numpy.uint8))
    assert run("defend", "none.npy", *TINY, "--quiet") == (0, "", "")


WRONG_USAGE = [
    (("nothing.png",), "nothing.png: no such file or folder"),
    (("no/folder",), "no/folder: no such file or folder"),
    (("notes.txt",), "notes.txt has an unknown suffix"),
    (("empty",), "empty holds no .png, .jpg, .jpeg file"),
    (("fashion-mnis:test",), "did you mean 'fashion-mnist'?"),
    (("fashion-mnist-sample:dev",), "split is 'dev'"),
    (("cifar10:test", "--data-root", "empty"), "cifar10 is not in empty; add --download"),
    (("images", "--model", "fashion-adversaria"), "did you mean 'fashion-adversarial'?"),
    (("images", "--model", "tiny_classifier:mak"), "tiny_classifier:mak"),
    (("images", "--model", "tiny_classifier:make_number"), "made a int"),
    (("images", "--model", "tiny_classifier:make_colour"), "cannot read images of shape"),
    (("images", "--checkpoint", "nothing.pt"), "no checkpoint at nothing.pt"),
    (("images", "--checkpoint", "other.pt"), "does not fit"),
    (("images", "--checkpoint", "notes.txt"), "notes.txt cannot be read as weights"),
    (("images", "--radius", "-1"), "radius is -1.0, expected a finite number > 0"),
    (("images", "--radius", "nan"), "radius is nan"),
    (("images", "--labels", "4"), "labels is 4, expected at most the model's 3 classes"),
    (("images", "--objective", "ncn"), "--objective ncn needs --confidence"),
    (("images", "--objective", "hcnn"), "--objective hcnn needs --distance-weight"),
    (("images", "--distance-weight", "1"), "distance_weight is 1.0, expected 0"),
    (("images", "--memory-budget", "2 cups"), "'2 cups' is no size, expected one such as 512MB"),
    (("images", "--memory-budget", "1kB"), "memory_budget is 1000, expected at least"),
    (("images", "--backend", "triton"), "triton"),
    (("images", "--device", "abacus"), "--device abacus cannot be used"),
    (("images", "--threshold", "2"), "threshold is 2.0"),
    (("images", "--threshold", ".5", "--calibrate", SAMPLE), "exclude each other"),
    (("images", "--calibrate", SAMPLE), "fashion-mnist-sample:test has images of shape"),
    (("images", "--output", "rows.txt"), "rows.txt: unknown suffix"),
    (("images", "--output", "no/rows.csv"), "there is no folder no"),
    (("images", "--output", "empty"), "unknown suffix"),
    (("images", "--points", "points.npz"), "expected .npy"),
    (("images", "--json"), "--json needs --output"),
    (("array.npy", "--key", "images"), "--key images is for .npz files"),
    (("array.npy", "--bounds", "1", "0"), "bounds is (1.0, 0.0)"),
]


@pytest.mark.parametrize(("words", "said"), WRONG_USAGE, ids=str)
def test_wrong_usage_is_one_line_and_leaves_nothing(
    run: Run, images: Path, folder: Path, words: tuple[str, ...], said: str
) -> None:
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("notes")
    torch.save({"weight": torch.zeros(2)}, folder / "other.pt")
    numpy.save("array.npy", numpy.zeros((2, 6, 5), dtype=numpy.uint8))
    before = sorted(folder.rglob("*"))
    model = () if "--model" in words else TINY
    output = () if "--output" in words or "--json" in words else ("--output", "rows.jsonl")
    code, out, err = run("defend", *words, *model, *output)
    assert code == 2, err
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    after = [path for path in sorted(folder.rglob("*")) if "__pycache__" not in path.parts]
    assert after == [path for path in before if "__pycache__" not in path.parts]


def test_wrong_size_names_the_file_and_both_sizes(run: Run, images: Path) -> None:
    Image.new("L", (9, 8)).save(images / "3.png")
    code, out, err = run("defend", images, *TINY)
    assert (code, out) == (2, "")
    assert err == (
        f"error: {images / '3.png'} is 9x8 pixels (width x height), expected 5x6;"
        " --resize fits it\n"
    )


def test_unreadable_image_is_found_before_the_work(run: Run, images: Path) -> None:
    (images / "3.png").write_bytes(b"broken")
    code, out, err = run("defend", images, *TINY)
    assert (code, out) == (1, "")
    assert f"{images / '3.png'} is not a readable image" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_failure_on_the_way_keeps_a_valid_partial_file(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    values = numpy.full((7, 1, 6, 5), 0.5, dtype=numpy.float32)
    values[5] = 2.0
    numpy.save("array.npy", values)
    monkeypatch.setattr(row_run, "CHUNK", 2)
    code, _, err = run("defend", "array.npy", *TINY, "--output", f"rows{suffix}")
    assert code == 2
    assert err.endswith(f"; 4 of 7 rows are in rows.partial{suffix}\n")
    assert err.count("\n") == 1
    _check_partial(folder, suffix, 4)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_interrupt_keeps_a_valid_partial_file(
    run: Run, images: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    _interrupt_third_chunk(monkeypatch)
    code, _, err = run("defend", images, *TINY, "--output", f"rows{suffix}")
    assert code == 130
    assert err == f"error: interrupted; 4 of 7 rows are in rows.partial{suffix}\n"
    _check_partial(folder, suffix, 4)


def test_interrupt_without_output_says_how_far_it_got(
    run: Run, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _interrupt_third_chunk(monkeypatch)
    code, out, err = run("defend", images, *TINY)
    assert code == 130
    assert len(rows_in(out)) == 4
    assert err == "error: interrupted; after 4 of 7 rows\n"


def _interrupt_third_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    predict, calls = hf.Defense.predict, []

    def interrupted(defense: hf.Defense, x: torch.Tensor) -> hf.Prediction:
        calls.append(len(x))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return predict(defense, x)

    monkeypatch.setattr(hf.Defense, "predict", interrupted)
    monkeypatch.setattr(row_run, "CHUNK", 2)


def _check_partial(folder: Path, suffix: str, count: int) -> None:
    assert not (folder / f"rows{suffix}").exists()
    path = folder / f"rows.partial{suffix}"
    if suffix == ".parquet":
        assert pyarrow.parquet.read_table(path).num_rows == count
    elif suffix == ".jsonl":
        assert len(rows_in(path.read_text())) == count
    else:
        assert len(path.read_text().splitlines()) == count + 1


SLOW_MODEL = """
import time

import torch
from torch import nn


class Slow(nn.Module):
    def forward(self, x):
        time.sleep(0.02)
        return x.flatten(1)[:, :3] * 3


def make():
    return Slow()
"""


@pytest.fixture
def start() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Start a Python program; one that still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start_program(program: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", program],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start_program
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def test_ctrl_c_ends_the_program_in_one_line(
    folder: Path, start: Callable[[str], subprocess.Popen[str]]
) -> None:
    (folder / "slow_classifier.py").write_text(SLOW_MODEL)
    numpy.save("many.npy", numpy.zeros((100_000, 6, 5), dtype=numpy.uint8))
    words = ["defend", "many.npy", "--model", "slow_classifier:make", "--output", "rows.jsonl"]
    process = start(
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"import sys; from hcnn_fast.cli.main import main; sys.exit(main({words!r}))"
    )
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size for path in folder.glob(".rows.*.jsonl")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert err.startswith("error: interrupted; ")
    assert err.count("\n") == 1
    rows = rows_in((folder / "rows.partial.jsonl").read_text())
    assert err.split(";")[1].strip() == f"{len(rows)} of 100000 rows are in rows.partial.jsonl"


def test_reader_that_goes_away_ends_the_program_in_one_line(
    images: Path, start: Callable[[str], subprocess.Popen[str]]
) -> None:
    process = start(
        "import sys; from hcnn_fast.cli.main import main\n"
        f"sys.exit(main(['defend', {str(images)!r}, *{list(TINY)!r}]))"
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(60) == 1, err
    assert err.startswith("error: standard output was closed by its reader")
    assert err.count("\n") == 1
