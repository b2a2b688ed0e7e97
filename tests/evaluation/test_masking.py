"""The signs of masking: each alone, then measured on masked and on honest classifiers (T-D3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hcnn_fast import attacks
from hcnn_fast.evaluation import (
    MaskingMeasurements,
    MaskingReport,
    Proportion,
    clopper_pearson,
    masking_report,
    roc_curve,
)

N, D = 120, 24


def first(count: int) -> Tensor:  # [N] bool
    """The first `count` of N examples survive."""
    return torch.arange(N) < count


SIGNS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # For each sign: measurements that show it, and the like that do not.
    "one step beats many": (
        {"by_steps": {1: first(40), 100: first(60)}},
        {"by_steps": {1: first(60), 100: first(40)}},
    ),
    "more steps still break": (
        {"by_steps": {10: first(60), 20: first(60), 40: first(40)}},
        {"by_steps": {5: first(60), 20: first(40), 40: first(40)}},
    ),
    "more restarts still break": (
        {"by_restarts": {1: first(60), 3: first(60), 10: first(40)}},
        {"by_restarts": {1: first(60), 5: first(41), 10: first(40)}},
    ),
    "a larger ball breaks fewer": (
        {"by_radius": {0.1: first(40), 0.2: first(60), 0.3: first(10)}, "classes": 10},
        {"by_radius": {0.1: first(60), 0.2: first(40), 0.3: first(10)}, "classes": 10},
    ),
    "unbounded attack fails": (
        {"by_radius": {0.1: first(60), 0.5: first(30)}, "classes": 10},
        {"by_radius": {0.1: first(60), 0.5: first(12)}, "classes": 10},
    ),
    "losses disagree": (
        {"by_loss": {"cross_entropy": first(60), "margin": first(60), "targeted": first(40)}},
        {"by_loss": {"cross_entropy": first(60), "margin": first(70), "targeted": first(56)}},
    ),
    "logit scale matters": (
        {"by_logit_scale": {1e-4: first(40), 1: first(60)}},
        {"by_logit_scale": {1e-4: first(60), 1: first(60), 1e6: first(120)}},
    ),
    "black box beats white box": (
        {"white_box": first(60), "black_box": {"square": first(90), "random": first(40)}},
        {"white_box": first(60), "black_box": {"square": first(90), "random": first(60)}},
    ),
    "transfer beats white box": (
        {"white_box": first(60), "transfer": {"natural": first(40)}},
        {"white_box": first(60), "transfer": {"natural": first(100)}},
    ),
    "gradients vanish": (
        {"zero_gradient": first(20)},
        {"zero_gradient": first(2)},
    ),
}


@pytest.mark.parametrize("name", SIGNS)
def test_each_sign_is_flagged_where_it_shows_and_only_there(name: str) -> None:
    masked, honest = (masking_report(MaskingMeasurements(**case)) for case in SIGNS[name])
    assert [finding.name for finding in masked.flags] == [name]
    assert not honest.flags
    assert name in [finding.name for finding in honest.findings]


def test_a_sign_counts_examples_and_not_rates() -> None:
    # Both attacks leave 60 survivors, but not the same ones.
    measured = MaskingMeasurements(white_box=first(60), black_box={"square": ~first(60)})
    (finding,) = masking_report(measured).findings
    assert finding.count == Proportion(60, N)
    assert finding.flagged
    assert finding.evidence == {"white box": Proportion(60, N), "square": Proportion(60, N)}


@pytest.mark.parametrize("missed", range(6))
def test_a_flag_needs_more_than_chance(missed: int) -> None:
    measured = MaskingMeasurements(white_box=first(60), transfer={"other": first(60 - missed)})
    (finding,) = masking_report(measured).findings
    bound = clopper_pearson(missed, N, 0.9)[0]
    assert finding.lower_bound == pytest.approx(bound, rel=1e-9)
    assert finding.flagged == (bound > 0.01)
    assert finding.flagged == (missed >= 4)


def test_what_was_not_measured_is_named() -> None:
    report = masking_report(MaskingMeasurements())
    assert report.findings == ()
    assert set(report.not_measured) == set(SIGNS)
    part = masking_report(MaskingMeasurements(by_steps={1: first(9), 2: first(9)}))
    far = masking_report(MaskingMeasurements(by_steps={1: first(9), 5: first(9)}))
    assert set(part.not_measured) ^ set(far.not_measured) == {"more steps still break"}
    assert len(part.not_measured) == len(SIGNS) - 2
    assert "-- gradients vanish: not measured" in str(part)
    small = MaskingMeasurements(by_radius={0.1: first(9), 0.4: first(5)}, classes=10)
    assert "unbounded attack fails" in masking_report(small).not_measured


def test_the_report_is_plain_data_and_lines() -> None:
    report = masking_report(MaskingMeasurements(**SIGNS["gradients vanish"][0]))
    plain = report.to_dict()
    assert plain["flags"] == ["gradients vanish"]
    assert plain["findings"][0]["evidence"]["gradient not zero"]["count"] == 100
    assert str(report).startswith(
        "FLAG gradients vanish: have an input gradient of exact zeros: 20/120 16.7% ["
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by_steps": {1: first(3).float()}}, "by_steps 1 is of torch.float32"),
        ({"white_box": [True]}, "white_box is a list"),
        ({"by_steps": {1: first(3), 2: first(3)[:5]}}, "expected one length N"),
        ({"white_box": first(0)[:0]}, "have the length 0"),
        ({"transfer": {"a": first(3)}}, "white_box is None"),
        ({"by_logit_scale": {10: first(3)}}, r"by_logit_scale has the scales \[10\]"),
        ({"by_radius": {0.1: first(3)}}, "classes is None"),
    ],
)
def test_bad_measurements_are_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        MaskingMeasurements(**arguments)


class Margin(nn.Module):
    """Two classes with the logits (-m, m) / 2, m a function of w.(x - 1/2)."""

    def __init__(self, seed: int, shape: Callable[[Tensor], Tensor], levels: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(D, generator=generator))  # [D]
        self.shape, self.levels = shape, levels

    def forward(self, x: Tensor) -> Tensor:  # [B, D] -> [B, 2]
        if self.levels:
            x = (x * self.levels).round() / self.levels
        margin = self.shape((x - 0.5) @ self.weight)  # [B]
        return torch.stack((-margin, margin), 1) / 2


class Scaled(nn.Module):
    def __init__(self, model: nn.Module, scale: float) -> None:
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.model(x)


def smooth_net(seed: int) -> nn.Module:
    """A random two-layer classifier, smooth and of ordinary confidence."""
    generator = torch.Generator().manual_seed(seed)
    layers = nn.Sequential(nn.Linear(D, 32), nn.Tanh(), nn.Linear(32, 2))
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
        layers[2].bias.sub_(layers(torch.full((1, D), 0.5))[0])  # no class is wrong at mid-grey
    return layers


MASKED: dict[str, Callable[[int], nn.Module]] = {
    "logits times 10000": lambda seed: Margin(seed, lambda m: 1e4 * m),
    "staircase": lambda seed: Margin(seed, lambda m: m, levels=8),
    "logits saturated at the gap of label smoothing": lambda seed: Margin(
        seed, lambda m: 4.51 * torch.tanh(200 * m)
    ),
}
HONEST: dict[str, Callable[[int], nn.Module]] = {
    "linear": lambda seed: Margin(seed, lambda m: m),
    "smooth": smooth_net,
}


def measure(model: nn.Module, seed: int) -> MaskingReport:
    """Attack the model in every way that the report knows, as one would a model in earnest."""
    generator = torch.Generator().manual_seed(100 + seed)
    x = torch.rand(N, D, generator=generator)  # [N, D]
    with torch.no_grad():
        y = model(x).argmax(1)  # [N] the model is right on every clean image
    radius = 0.05

    def survivors(target: nn.Module = model, **changes: Any) -> Tensor:  # [N] bool
        settings = {"radius": radius, "steps": 20, "seed": seed} | changes
        return ~attacks.pgd(target, x, y, **settings).success

    gradient_x = x.clone().requires_grad_()
    nn.functional.cross_entropy(model(gradient_x), y, reduction="sum").backward()
    assert gradient_x.grad is not None
    corners = (torch.rand(300, 1, D, generator=generator) < 0.5).float() * 2 - 1  # [300, 1, D]
    draws = (x + radius * corners).clamp(0, 1)  # [300, N, D]
    borrowed = attacks.pgd(HONEST["linear"](seed), x, y, radius=radius, seed=seed).point  # [N, D]
    with torch.no_grad():
        random_right = (model(draws.flatten(0, 1)).argmax(1).view(300, N) == y).all(0)  # [N]
        transfer_right = model(borrowed).argmax(1) == y  # [N]
    losses = {name: survivors(objective=name) for name in ("cross_entropy", "margin", "log_odds")}
    return masking_report(
        MaskingMeasurements(
            by_steps={steps: survivors(steps=steps) for steps in (1, 20, 40)},
            by_restarts={starts: survivors(starts=starts) for starts in (2, 4)},
            by_radius={r: survivors(radius=r, steps=40) for r in (0.02, 0.05, 0.1, 0.5)},
            by_loss=losses,
            by_logit_scale={k: survivors(Scaled(model, k)) for k in (1e-4, 1e-2, 1, 1e2)},
            white_box=losses["cross_entropy"],
            black_box={"random corners": random_right},
            transfer={"linear": transfer_right},
            zero_gradient=(gradient_x.grad == 0).all(1),
            classes=2,
        )
    )


@pytest.mark.parametrize("name", MASKED)
def test_masked_classifiers_are_flagged(name: str) -> None:
    report = measure(MASKED[name](0), 0)
    assert not report.not_measured
    assert "gradients vanish" in [finding.name for finding in report.flags]
    assert len(report.flags) >= 3, str(report)


@pytest.mark.parametrize("name", HONEST)
@pytest.mark.parametrize("seed", range(3))
def test_honest_classifiers_raise_no_flag(name: str, seed: int) -> None:
    report = measure(HONEST[name](seed), seed)
    assert not report.not_measured
    assert not report.flags, str(report)
    survived = report.findings[0].evidence["steps 20"]
    assert 0 < survived.count < N  # the attack works, and is not all-powerful


def test_the_number_of_flags_separates_masked_from_honest() -> None:
    flags = {
        kind: [len(measure(make(seed), seed).flags) for make in cases.values() for seed in (1, 2)]
        for kind, cases in (("masked", MASKED), ("honest", HONEST))
    }
    curve = roc_curve(
        torch.tensor(flags["masked"]).double(), torch.tensor(flags["honest"]).double()
    )
    assert curve.area().value == 1.0
