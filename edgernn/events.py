"""What comes out of a stream: events, and the messages that carry them to sinks, each to and from one JSON line."""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any, TypeVar

from edgernn.errors import FailureError

__all__ = ["Alarm", "Event", "Keyword", "Message", "Stamp"]


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

    @property
    def label(self) -> str:
        """The word: what every kind of event has, to tell one from another."""
        return self.word

    def to_json(self) -> str:
        """Return one line of JSON, without a line break."""
        return json.dumps(_to_dict(self))

    @classmethod
    def from_json(cls, line: str) -> Keyword:
        """Read what `to_json` wrote; raise `FailureError` for anything else."""
        return _from_json(cls, line)

    def __str__(self) -> str:
        """Return a line for people."""
        return _for_people(self)


@dataclass(frozen=True)
class Alarm:
    """A value that was beyond its threshold for long enough.

    >>> print(Alarm("pump", 1.31, 60.0, 60.5).to_json())
    {"event": "alarm", "name": "pump", "score": 1.31, "start_s": 60.0, "end_s": 60.5}
    """

    name: str
    score: float
    """The value when it was decided."""
    start_s: float
    """Where in the stream the value passed the threshold, seconds from the stream's start."""
    end_s: float
    """Where in the stream it was decided, seconds from the stream's start."""

    @property
    def label(self) -> str:
        """The name: what every kind of event has, to tell one from another."""
        return self.name

    def to_json(self) -> str:
        """Return one line of JSON, without a line break."""
        return json.dumps(_to_dict(self))

    @classmethod
    def from_json(cls, line: str) -> Alarm:
        """Read what `to_json` wrote; raise `FailureError` for anything else."""
        return _from_json(cls, line)

    def __str__(self) -> str:
        """Return a line for people."""
        return _for_people(self)


Event = Keyword | Alarm
"""Any event; a further kind joins here, and in `KINDS`."""

KINDS: dict[str, type[Keyword] | type[Alarm]] = {"keyword": Keyword, "alarm": Alarm}
"""What the member `event` of a JSON line says, and what it then is."""
Kind = TypeVar("Kind", Keyword, Alarm)


@dataclass(frozen=True)
class Message:
    """An event on its way to sinks, which may get it more than once: by its id they know it again.

    >>> print(Message("20261123T084500Z-9f2c11aa-7", "hall", "2026-11-23T08:46:01.250Z", Keyword("up", 0.9, 1.2, 1.6)))
        1.20 s  up           0.90  (until 1.60 s)
    """

    id: str
    """Never given twice."""
    pipeline: str
    """Which of a daemon's streams it came from."""
    time: str
    """When it was decided, UTC, ISO 8601 with milliseconds."""
    event: Event

    def to_json(self) -> str:
        """Return one line of JSON, without a line break: a flat object."""
        return json.dumps({"id": self.id, "pipeline": self.pipeline, "time": self.time, **_to_dict(self.event)})

    @classmethod
    def from_json(cls, line: str) -> Message:
        """Read what `to_json` wrote; raise `FailureError` for anything else."""
        try:
            values = json.loads(line)
            return cls(values.pop("id"), values.pop("pipeline"), values.pop("time"), _event(values))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise FailureError(f"{line!r} is not the JSON line of a message: {error}") from error

    def __str__(self) -> str:
        """Return the event's line for people."""
        return str(self.event)


class Stamp:
    """Makes messages of events. Their ids are unique, and count up from the moment it was made; for several threads."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)) -> None:
        self._now = now
        self._run = f"{now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
        self._numbers = itertools.count(1)

    def __call__(self, pipeline: str, event: Event) -> Message:
        """Return the message of an event that was decided just now."""
        time = self._now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return Message(f"{self._run}-{next(self._numbers)}", pipeline, time, event)


def _to_dict(event: Event) -> dict[str, Any]:
    kind = next(name for name, cls in KINDS.items() if cls is type(event))
    return {"event": kind, **asdict(event)}


def _from_json(cls: type[Kind], line: str) -> Kind:
    kind = next(name for name, known in KINDS.items() if known is cls)
    try:
        event = _event(json.loads(line))
        if not isinstance(event, cls):
            raise ValueError("it is another kind of event")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FailureError(
            f"{line!r} is not the JSON line of {'an' if kind[0] in 'aeiou' else 'a'} {kind}: {error}"
        ) from error
    return event


def _for_people(event: Event) -> str:
    return f"{event.start_s:8.2f} s  {event.label:<12} {event.score:.2f}  (until {event.end_s:.2f} s)"


def _event(values: dict[str, Any]) -> Event:
    kind = values.pop("event")
    if kind not in KINDS:
        raise ValueError("it is another kind of event")
    return KINDS[kind](**values)
