"""Flags that a device sets and the host asks for, without either waiting for the other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ASK_A_GPU = 2  # steps between two questions


class LateFlags:
    """What a device has said of its rows: on a CUDA device one question late, else at once.

    An answer that has just been asked for comes after all work that is queued before it. By the
    next question it has long arrived, and the work in between keeps the GPU busy.

    Args:
        device: where the flags are set.

    Attributes:
        every: steps after which it is worth asking.
    """

    def __init__(self, device: torch.device) -> None:
        self._late = device.type == "cuda"
        self.every = 1 if device.type == "cpu" else ASK_A_GPU
        self._sent: tuple[Tensor, Any] | None = None

    def exchange(
        self,
        flags: Tensor,  # [b] bool
    ) -> Tensor | None:  # [b] bool, on the host
        """Ask for these flags; gives those asked for before, or None where nothing was.

        Both are flags of the same rows, unless `forget` is told in between.
        """
        if not self._late:
            return flags.cpu()
        earlier, self._sent = self._sent, self._send(flags)
        if earlier is None:
            return None
        arrived, event = earlier
        event.synchronize()
        return arrived

    def forget(self) -> None:
        """The rows are others from here on."""
        self._sent = None

    @staticmethod
    def _send(flags: Tensor) -> tuple[Tensor, Any]:
        arriving = torch.empty(flags.shape, dtype=flags.dtype, device="cpu", pin_memory=True)
        arriving.copy_(flags, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
        event.record(torch.cuda.current_stream(flags.device))
        return arriving, event
