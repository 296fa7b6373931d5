"""`edgernn doctor`: what board this is, what works on it, and what to mend, the gravest first.

edgernn doctor --json

Run on a plain PC. What a Raspberry Pi and a Jetson tell is read as their makers' documentation and recorded output of
their tools have it, and not run on hardware.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from edgernn import __version__
from edgernn.devices.boards.advice import Advice, advise
from edgernn.devices.boards.report import Report, examine

__all__ = ["as_text", "main"]

KINDS = {"raspberry-pi": "Raspberry Pi", "jetson": "Jetson", "pc": "PC, or a board that is not known"}


def main(arguments: Sequence[str], prog: str) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Tell what board this is, what works on it, and what to mend, the gravest first."
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    options = parser.parse_args(arguments)
    report = examine()
    advice = advise(report)
    if options.json:
        advised = [asdict(one) for one in advice]
        print(json.dumps({"edgernn": __version__, **asdict(report), "advice": advised}, indent=1))
    else:
        print(as_text(report, advice))
    return 0


def as_text(report: Report, advice: Sequence[Advice]) -> str:
    """Return all of it for people."""
    facts = list(_facts(report))
    width = max(len(name) for name, _ in facts)
    lines = [f"{name:<{width}}  {value}" for name, value in facts]
    if not advice:
        return "\n".join([*lines, "", "nothing to mend"])
    mend = [f"{number}. {one.what}\n   {one.mend}" for number, one in enumerate(advice, 1)]
    return "\n".join([*lines, "", "to mend, the gravest first:", *mend])


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    machine, vitals = report.machine, report.vitals
    yield "board", machine.board or KINDS[report.kind]
    yield "processor", f"{machine.cpu}, {machine.cores} cores, {machine.architecture}, {report.bits}-bit programs"
    yield "system", f"{machine.system}, Python {machine.python}{', ' + report.systemd if report.systemd else ''}"
    memory = f"{_mib(report.memory_bytes)}, {_mib(report.available_bytes)} of it free; swap {_mib(report.swap_bytes)}"
    yield "memory", memory
    yield "disk", f"{_mib(report.disk_bytes)}, {_mib(report.disk_free_bytes)} of it free"
    clock = "–" if vitals.clock_hz is None else f"{vitals.clock_hz / 1e6:.0f} MHz"
    yield "clock", f"{clock}, governor {machine.governor or '–'}"
    heat = "–" if vitals.temperature_c is None else f"{vitals.temperature_c:.1f} °C"
    yield "temperature", heat
    yield "slowed down", _limits(report)
    yield from _jetson(report)
    yield "sound", _sound(report)
    yield "cameras", ", ".join(f"{device} ({name})" for device, name in report.cameras.items()) or "none"
    known = {True: "synchronised", False: "not synchronised", None: "–"}
    yield "time", known[report.clock_synchronised]
    for trial in report.trials:
        name = " ".join(filter(None, [trial.runtime, trial.version, trial.provider]))
        by = f" ({', '.join(trial.delegates)})" if trial.delegates else ""
        yield "runtime", f"{name}: {trial.fault or f'works{by}'}"
    if not report.trials:
        yield "runtime", "none is installed"


def _limits(report: Report) -> str:
    now, ever = report.vitals.limits(), report.vitals.limits(since_start=True)
    if now is None or ever is None:
        return "–"
    named = ("now: " + ", ".join(name for name, holds in now.items() if holds)) if any(now.values()) else ""
    past = "since the start: " + ", ".join(name for name, held in ever.items() if held) if any(ever.values()) else ""
    return "; ".join(filter(None, [named, past])) or "never since the start"


def _jetson(report: Report) -> Iterator[tuple[str, str]]:
    if report.jetson_release:
        yield "Jetson Linux", report.jetson_release
    if report.jetson_mode:
        yield "power mode", report.jetson_mode
    if report.tegrastats:
        power = ", ".join(f"{rail} {value} mW" for rail, value in report.tegrastats.power_mw.items())
        yield "power", power or "–"
        yield "cores off", str(report.tegrastats.cores_off)


def _sound(report: Report) -> str:
    cards = ", ".join(report.sound_cards) or "no card"
    server = f"; {report.sound_server}" if report.sound_server else ""
    return f"{cards}{server}; microphones: {', '.join(report.microphones) or 'none'}"


def _mib(nbytes: int | None) -> str:
    return "–" if nbytes is None else f"{nbytes / 2**20:,.0f} MiB"
