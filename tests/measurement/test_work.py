"""Operations and bytes of known layers by their closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hcnn_fast.measurement import model_work
from hcnn_fast.models import ResNet18, SmallCNN


@pytest.mark.parametrize("batch", [1, 5])
def test_a_linear_layer_multiplies_once_per_weight_each_way(batch: int) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 7))
    work = model_work(model, torch.rand(batch, 3, 2, 2))
    assert work.forward_flops == 2 * 12 * 7
    assert work.backward_flops == 2 * 12 * 7  # the gradient in the image; none in the weights
    assert work.batch == batch


def test_a_convolution_multiplies_once_per_tap_and_pixel_each_way() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Flatten(), nn.Linear(5 * 36, 2))
    work = model_work(model, torch.rand(4, 3, 6, 6))
    flops = 2 * 36 * 5 * 3 * 9 + 2 * 5 * 36 * 2
    assert work.forward_flops == flops
    assert work.backward_flops == flops


def test_bytes_are_those_of_what_an_operation_reads_and_writes() -> None:
    class Halve(nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return (z.view(len(z), -1) * 0.5).view(len(z), 6)  # views move nothing

    work = model_work(Halve(), torch.rand(4, 6))
    assert work.forward_bytes == 2 * 6 * 4
    assert work.backward_bytes == 2 * 6 * 4


def test_a_batch_shares_the_reading_of_the_weights() -> None:
    model = nn.Linear(100, 10, bias=False)
    for batch in (1, 10):
        work = model_work(model, torch.rand(batch, 100))
        assert work.forward_bytes == 4 * (100 + 10 + 1000 / batch)


def test_flops_of_passes_add_up_and_match_the_published_count_of_resnet18() -> None:
    work = model_work(ResNet18().eval(), torch.rand(1, 3, 32, 32))
    assert round(work.forward_flops / 1e9, 2) == 1.11
    assert round((work.forward_flops + work.backward_flops) / 1e9, 2) == 2.22
    assert work.flops(3, 2) == 3 * work.forward_flops + 2 * work.backward_flops
    assert work.bytes(3, 2) == 3 * work.forward_bytes + 2 * work.backward_bytes


def test_counting_leaves_no_gradient_behind_and_works_under_no_grad() -> None:
    model, x = SmallCNN(), torch.rand(2, 1, 28, 28)
    with torch.no_grad():
        work = model_work(model, x)
    assert work.forward_flops == work.backward_flops == 10_036_480
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not x.requires_grad


def test_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match="x is empty, expected at least one image"):
        model_work(SmallCNN(), torch.rand(0, 1, 28, 28))
