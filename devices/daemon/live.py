"""What the live page is sent while it is open: server-sent events, a dozen a second, and nothing once it is closed."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn import __version__
from edgernn.devices.boards.vitals import Vitals
from edgernn.devices.daemon.counters import Counters, DaemonCounters, Histogram
from edgernn.devices.daemon.health import health, ready
from edgernn.devices.daemon.spectrogram import Spectrogram
from edgernn.events import Message
from edgernn.stream import Chunk

__all__ = ["Viewer"]

TICK_S = 0.08
STATUS_S = 1.0
MOST_SCORES = 300  # that a new page is sent: half a minute
RETRY_MS = 1000  # after which a browser that lost the daemon asks again


class Viewer:
    """One page that is open: it sees one pipeline, and the health of all."""

    def __init__(self, counters: DaemonCounters, vitals: Callable[[], Vitals], pipeline: str) -> None:
        self._counters, self._vitals = counters, vitals
        self._asked_for = pipeline
        self._status_s = -float("inf")

    def events(self, stopping: threading.Event) -> Generator[bytes]:
        """Give what is to be sent, at its pace, until the daemon stops; begins anew with another pipeline or model."""
        yield f"retry: {RETRY_MS}\n\n".encode()
        while not stopping.is_set():
            pipelines = self._counters.pipelines
            counters = pipelines.get(self._asked_for) or next(iter(pipelines.values()), None)
            if counters is None:
                yield b""
                stopping.wait(TICK_S)
                continue
            with counters.tapped() as tap:
                for event in self._watch(counters, tap):
                    yield event
                    if stopping.wait(TICK_S):
                        return

    def _watch(self, counters: Counters, tap: deque[Chunk]) -> Iterator[bytes]:
        view = _View(counters, self._counters.started_s)
        yield _event("hello", {**view.hello(), "pipelines": list(self._counters.pipelines)}) + self._status(view)
        while self._counters.pipelines.get(counters.name) is counters and view.is_current():
            yield view.told() + view.sound(tap) + self._status(view)

    def _status(self, view: _View) -> bytes:
        now = time.monotonic()
        if now - self._status_s < STATUS_S:
            return b""
        self._status_s = now
        vitals = self._vitals()
        limits = vitals.limits()
        board = {
            "temperature_c": vitals.temperature_c,
            "limits": limits if limits is None else [name for name, holds in limits.items() if holds],
            "memory_bytes": vitals.memory_bytes,
            "clock_hz": vitals.clock_hz,
        }
        outbox = self._counters.outbox
        dropped = dict(outbox.dropped) if outbox is not None else {}
        whole = {**health(self._counters)[1], "ready": ready(self._counters)[0], "board": board}
        return _event("status", {**whole, "events_dropped": dropped, "pipeline": view.status()})


class _View:
    """What was sent of one pipeline, and what is new."""

    def __init__(self, counters: Counters, started_s: float) -> None:
        self._counters, self._started_s = counters, started_s
        self._digest, self._thresholds = counters.digest, counters.thresholds
        self._columns = [counters.labels.index(word) for word in self._thresholds]
        self._spectrogram = Spectrogram(counters.rate_hz)
        self._scored_s = -float("inf")
        self._last_id = ""

    def is_current(self) -> bool:
        """Whether the pipeline still runs what it ran."""
        return self._digest == self._counters.digest and self._thresholds == self._counters.thresholds

    def hello(self) -> dict[str, Any]:
        """Return all that a page needs to begin, with the scores and events of the last while."""
        counters, recent = self._counters, self._counters.recent.copy()
        self._last_id = recent[-1].id if recent else ""
        return {
            "version": __version__,
            "run": round(time.time() - self._time(time.monotonic()), 1),
            "pipeline": counters.name,
            "artifact": counters.artifact,
            "digest": counters.digest,
            "runtime": counters.runtime,
            "is_sound": counters.is_sound,
            "words": [{"word": word, "threshold": threshold} for word, threshold in self._thresholds.items()],
            "scores": self._scores(),
            "now": self._time(time.monotonic()),
            "recent": [_told(message) for message in recent],
        }

    def told(self) -> bytes:
        """Return the events since the last call."""
        new: list[Message] = []
        for message in reversed(self._counters.recent.copy()):
            if message.id == self._last_id:
                break
            new.insert(0, message)
        if new:
            self._last_id = new[-1].id
        return b"".join(_event("told", _told(message)) for message in new)

    def sound(self, tap: deque[Chunk]) -> bytes:
        """Return picture and scores of what was heard since the last call."""
        rows: list[NDArray[np.uint8]] = []
        end_s = time.monotonic()
        while tap:
            chunk = tap.popleft()
            rows.append(self._spectrogram.push(chunk.samples))
            end_s = chunk.time_s
        scores = self._scores()
        if not rows and not scores:
            return b""
        picture = np.concatenate(rows) if rows else np.zeros((0, 1), np.uint8)
        sent = {
            "now": self._time(max(end_s, time.monotonic())),
            "end": self._time(end_s),
            "level": round(self._counters.level, 5),
            "bands": picture.shape[1],
            "row_s": self._spectrogram.row_s,
            "rows": base64.b64encode(picture.tobytes()).decode(),
            "scores": scores,
        }
        return _event("sound", sent)

    def status(self) -> dict[str, Any]:
        """Return the pipeline's numbers."""
        counters = self._counters
        names = ("state", "error", "frames", "steps", "deadline_misses", "reopened", "resets", "reloads", "busy_s")
        values = {name: getattr(counters, name) for name in names}
        by_cause = {name: dict(getattr(counters, name)) for name in ("dropped", "failures", "words")}
        times = {name: _histogram(getattr(counters, name)) for name in ("latency", "step")}
        return {**values, **by_cause, **times, "seconds": round(counters.samples / max(counters.rate_hz, 1e-9), 2)}

    def _scores(self) -> list[list[float]]:
        """Return the scores since the last call: time, level, and the score of each word."""
        new: list[list[float]] = []
        latest = self._counters.scores.copy()
        for time_s, level, averages in reversed(latest):
            if time_s <= self._scored_s or len(new) >= MOST_SCORES:
                break
            row = averages[self._columns].astype(float).round(4).tolist()
            new.append([self._time(time_s), round(level, 5), *row])
        self._scored_s = latest[-1][0] if latest else self._scored_s
        return new[::-1]

    def _time(self, time_s: float) -> float:
        return round(time_s - self._started_s, 3)


def _told(message: Message) -> dict[str, Any]:
    event = message.event
    return {"id": message.id, "time": message.time, "label": event.label, "score": event.score}


def _histogram(histogram: Histogram) -> dict[str, Any]:
    return {"bounds_s": histogram.bounds_s, "counts": list(histogram.counts), "sum_s": round(histogram.sum_s, 4)}


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
