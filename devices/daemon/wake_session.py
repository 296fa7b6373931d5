"""What one Wyoming client says, and what is answered: its audio through streams of its own to detections.

A detection ends nothing: the stream goes on, until the client stops it, begins another, or goes. Satellites send audio
without `audio-start`, so a chunk begins a stream where there is none, and `detect` ends one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.devices.daemon.wake_counters import WakeCounters
from edgernn.devices.daemon.wake_words import Spotter, WakeWords
from edgernn.devices.daemon.wyoming_events import ClientError, WyomingEvent
from edgernn.devices.sources.pcm import PcmFormat, decode
from edgernn.devices.sources.resample import Resampler
from edgernn.event_stream import EventStream
from edgernn.events import Event

__all__ = ["Tell", "WakeSession"]

SLICE_S = 0.5  # what is heard at once of a longer chunk
MOST_NAMES = 1000
LIMITS = ((1000, 384_000), (1, 4), (1, 64))  # of rate, width and channels
Tell = Callable[[Spotter, Event], None]


@dataclass
class _Lane:
    """One artifact's stream of a client, and how its sound gets there."""

    spotter: Spotter
    stream: EventStream
    resampler: Resampler


class WakeSession:
    """The conversation with one client; `close` it at its end."""

    def __init__(
        self,
        words: Callable[[], WakeWords],
        send: Callable[[WyomingEvent], None],
        tell: Tell,
        counters: WakeCounters,
    ) -> None:
        self.busy_since: float | None = None
        """When it began with an event, or a slice of sound; None between events."""
        self._words, self._send, self._tell, self._counters = words, send, tell, counters
        self._names: Collection[str] | None = None
        self._format: PcmFormat | None = None  # of the stream, where there is one
        self._lanes: list[_Lane] = []
        self._begin_ms: float = 0
        self._asked = False  # whether audio-stop is to be answered
        self._detected = False
        self._answers: Mapping[str, Callable[[WyomingEvent], None]] = {
            "describe": self._describe,
            "ping": self._ping,
            "detect": self._detect,
            "audio-start": self._start,
            "audio-chunk": self._chunk,
            "audio-stop": self._stop,
        }

    def answer(self, event: WyomingEvent) -> None:
        """Do what an event asks; one of another kind is none of ours. Raises `ClientError` for one that is wrong."""
        answer = self._answers.get(event.type)
        if answer is not None:
            self.busy_since = time.monotonic()
            answer(event)
            self.busy_since = None

    def close(self, fine: bool = True) -> None:
        """End the stream, if there is one; after a failure, nobody else gets it."""
        self._format = None
        while self._lanes:
            lane = self._lanes.pop()
            if fine:
                lane.spotter.give_back(lane.stream)
            else:
                lane.stream.runner.close()

    def _describe(self, event: WyomingEvent) -> None:
        self._send(WyomingEvent("info", self._words().info))

    def _ping(self, event: WyomingEvent) -> None:
        self._send(WyomingEvent("pong", {"text": event.data.get("text")}))

    def _detect(self, event: WyomingEvent) -> None:
        names = event.data.get("names") or None
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise ClientError("malformed", f"the names to detect are no list of texts: {str(names)[:40]}")
        self.close()
        self._asked, self._detected = True, False
        self._names = names and frozenset(names[:MOST_NAMES])
        known = self._words().words
        for name in sorted(set(self._names or ()) - set(known))[:1]:
            text = f"there is no wake word '{name[:40]}'; the words are: {', '.join(known)}"
            self._send(WyomingEvent("error", {"text": text, "code": "unknown-wake-word"}))

    def _start(self, event: WyomingEvent) -> None:
        self._open(_format(event.data), event.data.get("timestamp"))

    def _open(self, form: PcmFormat, timestamp: Any) -> None:
        self.close()
        for spotter in self._words().spotters_of(self._names):
            stream = spotter.take()
            self._lanes.append(_Lane(spotter, stream, Resampler(form.rate_hz, round(stream.rate_hz))))
        self._format, self._asked, self._detected = form, True, False
        self._begin_ms = timestamp if _is_number(timestamp) else 0
        self._counters.count_stream()

    def _chunk(self, event: WyomingEvent) -> None:
        form, timestamp = _format(event.data), event.data.get("timestamp")
        if self._format is None:
            self._open(form, timestamp)
        elif form != self._format:
            raise ClientError("malformed", f"a chunk of {form} in a stream of {self._format}")
        size = max(1, round(SLICE_S * form.rate_hz)) * form.frame_bytes
        if len(event.payload) % form.frame_bytes:
            raise ClientError("malformed", f"{len(event.payload)} bytes of audio are no whole samples of {form}")
        for start in range(0, len(event.payload), size):
            self._hear(decode(event.payload[start : start + size], form), timestamp)

    def _hear(self, samples: NDArray[np.float32], timestamp: Any, last: bool = False) -> None:
        self.busy_since = begin = time.monotonic()
        steps, count = 0, len(samples)
        for lane in self._lanes:
            before = lane.stream.steps
            for event in lane.stream.push(lane.resampler.finish() if last else lane.resampler.push(samples)):
                self._report(lane.spotter, event, timestamp)
            steps += lane.stream.steps - before
        self._counters.count_sound(count / self._format.rate_hz if self._format else 0, steps, time.monotonic() - begin)

    def _report(self, spotter: Spotter, event: Event, timestamp: Any) -> None:
        """Tell of a word, if it was asked for; the time is that of the client's chunk, or else counted from its start.

        (Satellites count in nanoseconds, whatever the protocol says: so nothing is added to what they gave.)
        """
        if event.label not in (spotter.words if self._names is None else self._names):
            return
        self._detected = True
        when = timestamp if _is_number(timestamp) else int(self._begin_ms + 1000 * event.end_s)
        try:
            self._send(WyomingEvent("detection", {"name": event.label, "timestamp": when}))
        finally:  # also where the client has just gone
            self._tell(spotter, event)

    def _stop(self, event: WyomingEvent) -> None:
        if not self._asked:
            raise ClientError("malformed", "audio-stop where nothing was begun")
        self._hear(np.zeros(0, np.float32), event.data.get("timestamp"), last=True)
        self.close()
        self._asked = False
        if not self._detected:
            self._send(WyomingEvent("not-detected"))
            self._counters.count_not_detected()


def _format(data: Mapping[str, Any]) -> PcmFormat:
    numbers = [data.get(name) for name in ("rate", "width", "channels")]
    for number, (least, most) in zip(numbers, LIMITS, strict=True):
        if type(number) is not int or not least <= number <= most:
            raise ClientError("malformed", f"audio of rate, width and channels {str(numbers)[:60]}")
    return PcmFormat(*map(int, numbers))  # type: ignore[arg-type]


def _is_number(value: Any) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))
