"""danskin_pgd on small networks against every point of a grid, its goals, and its promises."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from tiny_classifiers import Counting, convolutional, images, linear, telling_apart
from torch import Tensor, nn

import hcnn_fast as hf
from hcnn_fast.attacks import danskin_pgd, pgd, transfer, value_margin, worst_case
from hcnn_fast.attacks.defended import Aim
from hcnn_fast.attacks.runs import posed
from hcnn_fast.attacks.value_hill import ValueHill

NODES = 201  # of the grid, on each side of the unit square
SPACING = 1.0 / (NODES - 1)


def network(seed: int, *, scale: float = 3.0, classes: int = 3) -> nn.Module:
    """tanh network of two inputs whose hidden units bend inside the unit square."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(2, 12), nn.Tanh(), nn.Linear(12, classes)).double()
        with torch.no_grad():
            net[0].weight.normal_(std=scale)
            net[0].bias.normal_().sub_(0.5 * net[0].weight.sum(1))
            net[2].weight.normal_()
    return net.eval()


def value_grid(net: nn.Module, reach: int, penalty: float = 0.0) -> np.ndarray:  # [n, n, C]
    """v_l at every node: the best within so many nodes, less the penalty for each node away."""
    axis = torch.linspace(0, 1, NODES, dtype=torch.float64)
    nodes = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        share = torch.softmax(net(nodes), 1).view(NODES, NODES, -1).numpy()
    value = share
    for away in range(1, reach + 1 if penalty else 2):
        width = away if penalty else reach
        size = (2 * width + 1, 2 * width + 1, 1)
        near = ndimage.maximum_filter(share, size=size, mode="nearest")
        value = np.maximum(value, near - penalty * away * SPACING)
    return value


def worst_of_grid(value: np.ndarray, image: np.ndarray, y: int, radius: int) -> float:
    """The largest g = max_{l != y} logit v_l - logit v_y over the nodes of the ball."""
    rows = tuple(slice(max(i - radius, 0), i + radius + 1) for i in image)
    height = np.log(value[rows]) - np.log1p(-value[rows])
    return float((np.delete(height, y, axis=2).max(2) - height[..., y]).max())


@pytest.mark.parametrize("objective", ["mcn", "hcnn"])
def test_what_a_grid_finds_with_a_margin_is_found(objective: str) -> None:
    radius = reach = 12  # nodes
    weight = {"mcn": 0.0, "hcnn": 1.0}[objective]
    found, could, lost, refuted = 0, 0, 0, 0
    for seed in range(10):
        net = network(seed)
        value = value_grid(net, reach, weight)
        at = np.random.default_rng(seed).integers(0, NODES, size=(12, 2))
        x = torch.from_numpy(at * SPACING)
        config = hf.SearchConfig.mcn(reach * SPACING, steps=40, starts=2)
        if weight:
            config = hf.SearchConfig.hcnn(reach * SPACING, weight, steps=40, starts=2)
        defense = hf.Defense(net, config)
        y = defense.predict(x).label
        result = danskin_pgd(defense, x, y, radius=radius * SPACING, steps=20, expectation=1)
        assert bool(((result.point - x).abs() <= radius * SPACING + 1e-12).all())
        cold = hf.Defense(net, config).predict(result.point)
        refuted += int((result.success != (cold.label != y)).sum())
        worst = np.array(
            [worst_of_grid(value, a, k, radius) for a, k in zip(at, y.tolist(), strict=True)]
        )
        could += int((worst > 0.1).sum())
        found += int(result.success.numpy()[worst > 0.1].sum())
        lost += int(result.success.numpy()[worst < -0.1].sum())
    assert refuted == 0
    assert could >= 20
    assert found >= 0.95 * could, f"{found} of {could} found"
    # where the grid sees none by far, only the defence's own search can be at fault
    assert lost <= 0.02 * 120


def unrolled(net: nn.Module, x: Tensor, label: Tensor, config: hf.SearchConfig) -> Tensor:
    """log F_label where sign PGD ends, through autograd; the ball is set up once, as a constant."""
    lower, upper = (x - config.radius).detach(), (x + config.radius).detach()
    z = x
    for size in config.step_sizes():
        value = torch.log_softmax(net(z), 1).gather(1, label[:, None]).sum()
        (slope,) = torch.autograd.grad(value, z, create_graph=True)
        z = torch.minimum(torch.maximum(z + size * slope.sign(), lower), upper)
    return torch.log_softmax(net(z), 1).gather(1, label[:, None])[:, 0]


