"""Rounds: fresh processes that take turns, so that all of what is compared meets the same disturbances.

Between one process and the next, memory lies elsewhere and the times differ by more than within either: a difference
between artifacts is told by processes, not by steps (Kalibera and Jones, "Rigorous benchmarking in reasonable time",
2013).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from edgernn.errors import FailureError
from edgernn.measured import Round
from edgernn.text import one_line

__all__ = ["Case", "run_rounds"]

PATIENCE_S = 600.0


class Case(NamedTuple):
    """One way to run one artifact."""

    path: Path
    runtime: str
    threads: int


def run_rounds(
    cases: Sequence[Case], count: int, steps: int, progress: Callable[[float, str], None] = lambda share, what: None
) -> list[tuple[Round, ...]]:
    """Return `count` rounds of each case, of about `steps` steps each."""
    found: list[list[Round]] = [[] for _ in cases]
    for number in range(count):
        for index, case in enumerate(cases):
            progress((number * len(cases) + index) / (count * len(cases)), "fresh processes")
            found[index].append(_round(case, steps))
    if count:
        progress(1.0, "fresh processes")
    return [tuple(rounds) for rounds in found]


def _round(case: Case, steps: int) -> Round:
    command = [sys.executable, "-m", "edgernn.devices.profiling.one_round"]
    rest = [str(case.path), case.runtime, str(case.threads), str(steps)]
    try:
        done = subprocess.run(
            [*command, str(time.monotonic_ns()), *rest], capture_output=True, text=True, timeout=PATIENCE_S, check=True
        )
        values = json.loads(done.stdout.splitlines()[-1])
        return Round(**{**values, "p50_us": tuple(values["p50_us"]), "p99_us": tuple(values["p99_us"])})
    except subprocess.CalledProcessError as error:
        raise FailureError(f"a fresh process could not run {case.path}: {one_line(error.stderr[-300:])}") from error
    except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
        raise FailureError(f"a fresh process told nothing of {case.path}: {one_line(error)}") from error
