"""Checkpoints and weights on disk: whole or absent, never half-written."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hcnn_fast.atomic_files import write_atomically

FORMAT = 2
WRITING = 0.05  # share of the time that may go into writing checkpoints between epochs


def save_checkpoint(
    path: Path,
    identity: Mapping[str, Any],
    state: Mapping[str, Any],
) -> None:
    """Write everything a run needs to go on.

    Args:
        path: checkpoint file.
        identity: plain values that a run must share to go on from here (recipe, data, model).
        state: tensors and plain values: weights, average, optimiser, random state, epoch.
    """
    content = {"format": FORMAT, "identity": dict(identity), "state": dict(state)}
    write_atomically(path, lambda file: torch.save(content, file))


def load_checkpoint(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """State saved by `save_checkpoint`, if the run that saved it had the same identity.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no checkpoint, or of a run with another recipe, data or model; the
            message names the first difference.
    """
    found, state = _read(path)
    for name in [*identity, *(found.keys() - identity.keys())]:
        if found.get(name) != identity.get(name):
            raise ValueError(
                f"checkpoint {path} was made with {name} {found.get(name)!r}, this run has "
                f"{identity.get(name)!r}; repeat its options or choose another output folder"
            )
    return state


@dataclass
class CheckpointFile:
    """The checkpoint of one run, written as often as a small share of the time allows.

    A killed run loses the step that it was in, and where writing takes longer than `WRITING` of a
    step, those since the last checkpoint.

    Attributes:
        path: the file.
        identity: see `save_checkpoint`.
    """

    path: Path
    identity: Mapping[str, Any]
    _ended: float = field(default=-float("inf"), init=False)  # when the last one was written
    _took: float = field(default=0.0, init=False)

    def load(self) -> dict[str, Any]:
        """See `load_checkpoint`."""
        return load_checkpoint(self.path, self.identity)

    def save(self, state: Mapping[str, Any]) -> None:
        """See `save_checkpoint`."""
        began = time.monotonic()
        save_checkpoint(self.path, self.identity, state)
        self._ended = time.monotonic()
        self._took = self._ended - began

    def save_when_due(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Save, unless the last time is too recent for what it took."""
        if time.monotonic() - self._ended >= self._took / WRITING:
            self.save(state())


def checkpoint_progress(path: Path) -> tuple[int, int]:
    """Epochs that a run had done when it saved a checkpoint, and steps of the next; 0 without."""
    if not path.is_file():
        return 0, 0
    state = _read(path)[1]
    return int(state["epoch"]), int(state["step"])


def save_weights(
    path: Path,
    weights: Mapping[str, Tensor],
    card: Mapping[str, Any],
) -> None:
    """Write weights as safetensors and, beside them, their card as JSON.

    Args:
        path: file to write, ending in ".safetensors"; the card takes the ending ".json".
        weights: state of the model.
        card: what was trained, how, and how well it does.

    Raises:
        ImportError: safetensors is not installed; says how to get it.
    """
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise ImportError('safetensors is missing: pip install "hcnn_fast[cli]"') from error
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()})
    write_atomically(path, lambda file: file.write(content))
    text = json.dumps(dict(card), indent=2) + "\n"
    write_atomically(path.with_suffix(".json"), lambda file: file.write(text.encode()))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Identity and state in a checkpoint file."""
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; train without --resume first")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["format"] != FORMAT:
            raise ValueError(f"checkpoint {path} has format {content['format']}, expected {FORMAT}")
        return content["identity"], content["state"]
    except (RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is not a checkpoint of hcnn_fast ({_line(error)})") from error


def _line(error: Exception) -> str:
    """The first line of an error's message."""
    return (str(error) or type(error).__name__).splitlines()[0]