def test_a_search_without_gradients_when_unrolled_is_attacked_all_the_same() -> None:
    """Masking, no robustness: every entry of the search ends at a bound that is a constant."""
    net = linear((12,), 2, dtype=torch.float64)[1]
    x = 0.3 + 0.4 * images(30, (12,), dtype=torch.float64)
    config = hf.SearchConfig.mcn(0.05, momentum=0.0)
    defense = hf.Defense(net, config)
    y = defense.predict(x).label
    for label in (y, 1 - y):
        leaf = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(unrolled(net, leaf, label, config).sum(), leaf)
        assert bool((slope == 0.0).all())
    result = danskin_pgd(defense, x, y, radius=0.05, starts=1, steps=10)
    weight = (net.weight[1] - net.weight[0]).detach()
    margin = (net(x)[:, 1] - net(x)[:, 0]).detach().abs()
    flips = 0.05 * weight.abs().sum() > margin
    assert 0 < int(flips.sum()) < 30
    assert torch.equal(result.success, flips)


def test_saturated_confidence_leaves_a_slope() -> None:
    """Where F_y rounds to 1, values as probabilities are flat; their log odds are not."""
    net, x = linear((12,), 3), 0.3 + 0.4 * images(30, (12,))
    with torch.no_grad():
        net[1].weight *= 300.0
        net[1].bias *= 300.0
    defense = hf.Defense(net, hf.SearchConfig.mcn(0.02))
    y = defense.predict(x).label
    leaf = x.clone().requires_grad_()
    share = torch.softmax(defense(leaf), 1)
    (slope,) = torch.autograd.grad(share.gather(1, y[:, None]).sum(), leaf)
    flat = (slope == 0.0).all(1)
    result = danskin_pgd(defense, x, y, radius=0.1, steps=20)
    assert int((flat & result.success).sum()) >= 5


def case(threshold: float | None = None) -> tuple[hf.Defense, Tensor, Tensor]:
    """A defence of a model that tells the images apart, the images, and what it answers."""
    x = images(16)
    defense = hf.Defense(telling_apart(x), hf.SearchConfig.mcn(0.05, steps=10), threshold)
    return defense, x, defense.predict(x).search.prediction


def test_the_attack_is_at_least_as_strong_as_transferred_points() -> None:
    defense, x, y = case()
    base = pgd(defense.model, x, y, radius=0.03, objective="margin", starts=5)
    moved = transfer(defense, x, y, base.point, radius=0.03)
    through = danskin_pgd(defense, x, y, radius=0.03, steps=20)
    value = value_margin(defense)
    assert 0 < int(through.success.sum()) < 16
    assert bool((through.success >= moved.success).all())
    failed = ~through.success
    assert bool((through.value[failed] >= value(base.point, y)[failed] - 1e-3).all())
    torch.testing.assert_close(through.value, value(through.point, y), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("goal", "threshold", "radius"),
    [("error", 0.4, 0.03), ("accepted_error", 0.6, 0.12), ("rejection", 0.4, 0.02)],
)
def test_the_goal_is_judged_by_the_defence(goal: Any, threshold: float, radius: float) -> None:
    defense, x, y = case(threshold)
    result = danskin_pgd(defense, x, y, radius=radius, steps=12, inner_steps=5, goal=goal)
    answer = defense.predict(result.point)
    wrong = answer.search.prediction != y
    expected = {
        "error": wrong,
        "accepted_error": wrong & answer.accepted,
        "rejection": ~answer.accepted,
    }[goal]
    assert torch.equal(result.success, expected)
    torch.testing.assert_close(result.confidence, answer.confidence, rtol=0, atol=1e-6)
    assert torch.equal(result.success, result.value > 0)
    assert 0 < int(result.success.sum()) < 16


def test_aiming_at_acceptance_finds_more_accepted_errors() -> None:
    defense, x, y = case(0.6)
    accepted = {}
    for goal in ("error", "accepted_error"):
        result = danskin_pgd(defense, x, y, radius=0.12, steps=12, inner_steps=5, goal=goal)
        accepted[goal] = int((result.success & (result.confidence >= 0.6)).sum())
    assert accepted["accepted_error"] > accepted["error"] > 0


