"""Small networks in one and two dimensions against every point of a fine grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import ndimage, optimize
from torch import Tensor, nn

import hcnn_fast as hf

NORMS = ("linf", "l2", "l1")


@dataclass(frozen=True)
class Network:
    """A network of one hidden layer, and how much it can change over a distance."""

    model: nn.Module
    slope: float  # |F_l(z) - F_l(z')| <= slope * |z - z'|_inf
    odds_slope: float  # the same for logit(F_l)

    def probabilities(self, z: np.ndarray) -> np.ndarray:  # [..., D] -> [..., C]
        with torch.no_grad():
            rows = torch.from_numpy(z.reshape(-1, z.shape[-1]))
            probabilities = torch.softmax(self.model(rows), 1).numpy()
        return probabilities.reshape(*z.shape[:-1], -1)


def network(
    seed: int, dimension: int, *, classes: int = 3, width: int = 12, scale: float = 3.0
) -> Network:
    """tanh network with random weights whose hidden units bend inside the unit cube."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    model = nn.Sequential(nn.Linear(dimension, width), nn.Tanh(), nn.Linear(width, classes))
    model = model.double().eval()
    first, last = model[0], model[2]
    with torch.no_grad():
        first.weight.copy_(scale * normal(width, dimension))
        first.bias.copy_(normal(width) - 0.5 * first.weight.sum(1))
        last.weight.copy_(normal(classes, width))
        last.bias.copy_(0.3 * normal(classes))
        hidden = first.weight.abs().sum(1)  # l_inf slope of each hidden unit
        logits = float((last.weight.abs() @ hidden).max())
        pairs = last.weight[:, None] - last.weight[None]
        differences = float((pairs.abs() @ hidden).max())
    # |grad_Z F_l|_1 = 2 F_l (1 - F_l) <= 1/2, and logit(F_l) averages differences of logits.
    return Network(model, 0.5 * logits, differences)


def ball_grid(x: np.ndarray, radius: float, count: int) -> tuple[np.ndarray, float]:
    """Grid [count^D, D] over the ball cut by [0, 1], ends included, and half its spacing."""
    low, high = np.maximum(x - radius, 0.0), np.minimum(x + radius, 1.0)
    axes = [np.linspace(lo, hi, count) for lo, hi in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(x))
    return grid, float((high - low).max()) / (count - 1) / 2


def certified_maximum(net: Network, x: np.ndarray, radius: float) -> tuple[np.ndarray, float]:
    """max F_l over the ball for every label [C], each at most `bar` below the true one.

    A grid, then finer grids in every cell that can still hold the maximum of its label.
    """
    grid, half = ball_grid(x, radius, 101 if len(x) == 2 else 2001)
    values = net.probabilities(grid)
    best = values.max(0)
    offsets, _ = ball_grid(np.full_like(x, 0.5), 0.5, 5)
    for _ in range(4):
        cells = np.unique(np.nonzero(values + net.slope * half >= best)[0])
        if len(cells) > 20_000:
            break
        finer = grid[cells][:, None] + (offsets - 0.5) * 2 * half
        grid = np.clip(finer.reshape(-1, len(x)), x - radius, x + radius).clip(0.0, 1.0)
        half /= 4
        values = net.probabilities(grid)
        best = np.maximum(best, values.max(0))
    return best, net.slope * half


@pytest.mark.parametrize("dimension", [1, 2])
def test_mcn_finds_the_maximum_of_the_grid(dimension: int) -> None:
    radius, found, tried, agree, clear = 0.2, 0, 0, 0, 0
    for seed in range(12):
        net = network(seed, dimension)
        x = np.random.default_rng(seed).uniform(size=(5, dimension))
        config = hf.SearchConfig.mcn(radius, steps=40, starts=6)
        result = hf.search(net.model, torch.from_numpy(x), config)
        for n, image in enumerate(x):
            best, bar = certified_maximum(net, image, radius)
            value = result.label_value[n].double().numpy()
            assert (value <= best + bar + 1e-6).all()
            found += int((value >= best - bar - 1e-5).sum())
            tried += len(best)
            order = np.sort(best)
            if order[-1] - order[-2] > 2 * bar:
                clear += 1
                agree += int(result.label[n]) == int(best.argmax())
    assert tried >= 180
    assert found >= 0.99 * tried, f"{found} of {tried} maxima found"
    assert clear >= 50
    assert agree >= 0.99 * clear


