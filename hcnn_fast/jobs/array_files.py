"""Images in `.npy` and `.npz` files, read a few rows at a time."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy
import torch
from torch import Tensor

from hcnn_fast.failures import FailedRun, WrongUsage

Layout = Literal["auto", "nchw", "nhwc", "nhw", "none"]
LAYOUT_RANKS = {"nchw": 4, "nhwc": 4, "nhw": 3}
SLACK = 1e-6  # values this far outside the bounds are clipped by the search


@dataclass(frozen=True)
class ArrayFile:
    """An array on disk, of which the first axis counts images.

    Attributes:
        path: the file.
        key: name of the array inside an `.npz` file; None for `.npy`.
        shape: shape on disk.
        dtype: type on disk.
        layout: how the axes are read; never "auto".
    """

    path: Path
    key: str | None
    shape: tuple[int, ...]
    dtype: numpy.dtype[Any]
    layout: Layout

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image as the model gets it."""
        size = self.shape[1:]
        if self.layout == "nhwc":
            return (size[2], size[0], size[1])
        return (1, *size) if self.layout == "nhw" else size

    @property
    def label(self) -> str:
        """The file, and the array in it, for messages."""
        return str(self.path) if self.key is None else f"{self.path}[{self.key}]"

    def read(
        self,
        block: numpy.ndarray[Any, Any],  # [n, ...] as on disk
        bounds: tuple[float, float],
    ) -> tuple[Tensor, tuple[str | None, ...]]:  # [n, *image] float32, [n]
        """Images as the model takes them, and what is wrong with each: None, or a value."""
        low, high = bounds
        numbers = block.astype(numpy.float32)
        if block.dtype == numpy.uint8:
            values = torch.from_numpy(numbers / numpy.float32(255.0))
            values = values.mul_(high - low).add_(low).clamp_(low, high)
        else:
            values = torch.from_numpy(numbers)
        inside = (values >= low - SLACK) & (values <= high + SLACK)  # False for NaN too
        faults: list[str | None] = [None] * len(values)
        for row in inside.flatten(1).all(1).logical_not().nonzero()[:, 0].tolist():
            worst = float(values[row][~inside[row]].flatten()[0])
            faults[row] = (
                f"holds the value {worst:g}, expected values within [{low:g}, {high:g}]"
                " (--bounds) or uint8"
            )
        if self.layout == "nhwc":
            values = values.permute(0, 3, 1, 2).contiguous()
        return (values[:, None] if self.layout == "nhw" else values), tuple(faults)


class OpenArray:
    """The rows of an array file, any of them; cheapest in rising order.

    A row-major array is never held whole: what lies before the rows of a compressed one is
    decompressed once on the way.
    """

    def __init__(self, array: ArrayFile) -> None:
        self._array = array
        self._row_bytes = array.dtype.itemsize * int(numpy.prod(array.shape[1:]))
        self._whole: numpy.ndarray[Any, Any] | None = None
        self._archive: zipfile.ZipFile | None = None
        self._member: IO[bytes] | None = None
        if array.key is None:
            self._whole = numpy.load(array.path, mmap_mode="r", allow_pickle=False)
            return
        self._archive = zipfile.ZipFile(array.path)
        self._member = self._archive.open(f"{array.key}.npy")
        _, column_major, _ = read_header(self._member)
        self._begin = self._member.tell()
        if column_major:
            self._whole = numpy.load(array.path, allow_pickle=False)[array.key]

    def rows(self, first: int, count: int) -> numpy.ndarray[Any, Any]:  # [count, ...]
        """Rows as they are on disk.

        Raises:
            FailedRun: the file ends early or is corrupt.
        """
        if self._whole is not None:
            return numpy.array(self._whole[first : first + count])
        array, member, size = self._array, self._member, self._row_bytes
        assert member is not None
        try:
            offset = self._begin + first * size
            if member.tell() != offset:  # a seek gives up the check of the member's checksum
                member.seek(offset)
            data = member.read(count * size)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise FailedRun(f"{array.label} is corrupt ({error})") from error
        if len(data) != count * size:
            raise FailedRun(f"{array.label} ends early, in image {first + len(data) // size}")
        return numpy.frombuffer(data, array.dtype).reshape(count, *array.shape[1:])


