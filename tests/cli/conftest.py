"""A tiny model that the command line can name, and images that it can read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy
import pytest
from PIL import Image

from hcnn_fast.cli.main import main

SHAPE = (1, 6, 5)  # height and width differ, so that a transposition shows
MODEL = """
import torch
from torch import nn


def linear(values, classes):
    model = nn.Sequential(nn.Flatten(), nn.Linear(values, classes))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / values**0.5)
    return model


def make():
    return linear(30, 3)


def make_colour():
    return linear(90, 3)


def make_for_fashion():
    return linear(784, 10)


def make_three():
    return linear(784, 3)


def make_number():
    return 3
"""


class Outcome(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the command line in this process."""

    def run_words(*words: object) -> Outcome:
        code = main([str(word) for word in words])
        return Outcome(code, *capfd.readouterr())

    return run_words


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the module `tiny_classifier`."""
    (tmp_path / "tiny_classifier.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HCNN_FAST_DEBUG", raising=False)
    monkeypatch.delenv("HCNN_FAST_DATA", raising=False)
    return tmp_path


@pytest.fixture
def pixels() -> numpy.ndarray:
    """[7, 6, 5] uint8."""
    return numpy.random.default_rng(0).integers(0, 256, (7, 6, 5), dtype=numpy.uint8)


@pytest.fixture
def images(folder: Path, pixels: numpy.ndarray) -> Path:
    """A folder of PNG files, one of them in a subfolder."""
    (folder / "images" / "more").mkdir(parents=True)
    for index, image in enumerate(pixels):
        name = f"more/{index}.png" if index == 6 else f"{index}.png"
        Image.fromarray(image).save(folder / "images" / name)
    return folder / "images"
