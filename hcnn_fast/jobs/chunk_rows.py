"""Rows of a chunk: what is found out about readable images, beside what is known of all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hcnn_fast.jobs.readers import Chunk


def rows_of_chunk(
    first: int,
    chunk: Chunk,
    columns: Mapping[str, type],
    found: Iterable[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """One row for every image; an unreadable one has only index, name, true label and error.

    Args:
        first: index of the chunk's first image in the input.
        chunk: names, errors and true labels of n images, m of them readable.
        columns: names of the values of a row; those that are not given are None.
        found: the values of the m readable images.
    """
    values, rows = iter(found), []
    images = zip(chunk.names, chunk.errors, chunk.targets, strict=True)
    for index, (name, error, target) in enumerate(images, first):
        known = {"index": index, "name": name, "true_label": target}
        own = next(values) if error is None else {"error": error}
        rows.append({**dict.fromkeys(columns), **known, **own})
    return rows
