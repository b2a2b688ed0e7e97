"""Refusals of settings that attacks share: counts, numbers and choices."""

from __future__ import annotations


def check_count(name: str, value: object, least: int = 1) -> None:
    """Refuse what is not an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}), expected an int >= {least}")
    if not least <= value < 2**31:
        raise ValueError(f"{name} is {value!r}, expected an int >= {least} and < 2**31")


def check_number(name: str, value: object, low: float, high: float) -> None:
    """Refuse what is not a number in (low, high]."""
    expected = f"expected a number > {low:g} and <= {high:g}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}), {expected}")
    if not low < value <= high:  # NaN fails too
        raise ValueError(f"{name} is {value!r}, {expected}")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse what is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(choices)}")
