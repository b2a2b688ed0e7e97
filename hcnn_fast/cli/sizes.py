"""Numbers of bytes as people write them."""

from __future__ import annotations

import re
from fractions import Fraction

from hcnn_fast.cli.failures import WrongUsage

_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE | re.ASCII)


def parse_size(text: str) -> int:
    """Bytes in a size: 512MB is 512 * 1000^2, 2GiB is 2 * 1024^3, a plain number is bytes.

    Raises:
        WrongUsage: not a size, or less than a byte.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None or (found[3] and not found[2]):
        raise WrongUsage(f"{text!r} is no size, expected one such as 512MB, 2GiB or 1000000")
    size = Fraction(found[1]) * (1024 if found[3] else 1000) ** _POWERS[found[2].upper()]
    if size < 1:
        raise WrongUsage(f"{text!r} is less than a byte, expected a size such as 512MB")
    return int(size)
