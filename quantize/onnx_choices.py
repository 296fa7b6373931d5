"""What a user may say of an ONNX file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from edgernn.errors import UsageError

__all__ = ["OnnxChoices"]

Value = TypeVar("Value", int, float, str)


@dataclass(frozen=True)
class OnnxChoices:
    """What is said of a file that cannot be told from it."""

    time_axes: dict[str, int] = field(default_factory=dict)
    """Which axis of an input is time, counted from 0."""
    states: dict[str, str] = field(default_factory=dict)
    """Which output gives an input anew."""
    constants: dict[str, float] = field(default_factory=dict)
    """Inputs that are always the same, such as a sample rate."""
    frames_per_step: int | None = None
    """What a file with states of its own takes at once."""

    @classmethod
    def read(
        cls,
        time_axes: Iterable[str],
        states: Iterable[str],
        constants: Iterable[str],
        frames_per_step: int | None = None,
    ) -> OnnxChoices:
        """Read options of the command line, each `INPUT=…`; raise `UsageError` for what is none.

        >>> OnnxChoices.read(["x=1"], ["h=hn"], ["sr=16000"]).constants
        {'sr': 16000.0}
        """
        return cls(
            _pairs("--time-axis", "INPUT=AXIS, the axis counted from 0, as in x=1", time_axes, int),
            _pairs("--state", "external, internal, or INPUT=OUTPUT", states, str),
            _pairs("--constant", "INPUT=NUMBER, as in sr=16000", constants, float),
            frames_per_step,
        )


def _pairs(option: str, expected: str, given: Iterable[str], read: Callable[[str], Value]) -> dict[str, Value]:
    """Read `NAME=VALUE` for each name once.

    >>> _pairs("--constant", "INPUT=NUMBER", ["sr=16000"], float)
    {'sr': 16000.0}
    """
    pairs: dict[str, Value] = {}
    for text in given:
        name, _, value = text.rpartition("=")
        try:
            if not name or not value:
                raise ValueError(text)
            found = read(value)
        except ValueError:
            raise UsageError(f"{option} {text}: expected {expected}") from None
        if pairs.setdefault(name, found) != found:
            raise UsageError(f"{option} {text}: {name} is {pairs[name]} already; give it once")
    return pairs
