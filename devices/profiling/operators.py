"""What each kind of operator takes of a step, where the runtime has a profiler that Python reaches."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.artifact import ModelFile
from edgernn.devices.run_onnx import open_session
from edgernn.measured import Operator
from edgernn.spec import TensorSpec

__all__ = ["read_events", "time_operators"]

WARM_UP, STEPS = 50, 300  # its profiler stops at a million events
NO_PROFILER = (
    "no time by operator: the Python packages of LiteRT and tflite-runtime reach no profiler, and XNNPACK takes most "
    "operators as one; TensorFlow Lite's own program benchmark_model has one (--enable_op_profiling=true)"
)


def time_operators(model: ModelFile, runtime: str, threads: int = 1) -> tuple[tuple[Operator, ...], str]:
    """Return the kinds of operators, the slowest first, or else why there are none."""
    name, _, provider = runtime.partition(":")
    if name != "onnxruntime":
        return (), NO_PROFILER
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(model, threads, provider or "cpu", Path(folder) / "steps")
        rng, spec = np.random.default_rng(0), model.spec
        feed = {tensor.name: _example(tensor, rng) for tensor in spec.inputs}
        feed |= {state.input: state.initial_array() for state in spec.states}
        for _ in range(WARM_UP + STEPS):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return read_events(events), ""


def _example(tensor: TensorSpec, rng: np.random.Generator) -> NDArray[Any]:
    real = tensor.example(rng)
    stored = tensor.quant.quantize(real, tensor.dtype) if tensor.quant else real.astype(tensor.dtype)
    return stored.reshape(tensor.shape)


def read_events(events: Iterable[Mapping[str, Any]], warm_up: int = WARM_UP) -> tuple[Operator, ...]:
    """Sum up what ONNX Runtime's profiler wrote, without each node's first runs (whole microseconds)."""
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"], event["name"]].append(event["dur"])
    kinds: dict[str, list[float]] = defaultdict(list)
    for (kind, _), durations in times.items():
        kinds[kind].append(float(np.mean(durations[warm_up:])) if len(durations) > warm_up else 0.0)
    total = sum(map(sum, kinds.values())) or 1.0
    found = [Operator(kind, len(us), round(sum(us), 2), round(sum(us) / total, 4)) for kind, us in kinds.items()]
    return tuple(sorted(found, key=lambda item: -item.us))
