"""`edgernn profile`: how fast an artifact is on this machine, and how reliably.

edgernn profile ARTIFACT --json profile.json --picture profile.png
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from edgernn.artifact import Artifact
from edgernn.devices.measure import measure
from edgernn.devices.picture import draw
from edgernn.devices.providers import describe_placement, placement
from edgernn.devices.runner import CHOICES, RUNTIMES, runtime_on
from edgernn.errors import UsageError

__all__ = ["main"]


def main(arguments: Sequence[str], prog: str) -> int:
    """Run the command; return the exit status."""
    options = _parser(prog).parse_args(arguments)
    if options.steps < 1:
        raise UsageError(f"--steps must be at least 1, not {options.steps}")
    if not 0 <= options.seconds < float("inf"):
        raise UsageError(f"--seconds must be a number of seconds, 0 or more, not {options.seconds:g}")
    artifact = Artifact.open(options.artifact)
    runtime = runtime_on(artifact, options.runtime, options.provider, options.threads)
    profile, times = measure(
        artifact,
        runtime,
        options.threads,
        options.steps,
        options.seconds,
        _show_progress,
    )
    print(profile)
    if options.provider:
        print(f"\n{describe_placement(placement(artifact.model('onnx'), str(runtime).partition(':')[2]))}")
    if options.json:
        _write(options.json, json.dumps(profile.to_dict(), indent=1) + "\n")
    if options.picture:
        draw(profile, times, options.picture)
    return 0


def _show_progress(share: float, what: str) -> None:
    if sys.stderr.isatty():
        end = "\r\033[K" if share == 1 else "\r"
        print(f"measuring {what}: {share:4.0%}", end=end, file=sys.stderr, flush=True)


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"the file {path} cannot be written: {error.strerror}") from error


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description="Measure latency, start-up and memory of an artifact on this machine."
    )
    add = parser.add_argument
    add("artifact", help="folder that edgernn convert wrote")
    add("--runtime", choices=RUNTIMES, help="default: the first that is installed and fits")
    add("--provider", choices=CHOICES, help="on which ONNX Runtime computes; tells what is left to the processor")
    add("--threads", type=int, default=1, metavar="N", help="threads of the runtime (default: 1)")
    add("--steps", type=int, default=10_000, metavar="N", help="steps back to back (default: 10000)")
    add("--seconds", type=float, default=10.0, metavar="S", help="time of steps at their own pace (default: 10)")
    add("--json", metavar="FILE", help="write everything as JSON")
    add("--picture", metavar="FILE", help="draw histogram and time line, PNG or SVG")
    return parser
