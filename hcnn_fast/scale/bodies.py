"""Images in the bodies of requests: PNG, JPEG or `.npy`, checked before anything is decoded."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy
import torch
from torch import Tensor

from hcnn_fast.failures import WrongUsage
from hcnn_fast.jobs.array_files import ArrayFile, read_header, settled_layout
from hcnn_fast.jobs.image_files import ImageFormat, check_size, image_size, read_image

MAGIC = {b"\x89PNG\r\n\x1a\n": "image", b"\xff\xd8\xff": "image", b"\x93NUMPY": "array"}
NAME = Path("the body")  # what messages call it
# A header is parsed as Python; CPython before 3.12 fails at times if two threads do that at once.
_ONE_HEADER = threading.Lock()


def image_of(body: bytes, form: ImageFormat) -> Tensor:  # [*image] float32
    """The image in a request.

    Args:
        body: a PNG or JPEG file, or one image in the `.npy` format, uint8 or floats within bounds.
        form: what it must be, of a known shape.

    Raises:
        FailedRun, WrongUsage: it is none of these, damaged, or of another shape.
    """
    kind = next((kind for magic, kind in MAGIC.items() if body.startswith(magic)), None)
    if kind is None:
        raise WrongUsage("the body is neither PNG, JPEG nor .npy")
    if kind == "image":
        # A few bytes may stand for a huge picture: its header comes first.
        check_size(NAME, image_size(NAME, io.BytesIO(body)), form)
        return read_image(NAME, form, io.BytesIO(body))
    return _array(body, form)


def _array(body: bytes, form: ImageFormat) -> Tensor:
    stream = io.BytesIO(body)
    try:
        with _ONE_HEADER:
            shape, column_major, dtype = read_header(stream)
    except (ValueError, EOFError, SyntaxError) as error:
        raise WrongUsage(f"the body is not a readable .npy file ({error})") from error
    assert form.shape is not None
    whole = (1, *shape)
    array = ArrayFile(
        NAME, None, whole, dtype, settled_layout("the body", whole, "auto", form.shape)
    )
    content = body[stream.tell() :]
    if dtype != numpy.uint8 and dtype.kind != "f":
        raise WrongUsage(f"the body holds {dtype}; expected uint8 or floats within the bounds")
    if array.image_shape != form.shape:
        raise WrongUsage(f"the body has shape {list(shape)}, expected {list(form.shape)}")
    if len(content) != dtype.itemsize * int(numpy.prod(shape)):
        raise WrongUsage(f"the body has {len(content)} bytes of values, too many or too few")
    values = numpy.frombuffer(content, dtype)
    block = (values.reshape(shape[::-1]).T if column_major else values.reshape(shape))[None]
    images, faults = array.read(block, form.bounds)
    if faults[0] is not None:
        raise WrongUsage(f"the body {faults[0]}")
    return torch.as_tensor(images[0])