def test_mcn_predicts_its_label_at_its_point() -> None:
    """An exact search never disagrees with itself; this one hardly ever does."""
    own, tried = 0, 0
    for seed in range(20):
        net = network(seed, 2)
        x = torch.from_numpy(np.random.default_rng(seed).uniform(size=(20, 2)))
        result = hf.search(net.model, x, hf.SearchConfig.mcn(0.2, steps=20, starts=3))
        own += int((result.prediction == result.label).sum())
        tried += len(x)
    assert own >= 0.99 * tried


# Lemma H: where no wrong label is p-confident within delta, and the image is p-confident for its
# label, exact MCN at radius delta / 2 labels every point within delta / 2 correctly.


@dataclass(frozen=True)
class Lattice:
    """F_l on the nodes of a lattice over the unit cube, and neighbourhoods in whole nodes."""

    values: np.ndarray  # [n, n, C]
    spacing: float

    def neighbourhood_maximum(self, nodes: int) -> np.ndarray:  # [n, n, C]
        """v_l at every node: the largest F_l within so many nodes, cut off at the cube."""
        size = (2 * nodes + 1, 2 * nodes + 1, 1)
        return ndimage.maximum_filter(self.values, size=size, mode="nearest")


def lattice(net: Network, count: int) -> Lattice:
    axis = np.linspace(0.0, 1.0, count)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    return Lattice(net.probabilities(grid), axis[1])