def test_aiming_at_rejection_lowers_the_confidence_to_the_closed_form() -> None:
    """Binary, l_inf: the answer's log odds fall by radius |w|_1 and rise by the search's."""
    net = linear((12,), 2, dtype=torch.float64)[1]
    x = 0.3 + 0.4 * images(20, (12,), dtype=torch.float64)
    config = hf.SearchConfig.mcn(0.05)
    odds = (net(x)[:, 1] - net(x)[:, 0]).detach()
    size = (net.weight[1] - net.weight[0]).detach().abs().sum()
    least = (odds.abs() - 0.02 * size).clamp_min(0.0) + 0.05 * size  # at 0, 1/2 each
    threshold = float(torch.sigmoid(least.median())) + 1e-4
    defense = hf.Defense(net, config, threshold)
    y = defense.predict(x).search.prediction
    result = danskin_pgd(defense, x, y, radius=0.02, goal="rejection", steps=30)
    assert torch.equal(result.success, torch.sigmoid(least) < threshold)
    sure = odds.abs() > 0.02 * size
    torch.testing.assert_close(
        result.confidence[sure].double(), torch.sigmoid(least)[sure], rtol=0, atol=1e-5
    )
    assert bool((result.confidence <= defense.predict(x).confidence).all())


def test_of_rejections_the_least_confident_is_kept() -> None:
    """It is one at every threshold where any is."""
    defense, x, y = case(0.6)
    settings: dict[str, Any] = {"radius": 0.05, "goal": "rejection", "steps": 3, "inner_steps": 2}
    one, three = (danskin_pgd(defense, x, y, starts=s, **settings) for s in (1, 3))
    assert bool(one.success.all())
    assert bool((three.confidence <= one.confidence).all())
    assert bool((three.confidence < one.confidence).any())


@pytest.mark.parametrize(
    "config",
    [
        hf.SearchConfig.ncn(0.05, 0.26, steps=8),
        hf.SearchConfig.entropy(0.05, steps=8),
        hf.SearchConfig.hcnn(0.05, 0.5, "l2", steps=8),
        hf.SearchConfig.mcn(0.05, steps=8, labels=2, tolerance=0.01),
        hf.SearchConfig.mcn(0.05, steps=2, schedule="constant", momentum=0.0),
    ],
    ids=["ncn", "entropy", "hcnn-l2", "two-labels", "short"],
)
def test_every_kind_of_search_is_attacked(config: hf.SearchConfig) -> None:
    defense, x = hf.Defense(convolutional(), config), images(16)
    y = defense.predict(x).search.prediction
    result = danskin_pgd(defense, x, y, radius=0.15, steps=10, inner_steps=4)
    answer = defense.predict(result.point)
    assert torch.equal(result.success, (answer.search.prediction != y) & answer.accepted)
    assert not bool(result.value.isnan().any())
    assert 0 < int(result.success.sum())


def test_expectation_averages_the_slopes_of_the_seeds() -> None:
    """Each outer point has starts of its own for every seed, as in the defence of that seed."""
    net, x = convolutional(dtype=torch.float64), images(6, dtype=torch.float64)
    y = net(x).argmax(1)
    wide = (-1.0, 2.0)  # bounds that cut no ball
    config = hf.SearchConfig.mcn(0.3, steps=2, starts=2, seed=7, bounds=wide)
    aim = Aim.at(hf.Defense(net, config), "error")
    with posed(net, x, y, hf.SearchConfig.mcn(0.1, bounds=wide)) as problem:
        runs = problem.every_run(y[:, None], 1, slice(None))

        def slope(seed: int, expectation: int) -> tuple[Tensor, Tensor]:
            hill = ValueHill(
                problem,
                runs,
                config.replace(seed=seed),
                aim,
                steps=2,
                expectation=expectation,
                any_label=True,
            )
            return hill.slope(x)

        together = slope(7, 3)
        single = [slope(seed, 1) for seed in (7, 8, 9)]
    values = torch.stack([value for value, _ in single])
    assert float(values.std(0).max()) > 1e-6  # the seeds do differ
    torch.testing.assert_close(together[0], values.mean(0))
    mean = torch.stack([gradient for _, gradient in single]).mean(0)
    torch.testing.assert_close(together[1], mean, rtol=1e-9, atol=1e-12)


