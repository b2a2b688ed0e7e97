"""The wide ResNet of Madry et al. against the facts of its published code."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hcnn_fast.models import WideResNet
from hcnn_fast.models.wide_resnet import ResidualUnit, shortcut, standardise


def test_wide_resnet_has_45901914_parameters() -> None:
    with torch.device("meta"):
        model = WideResNet()
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 45_901_914


def test_wide_resnet_has_32_layers_and_the_published_shapes_per_stage() -> None:
    with torch.device("meta"):
        model = WideResNet()
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) + 1 == 32  # and one linear layer
    features = model.stem(torch.empty(2, 3, 32, 32, device="meta"))
    assert features.shape == (2, 16, 32, 32)
    for stage, shape in zip(
        model.stages, [(2, 160, 32, 32), (2, 320, 16, 16), (2, 640, 8, 8)], strict=True
    ):
        assert len(stage) == 5
        features = stage(features)
        assert features.shape == shape
    assert model(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 10)


def test_wide_resnet_takes_6_63_billion_multiplications_per_image() -> None:
    with torch.device("meta"):
        model = WideResNet()
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, 32, 32, device="meta"))
    assert round(counter.get_total_flops() / 2e9, 2) == 6.63


def test_shortcut_averages_blocks_and_pads_channels_evenly() -> None:
    features = torch.arange(16.0).view(1, 1, 4, 4)
    result = shortcut(features, channels_out=4, stride=2)
    by_hand = torch.tensor([[2.5, 4.5], [10.5, 12.5]])
    assert torch.equal(result[0, 1], by_hand)  # (4 - 1) // 2 = 1 zero channel before, 2 after
    assert torch.equal(result[0, [0, 2, 3]], torch.zeros(3, 2, 2))


def test_shortcut_at_stride_1_only_pads() -> None:
    features = torch.randn(2, 16, 5, 5, generator=torch.Generator().manual_seed(0))
    result = shortcut(features, channels_out=160, stride=1)
    assert torch.equal(result[:, 72:88], features)
    assert result[:, :72].abs().sum() == 0
    assert result[:, 88:].abs().sum() == 0


def test_strided_convolution_pads_below_and_right_like_the_original() -> None:
    unit = ResidualUnit(1, 2, stride=2)
    unit.first_norm = unit.second_norm = nn.Identity()  # type: ignore[assignment]  # any module does
    image = torch.arange(1.0, 17.0).view(1, 1, 4, 4)
    with torch.no_grad():
        unit.first.weight.zero_()[0, 0, 0, 0] = 1.0  # takes the upper left entry of its window
        unit.second.weight.zero_()[0, 0, 1, 1] = 1.0
        residual = unit(image) - shortcut(image, 2, 2)
    assert residual[0, 0].tolist() == [[1.0, 3.0], [9.0, 11.0]]


def test_first_unit_of_the_net_activates_before_both_branches() -> None:
    shared, own = ResidualUnit(2, 2, shared_activation=True), ResidualUnit(2, 2)
    for unit in (shared.eval(), own.eval()):
        unit.first_norm = nn.Identity()  # type: ignore[assignment]  # any module does
        nn.init.zeros_(unit.second.weight)
    features = torch.tensor([-1.0, 2.0]).view(1, 2, 1, 1)
    assert own(features).flatten().tolist() == [-1.0, 2.0]
    torch.testing.assert_close(shared(features).flatten(), torch.tensor([-0.1, 2.0]))


def test_standardise_matches_its_formula_on_grey_levels() -> None:
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    images[1] *= 1e-3  # deviation below the floor of 1 / sqrt(192) grey levels is kept at it
    images[1] = 0.5 + images[1] * 1e-2
    for image, result in zip(images * 255, standardise(images), strict=True):
        deviation = image.std(correction=0).clamp_min(192**-0.5)
        torch.testing.assert_close(result, (image - image.mean()) / deviation)


def test_standardise_makes_a_constant_image_zero_with_a_finite_gradient() -> None:
    images = torch.full((2, 3, 4, 4), 0.5, dtype=torch.float64, requires_grad=True)
    result = standardise(images)
    assert torch.equal(result, torch.zeros_like(result))
    (gradient,) = torch.autograd.grad(result.square().sum() + result[0, 0, 0, 0], images)
    assert gradient.isfinite().all()


def test_gradient_flows_through_mean_and_deviation() -> None:
    images = torch.rand(2, 1, 3, 3, generator=torch.Generator().manual_seed(1)).double()
    assert torch.autograd.gradcheck(standardise, images.requires_grad_())


def test_standardise_of_no_images_is_empty() -> None:
    assert standardise(torch.empty(0, 3, 4, 4)).shape == (0, 3, 4, 4)
