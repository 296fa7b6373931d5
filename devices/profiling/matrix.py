"""All artifacts in all runtimes with all numbers of threads; and which of them nothing else beats."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from edgernn.artifact import Artifact
from edgernn.devices.profiling.rounds import Case, run_rounds
from edgernn.devices.profiling.whole import Wanted, settings_of, steps_of_a_round
from edgernn.devices.runner import RUNTIMES, runtime_for
from edgernn.errors import EdgeRNNError, FailureError, UsageError
from edgernn.measured import Round
from edgernn.profile import Profile
from edgernn.text import one_line, table

__all__ = ["front", "measure_matrix", "tell_matrix", "typical_us"]

ALIKE = 1.05

START = "import sys; from edgernn.cli import main; sys.exit(main())"


def measure_matrix(
    artifacts: Sequence[Artifact],
    runtime: str | None,
    threads: Sequence[int],
    wanted: Wanted,
    say: Callable[[str], None],
) -> tuple[list[Profile], bool]:
    """Measure each case in a process of its own, then all in turns; what a runtime refuses is told and left out.

    Returns the results, and whether Ctrl-C ended it: then they are those that were there.
    """
    profiles: list[Profile] = []
    cases: list[Case] = []
    listed = [
        Case(artifact.path, name, number)
        for artifact in artifacts
        for name in _runtimes(artifact, runtime)
        for number in threads
    ]
    if not listed:
        raise UsageError(
            "no runtime for these artifacts is installed: pip install 'edgernn[litert]' or 'edgernn[onnx]'"
        )
    try:
        for index, case in enumerate(listed, 1):
            width = "1 thread" if case.threads == 1 else f"{case.threads} threads"
            say(f"{index} of {len(listed)}: {case.path.name}, {case.runtime}, {width}")
            try:
                profiles.append(replace(_one(case, wanted), command=wanted.command))
                cases.append(case)
            except FailureError as error:
                say(f"left out: {error}")
        if not profiles:
            raise FailureError("none of the artifacts runs in any of the runtimes that are installed")
        say(f"{wanted.rounds} fresh processes of each, in turns")
        rounds = run_rounds(cases, wanted.rounds, steps_of_a_round(wanted))
    except KeyboardInterrupt:
        if not profiles:
            raise
        return profiles, True
    return [_with_rounds(*pair, wanted) for pair in zip(profiles, rounds, strict=True)], False


def _with_rounds(profile: Profile, rounds: tuple[Round, ...], wanted: Wanted) -> Profile:
    return replace(profile, rounds=rounds, settings=settings_of(wanted))


def _runtimes(artifact: Artifact, wanted: str | None) -> list[str]:
    formats = artifact.programs.get("step", {})
    found = []
    for name in [wanted] if wanted else RUNTIMES:
        try:
            if RUNTIMES[name].format in formats and runtime_for(name, formats):
                found.append(name)
        except EdgeRNNError:
            if wanted:
                raise
    return found


def _one(case: Case, wanted: Wanted) -> Profile:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-c", START, "profile", str(case.path), "--runtime", case.runtime]
        command += ["--threads", str(case.threads), "--steps", str(wanted.steps), "--seconds", str(wanted.seconds)]
        command += ["--rounds", "0", "--json", str(result), *(["--operators"] if wanted.operators else [])]
        command += ["--sustain", f"{wanted.sustain_s:g}s"] if wanted.sustain_s else []
        command += ["--pin", str(wanted.pinned)] if wanted.pinned is not None else []
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise FailureError(one_line(done.stderr.strip().rpartition("\n")[2] or f"exit status {done.returncode}"))
        return Profile.from_dict(json.loads(result.read_text(encoding="utf-8")))


def front(profiles: Sequence[Profile]) -> list[bool]:
    """Return for each whether none other is as fast, as small and as true, and clearly better in one of it.

    Times and sizes within 5 % are alike, as they are for `edgernn convert --optimize-for`, and so is what is within
    1 dB or 0.1 % of accuracy.
    """
    merits = [_merits(profile) for profile in profiles]
    return [not any(_beats(other, mine) for other in merits) for mine in merits]


def _merits(profile: Profile) -> tuple[float, ...]:
    """Return figures of which larger is better, in units of what is alike."""
    accuracy = -1.0 if profile.accuracy is None else profile.accuracy
    snr_db = -1e9 if profile.snr_db is None else profile.snr_db
    scales = (-math.log(max(typical_us(profile), 1e-3)), -math.log(max(profile.model_bytes, 1)))
    return (*(value / math.log(ALIKE) for value in scales), accuracy / 0.001, snr_db)


def _beats(other: tuple[float, ...], mine: tuple[float, ...]) -> bool:
    gains = [b - a for a, b in zip(mine, other, strict=True)]
    return min(gains) >= -1 and max(gains) > 1 and sum(gains) > 0


def typical_us(profile: Profile, tail: bool = False) -> float:
    """Return the median (or p99) of a step: by the fresh processes, which took turns, where there are some."""
    if profile.rounds:
        return median(median(item.p99_us if tail else item.p50_us) for item in profile.rounds)
    step = profile.timing("step")
    return 0.0 if step is None else step.p99_us if tail else step.p50_us


def tell_matrix(profiles: Sequence[Profile]) -> str:
    """Return a table, the fastest first."""
    rows = []
    best = front(profiles)
    for profile, chosen in sorted(zip(profiles, best, strict=True), key=lambda item: typical_us(item[0])):
        rows.append(
            [
                profile.artifact, profile.scheme, profile.runtime, profile.threads,
                f"{typical_us(profile):.1f}", f"{typical_us(profile, tail=True):.1f}",
                f"{profile.import_ms + profile.open_ms:.0f}", f"{profile.model_bytes / 1024:.0f}",
                "" if profile.snr_db is None else f"{profile.snr_db:.1f}",
                "" if profile.accuracy is None else f"{profile.accuracy:.2%}",
                "★" if chosen else "",
            ]
        )  # fmt: skip
    header = [
        "artifact",
        "scheme",
        "runtime",
        "threads",
        "p50 µs",
        "p99 µs",
        "start ms",
        "KB",
        "SNR dB",
        "accuracy",
        "",
    ]
    note = "★: on the Pareto front: nothing else is as good in time, size and truth, and better in one"
    return f"{table(header, rows)}\n{note}"
