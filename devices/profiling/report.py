"""A page about one or more profiles: one file of HTML with its pictures in it, which asks nothing of any server."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from html import escape

from edgernn.devices.profiling.matrix import front, tell_matrix, typical_us
from edgernn.devices.profiling.svg import Dot, Line, bars, lines, scatter
from edgernn.devices.profiling.tell import cold_start, conditions, course, minute_rows, tell
from edgernn.measured import Minute, Sustained
from edgernn.profile import Profile
from edgernn.text import table

__all__ = ["report"]

STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 900px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { margin-top: 2.5rem; border-top: 1px solid #8886; padding-top: 1rem; }
h3 { margin: 1.6rem 0 .3rem; font-size: 1rem; } p { margin: .3rem 0; }
.quiet { opacity: .7; }
.wide { overflow-x: auto; }
svg { width: 100%; min-width: 620px; height: auto; }
svg text { font: 11px system-ui, sans-serif; fill: currentColor; }
pre { overflow-x: auto; font: 12.5px/1.45 ui-monospace, monospace;
background: #8881; padding: .7rem; border-radius: 6px; }
.legend span { display: inline-block; margin-right: 1.2rem; font-size: .85rem; }
.legend i { display: inline-block; width: .8rem; height: .8rem;
border-radius: 2px; margin-right: .35rem; vertical-align: -1px; }
.facts { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1rem 0; }
.facts div { border: 1px solid #8884; border-radius: 8px; padding: .5rem .9rem; }
.facts b { display: block; font-size: 1.2rem; }
.bars { display: grid; grid-template-columns: minmax(6rem, 18rem) 1fr; gap: .25rem .8rem; font-size: .85rem; }
.bars span:nth-child(odd) { text-align: right; overflow-wrap: anywhere; }
.bars span:nth-child(even) { white-space: nowrap; }
.bars i { display: inline-block; height: .85rem; margin-right: .5rem; border-radius: 2px;
background: #1f6feb; vertical-align: -2px; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; margin: .6rem 0; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #8883; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
summary { cursor: pointer; margin-top: 1rem; }
"""
MOST_BARS = 14


def report(profiles: Sequence[Profile]) -> str:
    """Return the page."""
    names = list(dict.fromkeys(profile.artifact for profile in profiles))
    title = f"{', '.join(names)}: profile"
    parts = [f"<h1>{escape(title)}</h1>", f'<p class="quiet">EdgeRNN {escape(profiles[0].edgernn)}</p>']
    if len(profiles) > 1:
        parts.append(_together(profiles))
    parts += [_one(profile) for profile in profiles]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    style = f"<style>{STYLE}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}{style}</head><body>{"".join(parts)}</body></html>\n'


def _together(profiles: Sequence[Profile]) -> str:
    """Return what compares them: a table, and the Pareto picture where all tell how true they are."""
    picture = ""
    for label, value, scale in _TRUTHS:
        known = [truth for profile in profiles if (truth := value(profile)) is not None]
        if len(known) == len(profiles) and (steps := _dots(profiles, [scale * truth for truth in known])):
            picture = (
                "<h3>Which of them nothing else beats</h3>"
                f"{scatter(steps, 'µs a step (median; to the left is better)', f'{label} (up is better)')}"
                '<p class="quiet">Area: size of the file. Blue: on the Pareto front of time, size and truth.</p>'
            )
            break
    return f"<h2>All together</h2><pre>{escape(tell_matrix(profiles))}</pre>{picture}"


_TRUTHS: Sequence[tuple[str, Callable[[Profile], float | None], float]] = (
    ("accuracy, %", lambda profile: profile.accuracy, 100.0),
    ("SNR to the source, dB", lambda profile: profile.snr_db, 1.0),
)


def _dots(profiles: Sequence[Profile], truths: Sequence[float]) -> list[Dot]:
    name = _named if len({profile.artifact for profile in profiles}) > 1 else _short
    return [
        Dot(name(profile), us, truth, profile.model_bytes, best)
        for profile, truth, best in zip(profiles, truths, front(profiles), strict=True)
        if (us := typical_us(profile)) > 0
    ]


def _short(profile: Profile) -> str:
    place = f", {profile.on}" if profile.on else ""
    return f"{profile.scheme}, {profile.runtime.partition(' ')[0]}, {profile.threads} thr.{place}"


def _named(profile: Profile) -> str:
    return f"{profile.artifact}, {_short(profile)}"


