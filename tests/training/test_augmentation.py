"""Mirroring and shifting move pixels and change none."""

from __future__ import annotations

import torch

from hcnn_fast.training.augmentation import augment


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_without_options_images_come_back() -> None:
    images = torch.rand(5, 2, 6, 7, generator=generator())
    assert torch.equal(augment(images, flip=False, shift=0, generator=generator()), images)


def test_flip_mirrors_about_half_and_leaves_the_rest() -> None:
    images = torch.rand(400, 1, 3, 5, generator=generator())
    result = augment(images, flip=True, shift=0, generator=generator())
    mirrored = (result == images.flip(3)).flatten(1).all(1)
    untouched = (result == images).flatten(1).all(1)
    assert (mirrored ^ untouched).all()
    assert 150 < mirrored.sum() < 250


def test_shift_moves_by_at_most_its_pixels_in_every_direction_and_fills_with_0() -> None:
    images = torch.zeros(300, 2, 7, 9)
    images[:, :, 3, 4] = 1.0
    result = augment(images, flip=False, shift=2, generator=generator())
    place = result[:, 0].nonzero()[:, 1:] - torch.tensor([3, 4])
    assert len(place) == 300
    assert sorted({tuple(p) for p in place.tolist()}) == [
        (i, j) for i in range(-2, 3) for j in range(-2, 3)
    ]
    assert torch.equal(result[:, 0], result[:, 1])
    assert torch.equal(result.sum((2, 3)), torch.ones(300, 2))
