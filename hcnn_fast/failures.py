"""How a job ends that does not succeed, whoever asked for it."""

from __future__ import annotations


class WrongUsage(ValueError):
    """It was asked for wrongly; the message says what was expected."""


class FailedRun(RuntimeError):
    """It was asked for rightly and failed while it ran."""
