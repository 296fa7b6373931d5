"""What a profile holds beside its timings, as text for people."""

from __future__ import annotations

from statistics import median

from edgernn.devices.boards.vitals import THROTTLED
from edgernn.measured import Minute, Sustained
from edgernn.profile import Profile
from edgernn.text import table

__all__ = ["bits", "cold_start", "conditions", "course", "minute_rows", "tell", "tell_minutes"]

MOST_OPERATORS = 12


def tell(profile: Profile) -> str:
    """Return the profile with all of its parts."""
    parts = [str(profile), f"conditions: {conditions(profile)}"]
    if profile.rounds:
        rows = [(name, f"{value:.2f}", f"{low:.2f}", f"{high:.2f}") for name, value, low, high in cold_start(profile)]
        parts.append(table([f"ms, cold start of {len(profile.rounds)} processes", "median", "least", "most"], rows))
    if profile.operators:
        operators = [
            (item.kind, item.nodes, f"{item.us:.1f}", f"{item.share:.1%}")
            for item in profile.operators[:MOST_OPERATORS]
        ]
        parts.append(table(["operator", "nodes", "µs in a step", "share"], operators))
    if profile.sustained:
        parts.append(tell_minutes(profile.sustained))
    return "\n\n".join([*parts, *profile.remarks])


def cold_start(profile: Profile) -> list[tuple[str, float, float, float]]:
    """Return for each phase the median, the least and the most of the rounds, ms."""
    phases = profile.rounds[0].cold_ms if profile.rounds else {}
    columns = {name: [item.cold_ms.get(name, 0.0) for item in profile.rounds] for name in phases}
    return [(name, median(values), min(values), max(values)) for name, values in columns.items()]


def bits(throttled: int | None) -> str:
    """Return the bits in words.

    >>> bits(0x50000), bits(0), bits(None)
    ('has been: under-voltage, throttled', 'none', '–')
    """
    if throttled is None:
        return "–"
    now = [name for bit, name in THROTTLED.items() if throttled >> bit & 1]
    before = [name for bit, name in THROTTLED.items() if throttled >> (bit + 16) & 1 and name not in now]
    told = ", ".join(now) + ("; " if now and before else "") + (f"has been: {', '.join(before)}" if before else "")
    return told or "none"


def tell_minutes(sustained: Sustained) -> str:
    """Return minute by minute, then the first and the last side by side."""
    header, rows = minute_rows(sustained)
    beside = table(["", "first", "last"], [*zip(header[1:], rows[0][1:], rows[-1][1:], strict=True)])
    return f"{table(header, rows)}\n\n{beside}\n\n{course(sustained)}"


def minute_rows(sustained: Sustained) -> tuple[list[str], list[list[str]]]:
    """Return a header, and a row for each minute."""
    header = ["minute", "steps", "p50 µs", "p99", "p99.9", "max", "misses", "MHz", "°C", "throttled", "MB", "W"]
    return header, [[str(number), *_cells(minute)] for number, minute in enumerate(sustained.minutes, 1)]


def course(sustained: Sustained) -> str:
    """Return at what pace it went, how memory grew, and whether it went to its end."""
    slope = "too short to tell a slope of memory"
    if sustained.memory_slope is not None and sustained.memory_slope_error is not None:
        error = 2 * sustained.memory_slope_error / 1e6
        growth = round(sustained.memory_slope / 1e6, 3) + 0.0  # no minus before a zero
        slope = f"memory grows by {growth:.3f} ± {error:.3f} MB an hour (two standard errors)"
    pace = "at the stream's pace" if sustained.paced else "back to back"
    ended = "; stopped before its time" if sustained.stopped else ""
    return f"{pace}; {slope}{ended}"


def _cells(minute: Minute) -> list[str]:
    return [
        str(minute.steps),
        *(f"{us:.1f}" for us in (minute.p50_us, minute.p99_us, minute.p999_us)),
        f"{minute.max_us:.0f}",
        str(minute.misses),
        _number(minute.clock_mhz, ".0f"),
        _number(minute.temperature_c, ".1f"),
        bits(minute.throttled),
        f"{minute.memory_bytes / 1e6:.1f}",
        _number(minute.power_w, ".2f"),
    ]


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def conditions(profile: Profile) -> str:
    """Return what else went on while it was measured."""
    seen = profile.conditions
    parts = [
        "any core" if seen.pinned is None else f"pinned to core {seen.pinned}",
        f"governor {', '.join(seen.governors) or 'not told'}",
    ]
    if seen.busy_before is not None:
        parts.append(f"{seen.busy_before:.0%} of the machine busy before, load {seen.load}")
    if seen.busy_others is not None:
        parts.append(f"{seen.busy_others:.0%} taken by others meanwhile")
    return "; ".join(parts)
