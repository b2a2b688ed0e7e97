"""Prepared models that are used again: while the caller's model lives and has not been changed."""

from __future__ import annotations

import threading
import types
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hcnn_fast import backends
from hcnn_fast.config import Precision
from hcnn_fast.engine.compilation import compiled_passes
from hcnn_fast.engine.inputs import Classifier
from hcnn_fast.engine.model import PreparedModel
from hcnn_fast.engine.winograd import ROOM

KEPT = 8  # prepared models, the latest used
WHOLE = 4096  # tensors of no more values, such as statistics and biases, are compared in full
SAMPLES = 64  # values of every larger tensor that are compared
DEPTH = 6  # how far attributes of attributes are followed

_PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)
_CONTAINERS = (dict, OrderedDict, list, tuple, set, frozenset)
_CODE = (type, types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.ModuleType)


@dataclass(frozen=True)
class _Kept:
    owner: weakref.ref[nn.Module]
    state: ModelState  # of the owner
    manner: tuple[Any, ...]  # how it was prepared, where one way takes the other's place
    prepared: PreparedModel
    copies: ModelState  # of the modules that stand for the owner


_kept: OrderedDict[tuple[Any, ...], _Kept] = OrderedDict()
_lock = threading.Lock()


@contextmanager
def prepared_model(
    model: Classifier,
    precision: Precision,
    image: Tensor,  # [1, *image]
    backend: str = "auto",
    room: int = ROOM,
    *,
    compiled: bool = False,
    captured: bool = True,
) -> Iterator[PreparedModel]:
    """A prepared model that nobody else uses meanwhile, made now or kept from an earlier call.

    A kept one is used only if everything the preparation read of the caller's model is as it was:
    modules, their attributes, and the versions and sampled values of all tensors. One that its own
    forward pass has changed, such as a layer that counts its calls, is not kept.

    Args:
        model: nn.Module or callable, images [B, *image] to logits [B, C].
        precision: of the search.
        image: one of the images.
        backend: that of the operations; convolutions are compiled if it is "cpu".
        room: bytes that these may take, see `with_winograd_convolutions`.
        compiled: whether torch.compile makes its passes.
        captured: whether its small passes may become CUDA graphs, which keep their memory.
    """
    if not isinstance(model, nn.Module):
        with compiled_passes(compiled):
            yield PreparedModel(model, precision, image, compiled=compiled)
        return
    replaced = backends.resolve(backend, image.device.type) == "cpu"
    room = room if replaced else 0
    key = (id(model), precision, image.device, image.dtype, image.shape, replaced, compiled)
    manner = (room, captured)
    state = ModelState.of(model)
    with _lock:
        used = _kept.pop(key, None)
    if (
        used is None
        or used.owner() is not model
        or used.manner != manner
        or not used.state.equals(state)
    ):
        used = None  # freed before another takes its place
        prepared = PreparedModel(
            model, precision, image, room, compiled=compiled, captured=captured
        )
        copies = ModelState.of(prepared.copies)
        used = _Kept(weakref.ref(model, lambda _: _drop(key)), state, manner, prepared, copies)
    with compiled_passes(compiled):
        yield used.prepared  # one that failed in use is not kept
    if used.prepared.is_copy and used.copies.equals(ModelState.of(used.prepared.copies)):
        with _lock:
            _kept[key] = used
            _kept.move_to_end(key)
            while len(_kept) > KEPT:
                _kept.popitem(last=False)


def _drop(key: tuple[Any, ...]) -> None:
    _kept.pop(key, None)


@dataclass(frozen=True)
class ModelState:
    """What a model's answers depend on, as far as it can be seen cheaply.

    Attributes:
        structure: modules and their attributes, plain values by value, other objects by identity.
        tensors: identity, memory and version of every parameter, buffer and tensor attribute.
        samples: some values of each, for changes that no version counts (`parameter.data`).
    """

    structure: tuple[Any, ...]
    tensors: tuple[Any, ...]
    samples: tuple[Tensor, ...]

    @staticmethod
    def of(model: nn.Module) -> ModelState:
        """The state now."""
        tensors: list[Tensor] = []
        structure = _outline(model, tensors, set(), 0)
        samples: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for tensor in tensors:
            values = _some_values(tensor)
            samples.setdefault((values.device, values.dtype), []).append(values)
        with torch.no_grad():
            joined = tuple(torch.cat(values) for values in samples.values())
        return ModelState(structure, tuple(_identity(t) for t in tensors), joined)

    def equals(self, other: ModelState) -> bool:
        """Whether nothing has changed."""
        return (
            self.structure == other.structure
            and self.tensors == other.tensors
            and all(map(torch.equal, self.samples, other.samples))
        )


def _identity(tensor: Tensor) -> tuple[Any, ...]:
    version = -1 if tensor.is_inference() else tensor._version
    return id(tensor), version, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def _some_values(tensor: Tensor) -> Tensor:  # [values]
    """All values of a tensor that is small or not dense; of others, some over all its memory."""
    flat = tensor.detach()
    count = flat.numel()
    dense = count == 1 + sum(
        (n - 1) * s for n, s in zip(flat.shape, flat.stride(), strict=True) if n > 1
    )
    if not dense or count <= WHOLE:
        return flat.reshape(-1)
    return flat.as_strided((SAMPLES,), (count // SAMPLES,))


def _outline(value: Any, tensors: list[Tensor], seen: set[int], depth: int) -> Any:
    """A value that compares equal as long as the object is as it is; collects its tensors."""
    if value is None or isinstance(value, _PLAIN):
        return value
    if type(value) in _CONTAINERS and not value:  # such as the hooks of most modules
        return type(value)
    if isinstance(value, Tensor):
        tensors.append(value)
        return len(tensors)
    if id(value) in seen or depth > DEPTH:
        return id(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        seen.add(id(value))
        return type(value), tuple(_outline(v, tensors, seen, depth + 1) for v in value)
    if isinstance(value, dict):
        seen.add(id(value))
        items = tuple(
            (_outline(k, tensors, seen, depth + 1), _outline(v, tensors, seen, depth + 1))
            for k, v in value.items()
        )
        return type(value), items
    attributes = getattr(value, "__dict__", None)
    if attributes is None or isinstance(value, _CODE):
        return id(value)
    seen.add(id(value))
    nested = 0 if isinstance(value, nn.Module) else depth + 1
    return id(value), type(value), _outline(attributes, tensors, seen, nested)
