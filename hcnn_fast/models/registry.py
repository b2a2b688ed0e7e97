"""Models by name: architectures, the trained models that ship, and the user's own."""

from __future__ import annotations

import difflib
import importlib
import json
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hcnn_fast.models.resnet import CompactResNet, ResNet18
from hcnn_fast.models.small_cnn import SmallCNN
from hcnn_fast.models.wide_resnet import WideResNet

WEIGHTS = Path(__file__).parent / "weights"

ARCHITECTURES: Mapping[str, Callable[[], nn.Module]] = {
    "small-cnn": SmallCNN,
    "compact-resnet": CompactResNet,
    "resnet18": ResNet18,
    "wide-resnet-32-10": WideResNet,
}
TRAINED = (
    "fashion-adversarial",
    "fashion-natural",
    "fashion-ccat",
    "fashion-at50",
    "cifar10-adversarial",
    "cifar10-natural",
)


def names() -> tuple[str, ...]:
    """All names that `load` knows: trained models first, then architectures."""
    return (*TRAINED, *ARCHITECTURES)


def build(name: str) -> nn.Module:
    """A model with fresh weights, in train mode, on the CPU.

    Args:
        name: an architecture ("small-cnn", "compact-resnet", "resnet18", "wide-resnet-32-10"), or
            "module:factory" for a callable without arguments in a module on the path or in the
            working directory.

    Raises:
        TypeError: the factory did not return an nn.Module.
        ValueError: no such architecture, module or factory; suggests the nearest name.
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]()
    if ":" not in name:
        raise ValueError(_unknown(name, tuple(ARCHITECTURES)))
    module_name, _, factory_name = name.partition(":")
    with _working_directory_importable():
        try:
            factory = getattr(importlib.import_module(module_name), factory_name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"model {name!r} cannot be imported: {error}") from error
    model = factory()
    if not isinstance(model, nn.Module):
        raise TypeError(f"model {name!r} made a {type(model).__name__}, expected an nn.Module")
    return model


def load(name: str, checkpoint: str | Path | None = None) -> nn.Module:
    """A model with trained weights, in eval mode, on the CPU.

    Args:
        name: a trained model that ships ("fashion-adversarial", "fashion-natural",
            "fashion-ccat", which is to be used with the threshold of its card, "fashion-at50",
            "cifar10-adversarial", "cifar10-natural"), a `.safetensors` file with its card beside it
            as `hcnn-fast train` writes them, or, with `checkpoint` or for a factory that loads
            weights itself, what `build` takes.
        checkpoint: `.safetensors` file, or any file that `torch.load(weights_only=True)` reads
            and that holds a state dict, alone or under "state_dict" or "model".

    Raises:
        FileNotFoundError: a file is missing.
        ImportError: safetensors is needed and not installed; says how to get it.
        TypeError: the factory did not return an nn.Module.
        ValueError: unknown name (suggests the nearest), unreadable checkpoint, or one that does
            not fit the model (names the first key at fault).
    """
    if name in TRAINED:
        if checkpoint is not None:
            raise ValueError(f"checkpoint is {str(checkpoint)!r}, expected None: {name!r} has one")
        checkpoint = WEIGHTS / f"{name}.safetensors"
        name = str(card(name)["architecture"])
    elif checkpoint is None and name.endswith(".safetensors"):
        checkpoint, name = Path(name), str(card(name)["architecture"])
    elif checkpoint is None and ":" not in name:
        if name in ARCHITECTURES:
            raise ValueError(f"checkpoint is None, expected a file of weights for {name!r}")
        raise ValueError(_unknown(name, names()))
    model = build(name)
    if checkpoint is not None:
        _load_into(model, name, Path(checkpoint))
    return model.eval()


def card(name: str) -> dict[str, Any]:
    """What a trained model is, how it was trained and how well it does.

    Args:
        name: a trained model that ships, or a `.safetensors` file with its card beside it.

    Raises:
        FileNotFoundError: the card is missing.
        ValueError: unknown name, or a card that is not JSON or names no architecture.
    """
    if name in TRAINED:
        path = WEIGHTS / f"{name}.json"
    elif name.endswith(".safetensors"):
        path = Path(name).with_suffix(".json")
    else:
        raise ValueError(_unknown(name, TRAINED))
    if not path.is_file():
        raise FileNotFoundError(f"no card {path}; give the architecture and the checkpoint instead")
    try:
        content = json.loads(path.read_text())
        content["architecture"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a card of a model with an architecture") from error
    fields: dict[str, Any] = content
    return fields


def read_weights(path: Path) -> dict[str, Tensor]:
    """State dict held by a file; never runs code from it.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: safetensors is needed and not installed; says how to get it.
        ValueError: the file cannot be read or holds no state dict.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if path.suffix == ".safetensors":
        try:
            from safetensors import SafetensorError
            from safetensors.torch import load_file
        except ImportError as error:
            raise ImportError('safetensors is missing: pip install "hcnn_fast[cli]"') from error
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} cannot be read as weights: {reason}") from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path} holds no state dict (a dict of tensors)")
    if content and all(key.startswith("module.") for key in content):  # saved by DataParallel
        return {key.removeprefix("module."): tensor for key, tensor in content.items()}
    return dict(content)


def _load_into(model: nn.Module, name: str, path: Path) -> None:
    """Load a file's weights, every key and shape of which must fit."""
    weights = read_weights(path)
    expected = model.state_dict()
    for key, tensor in expected.items():
        if key not in weights:
            raise ValueError(f"checkpoint {path} does not fit {name!r}: it lacks {key!r}")
        found = list(weights[key].shape)
        if found != list(tensor.shape):
            raise ValueError(
                f"checkpoint {path} does not fit {name!r}: {key!r} has shape {found}, "
                f"expected {list(tensor.shape)}"
            )
    for key in weights:
        if key not in expected:
            raise ValueError(f"checkpoint {path} does not fit {name!r}: it has {key!r} besides")
    model.load_state_dict(weights)


def _unknown(name: str, choices: tuple[str, ...]) -> str:
    """Message for an unknown name, with the nearest known one."""
    near = difflib.get_close_matches(name, choices, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "expected one of " + ", ".join(choices)
    return f"model is {name!r}; {hint} (your own: 'module:factory')"


@contextmanager
def _working_directory_importable() -> Iterator[None]:
    """The working directory on the import path, as for `python -m`, while the block runs."""
    folder = os.getcwd()
    if folder in sys.path or "" in sys.path:
        yield
        return
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
