"""`edgernn compare`: whether one measurement is faster or slower than another, and how sure that is.

edgernn compare before.json after.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from statistics import median

from edgernn.devices.profiling.difference import LEAST_ROUNDS, METHOD, Difference, compare
from edgernn.devices.profiling.files import read_profiles, write_text
from edgernn.errors import UsageError
from edgernn.measured import Round
from edgernn.profile import Profile
from edgernn.text import table

__all__ = ["differences", "main"]

STEPS: Mapping[str, Callable[[Round], float]] = {
    "step, p50": lambda item: median(item.p50_us),
    "step, p99": lambda item: median(item.p99_us),
}
"""Figure to what a round gives of it; p99: of 100 steps, the typical one."""

IN_TURNS = (
    "the two were measured one after the other: whatever else changed between counts too; edgernn profile A B --matrix "
    "measures artifacts in turns"
)


def main(arguments: Sequence[str], prog: str) -> int:
    """Run the command; return the exit status: 1 where something became slower."""
    options = _parser(prog).parse_args(arguments)
    if not 50 <= options.confidence < 100:
        raise UsageError(f"--confidence must be at least 50 and below 100 percent, not {options.confidence:g}")
    if not 0 <= options.at_least < 100:
        raise UsageError(f"--at-least must be at least 0 and below 100 percent, not {options.at_least:g}")
    pairs = _pairs(read_profiles(options.before), read_profiles(options.after), options)
    found = [(pair, differences(*pair, options.confidence, options.at_least)) for pair in pairs]
    print("\n\n".join(_tell(before, after, rows) for (before, after), rows in found))
    print(f"\n{METHOD.format(confidence=options.confidence)}; differences below {options.at_least:g} % count as none")
    print(IN_TURNS)
    if options.json:
        values = [
            {"before": _name(pair[0]), "after": _name(pair[1]), "rows": [asdict(row) for row in rows]}
            for pair, rows in found
        ]
        method = METHOD.format(confidence=options.confidence)
        write_text(options.json, json.dumps({"method": method, "comparisons": values}, indent=1) + "\n")
    return int(any(row.verdict == "slower" for _, rows in found for row in rows))


def differences(before: Profile, after: Profile, *limits: float) -> list[Difference]:
    """Compare steps and cold starts of two profiles by their rounds; `limits` are those of `compare`."""

    figures = [(what, "µs", value) for what, value in STEPS.items()]
    figures += [
        (f"cold start: {name}", "ms", partial(_cold, name))
        for name in before.rounds[0].cold_ms
        if name in after.rounds[0].cold_ms
    ]
    return [
        compare(what, unit, [value(item) for item in before.rounds], [value(item) for item in after.rounds], *limits)
        for what, unit, value in figures
    ]


def _cold(phase: str, item: Round) -> float:
    return item.cold_ms[phase]


def _pairs(
    before: Sequence[Profile], after: Sequence[Profile], options: argparse.Namespace
) -> list[tuple[Profile, Profile]]:
    """Return what belongs together: the two, or of more those that ran alike on the same board."""
    if len(before) == len(after) == 1:
        pairs = [(before[0], after[0])]
    else:
        others = {_key(profile): profile for profile in after}
        pairs = [(profile, others[_key(profile)]) for profile in before if _key(profile) in others]
    if not pairs:
        raise UsageError(
            f"{options.before} and {options.after} have nothing in common: no artifact, runtime and threads"
        )
    for one, other in pairs:
        _check(one, options.before)
        _check(other, options.after)
        if not options.across_machines:
            _check_machines(one, other)
    return pairs


def _key(profile: Profile) -> tuple[object, ...]:
    return (
        profile.artifact,
        profile.format,
        profile.scheme,
        profile.runtime.partition(" ")[0],
        profile.threads,
        profile.on,
    )


def _check(profile: Profile, path: str) -> None:
    if len(profile.rounds) < LEAST_ROUNDS:
        raise UsageError(
            f"{path} has {len(profile.rounds)} rounds, and a difference can be told from {LEAST_ROUNDS} on: "
            f"measure again with --rounds {LEAST_ROUNDS} or more"
        )


def _check_machines(before: Profile, after: Profile) -> None:
    """Raise `UsageError` where a difference would be one of machines."""
    alike = before.conditions.pinned is None and after.conditions.pinned is None  # a pinned process counts one core
    for what in ("board", "cpu", "architecture", *(["cores"] if alike else [])):
        one, other = getattr(before.machine, what), getattr(after.machine, what)
        if one != other:
            raise UsageError(
                f"these were measured on machines of different kinds ({what}: {one or 'unknown'} and "
                f"{other or 'unknown'}): measure both on one, or compare the machines themselves with --across-machines"
            )


def _tell(before: Profile, after: Profile, rows: Sequence[Difference]) -> str:
    lines = [
        (
            row.what, row.unit, f"{row.before:.4g}", f"{row.after:.4g}", f"{row.ratio - 1:+.1%}",
            f"{row.low - 1:+.1%} to {row.high - 1:+.1%}", row.verdict,
        )
        for row in rows
    ]  # fmt: skip
    header = ["", "", "before", "after", "change", "interval", ""]
    heads = f"before: {_name(before)}\nafter:  {_name(after)}"
    return "\n".join([heads, *_changes(before, after), "", table(header, lines)])


def _name(profile: Profile) -> str:
    place = profile.on or profile.machine.board or profile.machine.cpu
    return (
        f"{profile.artifact} ({profile.format}, {profile.scheme}, {profile.digest[:8]}), {profile.runtime}, "
        f"{profile.threads} threads, {len(profile.rounds)} rounds, {place}, {profile.measured_at}"
    )


def _changes(before: Profile, after: Profile) -> list[str]:
    """Return what else was not the same, each as a line."""
    pairs = {
        "runtime": (before.runtime, after.runtime),
        "Python": (before.machine.python, after.machine.python),
        "system": (before.machine.system, after.machine.system),
        "threads": (before.threads, after.threads),
        "governor": (before.conditions.governors, after.conditions.governors),
        "pinned": (before.conditions.pinned, after.conditions.pinned),
    }
    notes = [f"differs:  {what}: {one} and {other}" for what, (one, other) in pairs.items() if one != other]
    for name, profile in (("before", before), ("after", after)):
        busy = profile.conditions.busy_others
        if busy is not None and busy > 0.1:
            notes.append(f"beware:  other processes took {busy:.0%} of the machine ({name})")
    return notes


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Compare two results of edgernn profile --json. Exit status: 0 nothing is slower, 1 something is "
        "(or a file is broken), 2 misuse.",
    )
    add = parser.add_argument
    add("before", help="result file")
    add("after", help="result file")
    add("--confidence", type=float, default=99, metavar="PERCENT", help="of each interval by itself (default: 99)")
    add("--at-least", type=float, default=1, metavar="PERCENT", help="a smaller difference counts as none (default: 1)")
    add("--across-machines", action="store_true", help="compare also what different kinds of machines gave")
    add("--json", metavar="FILE", help="write the rows as JSON")
    return parser
