"""A fresh process: starts cold, takes steps back to back, and tells the times as JSON.

Run by `rounds.py` as `python -m edgernn.devices.profiling.one_round`, with the monotonic clock of the moment before.
"""

from __future__ import annotations

import sys
import time

began = time.monotonic_ns()  # the first thing: before it lie the process and Python itself

from importlib import import_module  # noqa: E402
from itertools import pairwise  # noqa: E402

__all__ = ["main"]

PHASES = ("process", "NumPy", "EdgeRNN", "artifact", "runtime", "model", "first step", "tenth step", "until tenth step")
"""process: from its start to our first line; artifact: opened and checked; runtime: its import; model: opened in it."""
WARM_UP = 200
WINDOW = 100


def main() -> None:
    """Measure, and print one line."""
    started, path, runtime, threads, steps = sys.argv[1:]
    clock = time.monotonic_ns
    marks = [int(started), began]

    import numpy as np

    marks.append(clock())
    from edgernn.artifact import Artifact
    from edgernn.devices.runner import find_runtime, open_model

    marks.append(clock())
    artifact = Artifact.open(path)
    marks.append(clock())
    import_module(find_runtime(runtime).module)
    marks.append(clock())
    runner = open_model(artifact.model(find_runtime(runtime).format), runtime, int(threads))
    marks.append(clock())
    rng = np.random.default_rng(0)
    frames = [tuple(tensor.example(rng) for tensor in runner.spec.inputs) for _ in range(64)]

    def times(count: int) -> list[int]:
        taken = []
        for index in range(count):
            before = clock()
            runner.step(*frames[index % 64])
            taken.append(clock() - before)
        return taken

    ready = clock()
    first = times(10)
    until = clock() - ready + marks[-1] - marks[0]
    cold = [later - earlier for earlier, later in pairwise(marks)]
    cold += [first[0], first[9], until]
    times(WARM_UP)
    windows = [sorted(times(WINDOW)) for _ in range(max(1, int(steps) // WINDOW))]

    import json

    round_ = {
        "cold_ms": {name: ns / 1e6 for name, ns in zip(PHASES, cold)},  # noqa: B905
        "window_steps": WINDOW,
        "p50_us": [window[WINDOW // 2 - 1] / 1e3 for window in windows],
        "p99_us": [window[WINDOW * 99 // 100 - 1] / 1e3 for window in windows],
    }
    print(json.dumps(round_))


if __name__ == "__main__":
    main()
