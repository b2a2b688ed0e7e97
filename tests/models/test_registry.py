"""Models by name: what loads, what is refused and with which words."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import binom
from torch import Tensor, nn

from hcnn_fast import attacks, data, models
from hcnn_fast.data.loading import CIFAR_CLASSES, FASHION_CLASSES
from hcnn_fast.models.registry import TRAINED, WEIGHTS, read_weights


@pytest.fixture
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return models.SmallCNN().state_dict()


def same(model: nn.Module, weights: dict[str, Tensor]) -> bool:
    state = model.state_dict()
    return state.keys() == weights.keys() and all(torch.equal(state[k], weights[k]) for k in state)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("small-cn", "small-cnn"), ("resnet-18", "resnet18"), ("wide-resnet", "wide-resnet-32-10")],
)
def test_unknown_architecture_suggests_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean '{nearest}'"):
        models.build(name)


def test_unknown_trained_model_suggests_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'fashion-adversarial'"):
        models.load("fashion-adverserial")
    with pytest.raises(ValueError, match="expected one of fashion-adversarial"):
        models.load("xyz")


def test_architecture_without_checkpoint_asks_for_one() -> None:
    with pytest.raises(ValueError, match="checkpoint is None, expected a file of weights"):
        models.load("small-cnn")


def test_trained_model_refuses_another_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected None: 'fashion-natural' has one"):
        models.load("fashion-natural", tmp_path / "other.pt")


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
@pytest.mark.parametrize("nested", [None, "state_dict", "model"])
def test_checkpoint_of_either_format_loads(
    tmp_path: Path, weights: dict[str, Tensor], ending: str, nested: str | None
) -> None:
    path = tmp_path / f"weights.{ending}"
    if ending == "safetensors":
        save_file(weights, path)
    else:
        torch.save(weights if nested is None else {nested: weights, "epoch": 3}, path)
    model = models.load("small-cnn", path)
    assert same(model, weights)
    assert not model.training


def test_prefix_of_data_parallel_is_dropped(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    path = tmp_path / "weights.pt"
    torch.save({f"module.{name}": tensor for name, tensor in weights.items()}, path)
    assert same(models.load("small-cnn", path), weights)


def test_safetensors_with_a_card_loads_by_its_path(
    tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    path = tmp_path / "mine.safetensors"
    save_file(weights, path)
    with pytest.raises(FileNotFoundError, match=re.escape("mine.json")):
        models.load(str(path))
    path.with_suffix(".json").write_text(json.dumps({"architecture": "small-cnn"}))
    assert same(models.load(str(path)), weights)
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(ValueError, match="not a card"):
        models.load(str(path))


def test_own_factory_is_found_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\ndef tiny(): return nn.Linear(2, 3)\ndef wrong(): return 5\n"
    )
    monkeypatch.chdir(tmp_path)
    assert isinstance(models.build("my_nets:tiny"), nn.Linear)
    weights = {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}
    torch.save(weights, "tiny.pt")
    assert same(models.load("my_nets:tiny", "tiny.pt"), weights)
    with pytest.raises(TypeError, match=r"made a int, expected an nn\.Module"):
        models.build("my_nets:wrong")
    with pytest.raises(ValueError, match="cannot be imported"):
        models.build("my_nets:absent")
    with pytest.raises(ValueError, match="cannot be imported"):
        models.build("no_such_module_here:net")


def test_mismatching_checkpoint_names_the_first_key_at_fault(
    tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    path = tmp_path / "weights.pt"
    missing = {k: v for k, v in weights.items() if k != "second.weight"}
    torch.save(missing, path)
    with pytest.raises(ValueError, match=r"does not fit 'small-cnn': it lacks 'second\.weight'"):
        models.load("small-cnn", path)
    torch.save(weights | {"output.bias": torch.zeros(7)}, path)
    with pytest.raises(ValueError, match=r"'output\.bias' has shape \[7\], expected \[10\]"):
        models.load("small-cnn", path)
    torch.save(weights | {"extra": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="it has 'extra' besides"):
        models.load("small-cnn", path)


@pytest.mark.parametrize("name", ["broken.pt", "broken.safetensors"])
def test_unreadable_checkpoint_is_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"\x80\x02not weights at all")
    with pytest.raises(ValueError, match=re.escape(name)) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        read_weights(tmp_path / "absent.pt")


def test_checkpoint_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="holds no state dict"):
        read_weights(tmp_path / "x.pt")


class RunsOnLoading:
    """A pickle that would write a file if it were trusted."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_checkpoint_never_runs_code(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    for path, save in (
        (tmp_path / "zip.pt", torch.save),
        (tmp_path / "plain.pt", lambda value, p: p.write_bytes(pickle.dumps(value, protocol=2))),
    ):
        save({"weight": RunsOnLoading(trace)}, path)
        with pytest.raises(ValueError, match="cannot be read as weights"):
            read_weights(path)
    assert not trace.exists()


