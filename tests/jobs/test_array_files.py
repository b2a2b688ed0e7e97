"""Arrays on disk, whole and in pieces, against the arrays that were saved."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from hcnn_fast.failures import FailedRun, WrongUsage
from hcnn_fast.jobs.array_files import open_array
from hcnn_fast.jobs.readers import ArrayReader

BOUNDS = (0.0, 1.0)
PIXELS = numpy.random.default_rng(0).integers(0, 256, (7, 3, 6, 5), dtype=numpy.uint8)
EXPECTED = torch.from_numpy(PIXELS).float() / 255


def read(path: Path, count: int = 3, limit: int = 100, **options: Any) -> torch.Tensor:
    defaults: dict[str, Any] = {"key": None, "layout": "auto", "expected": (3, 6, 5)}
    array = open_array(path, **defaults | options)
    total = min(limit, array.shape[0])
    reader = ArrayReader(array, BOUNDS, skip_bad=False)
    blocks = [reader.read(i, min(count, total - i)).images for i in range(0, total, count)]
    return torch.cat(blocks)


@pytest.mark.parametrize("count", [1, 3, 7, 100])
@pytest.mark.parametrize("kind", ["npy", "npz", "npz compressed", "npz column-major"])
def test_every_container_gives_the_same_rows(tmp_path: Path, kind: str, count: int) -> None:
    path = tmp_path / f"images.{kind[:3]}"
    if kind == "npy":
        numpy.save(path, PIXELS)
    elif kind == "npz compressed":
        numpy.savez_compressed(path, images=PIXELS)
    else:
        order = "F" if kind.endswith("column-major") else "C"
        numpy.savez(path, images=numpy.asarray(PIXELS, order=order))
    assert torch.equal(read(path, count), EXPECTED)
    assert torch.equal(read(path, count, limit=4), EXPECTED[:4])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_floats_are_taken_as_they_are(tmp_path: Path, dtype: str) -> None:
    values = (PIXELS / 255).astype(dtype)
    numpy.save(tmp_path / "images.npy", values)
    expected = torch.from_numpy(values.astype(numpy.float32))
    assert torch.equal(read(tmp_path / "images.npy"), expected)


@pytest.mark.parametrize("expected", [(3, 6, 5), None])
def test_channels_last_is_detected(tmp_path: Path, expected: object) -> None:
    numpy.save(tmp_path / "images.npy", PIXELS.transpose(0, 2, 3, 1))
    assert torch.equal(read(tmp_path / "images.npy", expected=expected), EXPECTED)


def test_ambiguous_axes_are_taken_as_channels_first_or_as_told(tmp_path: Path) -> None:
    cubes = PIXELS[:, :, :3, :3]
    numpy.save(tmp_path / "images.npy", cubes)
    path, shape = tmp_path / "images.npy", (3, 3, 3)
    assert torch.equal(read(path, expected=shape), EXPECTED[:, :, :3, :3])
    last = read(path, expected=shape, layout="nhwc")
    assert torch.equal(last, EXPECTED[:, :, :3, :3].permute(0, 3, 1, 2))


def test_three_axes_are_grey_images(tmp_path: Path) -> None:
    numpy.save(tmp_path / "images.npy", PIXELS[:, 0])
    assert torch.equal(read(tmp_path / "images.npy", expected=(1, 6, 5)), EXPECTED[:, :1])


def test_two_axes_are_taken_as_they_are(tmp_path: Path) -> None:
    numpy.save(tmp_path / "rows.npy", PIXELS[:, 0, 0])
    assert torch.equal(read(tmp_path / "rows.npy", expected=None), EXPECTED[:, 0, 0])


def test_key_chooses_the_array(tmp_path: Path) -> None:
    path = tmp_path / "both.npz"
    numpy.savez(path, images=PIXELS, labels=numpy.arange(7))
    assert torch.equal(read(path, key="images"), EXPECTED)
    with pytest.raises(WrongUsage, match="holds images, labels; choose with --key"):
        read(path)
    with pytest.raises(WrongUsage, match="has no array 'image'; it holds images, labels"):
        read(path, key="image")


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (PIXELS.astype(numpy.int64), "holds int64; expected uint8"),
        (PIXELS > 3, "holds bool; expected uint8"),
        (PIXELS[0, 0, 0], r"has shape \(5,\), expected"),
        (PIXELS[..., :4], "images of 3x6x4; the model takes 3x6x5"),
        (PIXELS[:, :2], "images of 2x6x5; the model takes 3x6x5"),
    ],
    ids=["int64", "bool", "vector", "size", "channels"],
)
def test_unsuitable_array_is_refused(tmp_path: Path, array: numpy.ndarray, said: str) -> None:
    numpy.save(tmp_path / "images.npy", array)
    with pytest.raises(WrongUsage, match=rf"images\.npy.* {said}"):
        read(tmp_path / "images.npy")


def test_undecidable_layout_is_refused(tmp_path: Path) -> None:
    numpy.save(tmp_path / "images.npy", numpy.zeros((2, 4, 4, 4), dtype=numpy.uint8))
    with pytest.raises(WrongUsage, match="which axis is the channel"):
        read(tmp_path / "images.npy", expected=None)


def test_layout_of_another_rank_is_refused(tmp_path: Path) -> None:
    numpy.save(tmp_path / "images.npy", PIXELS)
    with pytest.raises(WrongUsage, match="--layout nhw does not fit"):
        read(tmp_path / "images.npy", layout="nhw")


def test_key_for_a_single_array_is_refused(tmp_path: Path) -> None:
    numpy.save(tmp_path / "images.npy", PIXELS)
    with pytest.raises(WrongUsage, match=r"--key images is for \.npz files"):
        read(tmp_path / "images.npy", key="images")


@pytest.mark.parametrize("bad", [numpy.nan, numpy.inf, -0.01, 1.01])
def test_value_outside_the_bounds_is_named_with_its_image(tmp_path: Path, bad: float) -> None:
    values = (PIXELS / 255).astype(numpy.float32)
    values[5, 1, 2, 3] = bad
    numpy.save(tmp_path / "images.npy", values)
    with pytest.raises(WrongUsage, match=rf"image 5 holds the value {bad:g}, expected .* \[0, 1\]"):
        read(tmp_path / "images.npy")


@pytest.mark.parametrize("name", ["images.npy", "images.npz"])
def test_nonsense_is_not_readable(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"nothing of use")
    with pytest.raises(FailedRun, match="is not a readable array file"):
        read(tmp_path / name)


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    numpy.save(tmp_path / "images.npy", numpy.array([{}, 1], dtype=object), allow_pickle=True)
    with pytest.raises(FailedRun, match="is not a readable array file"):
        read(tmp_path / "images.npy")


def test_short_member_is_found_while_reading(tmp_path: Path) -> None:
    numpy.save(tmp_path / "whole.npy", PIXELS)
    content = (tmp_path / "whole.npy").read_bytes()
    with zipfile.ZipFile(tmp_path / "images.npz", "w") as archive:
        archive.writestr("images.npy", content[:-100])
    with pytest.raises(FailedRun, match=r"images\.npz\[images\] ends early, in image 5"):
        read(tmp_path / "images.npz")
