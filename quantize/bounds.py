"""Approximations asked for by name: a bounded form of what would need the whole sequence.

Nothing here is ever the default. Each has its distance from the exact model measured and reported (`approximation`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgernn.errors import UsageError

__all__ = ["EXACT", "MOST_AT_ONCE", "Bounds", "Chunked", "Window", "read_bounds"]

LONGEST = 1 << 20  # frames; beyond that, somebody has mistaken the unit
MOST_AT_ONCE = 1024  # streams of a step, or times the frames that it takes at least: likewise


@dataclass(frozen=True)
class Chunked:
    """Latency-controlled bidirectional layers: the backward half sees blocks of frames and a look-ahead.

    The frames of a block are read backwards from the end of the look-ahead behind it, from a zero state; the forward
    half is exact. Zhang et al. 2016 (arXiv:1510.08983).
    """

    chunk: int
    """Frames of a block; also what one step takes."""
    lookahead: int
    """Frames that the backward half sees beyond the block: the delay of the output."""


@dataclass(frozen=True)
class Window:
    """Attention over the frames around a frame instead of all of them."""

    frames: int
    """The newest frames that one frame attends to, itself among them."""
    lookahead: int = 0
    """How many frames after it, too, where the model attends to later frames: the delay of the output."""


@dataclass(frozen=True)
class Bounds:
    """What may be approximated, and how; `stream` refuses what needs a bound that is not given."""

    bidirectional: Chunked | None = None
    pooling_window: int | None = None
    """Global pooling over the last so many frames; None: over all frames so far, which is exact."""
    attention: Window | None = None
    edges: bool = False
    """Whether a summary (last frame, pooling) may leave out the frames whose look-ahead is not there yet."""

    def __str__(self) -> str:
        """Return the options of the command line that ask for this.

        >>> print(Bounds(Chunked(16, 8), attention=Window(64), edges=True))
        --bidirectional chunk=16,lookahead=8 --attention-window 64 --approximate edges
        """
        parts = []
        if self.bidirectional:
            parts.append(f"--bidirectional chunk={self.bidirectional.chunk},lookahead={self.bidirectional.lookahead}")
        if self.pooling_window:
            parts.append(f"--pooling window={self.pooling_window}")
        if self.attention:
            ahead = f",lookahead={self.attention.lookahead}" if self.attention.lookahead else ""
            parts.append(f"--attention-window {self.attention.frames}{ahead}")
        if self.edges:
            parts.append("--approximate edges")
        return " ".join(parts)


EXACT = Bounds()
"""Nothing is approximated."""


def read_bounds(
    bidirectional: str | None = None,
    pooling: str | None = None,
    attention_window: str | None = None,
    approximate: str | None = None,
) -> Bounds:
    """Read the options of the command line; raise `UsageError` for one that is malformed.

    >>> read_bounds("chunk=16,lookahead=8", "window=100", "64")
    Bounds(bidirectional=Chunked(chunk=16, lookahead=8), pooling_window=100, attention=Window(frames=64, lookahead=0), \
edges=False)
    """
    chunked = _numbers("--bidirectional", bidirectional, {"chunk": 1, "lookahead": 0}, "chunk=16,lookahead=8")
    window = _numbers("--attention-window", attention_window, {"": 1, "lookahead": 0}, "64 or 64,lookahead=8")
    pooled = _numbers("--pooling", None if pooling == "running" else pooling, {"window": 1}, "running or window=100")
    if approximate not in (None, "edges"):
        raise UsageError(f"--approximate {approximate}: expected edges")
    return Bounds(
        bidirectional=Chunked(chunked["chunk"], chunked.get("lookahead", 0)) if chunked else None,
        pooling_window=pooled.get("window"),
        attention=Window(window[""], window.get("lookahead", 0)) if window else None,
        edges=approximate == "edges",
    )


def _numbers(option: str, text: str | None, least: Mapping[str, int], example: str) -> dict[str, int]:
    """Read `name=number,…`; `least` has the names (of which the first must be there) and the least number of each."""
    if text is None:
        return {}
    parts = [part.rpartition("=") for part in text.split(",")]
    fields = {name: int(value) for name, _, value in parts if value.isdecimal() and len(value) < 9}
    named = len(fields) == len(parts) and next(iter(least)) in fields and fields.keys() <= least.keys()
    if not named or any(not least[name] <= number <= LONGEST for name, number in fields.items()):
        raise UsageError(f"{option} {text}: expected {example}, in frames")
    return fields
