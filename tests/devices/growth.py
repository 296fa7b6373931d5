"""How much memory a runner takes that is opened again and again, or steps: a program, so in a process of its own.

What other tests left behind in theirs moves the figure by megabytes. It reads a pickle of model, runtime and frames
`(n, 1, features)`, and writes one of what the last of many passes gave, `(n, outputs)`, and of how many bytes came on
top since the first passes.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from edgernn.artifact import ModelFile
from edgernn.devices.runner import open_model
from edgernn.machine import resident_bytes

__all__ = ["Growth", "growth_of"]

Growth = tuple[np.ndarray, int]


def growth_of(what: str, model: ModelFile, runtime: str, frames: np.ndarray) -> Growth:
    """Measure "opening" or "stepping"."""
    given = pickle.dumps((model, runtime, frames))
    ended = subprocess.run([sys.executable, __file__, what], input=given, stdout=subprocess.PIPE, check=True)
    found: Growth = pickle.loads(ended.stdout)
    return found


def opening(model: ModelFile, runtime: str, frames: np.ndarray) -> Growth:
    """Open a runner sixty times, and take a few steps each time."""

    def once() -> np.ndarray:
        runner = open_model(model, runtime)
        outputs = [runner.step(frame)[0].copy() for frame in frames]
        runner.close()
        return np.concatenate(outputs)

    return _grown(once, 60, 30)


def stepping(model: ModelFile, runtime: str, frames: np.ndarray) -> Growth:
    """Let one runner go through the frames a thousand times."""
    runner = open_model(model, runtime)

    def once() -> np.ndarray:
        runner.reset()
        return np.concatenate([runner.step(frame)[0].copy() for frame in frames])

    return _grown(once, 1000, 50)


def _grown(once: Callable[[], np.ndarray], passes: int, first: int) -> Growth:
    for _ in range(first):
        outputs = once()
    before = resident_bytes()
    for _ in range(passes - first):
        outputs = once()
    return outputs, resident_bytes() - before


if __name__ == "__main__":
    measures: dict[str, Any] = {"opening": opening, "stepping": stepping}
    sys.stdout.buffer.write(pickle.dumps(measures[sys.argv[1]](*pickle.load(sys.stdin.buffer))))
