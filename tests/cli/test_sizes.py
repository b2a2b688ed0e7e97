"""Sizes on the command line."""

from __future__ import annotations

import pytest

from hcnn_fast.cli.failures import WrongUsage
from hcnn_fast.cli.sizes import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("1000000", 10**6),
        ("12B", 12),
        ("512MB", 512 * 10**6),
        ("512 mb", 512 * 10**6),
        ("2GB", 2 * 10**9),
        ("2GiB", 2 * 2**30),
        ("2gib", 2 * 2**30),
        ("64K", 64_000),
        ("64Ki", 64 * 1024),
        ("1.5GB", 1_500_000_000),
        ("0.1GB", 100_000_000),
        ("1TiB", 2**40),
    ],
)
def test_a_size_is_read_in_decimal_and_in_binary_units(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "GB", "-1GB", "0", "0.0001", "2 G B", "1e9", "2PB", "1,5GB", "2iB", "nan", "٢GB"]
)
def test_what_is_no_size_is_refused_and_repeated(text: str) -> None:
    with pytest.raises(WrongUsage, match="expected"):
        parse_size(text)
