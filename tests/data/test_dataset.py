"""An ImageDataset is consistent once it exists."""

from __future__ import annotations

import pytest
import torch

from hcnn_fast.data import ImageDataset

IMAGES = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
LABELS = torch.tensor([0, 1, 1])


def test_scaled_images_are_floats_in_the_unit_interval() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    scaled = ImageDataset(images, LABELS[:1], ("a", "b"), "x", "test").scaled()
    assert scaled.dtype == torch.float32
    assert (scaled.min(), scaled.max()) == (0.0, 1.0)
    assert torch.equal((scaled * 255).round().to(torch.uint8), images)


def test_first_takes_a_prefix_of_images_and_labels() -> None:
    dataset = ImageDataset(IMAGES, LABELS, ("a", "b"), "x", "test")
    assert dataset.first(2).labels.tolist() == [0, 1]
    assert len(dataset.first(None)) == len(dataset.first(9)) == len(dataset) == 3
    with pytest.raises(ValueError, match="count is 0"):
        dataset.first(0)


@pytest.mark.parametrize(
    ("images", "labels", "named"),
    [
        (IMAGES.float(), LABELS, "images"),
        (IMAGES[0], LABELS, "images"),
        (IMAGES, LABELS[:2], "labels"),
        (IMAGES, LABELS.int(), "labels"),
        (IMAGES, LABELS + 1, "labels"),
        (IMAGES, LABELS - 1, "labels"),
    ],
)
def test_inconsistent_fields_are_named(
    images: torch.Tensor, labels: torch.Tensor, named: str
) -> None:
    with pytest.raises(ValueError, match=f"^{named} is .*expected"):
        ImageDataset(images, labels, ("a", "b"), "x", "test")


def test_an_empty_data_set_is_allowed() -> None:
    assert len(ImageDataset(IMAGES[:0], LABELS[:0], ("a",), "x", "test")) == 0
