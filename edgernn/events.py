"""What comes out of a stream: events, each to and from one JSON line."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from edgernn.errors import FailureError

__all__ = ["Event", "Keyword"]


@dataclass(frozen=True)
class Keyword:
    """A word that was spotted.

    >>> print(Keyword("left", 0.97, 1.2, 1.63).to_json())
    {"event": "keyword", "word": "left", "score": 0.97, "start_s": 1.2, "end_s": 1.63}
    """

    word: str
    score: float
    """Smoothed posterior when it was decided, 0 to 1."""
    start_s: float
    """Where in the stream the score rose above half the word's threshold, seconds from the stream's start."""
    end_s: float
    """Where in the stream it was decided, seconds from the stream's start."""

    def to_json(self) -> str:
        """Return one line of JSON, without a line break."""
        return json.dumps({"event": "keyword", **asdict(self)})

    @classmethod
    def from_json(cls, line: str) -> Keyword:
        """Read what `to_json` wrote; raise `FailureError` for anything else."""
        try:
            values = json.loads(line)
            if values.pop("event") != "keyword":
                raise ValueError("it is another kind of event")
            return cls(**values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise FailureError(f"{line!r} is not the JSON line of a keyword: {error}") from error

    def __str__(self) -> str:
        """Return a line for people."""
        return f"{self.start_s:8.2f} s  {self.word:<12} {self.score:.2f}  (until {self.end_s:.2f} s)"


Event = Keyword
"""Any event; further kinds join as a union."""