def open_array(
    path: Path,
    *,
    key: str | None,
    layout: Layout,
    expected: tuple[int, ...] | None,
) -> ArrayFile:
    """Read an array's header and settle its layout.

    "auto" takes [N, C, H, W] or [N, H, W, C], whichever gives the model's image shape (the first
    if both do; without a known shape the axis of length 1 or 3 is C), [N, H, W] as one channel,
    and any other rank as it is.

    Raises:
        WrongUsage: no array, an unsuitable type or shape, or an unknown key.
    """
    try:
        if path.suffix == ".npz":
            key, shape, dtype = _npz_header(path, key)
        else:
            if key is not None:
                raise WrongUsage(f"--key {key} is for .npz files, and {path} is none")
            mapped = numpy.load(path, mmap_mode="r", allow_pickle=False)
            shape, dtype = mapped.shape, mapped.dtype
    except WrongUsage:
        raise
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FailedRun(f"{path} is not a readable array file ({error})") from error
    name = str(path) if key is None else f"{path}[{key}]"
    if dtype != numpy.uint8 and dtype.kind != "f":
        raise WrongUsage(
            f"{name} holds {dtype}; expected uint8 (0 to 255) or floats within the bounds"
        )
    if len(shape) < 2:
        raise WrongUsage(
            f"{name} has shape {shape}, expected [N, C, H, W], [N, H, W, C], [N, H, W]"
        )
    settled = settled_layout(name, shape, layout, expected)
    array = ArrayFile(path, key, shape, dtype, settled)
    if expected is not None and array.image_shape != expected:
        raise WrongUsage(
            f"{name} has shape {shape}, so images of {_times(array.image_shape)};"
            f" the model takes {_times(expected)}"
        )
    return array


def settled_layout(
    name: str, shape: tuple[int, ...], layout: Layout, expected: tuple[int, ...] | None
) -> Layout:
    """How the axes of an array of that shape are read; `open_array` says what "auto" is."""
    if layout != "auto":
        if len(shape) != LAYOUT_RANKS.get(layout, len(shape)):
            raise WrongUsage(f"{name} has shape {shape}, which --layout {layout} does not fit")
        return layout
    if len(shape) == 3 and shape[1:] != expected:
        return "nhw"
    if len(shape) != 4:
        return "none"
    if expected is not None:
        last = (shape[3], shape[1], shape[2])
        return "nhwc" if shape[1:] != expected and last == expected else "nchw"
    if shape[1] in (1, 3):
        return "nchw"
    if shape[3] in (1, 3):
        return "nhwc"
    raise WrongUsage(f"{name} has shape {shape}: which axis is the channel? Give --layout")


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _npz_header(path: Path, key: str | None) -> tuple[str, tuple[int, ...], numpy.dtype[Any]]:
    with zipfile.ZipFile(path) as archive:
        keys = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        if key is None and len(keys) != 1:
            raise WrongUsage(f"{path} holds {', '.join(keys) or 'no array'}; choose with --key")
        chosen = keys[0] if key is None else key
        if chosen not in keys:
            raise WrongUsage(f"{path} has no array {chosen!r}; it holds {', '.join(keys)}")
        with archive.open(f"{chosen}.npy") as member:
            shape, _, dtype = read_header(member)
    return chosen, shape, dtype


def read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, numpy.dtype[Any]]:
    """Shape, whether columns come first, and type of an array in the `.npy` format."""
    version = numpy.lib.format.read_magic(stream)
    if version == (1, 0):
        return numpy.lib.format.read_array_header_1_0(stream)
    return numpy.lib.format.read_array_header_2_0(stream)
