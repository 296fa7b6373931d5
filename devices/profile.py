"""`edgernn profile`: how fast an artifact is on this machine or on boards, and how reliably.

edgernn profile ARTIFACT --json profile.json --report profile.html
edgernn profile ARTIFACT --on pi@raspberrypi.local --on jetson@orin --sustain 30m
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from edgernn.artifact import Artifact
from edgernn.devices.picture import draw
from edgernn.devices.profiling.conditions import pin
from edgernn.devices.profiling.files import write_profiles, write_text
from edgernn.devices.profiling.link import Address, Keys
from edgernn.devices.profiling.matrix import measure_matrix, tell_matrix
from edgernn.devices.profiling.parcel import check_wheels
from edgernn.devices.profiling.remote import Job, measure_on
from edgernn.devices.profiling.report import report
from edgernn.devices.profiling.tell import tell
from edgernn.devices.profiling.whole import Wanted, measure_whole
from edgernn.devices.providers import describe_placement, placement
from edgernn.devices.runner import CHOICES, RUNTIMES, runtime_on
from edgernn.errors import UsageError
from edgernn.profile import Profile

__all__ = ["main", "read_duration"]

INTERRUPTED = 130
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def main(arguments: Sequence[str], prog: str) -> int:
    """Run the command; return the exit status: 1 also where one of several boards gave no result, 130 after Ctrl-C."""
    options = _parser(prog).parse_args(arguments)
    threads = _threads(options.threads)
    wanted = _wanted(options, (*prog.split(), *arguments))
    _check(options, threads)
    artifacts = [Artifact.open(path) for path in options.artifacts]
    profiles, failures, stopped = _measure(options, artifacts, threads, wanted)
    if options.progress:
        pass  # the caller reads the JSON
    elif options.matrix and profiles:
        print(tell_matrix(profiles))
    elif profiles:
        print("\n\n".join(f"{profile.on}\n{tell(profile)}" if profile.on else tell(profile) for profile in profiles))
    if options.json and profiles:
        write_profiles(options.json, profiles)
    if options.report and profiles:
        write_text(options.report, report(profiles))
    for failure in failures:
        print(f"{prog}: error: {failure}", file=sys.stderr)
    return INTERRUPTED if stopped else int(bool(failures))


def _measure(
    options: argparse.Namespace, artifacts: Sequence[Artifact], threads: Sequence[int], wanted: Wanted
) -> tuple[list[Profile], list[str], bool]:
    """Return results, what failed, and whether Ctrl-C ended it before its time."""
    if options.on:
        return measure_on([Address.read(text) for text in options.on], _job(options, artifacts, wanted), _say)
    if options.pin is not None:
        pin(options.pin)
    if options.matrix:
        profiles, stopped = measure_matrix(artifacts, options.runtime, threads, wanted, _say)
        return profiles, [], stopped
    progress = _lines() if options.progress else _show_progress
    runtime = runtime_on(artifacts[0], options.runtime, options.provider, threads[0])
    profile, times = measure_whole(artifacts[0], runtime, threads[0], wanted, progress)
    if options.provider:
        placed = describe_placement(placement(artifacts[0].model("onnx"), str(runtime).partition(":")[2]))
        profile = replace(profile, remarks=(*profile.remarks, placed))
    if options.picture:
        draw(profile, times, options.picture)
    return [profile], [], profile.sustained is not None and profile.sustained.stopped


def _job(options: argparse.Namespace, artifacts: Sequence[Artifact], wanted: Wanted) -> Job:
    """Return what is to be done on a board: the options that are not about this machine go along."""
    names = ("steps", "seconds", "rounds", "threads", "sustain", "runtime", "provider", "pin")
    values = {name: getattr(options, name) for name in names}
    passed = [word for name, value in values.items() if value is not None for word in (f"--{name}", str(value))]
    passed += [f"--{name}" for name in ("operators", "matrix") if getattr(options, name)]
    formats = {kind for artifact in artifacts for kind in artifact.programs.get("step", {})}
    fitting = tuple(name for name, runtime in RUNTIMES.items() if runtime.format in formats)
    chosen = "onnxruntime" if options.provider else options.runtime
    return Job(
        artifacts=tuple(artifacts),
        options=tuple(passed),
        command=wanted.command,
        runtimes=(chosen,) if chosen else fitting,
        wheels=tuple(check_wheels(options.wheels)) if options.wheels else (),
        python=options.python or "",
        keys=Keys(tuple(options.identity), options.known_hosts or ""),
    )


def read_duration(text: str) -> float:
    """Read seconds, as "90", "90s", "30m" or "1.5h".

    >>> read_duration("30m")
    1800.0
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None or not 0 < (seconds := float(found[1]) * UNITS[found[2]]) <= 7 * 86400:
        raise UsageError(f"--sustain {text}: expected a time of at most 7 days, as in 90s, 30m or 2h")
    return seconds


