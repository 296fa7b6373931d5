"""How long files take for one step here: bare runs, to compare files with each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgernn.quantize.stepping import open_onnx, open_tflite
from edgernn.spec import StreamSpec

__all__ = ["Run", "bare", "in_turns", "microseconds"]

Run = Callable[[], Any]
BATCH_S = 0.001  # the shortest time that is taken at once


def bare(content: bytes, kind: str, spec: StreamSpec) -> Run:
    """Return a function that takes one step with all that goes in and comes out in place, and the states as at reset.

    It is what `edgernn.devices` adds little to: no copies, one thread.
    """
    return open_tflite(content).invoke if kind == "tflite" else _bare_onnx(content, spec)


def _bare_onnx(content: bytes, spec: StreamSpec) -> Run:
    session = open_onnx(content)
    binding = session.io_binding()
    inputs = {item.name: np.zeros(item.shape, item.dtype) for item in (*spec.inputs, *spec.contexts)}
    inputs |= {item.input: item.initial_array() for item in spec.states}
    outputs = {item.name: np.zeros(item.shape, item.dtype) for item in spec.outputs}
    outputs |= {item.output: item.initial_array() for item in spec.states}
    for bind, arrays in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
        for name, array in arrays.items():
            bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def run(kept: Any = (inputs, outputs)) -> None:  # the binding holds addresses only
        session.run_with_iobinding(binding)

    return run


def in_turns(runs: Mapping[str, Run], rounds: int) -> dict[str, list[float]]:
    """Let the runs take turns, so that all of them meet the same disturbances; return microseconds a run by round."""
    counts = {name: _count(run) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            run()  # the caches belong to whoever ran before
            times[name].append(_seconds(run, counts[name]) / counts[name] * 1e6)
    return times


def _count(run: Run) -> int:
    """Return how many runs take long enough to be timed; that warms up, too."""
    count = 1
    while _seconds(run, count) < BATCH_S:
        count *= 2
    return count


def _seconds(run: Run, count: int) -> float:
    begin = time.perf_counter()
    for _ in range(count):
        run()
    return time.perf_counter() - begin


def microseconds(content: bytes, kind: str, spec: StreamSpec) -> float:
    """Return the median time of one bare run."""
    return float(np.median(in_turns({"": bare(content, kind, spec)}, 40)[""]))
