"""`bench` end to end on few images: what it measures, prints, writes and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import hcnn_fast as hf
from hcnn_fast.cli import bench_run
from hcnn_fast.cli.bench import parse_shape
from hcnn_fast.cli.bench_scaling import WithMoreClasses, scaling_plan
from hcnn_fast.cli.failures import WrongUsage
from hcnn_fast.measurement import Roofs
from hcnn_fast.measurement.rivals import RIVALS

Run = Callable[..., Any]  # the fixture of conftest.py
SMALL = ("--images", "3", "--steps", "2", "--rounds", "2")
TINY = ("--model", "tiny_classifier:make", "--shape", "1x6x5", *SMALL)
ROOFS = Roofs(flops_per_second=1e10, bytes_per_second=1e9, size=64, copied_bytes=4096, threads=1)
NORMALISED = """
from torch import nn

def make():
    norms = nn.BatchNorm2d(1), nn.BatchNorm2d(2)
    last = nn.Flatten(), nn.Linear(24, 3)
    return nn.Sequential(norms[0], nn.Conv2d(1, 2, 3), norms[1], *last).eval()
"""
KEYS = {
    "model",
    "data",
    "way",
    "not_run",
    "images",
    "seconds",
    "median_seconds",
    "images_per_second",
    "asked_gradient_steps",
    "gradient_steps",
    "forward_passes",
    "gradient_steps_per_second",
    "microseconds_per_gradient_step",
    "microseconds_per_asked_gradient_step",
    "share_outside_model",
    "share_outside_model_unknown",
    "clocked_seconds",
    "largest_batch",
    "flops_per_second",
    "share_of_matrix_product_rate",
    "model_bytes_per_second",
    "share_of_copy_rate",
    "peak_memory_bytes",
    "peak_memory_kind",
    "mean_confidence",
    "bound",
}


@pytest.fixture(autouse=True)
def known_roofs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's rates take seconds to measure and are tested elsewhere."""
    monkeypatch.setattr(bench_run, "measure_roofs", lambda device: ROOFS)


