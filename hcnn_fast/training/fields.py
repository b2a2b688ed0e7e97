"""What the fields of recipes may hold; refusals name the field, its value and what is expected."""

from __future__ import annotations

import math


def choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """One of the choices."""
    if value not in choices:
        expected = ", ".join(repr(c) for c in choices)
        raise ValueError(f"{name} is {value!r}, expected one of {expected}")


def integer(name: str, value: object, least: int) -> int:
    """An int of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}), expected an int")
    if value < least:
        raise ValueError(f"{name} is {value!r}, expected an int >= {least}")
    return value


def number(name: str, value: object, low: float, high: float, *, above: bool = False) -> float:
    """A number in [low, high), or in (low, high) with `above`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}), expected a number")
    if not low <= value < high or (above and value == low):
        relation = ">" if above else ">="
        limit = "finite" if high == math.inf else f"< {high:g}"
        raise ValueError(f"{name} is {value!r}, expected a number {relation} {low:g}, {limit}")
    return float(value)