OF_SAMPLE = [name for name in TRAINED if models.card(name)["data"] == "fashion-mnist"]
REJECTING = {"fashion-ccat": "CCAT", "fashion-at50": "AT"}  # their roles in the evaluation
KINDS = {  # architecture, shape and classes, by the data that a model was trained on
    "fashion-mnist": ("small-cnn", [1, 28, 28], FASHION_CLASSES),
    "cifar10": ("compact-resnet", [3, 32, 32], CIFAR_CLASSES),
}


@pytest.mark.parametrize("name", TRAINED)
def test_shipped_card_describes_the_shipped_weights(name: str) -> None:
    card, model = models.card(name), models.load(name)
    architecture, shape, classes = KINDS[card["data"]]
    assert card["architecture"] == architecture
    assert card["parameters"] == sum(p.numel() for p in model.parameters())
    assert card["input_shape"] == shape
    assert card["class_names"] == list(classes)
    assert model(torch.zeros(2, *shape)).shape == (2, 10)
    assert (WEIGHTS / f"{name}.safetensors").stat().st_size <= 2_900_000
    assert not model.training


@pytest.mark.parametrize("name", OF_SAMPLE)
def test_shipped_model_reaches_the_clean_accuracy_of_its_card(name: str) -> None:
    sample, model = data.load("fashion-mnist-sample"), models.load(name)
    with torch.no_grad():
        right = int((model(sample.scaled()).argmax(1) == sample.labels).sum())
    assert_plausible(right, len(sample), models.card(name)["test"]["clean"]["value"])


@pytest.mark.parametrize("name", OF_SAMPLE)
def test_shipped_model_reaches_the_robust_accuracy_of_its_card(name: str) -> None:
    sample, card = data.load("fashion-mnist-sample").first(512), models.card(name)
    model = models.load(name)
    attack = attacks.pgd(model, sample.scaled(), sample.labels, radius=card["test"]["radius"])
    assert_plausible(int((~attack.success).sum()), len(sample), card["test"]["pgd20"]["value"])


@pytest.mark.parametrize("name", REJECTING)
def test_the_threshold_of_a_card_keeps_its_share_of_right_answers(name: str) -> None:
    sample, model = data.load("fashion-mnist-sample"), models.load(name)
    rejection = models.card(name)["rejection"]
    with torch.no_grad():
        confidence, answer = torch.softmax(model(sample.scaled()), 1).max(1)  # [N] both
    right = answer == sample.labels
    kept = int((right & (confidence >= rejection["threshold"])).sum())
    assert_plausible(kept, int(right.sum()), rejection["true_positive_rate"])


@pytest.mark.parametrize("name", REJECTING)
def test_the_threshold_of_a_card_is_that_of_its_evaluation(name: str) -> None:
    rejection = models.card(name)["rejection"]
    report = Path(__file__).parents[2] / rejection["evaluation"] / "numbers.json"
    numbers = json.loads(report.read_text())["numbers"]
    assert rejection["threshold"] == numbers["thresholds"][REJECTING[name]]


def assert_plausible(successes: int, trials: int, probability: float) -> None:
    """Both tails of the binomial beyond the count hold at least one in 10,000."""
    assert binom.cdf(successes, trials, probability) > 1e-4
    assert binom.sf(successes - 1, trials, probability) > 1e-4