@pytest.fixture
def two_rivals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop by hand, one that fails, and one that is not installed."""

    def failing(*arguments: object) -> Tensor:
        raise RuntimeError("no such\nkernel")

    chosen = {"plain": RIVALS["plain"], "compiled": failing, "art": RIVALS["art"]}
    monkeypatch.setattr(bench_run, "RIVALS", chosen)
    monkeypatch.setattr(
        bench_run, "missing", lambda name: "art is not installed" if name == "art" else None
    )


def test_bench_measures_the_shipped_model_on_the_shipped_images(run: Run, folder: Path) -> None:
    code, out, err = run("bench", *SMALL, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["config"] == hf.SearchConfig.mcn(0.05, steps=2).to_dict()
    assert found["roofs"] == ROOFS.to_dict()
    assert found["build"] == hf.build_info()
    assert (found["scaling"], found["plot"], found["rounds"]) == ([], None, 2)
    (row,) = found["rows"]
    assert row.keys() == KEYS
    assert (row["model"], row["data"], row["way"]) == (
        "fashion-adversarial",
        "fashion-mnist-sample:test",
        "search",
    )
    assert row["images"] == 3
    assert row["asked_gradient_steps"] == 3 * 10 * 2
    assert len(row["seconds"]) == 2
    assert 0.0 < row["share_outside_model"] < 1.0
    assert row["peak_memory_bytes"] > 10 << 20
    x = hf.data.load("fashion-mnist-sample").scaled()[:3]
    result = hf.search(hf.models.load("fashion-adversarial"), x, hf.SearchConfig.mcn(0.05, steps=2))
    assert row["gradient_steps"] == result.backwards
    assert row["mean_confidence"] == pytest.approx(float(result.confidence.mean()), abs=1e-6)
    work = 10_036_480 * (result.forwards + result.backwards)
    assert row["flops_per_second"] == pytest.approx(work / row["median_seconds"])


def test_bench_prints_a_row_the_roofs_and_what_bounds_it(run: Run, folder: Path) -> None:
    code, out, err = run("bench", *TINY)
    assert (code, err) == (0, "")
    assert "3 images: random 1x6x5 for tiny_classifier:make" in out
    assert "10.0 GFLOP/s (float32 matrix product of 64 rows), 1.0 GB/s (copy)" in out
    for column in ("images/s", "steps/s", "outside", "GFLOP/s", "of roof", "peak MiB"):
        assert column in out
    assert "tiny_classifier:make: Python and small kernels outside the model take" in out


def test_models_are_measured_in_turn_and_architectures_with_random_weights(
    run: Run, folder: Path
) -> None:
    words = ("--model", "small-cnn", "--model", "tiny_classifier:make_for_fashion")
    code, out, err = run("bench", *words, "--shape", "1x28x28", *SMALL, "--json")
    assert (code, err) == (0, "")
    rows = json.loads(out)["rows"]
    assert [row["model"] for row in rows] == [
        "small-cnn (random weights)",
        "tiny_classifier:make_for_fashion",
    ]


def test_bench_says_what_became_of_batch_norm_layers(run: Run, folder: Path) -> None:
    (folder / "normalised.py").write_text(NORMALISED)
    words = ("--model", "normalised:make", "--shape", "1x6x5", *SMALL)
    code, out, err = run("bench", *words)
    assert (code, err) == (0, "")
    assert "normalised:make: 1 BatchNorm layers folded into others (1 of 2 do not alone" in out
    found = json.loads(run("bench", *words, "--json").out)["preparation"]
    assert found["normalised:make"].startswith("1 BatchNorm layers folded")
    assert json.loads(run("bench", *TINY, "--json").out)["preparation"] == {}


def test_bench_says_which_convolutions_take_fewer_products(run: Run) -> None:
    words = ("--model", "small-cnn", "--shape", "1x28x28", *SMALL)
    said = "1 convolutions with a quarter of the products, counted here in full"
    assert f"small-cnn (random weights): {said}" in run("bench", *words).out
    lower = json.loads(run("bench", *words, "--precision", "bfloat16", "--json").out)
    assert lower["preparation"] == {}


def test_bench_does_not_clock_compiled_passes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda model: model)
    words = ("--model", "small-cnn", "--shape", "1x28x28", *SMALL)
    found = json.loads(run("bench", *words, "--compile", "--json").out)
    assert found["config"]["compile"] is True
    (row,) = found["rows"]
    assert row["share_outside_model"] is None
    assert row["share_outside_model_unknown"] == "the model's passes are compiled"


def test_random_weights_and_images_are_the_same_every_time(run: Run, folder: Path) -> None:
    words = ("bench", "--model", "small-cnn", "--shape", "1x28x28", *SMALL, "--json")
    state = torch.random.get_rng_state()
    first, second = (json.loads(run(*words).out)["rows"][0]["mean_confidence"] for _ in range(2))
    assert first == second
    assert torch.equal(state, torch.random.get_rng_state())


def test_bench_reads_images_and_options_of_the_search(run: Run, images: Path) -> None:
    words = ("--labels", "2", "--starts", "3", "--batch-size", "4", "--radius", "0.1")
    code, out, err = run(
        "bench", "--model", "tiny_classifier:make", "--data", images, *SMALL, *words, "--json"
    )
    assert (code, err) == (0, "")
    found = json.loads(out)
    config = hf.SearchConfig.mcn(0.1, steps=2, labels=2, starts=3, batch_size=4)
    assert found["config"] == config.to_dict()
    assert found["rows"][0]["asked_gradient_steps"] == 3 * 2 * 3 * 2
    assert found["rows"][0]["largest_batch"] <= 4
    assert found["rows"][0]["data"] == str(images)


@pytest.mark.usefixtures("two_rivals")
def test_rivals_are_rows_of_the_same_problem_and_a_missing_one_says_so(
    run: Run, folder: Path
) -> None:
    code, out, err = run("bench", *TINY, "--rivals", "--json")
    assert (code, err) == (0, "")
    rows = {row["way"]: row for row in json.loads(out)["rows"]}
    assert list(rows) == ["search", "same steps", "plain", "compiled", "art"]
    assert rows["art"]["not_run"] == "art is not installed"
    assert rows["compiled"]["not_run"] == "RuntimeError: no such kernel"
    assert "seconds" not in rows["art"]
    assert rows["plain"]["gradient_steps"] == 3 * 3 * 2
    assert rows["plain"]["asked_gradient_steps"] == rows["search"]["asked_gradient_steps"]
    assert rows["same steps"]["mean_confidence"] >= rows["plain"]["mean_confidence"] - 1e-5
    out = run("bench", *TINY, "--rivals").out
    assert "plain: " in out
    assert "times the time of the search" in out
    assert "art: not measured: art is not installed" in out


@pytest.mark.usefixtures("two_rivals")
def test_a_search_that_fails_fails_the_command(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("hcnn_fast.measurement.observation.search", failing)
    code, out, err = run("bench", *TINY, "--rivals")
    assert (code, out, err) == (1, "", "error: RuntimeError: broken\n")


def test_scaling_measures_every_size_and_writes_a_picture(run: Run, folder: Path) -> None:
    words = (*TINY, "--scaling", "--output", "cost.png", "--json")
    code, out, err = run("bench", *words)
    assert (code, err) == (0, "")
    found = json.loads(out)
    values: dict[str, list[int]] = {}
    for point in found["scaling"]:
        values.setdefault(point["size"], []).append(point["value"])
        assert point["seconds"] > 0.0
        assert point["microseconds_per_gradient_step"] == pytest.approx(
            1e6 * point["seconds"] / point["gradient_steps"]
        )
    assert values == {
        "images": [1, 2, 3],
        "labels": [1, 2, 3],
        "classes": [3, 30, 300],
        "starts": [1, 2, 4],
        "steps": [1, 2],
    }
    assert found["plot"] == "cost.png"
    with Image.open(folder / "cost.png") as picture:
        assert picture.format == "PNG"
        pixels = numpy.asarray(picture.convert("RGB"))
    assert pixels.shape[1] > 3 * pixels.shape[0]  # panels side by side
    assert (pixels == numpy.array([0x00, 0x72, 0xB2])).all(2).sum() > 1000  # lines were drawn


def test_scaling_prints_a_table_and_says_where_the_picture_is(run: Run, folder: Path) -> None:
    code, out, err = run("bench", *TINY, "--scaling")
    assert (code, err) == (0, "")
    assert "Cost against one size" in out
    assert "written: scaling.png" in out
    assert (folder / "scaling.png").is_file()


def test_added_classes_change_neither_answer_nor_gradient() -> None:
    model = nn.Linear(6, 4)
    x = torch.rand(3, 6, generator=torch.Generator().manual_seed(0))
    config = hf.SearchConfig.mcn(0.1, steps=3, labels=4)
    own, more = (hf.search(m, x, config) for m in (model, WithMoreClasses(model, 5)))
    assert more.logits.shape == (3, 9)
    assert torch.equal(more.labels, own.labels)
    torch.testing.assert_close(more.value, own.value)
    torch.testing.assert_close(more.point, own.point)


def test_every_size_grows_alone() -> None:
    config = hf.SearchConfig.mcn(0.1, steps=12)
    plan = scaling_plan(config, torch.rand(40, 2), classes=10)
    sizes = {size: [p for p in plan if p.size == size] for size in {p.size for p in plan}}
    assert [p.value for p in sizes["images"]] == [1, 2, 4, 8, 16, 32, 40]
    assert [p.value for p in sizes["steps"]] == [1, 2, 4, 8, 12]
    assert {p.images for p in plan if p.size != "images"} == {16}
    for size in ("labels", "starts", "steps"):
        for point in sizes[size]:
            assert point.config == config.replace(**{size: point.value})
    assert [p.classes for p in sizes["classes"]] == [0, 90, 990]


def test_quiet_prints_nothing(run: Run, folder: Path) -> None:
    assert run("bench", *TINY, "--quiet") == (0, "", "")


WRONG_USAGE = [
    (("--images", "0"), "should be greater than or equal to 1"),
    (("--steps", "0"), "should be greater than or equal to 1"),
    (("--radius", "-1"), "radius is -1.0, expected a finite number > 0"),
    (("--model", "fashion-adversaria"), "did you mean 'fashion-adversarial'?"),
    (("--model", "tiny_classifier:make_number", "--shape", "1x6x5"), "made a int"),
    (("--model", "tiny_classifier:make"), "does not say what images it takes; give --shape"),
    (("--model", "tiny_classifier:make", "--shape", "1x6x6"), "cannot read images of shape"),
    (("--shape", "3x0x2"), "--shape is '3x0x2', expected positive integers such as 3x32x32"),
    (("--shape", "1x28x28", "--data", "fashion-mnist-sample:test"), "leave it out with --data"),
    (("--data", "nothing.png"), "nothing.png: no such file or folder"),
    (("--data", "empty.npy"), "empty.npy holds no images"),
    (("--labels", "11"), "labels is 11, and fashion-adversarial has 10 classes"),
    (("--output", "plot.png"), "--output is for the plot of --scaling"),
    (("--scaling", "--output", "plot.pdf"), "--output is plot.pdf, expected a .png file"),
    (("--scaling", "--output", "absent/plot.png"), "absent is no folder"),
    (("--rivals", "--bounds", "-1", "1"), "--rivals needs --bounds 0 1"),
    (("--rivals", "--labels", "2"), "--rivals try all labels"),
    (("--rivals", "--starts", "2"), "--rivals start once"),
    (
        ("--model", "small-cnn", "--model", "resnet18", "--checkpoint", "x.pt"),
        "--checkpoint fits one model, and 2 are named",
    ),
    (("--model", "small-cnn", "--checkpoint", "x.pt"), "no checkpoint at x.pt"),
    (("--device", "warp"), "--device warp cannot be used"),
    (("--rounds", "two"), "should be a valid integer"),
    (("--nonsense",), "No such option"),
]


@pytest.mark.parametrize(("words", "message"), WRONG_USAGE, ids=lambda value: str(value)[:40])
def test_wrong_usage_is_one_line_and_code_2_before_any_measurement(
    run: Run,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    message: str,
) -> None:
    def measured(*arguments: object, **keywords: object) -> None:
        raise AssertionError("a measurement began")

    numpy.save(folder / "empty.npy", numpy.zeros((0, 1, 28, 28), dtype=numpy.float32))
    monkeypatch.setattr(bench_run, "measure_roofs", measured)
    code, out, err = run("bench", *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize("text", ["", "x", "3x", "3,32", "-1x2", "3x3.5", "²x2"])
def test_a_shape_is_positive_integers(text: str) -> None:
    with pytest.raises(WrongUsage, match="expected positive integers"):
        parse_shape(text)


def test_a_shape_is_read_in_either_case() -> None:
    assert parse_shape("3X32x32") == (3, 32, 32)
    assert parse_shape("30") == (30,)


def test_an_interruption_is_one_line_and_code_130(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object, **keywords: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_run, "observe", stop)
    assert run("bench", *TINY) == (130, "", "error: interrupted\n")
