"""A small data set in MNIST's files, for commands that train."""

from __future__ import annotations

import gzip
from pathlib import Path

import torch

from hcnn_fast import data


def write_look_alike(root: Path) -> None:
    """Images of the shipped sample under MNIST's names: 512 to train on, 128 to test on."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    sample = data.load("fashion-mnist-sample")
    for prefix, part in (("train", slice(0, 512)), ("t10k", slice(512, 640))):
        for kind, values in (
            ("images-idx3", sample.images[part, 0]),
            ("labels-idx1", sample.labels[part].to(torch.uint8)),
        ):
            sizes = b"".join(n.to_bytes(4, "big") for n in values.shape)
            content = bytes((0, 0, 8, values.ndim)) + sizes + values.numpy().tobytes()
            (folder / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(content, 1))
