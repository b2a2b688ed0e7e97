"""Every reader gives the same images in any order, in any process, and knows them from others."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from hcnn_fast.data import ImageDataset
from hcnn_fast.failures import FailedRun, WrongUsage
from hcnn_fast.jobs.inputs import ImageSource, InputOptions, open_input
from hcnn_fast.jobs.readers import Chunk, DatasetReader, TensorReader

COUNT = 11
OPTIONS = InputOptions(shape=(1, 6, 5), skip_bad=True)


def pixels(seed: int = 0) -> numpy.ndarray:
    """[N, 6, 5] uint8."""
    return numpy.random.default_rng(seed).integers(0, 256, (COUNT, 6, 5), dtype=numpy.uint8)


def png(image: numpy.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def in_folder(folder: Path, values: numpy.ndarray) -> ImageSource:
    for i, image in enumerate(values):
        (folder / f"{i:02d}.png").write_bytes(png(image))
    return open_input(str(folder), OPTIONS)


def in_npy(folder: Path, values: numpy.ndarray) -> ImageSource:
    numpy.save(folder / "a.npy", values)
    return open_input(str(folder / "a.npy"), OPTIONS)


def in_npz(folder: Path, values: numpy.ndarray) -> ImageSource:
    numpy.savez_compressed(folder / "a.npz", images=values)
    return open_input(str(folder / "a.npz"), OPTIONS)


def in_memory(folder: Path, values: numpy.ndarray) -> ImageSource:
    labels = torch.arange(len(values)) % 3
    dataset = ImageDataset(torch.from_numpy(values)[:, None], labels, ("a", "b", "c"), "d", "test")
    return ImageSource(len(values), (1, 6, 5), None, DatasetReader(dataset, (0.0, 1.0)))


def in_tensor(folder: Path, values: numpy.ndarray) -> ImageSource:
    images = torch.from_numpy(values)[:, None].float() / 255
    return ImageSource(len(values), (1, 6, 5), None, TensorReader(images, "t"))


def written(folder: Path, cells: list[Any], kind: Any = None) -> ImageSource:
    """Two Parquet files of several row groups."""
    for name, part in (("a", slice(0, 7)), ("b", slice(7, None))):
        labels = [i % 3 for i in range(COUNT)][part]
        table = pyarrow.table({"image": pyarrow.array(cells[part], kind), "label": labels})
        pyarrow.parquet.write_table(table, folder / f"{name}.parquet", row_group_size=3)
    return open_input(str(folder), OPTIONS)


def in_parquet_files(folder: Path, values: numpy.ndarray) -> ImageSource:
    return written(folder, [png(image) for image in values])


def in_parquet_structs(folder: Path, values: numpy.ndarray) -> ImageSource:
    return written(folder, [{"bytes": png(image), "path": "x.png"} for image in values])


def in_parquet_lists(folder: Path, values: numpy.ndarray) -> ImageSource:
    return written(folder, values.tolist(), pyarrow.list_(pyarrow.list_(pyarrow.uint8())))


FORMS = [
    in_folder,
    in_npy,
    in_npz,
    in_memory,
    in_tensor,
    in_parquet_files,
    in_parquet_structs,
    in_parquet_lists,
]
every_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
Form = Callable[[Path, numpy.ndarray], ImageSource]


@every_form
def test_images_are_the_same_in_any_order_and_process(tmp_path: Path, form: Form) -> None:
    source = form(tmp_path, pixels())
    assert source.count == COUNT
    expected = torch.from_numpy(pixels())[:, None].float() / 255  # [N, 1, 6, 5]
    assert torch.equal(torch.cat([c.images for c in source.chunks(4)]), expected)
    reader = pickle.loads(pickle.dumps(source.reader))
    for first, count in ((8, 3), (0, 4), (4, 4), (10, 1), (1, 9)):
        chunk = reader.read(first, count)
        assert torch.equal(chunk.images, expected[first : first + count])
        assert chunk.errors == (None,) * count
        assert chunk.names == source.reader.read(first, count).names


@every_form
def test_identity_is_that_of_the_images(tmp_path: Path, form: Form) -> None:
    first, again, other = (tmp_path / name for name in ("first", "again", "other"))
    for folder in (first, again, other):
        folder.mkdir()
    identity = form(first, pixels()).reader.identity()
    assert form(first, pixels()).reader.identity() == identity
    changed = pixels(seed=1)
    changed[:, 2:] = 0  # of another size as PNG
    assert form(first, changed).reader.identity() != identity


def check_bad(chunk: Chunk, bad: int) -> None:
    assert [i for i, error in enumerate(chunk.errors) if error is not None] == [bad]
    assert len(chunk.images) == len(chunk.names) - 1


def test_bad_image_in_an_array_is_reported_with_its_number(tmp_path: Path) -> None:
    values = (pixels()[:, None] / 255).astype(numpy.float32)
    values[9, 0, 1, 1] = numpy.nan
    source = in_npy(tmp_path, values)
    chunk = source.reader.read(8, 3)
    check_bad(chunk, 1)
    assert f"{tmp_path / 'a.npy'}: image 9 holds the value nan" in str(chunk.errors[1])
    strict = open_input(str(tmp_path / "a.npy"), InputOptions(shape=(1, 6, 5)))
    with pytest.raises(WrongUsage, match="image 9 holds the value nan"):
        strict.reader.read(8, 3)


@pytest.mark.parametrize("cell", [b"broken", None, b""], ids=str)
def test_bad_image_in_parquet_is_reported_with_its_number(tmp_path: Path, cell: Any) -> None:
    cells: list[Any] = [png(image) for image in pixels()]
    cells[9] = cell
    check_bad(written(tmp_path, cells).reader.read(8, 3), 1)
    strict = open_input(str(tmp_path), InputOptions(shape=(1, 6, 5)))
    with pytest.raises((FailedRun, WrongUsage), match=r"\[9\]"):
        strict.reader.read(8, 3)


def test_labels_of_parquet_and_an_address_are_read(tmp_path: Path) -> None:
    in_parquet_files(tmp_path, pixels())
    source = open_input(tmp_path.as_uri(), OPTIONS)
    assert source.reader.read(2, 4).targets == (2, 0, 1, 2)


def test_parquet_without_images_or_files_is_refused(tmp_path: Path) -> None:
    in_parquet_files(tmp_path, pixels())
    with pytest.raises(WrongUsage, match=r"no column 'photo' of images; it has image, label"):
        open_input(str(tmp_path), InputOptions(shape=(1, 6, 5), key="photo"))
    with pytest.raises(WrongUsage, match="no such file"):
        open_input(str(tmp_path / "c.parquet"), OPTIONS)
    with pytest.raises(WrongUsage, match="no address that pyarrow can open"):
        open_input("nowhere://x/y", OPTIONS)
    (tmp_path / "c.parquet").write_bytes(b"nothing")
    with pytest.raises(FailedRun, match=r"c\.parquet is not a readable Parquet file"):
        open_input(str(tmp_path), OPTIONS)
