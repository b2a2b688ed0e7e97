"""The IDX file format of the MNIST family."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

UNSIGNED_BYTES = 8  # type code of the format; the only one the MNIST family uses


def read_idx(path: Path) -> Tensor:
    """Array of bytes in an IDX file, gzipped if its name ends in ".gz".

    The file holds two zero bytes, the type code, the number of axes, the size of each axis as a
    big-endian 32-bit integer, and the values.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is corrupt; says in one line how.

    Source: the format described at the MNIST database of LeCun, Cortes and Burges.
    """
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rb") as file:
                content = file.read()
        else:
            content = path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _corrupt(path, f"it cannot be unpacked ({error})") from error
    if len(content) < 4 or content[:3] != bytes((0, 0, UNSIGNED_BYTES)):
        raise _corrupt(path, f"it begins with {content[:4].hex() or 'nothing'}, expected 000008")
    axes = content[3]
    header = 4 + 4 * axes
    if len(content) < header:
        raise _corrupt(path, f"it ends within the sizes of its {axes} axes")
    shape = tuple(int(n) for n in np.frombuffer(content[4:header], ">u4"))
    if len(content) - header != math.prod(shape):
        raise _corrupt(path, f"it holds {len(content) - header} values for shape {list(shape)}")
    values = np.frombuffer(content, np.uint8, offset=header).reshape(shape)
    return torch.from_numpy(values.copy())


def _corrupt(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path} is corrupt: {reason}; delete it and download it again")
