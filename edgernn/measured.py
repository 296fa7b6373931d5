"""Parts of a profile that not every one has: fresh processes, operators, minutes, what else went on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Conditions", "Minute", "Operator", "Round", "Sustained"]


@dataclass(frozen=True)
class Round:
    """One fresh process: its cold start, and its steps back to back, in windows."""

    cold_ms: Mapping[str, float]
    """Phase to milliseconds, in their order; see `edgernn.devices.profiling.one_round`."""
    window_steps: int
    p50_us: tuple[float, ...]
    """Of each window."""
    p99_us: tuple[float, ...]
    """Of each window."""


@dataclass(frozen=True)
class Operator:
    """What one kind of operator takes of a step, by the runtime's own profiler."""

    kind: str
    nodes: int
    us: float
    """Sum over its nodes in a step, of whole microseconds that were cut off."""
    share: float
    """Of the time of all operators."""


@dataclass(frozen=True)
class Minute:
    """A minute (the last one may be shorter) of steps; what is None is not told by the machine."""

    seconds: float
    steps: int
    misses: int
    """Steps that ended later than the next one was due; 0 where the artifact has no pace."""
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float
    memory_bytes: int
    """Resident, at its end."""
    clock_mhz: float | None = None
    """Mean of the fastest core's."""
    temperature_c: float | None = None
    """Highest."""
    throttled: int | None = None
    """All bits of a Raspberry Pi's firmware that were set at any time of it."""
    power_w: float | None = None
    """Mean."""


@dataclass(frozen=True)
class Sustained:
    """Steps for a long time, minute by minute."""

    paced: bool
    """At the stream's own pace, or else back to back."""
    minutes: tuple[Minute, ...]
    memory_slope: float | None
    """Growth of the resident memory without the first minute, bytes an hour; None for fewer than three others."""
    memory_slope_error: float | None
    """Its standard error."""
    stopped: bool = False
    """Before its time, by Ctrl-C."""


@dataclass(frozen=True)
class Conditions:
    """What went on while it was measured, as far as the machine tells."""

    pinned: int | None = None
    """The one core that the process was kept on."""
    governors: tuple[str, ...] = ()
    """Of the cores, each kind once."""
    load: float | None = None
    """Mean number of runnable processes in the minute before."""
    busy_before: float | None = None
    """Share of all cores that was busy in the half second before."""
    busy_others: float | None = None
    """Share of all cores that other processes took during the measurement."""
