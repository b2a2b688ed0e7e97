"""Random numbers of training depend on their purpose and on the whole seed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hcnn_fast import data
from hcnn_fast.training import Recipe, train
from hcnn_fast.training.streams import generator_of, normal_like


def numbers(purpose: str, seed: int) -> list[float]:
    return torch.rand(8, generator=generator_of(purpose, seed)).tolist()


def test_a_purpose_and_a_seed_give_the_same_numbers_again() -> None:
    assert numbers("order", 5) == numbers("order", 5)
    assert torch.equal(normal_like(torch.zeros(3), "a", 1), normal_like(torch.ones(3), "a", 1))


@pytest.mark.parametrize("other", [6, 5 + 2**32, 5 + 7 * 2**32])
def test_every_bit_of_a_seed_counts(other: int) -> None:
    assert numbers("order", 5) != numbers("order", other)


def test_two_purposes_have_different_numbers() -> None:
    assert numbers("order", 5) != numbers("augmentation", 5)


class Spy(nn.Module):
    """Remembers the batches that it sees in training."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(784, 10)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:  # [N, 1, 28, 28]
        if self.training:
            self.seen.append(x.detach().clone())
        logits: Tensor = self.output(x.flatten(1))
        return logits


def batches(seed: int, *, flip: bool) -> Tensor:  # [64, 1, 28, 28]
    recipe = Recipe.natural(
        epochs=1, batch_size=16, validation_images=0, flip=flip, seed=seed, precision="float32"
    )
    model = Spy()
    train(model, data.load("fashion-mnist-sample").first(64), recipe)
    return torch.cat(model.seen)


def test_another_seed_brings_the_same_images_in_another_order() -> None:
    first, second = batches(0, flip=False), batches(1, flip=False)
    assert not torch.equal(first, second)
    assert torch.equal(first.flatten(1).sum(1).sort()[0], second.flatten(1).sum(1).sort()[0])


def test_another_seed_mirrors_other_images() -> None:
    images = data.load("fashion-mnist-sample").first(64).scaled()

    def mirrored(seed: int) -> list[bool]:
        seen = batches(seed, flip=True)
        return [bool((image == seen).flatten(1).all(1).any()) for image in images]

    assert mirrored(0) != mirrored(1)
