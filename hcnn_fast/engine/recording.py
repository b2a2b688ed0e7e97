"""Which normalisations alone read the output of a layer, watched during a pass of the model.

A symbolic trace (torch.fx) would need models that ask for no shapes, and would leave its proxies
in what they store. Watching a real pass sees the same reads, those of compiled code too. It sees
one path; what could lead to another, a value that the program reads, is noticed.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Ways to a tensor's values that no operation shows; the others are tagged as data-dependent.
_READERS = frozenset(
    ("tolist", "numpy", "__array__", "__dlpack__", "data_ptr", "storage", "untyped_storage")
)
_DEPENDENT = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


class Recorder:
    """Watches one pass while it is entered; the modules must not be used otherwise.

    It is to be left while what the pass returns is alive.

    Args:
        layers: convolutions and linear layers, by name.
        norms: normalisations in evaluation mode, by name.

    Attributes:
        dependence: by what the program read values of tensors, or None.
        pairs: after the pass, norm to layer: both were called once, the norm alone read the
            output of the layer, channels are in its dimension 1, and the parameters and buffers
            of both were read by themselves alone.
    """

    def __init__(self, layers: Mapping[str, nn.Module], norms: Mapping[str, nn.Module]) -> None:
        self.dependence: str | None = None
        self.pairs: dict[str, str] = {}
        self._layers = layers
        self._norms = norms
        self._owners: dict[int, set[str]] = {}  # of parameters and buffers
        for name, module in (*layers.items(), *norms.items()):
            for tensor in (*module.parameters(), *module.buffers()):
                self._owners.setdefault(id(tensor), set()).add(name)
        self._outputs: dict[str, weakref.ref[Tensor]] = {}
        self._layer_of: dict[int, str] = {}  # of an output, by its id
        self._read_by: dict[str, str] = {}  # norm to layer
        self._calls: Counter[str] = Counter()
        self._spoiled: set[str] = set()
        self._inside: list[str] = []

    def __enter__(self) -> None:
        with ExitStack() as stack:
            for name, module in (*self._layers.items(), *self._norms.items()):
                for handle in self._watch(name, module):
                    stack.callback(handle.remove)
            stack.enter_context(_Functions(self))
            stack.enter_context(_Operations(self))
            self._stack = stack.pop_all()

    def __exit__(self, kind: Any, *exception: Any) -> None:
        self._stack.__exit__(kind, *exception)
        if kind is None:
            self._conclude()

    def _conclude(self) -> None:
        """Note the pairs; what the pass returned is still alive, so that an output in it counts."""
        readers = Counter(self._read_by.values())
        self.pairs = {
            norm: layer
            for norm, layer in self._read_by.items()
            if self._calls[norm] == self._calls[layer] == readers[layer] == 1
            and not {norm, layer} & self._spoiled
            and self._outputs[layer]() is None  # nobody kept it for later
        }

    def read(self, values: Any) -> None:
        """Note that an operation reads these, tensors or not."""
        for tensor in tree_leaves(values):
            if not isinstance(tensor, Tensor):
                continue
            self._spoiled |= self._owners.get(id(tensor), set()) - set(self._inside)
            layer = self._source(tensor)
            if layer is not None and (
                not self._inside or self._read_by.get(self._inside[-1]) != layer
            ):
                self._spoiled.add(layer)

    def _source(self, tensor: Tensor) -> str | None:
        """The layer whose output it is; ids are used again, so the object is compared."""
        layer = self._layer_of.get(id(tensor))
        return layer if layer is not None and self._outputs[layer]() is tensor else None

    def _watch(self, name: str, module: nn.Module) -> Iterator[torch.utils.hooks.RemovableHandle]:
        def enter(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            self._calls[name] += 1
            self._inside.append(name)
            if name in self._norms:
                layer = None
                if len(inputs) == 1 and not named and not module.training:
                    layer = self._source(inputs[0])
                if layer is not None:
                    self._read_by[name] = layer

        def leave(module: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            self._inside.pop()
            if name not in self._layers:
                return
            weight: Tensor = module.weight
            self._outputs[name] = weakref.ref(output)
            self._layer_of[id(output)] = name
            # Without a batch, or with more dimensions after a linear layer, 1 is no channel.
            if output.dim() != weight.dim() or output.dtype != weight.dtype:
                self._spoiled.add(name)

        yield module.register_forward_pre_hook(enter, with_kwargs=True)
        yield module.register_forward_hook(leave)


class _Functions(TorchFunctionMode):
    """Calls that give the program memory or values of a tensor without an operation."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in _READERS:
            self._recorder.dependence = name
        return func(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Every operation on tensors, whoever calls it."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing compiled runs under it, and skipping would import the compiler: 2 s

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._recorder = recorder

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self._recorder.read((args, kwargs))
        if any(tag in func.tags for tag in _DEPENDENT):
            self._recorder.dependence = func.name()
        return func(*args, **(kwargs or {}))