def test_random_starts_are_averaged_over_unless_told_otherwise() -> None:
    defense = hf.Defense(linear(), hf.SearchConfig.mcn(0.02, steps=3, starts=2))
    x, y = images(4), torch.arange(4)
    settings: dict[str, Any] = {"radius": 0.1, "steps": 2, "starts": 1}
    default = danskin_pgd(defense, x, y, **settings)
    four = danskin_pgd(defense, x, y, expectation=4, **settings)
    one = danskin_pgd(defense, x, y, expectation=1, **settings)
    assert torch.equal(default.point, four.point)
    assert one.gradient_steps < four.gradient_steps


def test_results_depend_on_neither_batch_nor_company() -> None:
    defense, x, y = case()
    defense, x = hf.Defense(copy.deepcopy(defense.model).double(), defense.config), x.double()
    settings: dict[str, Any] = {"radius": 0.1, "steps": 4, "inner_steps": 2}
    whole = danskin_pgd(defense, x, y, **settings)
    parts = [danskin_pgd(defense, x[i : i + 3], y[i : i + 3], **settings) for i in (0, 3)]
    small = danskin_pgd(defense, x, y, batch_size=7, **settings)
    torch.testing.assert_close(torch.cat([p.point for p in parts]), whole.point[:6])
    torch.testing.assert_close(small.point, whole.point)
    assert small.gradient_steps == whole.gradient_steps
    empty = danskin_pgd(defense, x[:0], y[:0], **settings)
    assert empty.point.shape == (0, 3, 4, 4)
    assert (empty.gradient_steps, empty.queries) == (0, 0)


def test_model_inputs_random_state_and_modes_are_left_alone() -> None:
    defense, x, y = case(0.2)
    defense.model.train()
    before = copy.deepcopy(defense.model.state_dict())
    config, state, image = defense.config, torch.random.get_rng_state(), x.clone()
    with torch.inference_mode():
        result = danskin_pgd(defense, x, y, radius=0.1, steps=3, inner_steps=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(x, image)
    assert defense.config is config
    assert defense.model.training
    for name, tensor in defense.model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(p.requires_grad and p.grad is None for p in defense.model.parameters())
    assert not result.point.requires_grad


def test_the_union_of_attacks_on_a_defence_is_a_worst_case() -> None:
    defense, x, y = case()
    results = [
        danskin_pgd(defense, x, y, radius=0.02, steps=8, starts=1, goal="error"),
        danskin_pgd(defense, x, y, radius=0.02, steps=8, starts=1, seed=1, targets=1),
        transfer(defense, x, y, pgd(defense.model, x, y, radius=0.02).point, radius=0.02),
    ]
    union = worst_case(results)
    assert torch.equal(union.success, torch.stack([r.success for r in results]).any(0))
    answer = defense.predict(union.point)
    assert torch.equal(answer.label != y, union.success)
    assert union.gradient_steps == sum(r.gradient_steps for r in results)


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"goal": "both"}, ValueError, "goal is 'both', expected one of error, accepted_error"),
        ({"goal": "rejection"}, ValueError, "goal is 'rejection' and the defence has no threshold"),
        ({"inner_steps": 0}, ValueError, "inner_steps is 0"),
        ({"steps": 0}, ValueError, "steps is 0"),
        ({"radius": -1.0}, ValueError, "radius is -1.0"),
        ({"expectation": 0}, ValueError, "expectation is 0"),
        ({"expectation": 2}, ValueError, "expectation is 2 and the defence has one start"),
        ({"targets": 5}, ValueError, "targets is 5, expected at most the 4 wrong classes"),
    ],
)
def test_unusable_settings_are_refused(
    keywords: dict[str, Any], error: type[Exception], message: str
) -> None:
    defense, x, y = case()
    with pytest.raises(error, match=message):
        danskin_pgd(defense, x, y, **{"radius": 0.1, **keywords})


def test_what_is_no_defence_is_refused_before_any_work() -> None:
    model = Counting(linear())
    with pytest.raises(TypeError, match="defense is a Counting, expected a Defense"):
        # no defence, which is refused
        danskin_pgd(model, images(4), torch.arange(4), radius=0.1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="defense is a Counting, expected a Defense"):
        value_margin(model)  # type: ignore[arg-type]  # no defence: refused
    assert model.calls == 0
