"""Signals end a service in good order, and are what they were afterwards."""

from __future__ import annotations

import os
import signal

import pytest

from hcnn_fast.cli.interruption import ended_by_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_set_the_event_and_do_nothing_else(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with ended_by_signals() as ended:
        assert not ended.is_set()
        os.kill(os.getpid(), number)
        assert ended.wait(5)
    assert signal.getsignal(number) is before
