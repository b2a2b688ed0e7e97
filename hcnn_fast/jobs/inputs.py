"""What `defend` and `attack` read: images, folders of them, arrays, Parquet, data sets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from hcnn_fast.data import ImageDataset, load
from hcnn_fast.failures import FailedRun, WrongUsage
from hcnn_fast.jobs import image_files, parquet_files
from hcnn_fast.jobs.array_files import Layout, open_array
from hcnn_fast.jobs.image_files import ImageFormat, check_size, image_size, read_image
from hcnn_fast.jobs.parquet_files import is_address, open_parquet
from hcnn_fast.jobs.readers import ArrayReader, Chunk, ChunkReader, DatasetReader, FilesReader


@dataclass(frozen=True)
class ImageSource:
    """An input that has passed its checks.

    Attributes:
        count: number of images.
        shape: shape of one image.
        class_names: names of the classes, where the input knows them.
        reader: reads any of them.
        note: something the user should know, or "".
        dataset: the images where they are those of a data set, else None.
    """

    count: int
    shape: tuple[int, ...]
    class_names: tuple[str, ...] | None
    reader: ChunkReader
    note: str = ""
    dataset: ImageDataset | None = None

    def chunks(self, count: int) -> Iterator[Chunk]:
        """All images, `count` at a time."""
        for first in range(0, self.count, count):
            yield self.reader.read(first, min(count, self.count - first))


@dataclass(frozen=True)
class InputOptions:
    """How an input is read.

    Attributes:
        bounds: values of black and white in the model's input.
        limit: read at most so many images; None for all.
        key: array of an `.npz` file, or column of Parquet files.
        layout: axes of an array.
        resize: fit images of another size.
        convert: make grey from colour, drop transparency.
        skip_bad: report unreadable images instead of stopping at them.
        data_root: folder of the data sets; None for the usual places.
        download: fetch a missing data set.
        shape: image shape that the model takes; None if the model does not say.
    """

    bounds: tuple[float, float] = (0.0, 1.0)
    limit: int | None = None
    key: str | None = None
    layout: Layout = "auto"
    resize: bool = False
    convert: bool = False
    skip_bad: bool = False
    data_root: Path | None = None
    download: bool = False
    shape: tuple[int, ...] | None = None

    @property
    def image_format(self) -> ImageFormat:
        """The same for image files."""
        if self.shape is not None and len(self.shape) != 3:
            raise WrongUsage(f"the model takes values of shape {self.shape}, not images")
        return ImageFormat(self.shape, self.bounds, self.resize, self.convert)


def open_input(text: str, options: InputOptions) -> ImageSource:
    """Find out what an argument names, and check it as far as that can be done without the model.

    Raises:
        WrongUsage: nothing has that name, or it holds nothing that the model can take.
        FailedRun: an image is unreadable, and bad ones are not to be skipped.
    """
    path = Path(text)
    if is_address(text) or path.suffix == parquet_files.SUFFIX or _holds_parquet(path):
        reader = open_parquet(text, options.key, options.image_format, options.skip_bad)
        total = reader.count if options.limit is None else min(reader.count, options.limit)
        return ImageSource(total, options.image_format.shape or (), None, reader)
    if path.is_dir():
        return _folder(path, options)
    if path.exists():
        if path.suffix.lower() in image_files.SUFFIXES:
            return _files((path,), (str(path),), options)
        if path.suffix in (".npy", ".npz"):
            return _array(path, options)
        raise WrongUsage(
            f"{path} has an unknown suffix, expected one of"
            f" {', '.join(image_files.SUFFIXES)}, .npy, .npz, .parquet"
        )
    if path.suffix or len(path.parts) > 1:
        raise WrongUsage(f"{path}: no such file or folder")
    return _dataset(text, options)


def open_dataset(text: str, options: InputOptions) -> ImageDataset:
    """Load NAME:SPLIT, or NAME for its split "test".

    Raises:
        WrongUsage: no such data set or split, or it is not on this machine.
    """
    name, _, split = text.partition(":")
    dataset = load(name, split or "test", root=options.data_root, download=options.download)
    shape = tuple(dataset.images.shape[1:])
    if options.shape is not None and shape != options.shape:
        raise WrongUsage(
            f"{text} has images of shape {list(shape)}, the model takes {list(options.shape)}"
        )
    return dataset


def _holds_parquet(folder: Path) -> bool:
    """Whether a folder has Parquet files and no image files."""
    suffixes = {path.suffix.lower() for path in folder.rglob("*")} if folder.is_dir() else set()
    return parquet_files.SUFFIX in suffixes and not suffixes & {*image_files.SUFFIXES}


def _dataset(text: str, options: InputOptions) -> ImageSource:
    dataset = open_dataset(text, options).first(options.limit)
    reader = DatasetReader(dataset, options.bounds)
    shape = tuple(dataset.images.shape[1:])
    return ImageSource(len(dataset), shape, dataset.class_names, reader, dataset=dataset)


def _array(path: Path, options: InputOptions) -> ImageSource:
    array = open_array(path, key=options.key, layout=options.layout, expected=options.shape)
    total = array.shape[0] if options.limit is None else min(array.shape[0], options.limit)
    reader = ArrayReader(array, options.bounds, options.skip_bad)
    return ImageSource(total, array.image_shape, None, reader)


def _folder(folder: Path, options: InputOptions) -> ImageSource:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    paths = [path for path in files if path.suffix.lower() in image_files.SUFFIXES]
    if not paths:
        raise WrongUsage(f"{folder} holds no {', '.join(image_files.SUFFIXES)} file")
    others = len(files) - len(paths)
    paths = list(islice(paths, options.limit))
    names = tuple(path.relative_to(folder).as_posix() for path in paths)
    note = f"left out {others} file(s) in {folder} that are not {', '.join(image_files.SUFFIXES)}"
    return replace(_files(tuple(paths), names, options), note=note if others else "")


def _files(paths: tuple[Path, ...], names: tuple[str, ...], options: InputOptions) -> ImageSource:
    """Image files; every header is read now, so that a wrong size stops before the work.

    Where bad images are skipped none of them stops it, and the first that is readable suffices.
    """
    form = options.image_format
    for path in paths:
        if options.skip_bad and form.shape is not None:
            break
        try:
            size = image_size(path)
            if form.shape is None:
                channels, height, width = read_image(path, form).shape
                form = replace(form, shape=(channels, height, width))
            check_size(path, size, form)
        except (FailedRun, WrongUsage):
            if not options.skip_bad:
                raise
    if form.shape is None:
        raise FailedRun(f"none of the {len(paths)} images can be read")
    return ImageSource(
        len(paths), form.shape, None, FilesReader(paths, names, form, options.skip_bad)
    )
