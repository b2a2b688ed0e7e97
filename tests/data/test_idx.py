"""The IDX reader takes what the format allows, and says what is wrong with the rest."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hcnn_fast.data.idx import read_idx


def idx_bytes(values: Tensor) -> bytes:
    sizes = b"".join(n.to_bytes(4, "big") for n in values.shape)
    return bytes((0, 0, 8, values.ndim)) + sizes + values.numpy().tobytes()


@pytest.mark.parametrize("shape", [(5,), (4, 3, 2), (0, 28, 28)])
@pytest.mark.parametrize("name", ["values", "values.gz"])
def test_written_values_are_read_back(tmp_path: Path, shape: tuple[int, ...], name: str) -> None:
    values = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0))
    values = values.to(torch.uint8)
    content = idx_bytes(values)
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert torch.equal(read_idx(path), values)


CONTENT = idx_bytes(torch.zeros(3, 2, dtype=torch.uint8))
PACKED = gzip.compress(CONTENT, mtime=0)  # no time in it: test names would differ between workers


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("cut.gz", PACKED[:-6], "cannot be unpacked"),
        ("page.gz", b"<html>not found</html>", "cannot be unpacked"),
        ("noise.gz", PACKED[:12] + b"\xff" * 30, "cannot be unpacked"),
        ("page", b"<html>not found</html>", "expected 000008"),
        ("empty", b"", "begins with nothing"),
        ("short", CONTENT[:-1], r"holds 5 values for shape \[3, 2\]"),
        ("long", CONTENT + b"\0", r"holds 7 values for shape \[3, 2\]"),
        ("headless", CONTENT[:7], "ends within the sizes of its 2 axes"),
    ],
)
def test_corrupt_file_is_named_in_one_line(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is corrupt: .*{reason}") as caught:
        read_idx(path)
    assert "\n" not in str(caught.value)
