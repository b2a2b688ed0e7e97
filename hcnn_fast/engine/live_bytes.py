"""The bytes that tensors hold at once while a piece of code runs."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Context manager; afterwards `peak` is the most that tensors made within held at once.

    Counted are the storages of all tensors, views once, from the operation that makes them until
    they are freed. What an operation allocates inside and frees again is not seen; convolutions
    and products copy operands into the layout that they like, so every operation is taken to hold
    a copy of all its operands while it runs.

    Attributes:
        peak: bytes.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.peak = 0
        self._live = 0
        self._known: dict[int, weakref.ref[Any]] = {}  # storages by address

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and count what it has made."""
        operands = list(_tensors((args, kwargs)))
        for tensor in operands:
            self._note(tensor, made=False)
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self._note(tensor, made=True)
        copies = sum(tensor.numel() * tensor.element_size() for tensor in operands)
        self.peak = max(self.peak, self._live + copies)
        return result

    def _note(self, tensor: Tensor, *, made: bool) -> None:
        """Count a storage that was not seen before; one that existed already counts nothing."""
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address in self._known:
            return
        size = storage.nbytes() if made else 0

        def freed(_: object) -> None:
            self._live -= size
            self._known.pop(address, None)

        self._live += size
        self._known[address] = weakref.ref(storage, freed)


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_iter(tree) if isinstance(leaf, Tensor))
