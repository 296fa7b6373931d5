"""Steps for minutes or hours, to see what a board does when it is warm; memory does not grow with the time."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgernn.devices.boards.power import read_power_w
from edgernn.devices.boards.vitals import Vitals, read_vitals
from edgernn.devices.profiling.histogram import Histogram
from edgernn.machine import resident_bytes
from edgernn.measured import Minute, Sustained

__all__ = ["Sensors", "memory_slope", "sustain"]

MINUTE_S = 60.0
SENSE_S = 2.0
Progress = Callable[[float, str], None]


@dataclass
class Sensors:
    """Reads the board's sensors in a thread of its own, for a step must not wait for them."""

    root: Path = Path("/")
    period_s: float = SENSE_S
    _readings: list[tuple[Vitals, float | None]] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Sensors:
        self._thread = threading.Thread(target=self._sense, name="sensors", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def take(self) -> list[tuple[Vitals, float | None]]:
        """Return what was read since the last time; at least one reading."""
        taken, self._readings = self._readings, []
        return taken or [self._read()]

    def _read(self) -> tuple[Vitals, float | None]:
        return read_vitals(self.root), read_power_w(self.root)

    def _sense(self) -> None:
        while not self._over.wait(self.period_s):
            self._readings.append(self._read())


def sustain(
    step: Callable[[int], object],
    seconds: float,
    period_s: float | None,
    progress: Progress = lambda share, what: None,
    sensors: Sensors | None = None,
    minute_s: float = MINUTE_S,
) -> Sustained:
    """Call `step` with 0, 1, … for so long, each when it is due, or back to back where there is no pace.

    Ctrl-C ends it before its time, and what was measured until then is the result.
    """
    minutes: list[Minute] = []
    stopped = False
    with sensors or Sensors() as sensed:
        begin = time.perf_counter()
        taken = _times(step, begin, begin + seconds, period_s)
        with contextlib.suppress(KeyboardInterrupt):
            while not stopped and (now := time.perf_counter()) < begin + seconds:
                end = min(begin + minute_s * (len(minutes) + 1), begin + seconds)
                stage = f"minute {len(minutes) + 1} of {math.ceil(seconds / minute_s)}"
                progress((now - begin) / seconds, stage + _last(minutes))
                minute, stopped = _minute(taken, now, end, sensed)
                if minute.steps:
                    minutes.append(minute)
        stopped = time.perf_counter() < begin + seconds
    if not minutes:
        raise KeyboardInterrupt
    progress(1.0, "minutes")
    return Sustained(period_s is not None, tuple(minutes), *memory_slope(minutes), stopped)


def _last(minutes: Sequence[Minute]) -> str:
    """Return the last minute in short: whoever waits for hours wants to see how it goes."""
    if not minutes:
        return ""
    last = minutes[-1]
    heat = "" if last.temperature_c is None else f", {last.temperature_c:.1f} °C"
    return (
        f" (the one before: p50 {last.p50_us:.1f}, p99 {last.p99_us:.1f}, p99.9 {last.p999_us:.1f} µs, "
        f"{last.misses} misses, {last.memory_bytes / 1e6:.1f} MB{heat})"
    )


def _times(
    step: Callable[[int], object], begin: float, end: float, period_s: float | None
) -> Iterator[tuple[float, float, bool]]:
    """Take steps; yield for each its end, its microseconds, and whether it was later than the next was due."""
    clock, index = time.perf_counter, 0
    while clock() < end:
        due = begin if period_s is None else begin + index * period_s
        wait = due - clock()
        if wait > 0:
            time.sleep(wait)
        before = clock()
        step(index)
        after = clock()
        yield after, (after - before) * 1e6, period_s is not None and after > due + period_s
        index += 1


def _minute(
    taken: Iterator[tuple[float, float, bool]], begin: float, end: float, sensors: Sensors
) -> tuple[Minute, bool]:
    """Return a minute, and whether Ctrl-C ended it."""
    histogram, misses, now, stopped = Histogram(), 0, begin, False
    try:
        for now, us, late in taken:
            histogram.add(us)
            misses += late
            if now >= end:
                break
    except KeyboardInterrupt:
        stopped = True
    readings = sensors.take()
    clocks = [vitals.clock_hz for vitals, _ in readings if vitals.clock_hz is not None]
    heats = [vitals.temperature_c for vitals, _ in readings if vitals.temperature_c is not None]
    watts = [power for _, power in readings if power is not None]
    bits = [vitals.throttled for vitals, _ in readings if vitals.throttled is not None]
    minute = Minute(
        seconds=round(now - begin, 3),
        steps=histogram.count,
        misses=misses,
        p50_us=round(histogram.quantile(0.5), 2),
        p99_us=round(histogram.quantile(0.99), 2),
        p999_us=round(histogram.quantile(0.999), 2),
        max_us=round(histogram.highest, 2),
        memory_bytes=resident_bytes(),
        clock_mhz=round(float(np.mean(clocks)) / 1e6, 1) if clocks else None,
        temperature_c=max(heats, default=None),
        throttled=int(np.bitwise_or.reduce(bits)) if bits else None,
        power_w=round(float(np.mean(watts)), 3) if watts else None,
    )
    return minute, stopped


def memory_slope(minutes: Sequence[Minute]) -> tuple[float | None, float | None]:
    """Return the growth of memory, bytes an hour, and its standard error: least squares without the first minute."""
    kept = minutes[1:]
    if len(kept) < 3:
        return None, None
    hours = np.cumsum([minute.seconds for minute in minutes])[1:] / 3600
    memory = np.array([minute.memory_bytes for minute in kept], np.float64)
    away = hours - hours.mean()
    slope = float(away @ memory / (away @ away))
    left = memory - memory.mean() - slope * away
    return slope, float(np.sqrt(left @ left / (len(kept) - 2) / (away @ away)))