def _one(profile: Profile) -> str:
    place = profile.on or profile.machine.board or profile.machine.cpu
    parts = [
        f"<h2>{escape(_named(profile))}</h2><p>{escape(place)}, {escape(profile.measured_at)}</p>",
        f'<p class="quiet">{escape(_surroundings(profile))}</p>',
        _facts(profile),
    ]
    if profile.sustained:
        parts.append(_minutes(profile.sustained))
    if profile.rounds:
        curves = [Line(f"process {n}", item.p50_us) for n, item in enumerate(profile.rounds, 1)]
        picture = lines(curves, f"window of {profile.rounds[0].window_steps} steps", "µs, median of the window")
        parts.append(f"<h3>Fresh processes: medians of windows</h3>{picture}")
        parts.append(f"<h3>Cold start, median of {len(profile.rounds)}</h3>")
        parts.append(bars([(name, middle) for name, middle, _, _ in cold_start(profile)], "ms"))
    if profile.operators:
        rows = [(f"{item.kind} × {item.nodes}", item.us) for item in profile.operators[:MOST_BARS]]
        parts.append(f"<h3>Operators, time in a step</h3>{bars(rows, 'µs')}")
    parts += [f'<p class="quiet">{escape(remark)}</p>' for remark in profile.remarks]
    parts.append(f"<details><summary>As text</summary><pre>{escape(tell(profile))}</pre></details>")
    parts.append(f"<details><summary>To repeat it</summary><pre>{escape(_recipe(profile))}</pre></details>")
    return "".join(parts)


def _facts(profile: Profile) -> str:
    step = profile.timing("step")
    misses, factor = profile.deadline_misses_per_million, profile.real_time_factor
    shown = [
        ("–" if step is None else f"{step.p50_us:.1f} µs", "a step, median"),
        ("–" if step is None else f"{step.p99_us:.1f} µs", "a step, p99"),
        ("–" if factor is None else f"{factor:.3%}", "of real time"),
        ("–" if misses is None else f"{misses:.0f}", "deadline misses a million"),
        (f"{profile.resident_bytes / 1e6:.0f} MB", "resident"),
        (f"{profile.model_bytes / 1024:.0f} KB", "model"),
    ]
    return f'<div class="facts">{"".join(f"<div><b>{escape(b)}</b>{escape(t)}</div>" for b, t in shown)}</div>'


def _surroundings(profile: Profile) -> str:
    machine = profile.machine
    cores = f"{machine.cores} core{'s' * (machine.cores > 1)}"
    return f"{machine.cpu}, {cores}, {machine.architecture}, {machine.system}; {conditions(profile)}"


def _minutes(sustained: Sustained) -> str:
    """Return the first and the last minute side by side, pictures where there are several, and all of them."""
    minutes = sustained.minutes
    header, rows = minute_rows(sustained)
    told = [i for i in range(len(header)) if any(row[i] != "–" for row in rows)]
    beside = [["first minute", *rows[0][1:]], ["last minute", *rows[-1][1:]]]
    parts = ["<h3>First and last minute</h3>", _table(["", *header[1:]], beside, told)]
    silent = [name for i, name in enumerate(header) if i not in told]
    nobody = f"; no sensor tells {', '.join(silent)}" if silent else ""
    parts.append(f'<p class="quiet">{escape(course(sustained) + nobody)}</p>')
    if len(minutes) > 1:
        parts.append(_pictures(minutes))
        parts.append(f"<details><summary>Every minute</summary>{_table(header, rows, told)}</details>")
    return "".join(parts)


def _pictures(minutes: Sequence[Minute]) -> str:
    times = [
        Line("p50", [m.p50_us for m in minutes]),
        Line("p99", [m.p99_us for m in minutes]),
        Line("p99.9", [m.p999_us for m in minutes]),
    ]
    parts = [f"<h3>Minute by minute</h3>{lines(times, 'minute', 'µs a step')}"]
    for name, value in _SENSORS:
        values = [value(minute) for minute in minutes]
        if any(item is not None for item in values):
            parts.append(lines([Line(name, values)], "minute", name, from_zero=name == "memory, MB"))
    return "".join(parts)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], columns: Sequence[int]) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(cells[i])}</{tag}>' for i in columns)}</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    return f'<div class="wide"><table>{row(header, "th")}{body}</table></div>'


_SENSORS: Sequence[tuple[str, Callable[[Minute], float | None]]] = (
    ("temperature, °C", lambda minute: minute.temperature_c),
    ("clock, MHz", lambda minute: minute.clock_mhz),
    ("power, W", lambda minute: minute.power_w),
    ("memory, MB", lambda minute: minute.memory_bytes / 1e6),
)


def _recipe(profile: Profile) -> str:
    machine = profile.machine
    rows = [
        ("command", " ".join(profile.command)),
        ("artifact", f"{profile.artifact}, manifest {profile.manifest}"),
        ("model", f"{profile.format}, SHA-256 {profile.digest}"),
        ("runtime", profile.runtime),
        ("packages", ", ".join(f"{name} {number}" for name, number in profile.packages.items())),
        ("Python", f"{machine.python}, EdgeRNN {profile.edgernn}"),
        ("machine", f"{machine.board or machine.cpu}, {machine.cores} cores, {machine.architecture}, {machine.system}"),
        ("settings", json.dumps(dict(profile.settings))),
        ("conditions", json.dumps(profile.to_dict()["conditions"])),
    ]
    return table(["", ""], rows)
