"""Decoded pixels against the pixels that were saved; everything lossy is refused."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from hcnn_fast.failures import FailedRun, WrongUsage
from hcnn_fast.jobs.image_files import ImageFormat, image_size, read_image

GREY, COLOUR = (1, 6, 5), (3, 6, 5)


@pytest.fixture
def grey() -> numpy.ndarray:
    return numpy.random.default_rng(0).integers(0, 256, (6, 5), dtype=numpy.uint8)


@pytest.fixture
def colour() -> numpy.ndarray:
    return numpy.random.default_rng(1).integers(0, 256, (6, 5, 3), dtype=numpy.uint8)


def save(folder: Path, image: Image.Image, name: str = "image.png", **options: object) -> Path:
    image.save(folder / name, **options)
    return folder / name


def as_expected(pixels: numpy.ndarray) -> torch.Tensor:
    values = torch.from_numpy(pixels.copy()).float() / 255
    return values[None] if values.ndim == 2 else values.permute(2, 0, 1)


@pytest.mark.parametrize("shape", [GREY, None])
def test_grey_png_gives_its_pixels(tmp_path: Path, grey: numpy.ndarray, shape: object) -> None:
    found = read_image(save(tmp_path, Image.fromarray(grey)), ImageFormat(shape))
    assert torch.equal(found, as_expected(grey))
    assert found.dtype == torch.float32


@pytest.mark.parametrize("shape", [COLOUR, None])
def test_colour_png_gives_its_pixels(tmp_path: Path, colour: numpy.ndarray, shape: object) -> None:
    found = read_image(save(tmp_path, Image.fromarray(colour)), ImageFormat(shape))
    assert torch.equal(found, as_expected(colour))


def test_bounds_are_the_values_of_black_and_white(tmp_path: Path) -> None:
    pixels = numpy.array([[0, 255, 51]], dtype=numpy.uint8)
    path = save(tmp_path, Image.fromarray(pixels))
    found = read_image(path, ImageFormat((1, 1, 3), bounds=(-1.0, 1.0)))
    assert torch.allclose(found, torch.tensor([[[-1.0, 1.0, -0.6]]]))


def test_jpeg_is_read(tmp_path: Path, grey: numpy.ndarray) -> None:
    path = save(tmp_path, Image.fromarray(grey), "image.jpg", quality=95)
    expected = as_expected(numpy.asarray(Image.open(path)))
    assert torch.equal(read_image(path, ImageFormat(GREY)), expected)


def test_sixteen_bit_grey_keeps_its_precision(tmp_path: Path) -> None:
    pixels = numpy.array([[0, 1, 65535, 300]], dtype=numpy.uint16)
    found = read_image(save(tmp_path, Image.fromarray(pixels)), ImageFormat((1, 1, 4)))
    assert torch.allclose(found, torch.from_numpy(pixels.astype("f4"))[None] / 65535)


def test_grey_is_repeated_for_three_channels(tmp_path: Path, grey: numpy.ndarray) -> None:
    found = read_image(save(tmp_path, Image.fromarray(grey)), ImageFormat(COLOUR))
    assert torch.equal(found, as_expected(grey).expand(3, -1, -1))


def test_colour_of_equal_channels_is_grey(tmp_path: Path, grey: numpy.ndarray) -> None:
    path = save(tmp_path, Image.fromarray(grey).convert("RGB"))
    assert torch.equal(read_image(path, ImageFormat(GREY)), as_expected(grey))


def test_colour_for_a_grey_model_is_refused_or_converted(
    tmp_path: Path, colour: numpy.ndarray
) -> None:
    path = save(tmp_path, Image.fromarray(colour))
    with pytest.raises(WrongUsage, match=r"image\.png is in colour, the model takes grey"):
        read_image(path, ImageFormat(GREY))
    found = read_image(path, ImageFormat(GREY, convert=True))
    expected = as_expected(numpy.asarray(Image.fromarray(colour).convert("L")))
    assert torch.allclose(found, expected, atol=1 / 255)


def test_palette_and_one_bit_images_are_read(tmp_path: Path, grey: numpy.ndarray) -> None:
    one_bit = Image.fromarray(grey > 127)
    found = read_image(save(tmp_path, one_bit), ImageFormat(GREY))
    assert torch.equal(found[0], torch.from_numpy(grey > 127).float())
    palette = Image.fromarray(grey).convert("RGB").quantize(256)
    found = read_image(save(tmp_path, palette, "palette.png"), ImageFormat(COLOUR))
    assert torch.equal(found, as_expected(numpy.asarray(palette.convert("RGB"))))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_opaque_alpha_is_dropped_and_transparency_is_refused(
    tmp_path: Path, grey: numpy.ndarray, mode: str
) -> None:
    image = Image.fromarray(grey).convert(mode)
    found = read_image(save(tmp_path, image), ImageFormat(GREY))
    assert torch.equal(found, as_expected(grey))
    image.putalpha(128)
    path = save(tmp_path, image, "glass.png")
    with pytest.raises(WrongUsage, match=r"glass\.png has transparent pixels; --convert"):
        read_image(path, ImageFormat(GREY))
    assert torch.equal(read_image(path, ImageFormat(GREY, convert=True)), as_expected(grey))


def test_other_colour_modes_are_refused_or_converted(tmp_path: Path, colour: numpy.ndarray) -> None:
    path = save(tmp_path, Image.fromarray(colour).convert("CMYK"), "print.jpg")
    with pytest.raises(WrongUsage, match="colour mode CMYK; --convert"):
        read_image(path, ImageFormat(COLOUR))
    assert read_image(path, ImageFormat(COLOUR, convert=True)).shape == COLOUR


def test_wrong_size_is_refused_or_resized(tmp_path: Path) -> None:
    path = save(tmp_path, Image.new("L", (10, 12), 100))
    with pytest.raises(WrongUsage, match=r"image\.png is 10x12 pixels .* expected 5x6; --resize"):
        read_image(path, ImageFormat(GREY))
    found = read_image(path, ImageFormat(GREY, resize=True))
    assert torch.equal(found, torch.full(GREY, 100 / 255))


def test_orientation_is_applied(tmp_path: Path, grey: numpy.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    path = save(tmp_path, Image.fromarray(numpy.rot90(grey)), "photo.png", exif=exif)
    assert image_size(path) == (6, 5)
    assert torch.equal(read_image(path, ImageFormat(GREY)), as_expected(grey))


def test_undecodable_file_is_named(tmp_path: Path) -> None:
    nonsense = tmp_path / "nonsense.png"
    nonsense.write_bytes(b"no image")
    with pytest.raises(FailedRun, match=r"nonsense\.png is not a readable image"):
        image_size(nonsense)
    noise = numpy.random.default_rng(2).integers(0, 256, (300, 250), dtype=numpy.uint8)
    whole = save(tmp_path, Image.fromarray(noise))
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:30_000])
    assert image_size(cut) == (300, 250)
    with pytest.raises(FailedRun, match=r"cut\.png is not a readable image"):
        read_image(cut, ImageFormat((1, 300, 250)))
