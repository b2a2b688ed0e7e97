"""Letters drawn from the fonts that matplotlib ships: the prototypes of a known manifold."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy
import torch
from torch import Tensor

LETTERS = tuple("ABCDEFGHIJ")
SIZE, POINTS = 28, 21  # pixels of an image's side, and of a letter's em

# The fonts under matplotlib's mpl-data/fonts/ttf that hold these letters. Left out: the extension
# font cmex10, which has delimiters in their places, and LastResort, which has a frame for all.
FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-BoldOblique",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSansMono-Oblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-BoldItalic",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralBolIta",
    "STIXGeneralItalic",
    "cmb10",
    "cmmi10",
    "cmr10",
    "cmss10",
    "cmsy10",
    "cmti10",
    "cmtt10",
)


@functools.cache
def prototypes() -> Tensor:  # [P, 1, 28, 28] float32 in [0, 1]
    """Every letter in every font, white on black and centred, font by font: P = 23 * 10.

    Prototype p is letter p % 10 of font p // 10. The tensor is shared by all callers.

    Raises:
        ImportError: matplotlib or pillow is not installed; says how to get it.
        FileNotFoundError: this matplotlib lacks one of the fonts.
    """
    try:
        import matplotlib
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise ImportError(
            f'{error.name} is missing, whose fonts are drawn: pip install "hcnn_fast[cli]"'
        ) from error
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    drawn = numpy.zeros((len(FONTS) * len(LETTERS), 1, SIZE, SIZE), numpy.float32)
    for font_index, name in enumerate(FONTS):
        path = folder / f"{name}.ttf"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; install a matplotlib that ships its fonts")
        font = ImageFont.truetype(path, POINTS, layout_engine=ImageFont.Layout.BASIC)
        for letter_index, letter in enumerate(LETTERS):
            left, top, right, bottom = font.getbbox(letter)
            image = Image.new("L", (SIZE, SIZE), 0)
            corner = ((SIZE - right - left) // 2, (SIZE - bottom - top) // 2)
            ImageDraw.Draw(image).text(corner, letter, fill=255, font=font)
            place = font_index * len(LETTERS) + letter_index
            drawn[place, 0] = numpy.asarray(image, numpy.float32) / 255.0
    return torch.from_numpy(drawn)
