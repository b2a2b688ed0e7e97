"""Image files as tensors: nothing is resized, recoloured or dropped unless asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy
import torch
from torch import Tensor

from hcnn_fast.failures import FailedRun, WrongUsage

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg")
FORMATS = ("PNG", "JPEG")
SIXTEEN_BIT_GREY = ("I;16", "I;16L", "I;16B", "I;16N")
ORIENTATION = 0x0112  # EXIF tag; from 5 on width and height change places


@dataclass(frozen=True)
class ImageFormat:
    """What an image file must become.

    Attributes:
        shape: (channels, height, width); None where the first image decides it.
        bounds: the values that black and white stand for.
        resize: fit another size (bilinear, antialiased) instead of refusing it.
        convert: turn colour into luminance and drop transparency instead of refusing them.
    """

    shape: tuple[int, int, int] | None
    bounds: tuple[float, float] = (0.0, 1.0)
    resize: bool = False
    convert: bool = False


def image_size(path: Path, content: IO[bytes] | None = None) -> tuple[int, int]:
    """(height, width) of an image as a viewer shows it, from the header of the file or its content.

    Raises:
        FailedRun: the file is not a readable image.
    """
    from PIL import Image

    try:
        with Image.open(path if content is None else content) as image:
            width, height = image.size
            # Without that condition Pillow decodes a whole PNG in search of EXIF data.
            turned = "exif" in image.info and image.getexif().get(ORIENTATION, 1) >= 5
    except Exception as error:
        raise unreadable(path, error) from error
    return (width, height) if turned else (height, width)


def check_size(path: Path, size: tuple[int, int], form: ImageFormat) -> None:
    """Raise WrongUsage if an image of that (height, width) does not have the expected size."""
    if form.shape is None or form.resize or size == form.shape[1:]:
        return
    height, width = form.shape[1:]
    raise WrongUsage(
        f"{path} is {size[1]}x{size[0]} pixels (width x height), expected {width}x{height};"
        " --resize fits it"
    )


def read_image(
    path: Path,
    form: ImageFormat,
    content: IO[bytes] | None = None,
) -> Tensor:  # [C, H, W] float32
    """Decode a PNG or JPEG file, or one whose content is given and whose path only names it.

    Grey is repeated for a model of three channels, and colour whose channels are equal is taken as
    grey: neither loses anything. EXIF orientation is applied, as viewers do.

    Raises:
        FailedRun: the file cannot be decoded.
        WrongUsage: wrong size, or colour or transparency that the model cannot take.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(
            path if content is None else content, formats=None if content is None else FORMATS
        ) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened)
    except Exception as error:
        raise unreadable(path, error) from error
    check_size(path, (image.height, image.width), form)
    image = _without_palette(path, image, form)
    if form.shape is not None and form.resize and (image.height, image.width) != form.shape[1:]:
        image = image.resize((form.shape[2], form.shape[1]), Image.Resampling.BILINEAR)
    white = 65535.0 if image.mode in SIXTEEN_BIT_GREY else 255.0
    values = torch.from_numpy(numpy.asarray(image).astype(numpy.float32) / numpy.float32(white))
    values = values[None] if values.ndim == 2 else values.permute(2, 0, 1)  # [C, H, W]
    values = _with_channels(path, values, form)
    low, high = form.bounds
    return values.mul(high - low).add(low).clamp(low, high).contiguous()


def unreadable(path: Path, error: Exception) -> FailedRun:
    """The error for a file that Pillow cannot decode."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return FailedRun(f"{path} is not a readable image ({reason})")


def _without_palette(path: Path, image: Image.Image, form: ImageFormat) -> Image.Image:
    """The image in mode L, RGB or 16-bit grey."""
    if image.mode in ("L", "RGB", *SIXTEEN_BIT_GREY):
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("P", "PA", "LA", "RGBA"):
        see_through = image.mode != "P" or "transparency" in image.info
        image = image.convert("LA" if image.mode == "LA" else "RGBA" if see_through else "RGB")
        if not see_through:
            return image
        lowest_alpha = image.getchannel("A").getextrema()[0]
        if lowest_alpha != 255 and not form.convert:
            raise WrongUsage(f"{path} has transparent pixels; --convert drops the transparency")
        return image.convert("L" if image.mode == "LA" else "RGB")
    if form.convert:
        return image.convert("RGB")
    raise WrongUsage(f"{path} has the colour mode {image.mode}; --convert makes it RGB")


def _with_channels(path: Path, values: Tensor, form: ImageFormat) -> Tensor:
    """The image with as many channels as the model takes."""
    channels = len(values) if form.shape is None else form.shape[0]
    if channels == len(values):
        return values
    if len(values) == 1 and channels == 3:
        return values.expand(3, -1, -1)
    if len(values) == 3 and channels == 1:
        if torch.equal(values[0], values[1]) and torch.equal(values[1], values[2]):
            return values[:1]
        if form.convert:
            weights = values.new_tensor([0.299, 0.587, 0.114])  # luminance of ITU-R BT.601
            return (values * weights[:, None, None]).sum(0, keepdim=True)
        raise WrongUsage(f"{path} is in colour, the model takes grey; --convert takes luminance")
    raise WrongUsage(f"{path} has {len(values)} channel(s), the model takes {channels}")