def _threads(text: str) -> list[int]:
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise UsageError(f"--threads {text}: expected a number from 1 up, or with --matrix several: 1,2,4")
    return numbers


def _wanted(options: argparse.Namespace, command: tuple[str, ...]) -> Wanted:
    if options.steps < 1:
        raise UsageError(f"--steps must be at least 1, not {options.steps}")
    if not 0 <= options.seconds < float("inf"):
        raise UsageError(f"--seconds must be a number of seconds, 0 or more, not {options.seconds:g}")
    if not 0 <= options.rounds <= 1000:
        raise UsageError(f"--rounds must be from 0 to 1000, not {options.rounds}")
    lasting = read_duration(options.sustain) if options.sustain else 0.0
    return Wanted(options.steps, options.seconds, options.rounds, options.operators, lasting, options.pin, command)


def _check(options: argparse.Namespace, threads: Sequence[int]) -> None:
    """Raise `UsageError` where options contradict each other, before anything takes minutes."""
    if not options.matrix and (len(options.artifacts) > 1 or len(threads) > 1):
        raise UsageError("several artifacts, or several numbers of threads, are measured with --matrix")
    if options.picture and (options.on or options.matrix):
        raise UsageError("--picture draws one measurement on this machine; --report draws any")
    if options.provider and options.matrix:
        raise UsageError("--provider is for one measurement, and --matrix measures all runtimes on the processor")
    for name in ("wheels", "python", "identity", "known_hosts"):
        if getattr(options, name) and not options.on:
            raise UsageError(f"--{name.replace('_', '-')} is for boards: name one with --on user@host")
    for text in options.on:
        Address.read(text)
    for path in options.identity:
        if not Path(path).expanduser().is_file():
            raise UsageError(f"--identity {path}: there is no such file")
    if len(set(options.on)) < len(options.on):
        raise UsageError("--on names the same board twice: two measurements at once disturb each other")
    for path in filter(None, (options.json, options.report, options.picture)):
        if not Path(path).absolute().parent.is_dir():
            raise UsageError(f"the file {path} cannot be written: its folder does not exist")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _show_progress(share: float, what: str) -> None:
    if sys.stderr.isatty():
        end = "\r\033[K" if share == 1 else "\r"
        print(f"measuring {what}: {share:4.0%}", end=end, file=sys.stderr, flush=True)


def _lines() -> Callable[[float, str], None]:
    """Return progress as a line for each stage, and for each fifth of one."""
    told: set[tuple[str, int]] = set()

    def show(share: float, what: str) -> None:
        if (what, int(share * 5)) not in told and share < 1:
            told.add((what, int(share * 5)))
            _say(f"{what}: {share:.0%}")

    return show


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description="Measure latency, start-up and memory of an artifact on this machine, or on boards."
    )
    add = parser.add_argument
    add("artifacts", nargs="+", metavar="artifact", help="folder that edgernn convert wrote; several with --matrix")
    add("--runtime", choices=RUNTIMES, help="default: the first that is installed and fits")
    add("--provider", choices=CHOICES, help="on which ONNX Runtime computes; tells what is left to the processor")
    add("--threads", default="1", metavar="N", help="threads of the runtime (default: 1); with --matrix also 1,2,4")
    add("--steps", type=int, default=10_000, metavar="N", help="steps back to back (default: 10000)")
    add("--seconds", type=float, default=10.0, metavar="S", help="time of steps at their own pace (default: 10)")
    add("--rounds", type=int, default=5, metavar="N", help="fresh processes, for compare and cold start (default: 5)")
    add("--sustain", metavar="TIME", help="go on for so long, minute by minute: 90s, 30m, 2h")
    add("--operators", action="store_true", help="also the time of each kind of operator, where the runtime tells")
    add("--matrix", action="store_true", help="every artifact in every runtime that is installed, with all --threads")
    add("--pin", type=int, metavar="CORE", help="keep to one core")
    add("--json", metavar="FILE", help="write everything as JSON, for edgernn compare")
    add("--report", metavar="FILE", help="write a page with pictures, HTML in one file")
    add("--picture", metavar="FILE", help="draw histogram and time line, PNG or SVG")
    add("--progress", action="store_true", help=argparse.SUPPRESS)  # for a caller that is no terminal
    board = parser.add_argument_group("on boards, over SSH (pip install 'edgernn[remote]')")
    add = board.add_argument
    add("--on", action="append", default=[], metavar="USER@HOST[:PORT]", help="measure there; several at once")
    add("--wheels", metavar="FOLDER", help="NumPy and a runtime for a board that has none, as wheels")
    add("--python", metavar="PATH", help="a Python there that has NumPy and a runtime (default: python3)")
    add("--identity", action="append", default=[], metavar="FILE", help="private key (default: those that ssh takes)")
    add("--known-hosts", metavar="FILE", help="trusted host keys (default: ~/.ssh/known_hosts)")
    return parser