@pytest.mark.parametrize("confidence", [0.6, 0.8])
def test_exact_mcn_at_half_the_radius_keeps_every_confident_image(confidence: float) -> None:
    half, count = 8, 101
    trials = 0
    for seed in range(20):
        field = lattice(network(seed, 2, scale=1.0), count)
        label = field.values.argmax(-1)
        wrong = field.neighbourhood_maximum(2 * half)
        np.put_along_axis(wrong, label[..., None], 0.0, axis=-1)
        sure = field.values.max(-1) >= confidence
        good = sure & (wrong.max(-1) < confidence)
        defended = field.neighbourhood_maximum(half).argmax(-1)
        for i, j in np.argwhere(good)[:: max(1, int(good.sum()) // 50)]:
            near = (slice(max(0, i - half), i + half + 1), slice(max(0, j - half), j + half + 1))
            assert (defended[near] == label[i, j]).all()
            trials += 1
    assert trials >= 300


def test_an_exact_search_predicts_the_winning_label_at_its_point() -> None:
    """C(z*) = l* at every node, without exception."""
    count, reach = 61, 5
    for seed in range(6):
        field = lattice(network(seed, 2), count)
        values = field.values
        prediction = values.argmax(-1)
        winner = field.neighbourhood_maximum(reach).argmax(-1)
        for i, j in random_nodes(count, 200, seed):
            low_i, low_j = max(0, i - reach), max(0, j - reach)
            patch = values[low_i : i + reach + 1, low_j : j + reach + 1, winner[i, j]]
            at = np.unravel_index(patch.argmax(), patch.shape)
            assert prediction[low_i + at[0], low_j + at[1]] == winner[i, j]


def random_nodes(count: int, samples: int, seed: int) -> np.ndarray:  # [samples, 2]
    return np.random.default_rng(seed).integers(0, count, size=(samples, 2))


@pytest.mark.parametrize("objective", ["mcn", "ncn"])
def test_the_search_keeps_what_the_lemma_promises(objective: str) -> None:
    """The lemma, certified between the nodes by Lipschitz bars, for the package's own search."""
    confidence, delta = 0.7, 0.16
    kept, tried = 0, 0
    for seed in range(12):
        net = network(seed, 2, scale=1.5)
        rng = np.random.default_rng(seed)
        x = rng.uniform(size=(12, 2))
        label = net.probabilities(x).argmax(-1)
        submitted = []
        truth = []
        for image, own in zip(x, label, strict=True):
            grid, half = ball_grid(image, delta, 61)
            wrong = np.delete(net.probabilities(grid), own, axis=1).max() + net.slope * half
            if wrong < confidence <= net.probabilities(image[None])[0, own]:
                moves = rng.uniform(-delta / 2, delta / 2, size=(6, 2))
                submitted.append(np.clip(image + moves, 0.0, 1.0))
                truth += [own] * 6
        if not submitted:
            continue
        config = (
            hf.SearchConfig.mcn(delta / 2, steps=20, starts=3)
            if objective == "mcn"
            else hf.SearchConfig.ncn(delta / 2, confidence, steps=20, starts=3)
        )
        result = hf.search(net.model, torch.from_numpy(np.concatenate(submitted)), config)
        wrong_label = result.label.numpy() != np.array(truth)
        if objective == "ncn":  # no search can find a wrong label confident; it may find none
            assert (result.label.numpy()[wrong_label] == -1).all()
        kept += int((~wrong_label).sum())
        tried += len(truth)
    assert tried >= 100
    assert kept >= 0.99 * tried, f"{kept} of {tried}"


# NCN: the nearest node that is confident, and a bar for what lies between the nodes.


def distances(d: np.ndarray, norm: str) -> np.ndarray:  # [..., D] -> [...]
    return np.linalg.norm(d, ord={"l1": 1, "l2": 2, "linf": np.inf}[norm], axis=-1)


@pytest.mark.parametrize("norm", NORMS)
def test_ncn_comes_near_the_nearest_confident_point_of_the_grid(norm: str) -> None:
    radius, confidence, count = 0.25, 0.8, 501
    threshold = float(np.log(confidence / (1 - confidence)))
    near, tried, apart = 0, 0, []
    for seed in range(24):
        net = network(seed, 2)
        x = np.random.default_rng(seed).uniform(size=(5, 2))
        config = hf.SearchConfig.ncn(radius, confidence, norm, steps=40, starts=4)
        found = -hf.search(net.model, torch.from_numpy(x), config).label_value.double().numpy()
        for n, image in enumerate(x):
            grid, half = ball_grid(image, radius, count)
            probabilities = net.probabilities(grid)
            away = distances(grid - image, norm)
            odds = np.log(probabilities) - np.log1p(-probabilities)
            for label in range(3):
                # A confident point has a node within half a spacing: of nearly its log odds, and
                # of nearly its distance.
                almost = odds[:, label] >= threshold - net.odds_slope * half
                bar = distances(np.array([half, half]), norm)
                nearest = away[almost].min(initial=np.inf) - bar
                assert found[n, label] >= nearest - 1e-6
                confident = odds[:, label] >= threshold
                apart.append(bool(confident.any()) != bool(np.isfinite(found[n, label])))
                node = away[confident].min(initial=np.inf)
                if 0.01 < node < np.inf:
                    tried += 1
                    near += found[n, label] <= 1.01 * node
    assert np.mean(apart) <= 0.01
    assert tried >= 30
    # The nearest point in l1 often lies on a kink of the constraint, which smooth steps miss.
    least = 0.88 if norm == "l1" else 0.95
    assert near >= least * tried, f"{near} of {tried} within 1 %"


# T-A9, Danskin: the gradient of max F_l is that of F_l at the maximiser.


def value_of(net: Network, x: np.ndarray, radius: float, label: int, begin: np.ndarray) -> float:
    """v_l(x) by a quasi-Newton method from a point near the maximiser."""

    def cost(z: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.from_numpy(z[None].copy()).requires_grad_()
        probability = torch.softmax(net.model(leaf), 1)[0, label]
        (gradient,) = torch.autograd.grad(probability, leaf)
        return -float(probability.detach()), -gradient[0].numpy()

    bounds = list(zip(x - radius, x + radius, strict=True))
    solved = optimize.minimize(
        cost,
        np.clip(begin, x - radius, x + radius),
        jac=True,
        bounds=bounds,
        method="L-BFGS-B",
        options={"ftol": 1e-16, "gtol": 1e-12},
    )
    return -float(solved.fun)


def test_the_defense_has_the_gradient_of_the_value_function() -> None:
    radius, step = 0.1, 1e-4
    compared = 0
    for seed in range(15):
        net = network(seed, 2, scale=2.0)
        x = np.random.default_rng(seed).uniform(0.2, 0.8, size=(4, 2))
        config = hf.SearchConfig.mcn(radius, steps=100, bounds=(-1.0, 2.0))
        defense = hf.Defense(net.model, config)
        images = torch.from_numpy(x).requires_grad_()
        result = hf.search(net.model, images, config)
        probabilities = torch.softmax(defense(images), 1)
        chosen = probabilities.gather(1, result.label[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, images)
        value = result.label_value.sort(dim=1).values
        for n, image in enumerate(x):
            label, begin = int(result.label[n]), result.point[n].numpy()
            exact = value_of(net, image, radius, label, begin)
            tie = float(value[n, -1] - value[n, -2]) < 0.05
            if tie or abs(exact - float(result.value[n])) > 1e-5:
                continue
            gap = radius - np.abs(begin - image)
            if ((gap > 1e-9) & (gap < 1e-3)).any():
                continue  # neither on a face nor clearly inside
            difference = [
                value_of(net, image + step * e, radius, label, begin)
                - value_of(net, image - step * e, radius, label, begin)
                for e in np.eye(2)
            ]
            expected = np.array(difference) / (2 * step)
            np.testing.assert_allclose(gradient[n], expected, rtol=0.02, atol=5e-3)
            compared += 1
    assert compared >= 20
