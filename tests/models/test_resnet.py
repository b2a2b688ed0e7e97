"""Residual networks at 32x32."""

from __future__ import annotations

import pytest
import torch

from hcnn_fast.models import CompactResNet, ResNet18


def test_resnet18_at_width_64_has_11173962_parameters_and_logits_per_class() -> None:
    with torch.device("meta"):
        model = ResNet18()
    assert sum(p.numel() for p in model.parameters()) == 11_173_962
    assert model(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 10)


def test_width_sets_the_channels_of_every_stage() -> None:
    with torch.device("meta"):
        model = ResNet18(classes=7, width=16)
    features = torch.empty(1, 16, 32, 32, device="meta")
    shapes = []
    for stage in model.stages:
        features = stage(features)
        shapes.append(tuple(features.shape[1:]))
    assert shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8), (128, 4, 4)]
    assert model.output.out_features == 7


def test_input_is_normalised_inside_and_its_constants_are_no_weights() -> None:
    mean, deviation = (0.25, 0.5, 0.75), (0.1, 0.2, 0.3)
    model = ResNet18(width=4, mean=mean, deviation=deviation).eval()
    plain = ResNet18(width=4, mean=(0.0, 0.0, 0.0), deviation=(1.0, 1.0, 1.0)).eval()
    plain.load_state_dict(model.state_dict())
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    normalised = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(deviation).view(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(model(images), plain(normalised))
    assert not {"mean", "deviation"} & model.state_dict().keys()


def test_grey_images_are_refused_instead_of_repeated_to_three_channels() -> None:
    with pytest.raises(ValueError, match=r"images has shape \[2, 1, 28, 28\], expected \[N, 3"):
        ResNet18(width=4)(torch.zeros(2, 1, 28, 28))


def test_compact_resnet_has_691834_parameters_and_works_at_16_8_and_4() -> None:
    with torch.device("meta"):
        model = CompactResNet()
    assert sum(p.numel() for p in model.parameters()) == 691_834
    features = torch.relu(model.stem(torch.empty(2, 3, 32, 32, device="meta")))
    shapes = []
    for stage in model.stages:
        features = stage(features)
        shapes.append(tuple(features.shape[1:]))
    assert shapes == [(48, 16, 16), (96, 8, 8), (192, 4, 4)]
    assert model(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 10)
