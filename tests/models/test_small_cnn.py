"""The demo's model stays small and differentiable."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from hcnn_fast.models import SmallCNN


def test_small_cnn_has_the_parameters_and_the_cost_its_docstring_states() -> None:
    model = SmallCNN()
    assert sum(p.numel() for p in model.parameters()) == 495_018
    with FlopCounterMode(display=False) as counter:
        assert model(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
    assert round(counter.get_total_flops() / 2e6, 1) == 5.0


def test_small_cnn_has_no_state_that_a_forward_pass_changes() -> None:
    model = SmallCNN()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        training, evaluating = model.train()(images), model.eval()(images)
    assert torch.equal(training, evaluating)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_input_gradient_of_small_cnn_matches_finite_differences() -> None:
    torch.manual_seed(0)
    model = SmallCNN(classes=3, widths=(2, 3, 4), hidden=5).double()
    image = torch.rand(1, 1, 28, 28, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(image)[0, 1], image)
    direction = torch.randn(1, 1, 28, 28, dtype=torch.float64)
    with torch.no_grad():
        ahead, behind = model(image + 1e-6 * direction), model(image - 1e-6 * direction)
    slope = (ahead - behind)[0, 1] / 2e-6
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-8)
